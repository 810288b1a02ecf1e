"""Patterns agree with the plainest matcher there is, which tries everything."""

from contextlib import suppress
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.oci.pattern import Glob, Pattern
from meshsat.oci.reference import Reference
from tests.property.test_reference import references

STEADY = settings(derandomize=True, database=None, deadline=None, max_examples=300)
GLOB = st.lists(st.sampled_from(["a", "b", "/", "*", "**"]), max_size=9).map("".join).filter(
    lambda text: "***" not in text
)  # fmt: skip


def matches(pattern: str, text: str) -> bool:
    @cache
    def rest(at: int, of: int) -> bool:
        if at == len(pattern):
            return of == len(text)
        if pattern.startswith("**", at):
            return any(rest(at + 2, end) for end in range(of, len(text) + 1))
        if pattern[at] == "*":
            ends = range(of, len(text) + 1)
            return any(rest(at + 1, end) for end in ends if "/" not in text[of:end])
        return text[of : of + 1] == pattern[at] and rest(at + 1, of + 1)

    return rest(0, 0)


@STEADY
@given(GLOB, st.text("ab/", max_size=9))
def test_a_glob_matches_what_trying_all_matches(pattern: str, text: str) -> None:
    assert Glob(pattern).matches(text) == matches(pattern, text)


@STEADY
@given(references(), references())
def test_a_name_is_a_pattern_for_itself_alone(one: Reference, other: Reference) -> None:
    pattern = Pattern.parse_untrusted(one.name)
    assert pattern.matches_reference(one)
    assert pattern.matches_reference(other) == (one.name == other.name)
    assert Pattern.parse_untrusted("**").matches_reference(one)
    assert Pattern.parse_untrusted(f"{one.registry}/**").matches_reference(one)
    if one.tag is not None:
        tagged = Pattern.parse_untrusted(f"{one.name}:{one.tag}")
        assert tagged.matches_reference(one)
        assert tagged.matches_reference(other) == ((one.name, one.tag) == (other.name, other.tag))


@STEADY
@given(st.text("aB0.:/*-_[]", max_size=30))
def test_what_it_prints_parses_to_itself(text: str) -> None:
    with suppress(InvalidInputError):
        pattern = Pattern.parse_untrusted(text)
        assert Pattern.parse_untrusted(str(pattern)) == pattern
