"""Passes, tokens and enrolment messages from outside: a value or the documented error, whatever the bytes."""

import base64
import json
import tempfile
from contextlib import suppress
from pathlib import Path

import cbor2
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.mesh import enrol
from meshsat.mesh.enrol import Enroller, decode_message_untrusted
from meshsat.mesh.pass_files import DamagedError, read_floors_untrusted, read_revoked_untrusted
from meshsat.mesh.token_ledger import TokenLedger
from meshsat.protocol.token_use import parse_token_use_untrusted
from meshsat.trust.envelope import seal
from meshsat.trust.keys import NodeKey, parse_peer_id_untrusted
from meshsat.trust.passes import (
    NODE,
    PassError,
    parse_fleet_name_untrusted,
    parse_node_name_untrusted,
    parse_root_untrusted,
    parse_site_untrusted,
    verify_enroller_untrusted,
    verify_pass_untrusted,
)
from meshsat.trust.revocations import CONTEXT as REVOCATION
from meshsat.trust.revocations import Revocations, Taken, open_revocation_untrusted, revoke
from meshsat.trust.servers import parse_server_name_untrusted
from meshsat.trust.tokens import CONTEXT, PREFIX, Grant, TokenError, make, parse_untrusted
from tests.fleet import Fleet
from tests.unit.mesh.test_enrol import stream_pair

NOW = 1_800_000_000.0
FLEET = Fleet(now=NOW)
ROOT = FLEET.root.certificate
CHAIN = FLEET.chain(NodeKey.generate())
TOKEN = make(FLEET.enroller, ROOT, Grant("hq", frozenset({NODE}), 1, NOW), bytes(16))


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """`good` with a part of it replaced by something else, longer or shorter."""

    def damage(start: int, length: int, middle: bytes) -> bytes:
        return good[:start] + middle + good[start + length :]

    return st.builds(damage, st.integers(0, len(good)), st.integers(0, 12), st.binary(max_size=12))


CERTIFICATE = st.one_of(
    st.binary(max_size=64),
    st.sampled_from([*CHAIN, ROOT]),
    damaged(CHAIN[0]),
    damaged(CHAIN[1]),
    damaged(ROOT),
)
VALUE = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=8)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=8), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.lists(CERTIFICATE, max_size=4), st.one_of(st.none(), st.floats()))
def test_a_chain_is_a_pass_or_refused(chain: list[bytes], now: float | None) -> None:
    with suppress(PassError):
        member = verify_pass_untrusted(chain, ROOT, now)
        assert member.chain == CHAIN


@given(CERTIFICATE)
def test_a_certificate_is_an_enrollers_or_refused(certificate: bytes) -> None:
    with suppress(PassError):
        verify_enroller_untrusted(certificate, ROOT, NOW)
        assert certificate in (CHAIN[1], ROOT)


@given(CERTIFICATE)
def test_a_certificate_is_a_root_or_refused(certificate: bytes) -> None:
    with suppress(PassError):
        parse_root_untrusted(certificate)
        assert certificate == ROOT


@given(st.one_of(st.text(max_size=80), damaged(TOKEN.encode()).map(lambda raw: raw.decode("latin-1"))))
def test_a_text_is_a_token_or_refused(text: str) -> None:
    with suppress(TokenError):
        assert parse_untrusted(text).grant.site == "hq"


@given(VALUE, st.booleans())
def test_what_a_sealed_token_holds_is_checked_too(fields: object, inside: bool) -> None:
    """An enroller of another fleet can seal anything."""
    payload = cbor2.dumps(fields)
    parts = [seal(FLEET.enroller.key, CONTEXT, payload), b""] if inside else fields
    with suppress(TokenError):
        parse_untrusted(PREFIX + base64.urlsafe_b64encode(cbor2.dumps(parts)).decode().rstrip("="))


@given(st.one_of(st.binary(max_size=64), VALUE.map(cbor2.dumps)))
def test_a_message_is_an_array_or_refused(body: bytes) -> None:
    with suppress(InvalidInputError):
        assert isinstance(decode_message_untrusted(body)[0], str)


@given(
    st.one_of(
        VALUE,
        st.fixed_dictionaries(
            {"token": st.one_of(VALUE, st.just("0" * 32)), "joiner": VALUE, "at": VALUE, "expires": VALUE}
        ),
    )
)
def test_a_use_is_read_or_refused(value: object) -> None:
    with suppress(InvalidInputError):
        parse_token_use_untrusted(value)


@given(
    st.one_of(VALUE, st.text(max_size=60), st.from_regex("12D3KooW[1-9A-HJ-NP-Za-km-z]{44}", fullmatch=True))
)
def test_a_peer_id_is_read_as_it_stands_or_refused(text: object) -> None:
    with suppress(InvalidInputError):
        assert parse_peer_id_untrusted(text) == text


@given(st.text(max_size=70))
def test_names_are_read_as_they_stand_or_refused(text: str) -> None:
    for parse in (parse_fleet_name_untrusted, parse_site_untrusted, parse_node_name_untrusted):
        with suppress(InvalidInputError):
            assert parse(text) == text
            assert text.isascii()
            assert "/" not in text


@given(st.one_of(st.text(max_size=70), st.text("a1.-:[]*_", max_size=40)))
def test_a_servers_name_is_one_that_a_certificate_can_have_or_refused(text: str) -> None:
    with suppress(InvalidInputError):
        assert str(parse_server_name_untrusted(text).value).isascii()


REVOKED = revoke(
    FLEET.root, ROOT, peer=NodeKey.generate().peer_id, site="hq", at=NOW, until=NOW + 60, reason="x"
).sealed


@given(st.one_of(st.binary(max_size=300), damaged(REVOKED), VALUE.map(cbor2.dumps)))
def test_bytes_are_a_revocation_or_refused(data: bytes) -> None:
    known = Revocations(ROOT)
    with suppress(InvalidInputError):
        revocation, taken = known.take_untrusted(data)
        assert (revocation.sealed, taken, data) == (data, Taken.NEWS, REVOKED)


@given(VALUE, st.integers(0, 1 << 42), st.integers(0, 1 << 42))
def test_what_the_root_itself_seals_is_a_revocation_or_refused(value: object, at: int, until: int) -> None:
    for fields in (value, [FLEET.id, "", "hq", at, until, str(value)[:300], False]):
        data = cbor2.dumps([seal(FLEET.root.key, REVOCATION, cbor2.dumps(fields)), b""])
        with suppress(InvalidInputError):
            assert open_revocation_untrusted(data, ROOT).by_root


@given(st.one_of(st.binary(max_size=200), VALUE.map(lambda value: json.dumps(value, default=str).encode())))
def test_files_beside_the_identity_are_read_or_damaged(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "file"
        path.write_bytes(data)
        for read in (read_floors_untrusted, read_revoked_untrusted):
            with suppress(DamagedError):
                read(path)


@given(
    st.lists(
        st.one_of(VALUE, st.just(list(CHAIN)), st.sampled_from(["renew", "rotate", "supersede", "join"])),
        max_size=5,
    )
)
def test_an_enroller_answers_whatever_is_asked(message: list[object]) -> None:
    """With a pass, a refusal or a revocation: never with silence."""

    async def converse() -> None:
        boss = FLEET.member("boss", enroller=True)
        enroller = Enroller(boss, TokenLedger(None, lambda: NOW), lambda: NOW)
        near, far = stream_pair(NodeKey.generate().peer_id, boss.key.peer_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enroller.answer, far)
            await enrol._send(near, "hello", 1, FLEET.id)
            await enrol._receive_untrusted(near)
            await enrol._send(near, *message)
            kind, *_ = await enrol._receive_untrusted(near)
            assert kind in ("denied", "revoked")
            await near.aclose()

    trio.run(converse)
