"""The file that people carry holds what was put in, and whatever else is in a file is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.fleet.document import DOCUMENT_LIMIT, encode_state, parse_state_untrusted, state_of
from meshsat.fleet.state_file import FILE_LIMIT, StateFile, encode_state_file, parse_state_file_untrusted
from tests.authors import Signers
from tests.states import state_file

S = Signers()


def test_it_comes_back_as_it_was() -> None:
    whole = state_file(S, 3)
    for file in (
        whole,
        StateFile(whole.roots),
        StateFile((), whole.head),
        StateFile(whole.roots, whole.head),
    ):
        assert parse_state_file_untrusted(encode_state_file(file)) == file


@given(st.text())
def test_a_body_keeps_its_bytes(text: str) -> None:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return
    assert parse_state_file_untrusted(encode_state_file(StateFile(body=raw))).body == raw


def test_the_largest_state_fits() -> None:
    """Nothing but quotes, which JSON writes as two characters; and a real one with many images."""
    largest = StateFile(body=b'"' * DOCUMENT_LIMIT)
    assert parse_state_file_untrusted(encode_state_file(largest)) == largest
    images = [
        {"reference": f"r.example/{n}:1", "sites": ["a"], "platforms": ["linux/arm64"]} for n in range(10_000)
    ]
    raw = encode_state(state_of({"images": images}))
    assert parse_state_untrusted(
        parse_state_file_untrusted(encode_state_file(StateFile(body=raw))).body or b""
    )


GOOD = json.loads(encode_state_file(state_file(S)))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b" " * (FILE_LIMIT + 1),
        *(
            json.dumps({**GOOD, name: value}).encode()
            for name, value in [
                ("more", 1),
                ("roots", 1),
                ("roots", [1]),
                ("roots", [{}] * 513),
                ("head", []),
                ("head", {"a": "x" * 9000}),
                ("body", 1),
                ("body", {}),
            ]
        ),
        json.dumps({**GOOD, "body": "\u00fc" * (DOCUMENT_LIMIT // 2 + 1)}, ensure_ascii=False).encode(),
    ],
    ids=lambda raw: raw[-20:].decode("latin-1"),
)
def test_what_is_no_state_file_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_state_file_untrusted(raw)
