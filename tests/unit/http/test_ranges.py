import pytest

from meshsat.http.ranges import (
    RangeNotSatisfiableError,
    Span,
    none_match_untrusted,
    parse_range_untrusted,
)

ETAG = b'"sha256:aa"'


def parse(value: bytes, size: int = 1000) -> Span | None:
    return parse_range_untrusted([value], [], ETAG, size)


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        (b"bytes=0-0", 0, 1),
        (b"bytes=0-999", 0, 1000),
        (b"bytes=500-", 500, 1000),
        (b"bytes=-500", 500, 1000),
        (b"bytes=-5000", 0, 1000),
        (b"bytes=200-5000", 200, 1000),
        (b"bytes=999-", 999, 1000),
        (b"Bytes = 1 - 2", 1, 3),
        (b" bytes=1-2\t", 1, 3),
        (b"bytes=0-9999999999999999999", 0, 1000),
    ],
)
def test_one_range_is_clipped_to_the_size(value: bytes, start: int, stop: int) -> None:
    assert parse(value) == Span(start, stop, 1000)


@pytest.mark.parametrize("value", [b"bytes=1000-", b"bytes=2000-5000", b"bytes=500-0", b"bytes=-0"])
def test_a_range_that_selects_nothing_is_an_error(value: bytes) -> None:
    with pytest.raises(RangeNotSatisfiableError):
        parse(value)


@pytest.mark.parametrize("value", [b"bytes=0-", b"bytes=0-0", b"bytes=-1"])
def test_an_empty_blob_has_no_range(value: bytes) -> None:
    with pytest.raises(RangeNotSatisfiableError):
        parse(value, size=0)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"bytes",
        b"bytes=",
        b"bytes=-",
        b"bytes=a-b",
        b"bytes=1",
        b"bytes=--1",
        b"bytes=+1-2",
        b"items=0-1",
        b"bytes=0-9,20-29",
        "bytes=\uff11-2".encode(),
    ],
)
def test_what_is_malformed_multiple_or_of_another_unit_means_the_whole(value: bytes) -> None:
    assert parse(value) is None


def test_no_range_field_and_two_of_them_mean_the_whole() -> None:
    assert parse_range_untrusted([], [], ETAG, 10) is None
    assert parse_range_untrusted([b"bytes=0-1", b"bytes=0-1"], [], ETAG, 10) is None


@pytest.mark.parametrize(
    ("if_range", "honoured"),
    [
        (ETAG, True),
        (b'"sha256:bb"', False),
        (b"W/" + ETAG, False),
        (b"Sat, 29 Oct 1994 19:43:31 GMT", False),
        (b"", False),
    ],
)
def test_if_range_needs_the_very_entity_tag(if_range: bytes, honoured: bool) -> None:
    assert (parse_range_untrusted([b"bytes=1-2"], [if_range], ETAG, 10) is not None) == honoured


def test_if_range_that_fails_also_saves_from_the_error() -> None:
    assert parse_range_untrusted([b"bytes=99-"], [b'"other"'], ETAG, 10) is None


def test_a_span_knows_its_length_and_its_content_range() -> None:
    assert Span(2, 6, 10).length == 4
    assert Span(2, 6, 10).content_range == b"bytes 2-5/10"


@pytest.mark.parametrize(
    ("lines", "holds"),
    [
        ([], True),
        ([ETAG], False),
        ([b"*"], False),
        ([b" * "], False),
        ([b"W/" + ETAG], False),
        ([b'"x", ' + ETAG], False),
        ([b'"x"', ETAG], False),
        ([b'"x"'], True),
        ([b"sha256:aa"], True),
        ([b'"sha256:aa'], True),
        ([b'"sha256:aaa"'], True),
    ],
)
def test_if_none_match_compares_weakly(lines: list[bytes], holds: bool) -> None:
    assert none_match_untrusted(lines, ETAG) == holds
