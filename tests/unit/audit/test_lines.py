import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.audit.event import Actor, Entry
from meshsat.audit.lines import (
    FIRST_PREV,
    LINE_LIMIT,
    OBJECT_LIMIT,
    encode,
    hash_of,
    parse_line_untrusted,
    readable,
    when,
)
from meshsat.errors import InvalidInputError

ENTRY = Entry(
    1_800_000_000.1234,
    "credential.create",
    Actor("operator", "uid:0", "pid:1"),
    "harbor.test",
    "failure",
    "the disk is full",
)


def test_the_form_of_a_line() -> None:
    """Others read these: no change may alter them."""
    assert encode(ENTRY, 7, FIRST_PREV) == (
        b'{"time":"2027-01-15T08:00:00.123Z","seq":7,"event":"credential.create",'
        b'"actor":{"kind":"operator","id":"uid:0","address":"pid:1"},"object":"harbor.test",'
        b'"outcome":"failure","reason":"the disk is full","prev":"' + b"0" * 64 + b'"}'
    )
    plain = json.loads(encode(Entry(0.0, "node.start", Actor("node"), "a", "success"), 1, FIRST_PREV))
    assert plain["actor"] == {"kind": "node"}
    assert "reason" not in plain


TEXT = st.text(max_size=2000)


@given(TEXT, TEXT, TEXT, TEXT, TEXT)
def test_whatever_is_told_is_one_bounded_line_that_reads_back(
    event: str, who: str, address: str, about: str, reason: str
) -> None:
    entry = Entry(1.0, event, Actor("client", who, address), about, "success", reason)
    line = encode(entry, 1, FIRST_PREV)
    assert len(line) <= LINE_LIMIT
    assert all(0x20 <= byte < 0x7F for byte in line)
    read = parse_line_untrusted(line)
    assert (read.seq, read.prev, read.entry.outcome) == (1, FIRST_PREV, "success")
    if len(about) <= OBJECT_LIMIT:
        assert read.entry.object == about
    shown = readable(read)
    assert shown.isprintable()


def test_no_field_forges_a_line() -> None:
    forged = encode(ENTRY, 1, FIRST_PREV).decode()
    line = encode(
        Entry(1.0, "user.login", Actor("client", f"bob\n{forged}"), "\x1b[2J", "failure"), 2, FIRST_PREV
    )
    assert line.count(b"\n") == 0
    assert b"\x1b" not in line
    assert parse_line_untrusted(line).seq == 2


def test_times() -> None:
    assert when(0) == "1970-01-01T00:00:00.000Z"
    for wrong in (float("nan"), float("inf"), 1e300, -1e300):
        assert when(wrong) == when(0)


GOOD = encode(ENTRY, 7, FIRST_PREV)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        GOOD[:-1],
        GOOD + b" " * LINE_LIMIT,
        b"[" * 10_000,
        GOOD.replace(b'"seq":7', b'"seq":0'),
        GOOD.replace(b'"seq":7', b'"seq":"7"'),
        GOOD.replace(b"operator", b"emperor"),
        GOOD.replace(b"failure", b"maybe"),
        GOOD.replace(b"uid:0", b"\xff"),
        GOOD.replace(b'"the disk is full"', b"7"),
        GOOD.replace(b'"uid:0"', b"[]"),
        GOOD.replace(b"0" * 64, b"x" * 64),
    ],
)
def test_what_is_no_line(line: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_line_untrusted(line)


def test_a_hash_is_of_the_bytes() -> None:
    assert hash_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
