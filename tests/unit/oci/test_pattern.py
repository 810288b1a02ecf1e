"""Patterns: what each kind of wildcard stands for, and how a wrong one is told."""

import pytest

from meshsat.errors import InvalidInputError
from meshsat.oci.pattern import PATTERN_LIMIT, Glob, Pattern
from meshsat.oci.reference import Reference


def matches(pattern: str, reference: str) -> bool:
    return Pattern.parse_untrusted(pattern).matches_reference(Reference.parse_untrusted(reference))


@pytest.mark.parametrize(
    ("pattern", "reference"),
    [
        ("**", "harbor.example/team/app:1"),
        ("**/app", "harbor.example/team/app:1"),
        ("*/**", "harbor.example/team/app:1"),
        ("harbor.example/**", "harbor.example/app:1"),
        ("harbor.example/**", "harbor.example/a/b/c:1"),
        ("HARBOR.example/team/app", "harbor.example/team/app:1"),
        ("harbor.example/team/*", "harbor.example/team/app:1"),
        ("harbor.example/team/a*", "harbor.example/team/a:1"),
        ("harbor.example/*/app", "harbor.example/team/app:1"),
        ("harbor.example/**/app", "harbor.example/a/b/app:1"),
        ("harbor.example:8443/app", "harbor.example:8443/app:1"),
        ("*:8443/app", "harbor.example:8443/app:1"),
        ("*.example/app", "harbor.example/app:1"),
        ("[fd00::1]:5000/**", "[fd00::1]:5000/app:1"),
        ("docker.io/busybox", "busybox"),
        ("index.docker.io/busybox", "busybox"),
        ("docker.io/*", "busybox"),
        ("docker.io/**", "bitnami/redis"),
        ("localhost/app", "localhost/app"),
        ("site.internal/team/app:1.*", "site.internal/team/app:1.2"),
        ("**:*-rc*", "harbor.example/app:2-rc1"),
        ("harbor.example/app:Latest", "harbor.example/app:Latest"),
        ("harbor.example/app", "harbor.example/app@sha256:" + "0" * 64),
    ],
)
def test_it_is_for(pattern: str, reference: str) -> None:
    assert matches(pattern, reference)


@pytest.mark.parametrize(
    ("pattern", "reference"),
    [
        ("harbor.example/*", "harbor.example/team/app:1"),
        ("harbor.example/team/**", "harbor.example/team:1"),
        ("harbor.example/team", "harbor.example/team/app:1"),
        ("harbor.example/app", "harbor.example/apps:1"),
        ("harbor.example/app", "harbor.example/my/app:1"),
        ("harbor.example/app", "harbor.example:8443/app:1"),
        ("*/app", "harbor.example/team/app:1"),
        ("docker.io/*", "bitnami/redis"),
        ("harborXexample.test/app", "harbor.example.test/app"),
        ("harbor.example/app:1.*", "harbor.example/app:10"),
        ("harbor.example/app:1", "harbor.example/app:latest"),
        ("harbor.example/app:latest", "harbor.example/app:Latest"),
        ("harbor.example/app:*", "harbor.example/app@sha256:" + "0" * 64),
    ],
)
def test_it_is_not_for(pattern: str, reference: str) -> None:
    assert not matches(pattern, reference)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("", "1 to 512 characters"),
        ("a" * (PATTERN_LIMIT + 1), "1 to 512 characters"),
        (7, "1 to 512 characters"),
        ("busybox", "names no registry"),
        ("*", "names no registry"),
        ("team/app", r"'team' is no registry's host name; write e.g. docker.io/team/app"),
        ("a.b/***", "for one element"),
        ("a.b/c@sha256:00", "not for digests"),
        ("a.b/C", "'C' can match no repository"),
        ("a.b//c", "can match no repository"),
        ("a.b/", "can match no repository"),
        ("a.b/c?", "can match no repository"),
        ("a b.c/d", "'a b.c' can match no registry"),
        ("a.b/c:", "a tag's pattern"),
        ("a.b/c:**", "a tag's pattern"),
        ("a.b/c:1:2", "a tag's pattern"),
        ("a.b/c\n", "can match no repository"),
    ],
)
def test_a_wrong_one_is_told(pattern: object, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        Pattern.parse_untrusted(pattern)


def test_a_name_without_a_tag_is_matched_by_what_is_for_all_tags() -> None:
    whole, tagged = (Pattern.parse_untrusted(text) for text in ("a.b/c", "a.b/c:1"))
    assert (whole.has_tag, tagged.has_tag) == (False, True)
    assert whole.matches("a.b", "c", None)
    assert not tagged.matches("a.b", "c", None)
    assert tagged.matches_name("a.b", "c")
    assert not tagged.matches_name("a.b", "d")


def test_it_prints_as_it_was_understood() -> None:
    assert str(Pattern.parse_untrusted("Docker.IO/busybox:1")) == "docker.io/library/busybox:1"


def test_what_is_hard_for_others_costs_nothing() -> None:
    """Nested repeats: a matcher that tries again would need longer than the universe is old."""
    glob = Glob("*a" * 100 + "**b" * 50 + "c")
    assert not glob.matches("a" * 100 + "b" * 400)
    assert glob.matches("a" * 100 + "b" * 400 + "c")
