"""Roots and heads say what they say, and nothing malformed is one."""

import json

import pytest

from meshsat.fleet.document import DOCUMENT_LIMIT
from meshsat.protocol.wire import ITEM_LIMIT
from meshsat.trust.dsse import ENVELOPE_LIMIT, Signed, encode_signed, sign
from meshsat.trust.passes import DAY
from meshsat.trust.state_documents import (
    BODY_LIMIT,
    HEAD_TYPE,
    KEYS_LIMIT,
    LIFE_LIMIT,
    ROOT_TYPE,
    ROOTS_LIMIT,
    Head,
    Refused,
    Root,
    StateError,
    check_body_untrusted,
    document_untrusted,
    unsigned,
)
from tests.authors import BODY, NOW, Signers, key_of, role

SIGNERS = Signers()


def test_they_are_read_as_they_were_written() -> None:
    for document in (SIGNERS.root_of(), SIGNERS.head_of(7)):
        assert document_untrusted(unsigned(document)) == document


def test_the_limits_agree_with_those_of_others() -> None:
    assert BODY_LIMIT == DOCUMENT_LIMIT
    assert ENVELOPE_LIMIT == ITEM_LIMIT


def test_the_largest_root_with_all_its_signatures_fits_into_an_envelope() -> None:
    """Two roles of sixteen keys, sixteen others in the root before it."""
    names = [f"key {number}" for number in range(3 * KEYS_LIMIT)]
    before, root, state = (names[at : at + KEYS_LIMIT] for at in range(0, len(names), KEYS_LIMIT))
    largest = SIGNERS.root_of(
        ROOTS_LIMIT, fleet="a" * 53, root=role(*root), state=role(*state, threshold=KEYS_LIMIT)
    )
    signed = unsigned(largest)
    for name in (*before, *root):
        signed = sign(signed, key_of(name))
    assert len(encode_signed(signed)) <= ENVELOPE_LIMIT


def test_a_type_of_a_later_version_is_not_taken_for_wrong() -> None:
    with pytest.raises(StateError) as refused:
        document_untrusted(Signed("application/vnd.meshsat.root.v2+json", b"{}"))
    assert refused.value.reason is Refused.LATER_VERSION


def test_a_field_that_is_not_known_is_passed_over() -> None:
    fields = {**json.loads(SIGNERS.head_of().encode()), "more": 1}
    assert Head.parse_untrusted(json.dumps(fields).encode()) == SIGNERS.head_of()


HEAD_FAULTS: list[dict[str, object]] = [
    {"fleet": None},
    {"version": 0},
    {"version": 1.0},
    {"version": True},
    {"version": 2**53},
    {"root": 0},
    {"issued": "2027-01-15"},
    {"issued": "2027-01-15T08:00:00"},
    {"issued": "2027-13-15T08:00:00Z"},
    {"issued": "1969-01-15T08:00:00Z"},
    {"expires": "2027-01-15T08:00:00Z"},
    {"expires": "2097-01-15T08:00:00Z"},
    {"expires": "9999-12-31T23:59:59Z"},
    {"body": None},
    {"body": {"digest": "sha512:" + "0" * 128, "size": 1}},
    {"body": {"digest": "sha256:" + "0" * 64, "size": BODY_LIMIT + 1}},
]


@pytest.mark.parametrize("fault", HEAD_FAULTS, ids=str)
def test_a_head_that_is_none_is_refused(fault: dict[str, object]) -> None:
    fields = {**json.loads(SIGNERS.head_of().encode()), **fault}
    with pytest.raises(StateError) as refused:
        document_untrusted(Signed(HEAD_TYPE, json.dumps(fields).encode()))
    assert refused.value.reason is Refused.MALFORMED


ONE = key_of("one").peer_id
ROLE_FAULTS: list[object] = [
    None,
    {"keyids": [], "threshold": 0},
    {"keyids": [ONE], "threshold": 0},
    {"keyids": [ONE], "threshold": 2},
    {"keyids": [ONE, ONE], "threshold": 2},
    {"keyids": [ONE.lower()], "threshold": 1},
    {"keyids": [1], "threshold": 1},
    {"keyids": [key_of(str(n)).peer_id for n in range(KEYS_LIMIT + 1)], "threshold": 1},
]


@pytest.mark.parametrize("fault", ROLE_FAULTS, ids=str)
@pytest.mark.parametrize("name", ["root", "state"])
def test_a_root_whose_roles_are_none_is_refused(name: str, fault: object) -> None:
    fields = json.loads(SIGNERS.root_of().encode())
    fields["roles"][name] = fault
    with pytest.raises(StateError) as refused:
        document_untrusted(Signed(ROOT_TYPE, json.dumps(fields).encode()))
    assert refused.value.reason is Refused.MALFORMED


def test_more_roots_than_a_newcomer_can_follow_are_refused() -> None:
    with pytest.raises(StateError):
        Root.parse_untrusted(SIGNERS.root_of(ROOTS_LIMIT + 1).encode())


def test_nothing_is_good_for_ever() -> None:
    long = SIGNERS.head_of(expires=int(NOW + LIFE_LIMIT))
    assert Head.parse_untrusted(long.encode()) == long
    with pytest.raises(StateError, match="expires"):
        Head.parse_untrusted(SIGNERS.head_of(expires=int(NOW + LIFE_LIMIT + DAY)).encode())


@pytest.mark.parametrize("body", [BODY + b" ", BODY[:-1], b"", BODY.replace(b"i", b"j")])
def test_a_body_is_what_the_head_says(body: bytes) -> None:
    check_body_untrusted(SIGNERS.head_of(), BODY)
    with pytest.raises(StateError) as refused:
        check_body_untrusted(SIGNERS.head_of(), body)
    assert refused.value.reason is Refused.MISMATCH
