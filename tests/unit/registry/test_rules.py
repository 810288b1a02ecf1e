"""Rules: what is granted, and that the rest is not."""

from pathlib import Path
from typing import Any

import pytest

from meshsat.config import AccessRule, RegistryAuth
from meshsat.errors import ConfigError
from meshsat.registry.rules import REMEMBERED, Action, Rules


def rule(users: str, repositories: str, actions: str) -> AccessRule:
    words: Any = (users.split(), repositories.split(), actions.split())
    return AccessRule(users=words[0], repositories=words[1], actions=words[2])


def rules(*given: AccessRule, anonymous: bool = False) -> Rules:
    return Rules(RegistryAuth(htpasswd=Path("users"), rules=given, anonymous=anonymous))


def granted(which: Rules, user: str | None, registry: str, repository: str) -> set[str]:
    return {action.value for action in Action if which.may(user, action, registry, repository)}


ALL = {"pull", "push", "delete"}


def test_without_rules_whoever_logged_in_may_do_all_and_others_nothing() -> None:
    which = rules()
    assert granted(which, "ada", "site.internal", "app") == ALL
    assert granted(which, None, "site.internal", "app") == set()
    assert which.any_for("ada")
    assert not which.any_for(None)


def test_anonymous_may_pull_where_that_is_set() -> None:
    which = rules(rule("ada", "site.internal/**", "push"), anonymous=True)
    assert granted(which, None, "docker.io", "library/busybox") == {"pull"}
    assert granted(which, "ada", "site.internal", "app") == {"pull", "push"}
    assert granted(which, "bob", "site.internal", "app") == {"pull"}


def test_what_rules_grant_adds_up() -> None:
    which = rules(
        rule("*", "site.internal/public/**", "pull"),
        rule("ada bob", "site.internal/team/*", "pull push"),
        rule("ada", "site.internal/team/app", "delete"),
        rule("anonymous", "site.internal/public/motd", "pull"),
    )
    assert granted(which, "ada", "site.internal", "team/app") == ALL
    assert granted(which, "bob", "site.internal", "team/app") == {"pull", "push"}
    assert granted(which, "eve", "site.internal", "team/app") == set()
    assert granted(which, "eve", "site.internal", "public/x") == {"pull"}
    assert granted(which, None, "site.internal", "public/x") == set()
    assert granted(which, None, "site.internal", "public/motd") == {"pull"}
    assert granted(which, "ada", "other.example", "team/app") == set()
    assert which.any_for(None)


def test_a_user_called_like_a_wildcard_is_nobody() -> None:
    """The htpasswd file can't have such a user, and None is not a name."""
    which = rules(rule("ada", "**", "pull"))
    assert granted(which, "*", "a.b", "c") == set()
    assert granted(which, "anonymous", "a.b", "c") == set()


def test_who_may_all_is_known() -> None:
    which = rules(rule("ada", "**", "pull"), rule("bob", "site.internal/**", "pull"))
    assert which.everywhere("ada", Action.PULL)
    assert not which.everywhere("ada", Action.PUSH)
    assert not which.everywhere("bob", Action.PULL)
    assert not which.everywhere(None, Action.PULL)


def test_what_is_remembered_is_bounded_and_stays_right() -> None:
    which = rules(rule("ada", "site.internal/*", "pull"))
    for number in range(REMEMBERED + 10):
        assert which.may("ada", Action.PULL, "site.internal", f"a{number}")
        assert not which.may("ada", Action.PULL, "site.internal", f"b/a{number}")
    assert len(which._known) <= REMEMBERED


@pytest.mark.parametrize(
    ("repositories", "told"),
    [("team/app", "rule 1: pattern 'team/app'"), ("a.b/c:1", "rule 1: a.b/c:1 is for tags")],
)
def test_a_wrong_pattern_is_told_with_its_rule(repositories: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        rules(rule("ada", repositories, "pull"))
