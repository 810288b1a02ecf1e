"""What tags mean is read as it was written, or the file is damaged and says so."""

import json

import pytest

from meshsat.errors import InvalidInputError
from meshsat.fleet.meanings import MEANINGS_LIMIT, Meaning, Meanings, decode_meanings_untrusted
from meshsat.oci.digest import Digest

A, B, C = (Digest.of(name) for name in (b"a", b"b", b"c"))
KEY = ("r.example", "pos", "stable")


def test_earlier_meanings_are_kept_the_latest_first_and_each_once() -> None:
    one = Meaning(A, 1.0)
    two = one.becomes(B, 2.0, (), keep=2)
    three = two.becomes(C, 3.0, ("linux/amd64",), keep=2)
    assert (three.digest, three.before, three.platforms, three.since) == (C, (B, A), ("linux/amd64",), 3.0)
    assert three.becomes(A, 4.0, (), keep=2).before == (C, B)
    assert three.becomes(A, 4.0, (), keep=0).before == ()


def test_what_is_written_is_read() -> None:
    meanings = Meanings({KEY: Meaning(A, 1.5, ("linux/amd64",), (B, C), dropped_at=4, keep=3)})
    assert decode_meanings_untrusted(meanings.encode()) == meanings


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": 2, "meanings": []}',
        b'{"format": 1, "meanings": [{}]}',
        b'{"format": 1, "meanings": [[]]}',
        b'{"format": 1, "meanings": null}',
        b"[" * 100_000,
        b" " * (MEANINGS_LIMIT + 1),
    ],
)
def test_a_damaged_file_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError):
        decode_meanings_untrusted(raw)


@pytest.mark.parametrize("field", ["name", "digest", "since", "before", "keep", "platforms", "dropped_at"])
def test_a_damaged_row_is_refused(field: str) -> None:
    document = json.loads(Meanings({KEY: Meaning(A, 1.5)}).encode())
    document["meanings"][0][field] = {"x": 1} if field != "platforms" else 5
    with pytest.raises(InvalidInputError):
        decode_meanings_untrusted(json.dumps(document).encode())
