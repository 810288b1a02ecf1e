"""Signed payloads: what is signed is type and bytes, of it there is one spelling, and no more than one of a key."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.trust.dsse import (
    ENVELOPE_LIMIT,
    SIGNATURES_LIMIT,
    Signed,
    encode_signed,
    only_valid,
    pae,
    parse_signed_untrusted,
    sign,
)
from tests.authors import key_of

ONE, TWO = key_of("one"), key_of("two")
BOTH = frozenset({ONE.peer_id, TWO.peer_id})


def test_the_standards_own_example() -> None:
    """secure-systems-lab/dsse, protocol.md, "Test vectors": the bytes that are signed."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(st.text(min_size=1, max_size=40), st.binary(max_size=200))
def test_what_is_signed_is_read_again(kind: str, payload: bytes) -> None:
    signed = sign(sign(Signed(kind, payload), ONE), TWO)
    read = parse_signed_untrusted(encode_signed(signed))
    assert (read.payload_type, read.payload) == (kind, payload)
    assert {key for key, _ in only_valid(read, BOTH).signatures} == BOTH
    assert encode_signed(read) == encode_signed(signed)


def test_a_signature_is_for_one_type_and_payload_only() -> None:
    signed = sign(Signed("a", b"x"), ONE)
    for forged in (Signed("b", b"x", signed.signatures), Signed("a", b"y", signed.signatures)):
        assert not only_valid(forged, BOTH).signatures


def test_neither_is_one_from_the_other_by_shifting_a_boundary() -> None:
    assert pae("a 1 b", b"") != pae("a", b"b")


def test_only_keys_asked_for_count_and_each_once() -> None:
    signed = sign(sign(Signed("a", b"x"), ONE), TWO)
    twice = Signed("a", b"x", signed.signatures * 2)
    assert [key for key, _ in only_valid(twice, {ONE.peer_id}).signatures] == [ONE.peer_id]


def test_a_false_signature_of_a_key_does_not_hide_its_true_one() -> None:
    true = sign(Signed("a", b"x"), ONE)
    both = Signed("a", b"x", ((ONE.peer_id, bytes(64)), *true.signatures))
    assert only_valid(both, BOTH).signatures == true.signatures


def test_signing_again_takes_the_place_of_the_first() -> None:
    signed = sign(sign(Signed("a", b"x"), ONE), ONE)
    assert len(signed.signatures) == 1


def test_both_alphabets_of_base64_are_read() -> None:
    payload = b"\xfb\xff\xfe"
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(payload).decode()
        raw = json.dumps({"payloadType": "a", "payload": text, "signatures": []}).encode()
        assert parse_signed_untrusted(raw).payload == payload


def test_signatures_of_others_are_passed_over() -> None:
    """Other tools name their keys otherwise, and sign with other kinds of keys."""
    entries = [{"keyid": "SHA256:abc", "sig": "AAAA"}, {"keyid": ONE.peer_id, "sig": "AAAA"}, {"sig": "AAAA"}]
    raw = json.dumps({"payloadType": "a", "payload": "", "signatures": entries}).encode()
    assert parse_signed_untrusted(raw).signatures == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"payloadType":"a","payload":"?","signatures":[]}',
        b'{"payloadType":"a","payload":"","signatures":[1]}',
        b'{"payloadType":"a","payload":"","signatures":[{}]}',
        b'{"payloadType":"","payload":"","signatures":[]}',
        b" " * (ENVELOPE_LIMIT + 1),
        json.dumps(
            {"payloadType": "a", "payload": "", "signatures": [{"sig": ""}] * (SIGNATURES_LIMIT + 1)}
        ).encode(),
    ],
)
def test_what_is_no_envelope_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_signed_untrusted(raw)
