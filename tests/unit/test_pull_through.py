"""Pull-through policy: which rule decides, what it names, and who is past it."""

from typing import Any

import pytest

from meshsat.config import PullThroughRule, PullThroughSection
from meshsat.errors import ConfigError, DeniedError
from meshsat.pull_through import PullThrough

HUB, HARBOR = "docker.io", "harbor.example"


def policy(*rules: dict[str, Any], **section: Any) -> PullThrough:
    return PullThrough(PullThroughSection.model_validate({"rules": rules, **section}), 60.0)


def allow(pattern: str, **more: Any) -> dict[str, Any]:
    return {"pattern": pattern, **more}


def deny(pattern: str) -> dict[str, Any]:
    return {"pattern": pattern, "allow": False}


def may(which: PullThrough, registry: str, repository: str, tag: str | None = "1") -> bool:
    try:
        which.may_fetch(registry, repository, tag)
    except DeniedError:
        return False
    return True


def test_without_rules_everything_may() -> None:
    which = policy()
    assert may(which, HUB, "library/busybox")
    assert may(which, HUB, "library/busybox", None)
    assert which.tag_ttl(HUB, "library/busybox", "1") == 60.0
    assert which.serves_stale(HUB, "library/busybox", "1")


def test_the_first_rule_that_matches_decides() -> None:
    which = policy(deny("docker.io/evil/**"), allow("docker.io/**"), deny("**"))
    assert may(which, HUB, "library/busybox")
    assert not may(which, HUB, "evil/miner")
    assert not may(which, HARBOR, "app")
    assert not may(which, HARBOR, "app", None)


def test_what_no_rule_matches_is_the_sections_matter() -> None:
    which = policy(allow("harbor.example/**"), allow=False)
    assert may(which, HARBOR, "app")
    assert not may(which, HUB, "library/busybox")


def test_what_is_denied_is_told_with_its_rule() -> None:
    which = policy(allow("harbor.example/**"), deny("docker.io/**"), allow=False)
    with pytest.raises(DeniedError) as fault:
        which.may_fetch(HUB, "library/busybox", "1")
    assert str(fault.value) == (
        "docker.io/library/busybox:1 is not fetched over the uplink: "
        "rule 2 of registry.pull_through.rules (docker.io/**) denies it"
    )
    with pytest.raises(DeniedError, match=r"^quay\.io/a is not fetched .*: no rule of .* allows it$"):
        which.may_fetch("quay.io", "a", None)


def test_a_rule_for_tags_says_nothing_against_a_digest() -> None:
    """Of what is fetched by digest nobody can tell for which tag it is wanted."""
    which = policy(deny("harbor.example/app:latest"), allow("harbor.example/app"), deny("**"))
    assert not may(which, HARBOR, "app", "latest")
    assert may(which, HARBOR, "app", "1")
    assert may(which, HARBOR, "app", None)


def test_what_a_tag_that_may_consists_of_may_be_fetched() -> None:
    which = policy(allow("harbor.example/app:1.*"), allow=False)
    assert may(which, HARBOR, "app", "1.2")
    assert not may(which, HARBOR, "app", "2.0")
    assert may(which, HARBOR, "app", None)
    assert not may(which, HARBOR, "other", None)


def test_how_long_a_tag_is_believed_goes_by_rule() -> None:
    which = policy(
        allow("harbor.example/app:v*", tag_ttl=86400),
        allow("harbor.example/**", tag_ttl=0, stale="refuse"),
        allow("docker.io/**"),
        stale="serve",
    )
    assert which.tag_ttl(HARBOR, "app", "v1") == 86400
    assert which.tag_ttl(HARBOR, "app", "latest") == 0
    assert which.tag_ttl(HUB, "library/busybox", "1") == 60
    assert which.serves_stale(HARBOR, "app", "v1")
    assert not which.serves_stale(HARBOR, "app", "latest")
    assert which.serves_stale(HUB, "library/busybox", "1")
    assert not policy(stale="refuse").serves_stale(HUB, "library/busybox", "1")
    assert policy(allow("**", stale="serve"), stale="refuse").serves_stale(HUB, "library/busybox", "1")


def test_the_operators_word_is_past_it_for_as_long_as_it_stands() -> None:
    which = policy(allow=False)

    def passes(repository: str = "library/busybox") -> bool:
        try:
            which.may_pass(HUB, repository, "1")
        except DeniedError:
            return False
        return True

    assert not passes()
    with which.lifted(HUB, "library/busybox"):
        with which.lifted(HUB, "library/busybox"):
            assert passes()
        assert passes()
        assert not passes("library/redis")
        assert not may(which, HUB, "library/busybox")  # a client's miss is judged all the same
    assert not passes()


def test_what_may_be_fetched_may_pass() -> None:
    policy().may_pass(HUB, "library/busybox", None)


def test_a_wrong_pattern_is_told_with_its_rule() -> None:
    with pytest.raises(ConfigError, match=r"registry.pull_through.rules, rule 2: pattern 'app'"):
        policy(allow("**"), allow("app"))


def test_other_rules_take_the_place_of_all_or_of_none() -> None:
    which = policy(deny("docker.io/**"))
    with pytest.raises(ConfigError, match="rule 2"):
        which.prepare(
            PullThroughSection(rules=(PullThroughRule(pattern="**"), PullThroughRule(pattern=":"))), 60.0
        )
    assert not may(which, "docker.io", "library/busybox")
    commit = which.prepare(PullThroughSection(), 7.0)
    assert not may(which, "docker.io", "library/busybox"), "it is ready, and not yet in force"
    commit()
    assert may(which, "docker.io", "library/busybox")
    assert which.tag_ttl("docker.io", "library/busybox", "1") == 7.0


def test_what_is_desired_may_be_had_by_its_digest_whatever_the_rules_say() -> None:
    policy = PullThrough(PullThroughSection(allow=False), 60.0)
    policy.desired = frozenset({("up.example", "library/pos")})
    assert policy.allows("up.example", "library/pos")
    policy.may_pass("up.example", "library/pos", "any")
    for name, tag in (("library/other", None), ("library/pos", "any")):
        with pytest.raises(DeniedError):
            policy.may_fetch("up.example", name, tag)
