from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cbor2
import pytest
import structlog
import trio
import trio.testing
from trio.testing import MockClock

from meshsat.audit.event import Actor
from meshsat.errors import ConfigError, DeniedError, InvalidInputError, MeshsatError, UnavailableError
from meshsat.mesh import enrol, identity
from meshsat.mesh.enrol import Enroller, Membership, RevokedError, join, superseding_word
from meshsat.mesh.identity import Identity, accept_pass, make_token, node_key
from meshsat.mesh.outcomes import told_to
from meshsat.mesh.token_ledger import TokenLedger
from meshsat.mesh.transport import ByteStream, StreamBroken
from meshsat.trust.admission import Admission
from meshsat.trust.clock import Reading, Source
from meshsat.trust.issuing import issue_pass
from meshsat.trust.keys import NodeKey, PeerId
from meshsat.trust.passes import (
    DAY,
    EVERY_SITE,
    NODE,
    Issuer,
    Pass,
    verify_enroller_untrusted,
    verify_pass_untrusted,
)
from meshsat.trust.revocations import Revocation, revoke
from meshsat.trust.tokens import Grant, make, short_name
from tests.fleet import Fleet
from tests.recorded import Recorded

NOW = 1_800_000_000.0
HOUR = 3600.0
T = TypeVar("T")


Raw = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


class MemoryByteStream:
    """An end of a stream on which the other side has proved the key `peer`; keeps what was sent."""

    def __init__(self, raw: Raw, peer: PeerId) -> None:
        self.peer = peer
        self.sent = bytearray()
        self._raw = raw

    async def send_all(self, data: bytes | memoryview) -> None:
        self.sent += data
        try:
            await self._raw.send_all(data)
        except trio.BrokenResourceError:
            raise StreamBroken("closed") from None

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        return bytes(await self._raw.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._raw.aclose()


def stream_pair(near: PeerId, far: PeerId) -> tuple[MemoryByteStream, MemoryByteStream]:
    """The ends of `near` and of `far`."""
    one, other = trio.testing.memory_stream_pair()
    return MemoryByteStream(one, far), MemoryByteStream(other, near)


Answer = Callable[[ByteStream], Awaitable[None]]


async def converse(
    answer: Answer, peer: PeerId, text: str, key: NodeKey, *, name: str = "till-1"
) -> tuple[Membership, MemoryByteStream]:
    near, far = stream_pair(key.peer_id, peer)

    async def serve() -> None:
        with suppress(StreamBroken):
            await answer(far)
        await far.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            membership = await join(near, text, key, name)
        except MeshsatError as fault:
            fault.near = near  # type: ignore[attr-defined] # for tests of what was sent
            caught: MeshsatError | None = fault
        else:
            caught = None
        await near.aclose()
    if caught is not None:
        raise caught
    return membership, near


class Office:
    """An enroller with its ledger, and tokens from it."""

    def __init__(self, fleet: Fleet, boss: Identity | None = None, now: float = NOW) -> None:
        self.boss = boss or fleet.member("boss", enroller=True)
        self.ledger = TokenLedger(self.boss.directory)
        self.admission = Admission.at(self.boss.root, lambda: now)
        self.enroller = Enroller(self.boss, self.ledger, lambda: now)

    def token(
        self, *, uses: int = 1, lifetime: float = HOUR, roles: frozenset[str] = frozenset({NODE})
    ) -> str:
        return make_token(self.boss, Grant("shop-7", roles, uses, NOW + lifetime, ("10.0.0.1:4701",)))

    async def join(self, text: str, key: NodeKey, *, name: str = "till-1") -> Membership:
        peer = self.boss.key.peer_id
        return (await converse(self.enroller.answer, peer, text, key, name=name))[0]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(now=NOW)


async def test_a_machine_with_a_token_becomes_a_member(fleet: Fleet, tmp_path: Path) -> None:
    office = Office(fleet)
    key = node_key(tmp_path)
    membership = await office.join(office.token(), key)
    member = accept_pass(tmp_path, membership.root, membership.chain, membership.enroller).member
    assert (member.fleet, member.site, member.name, member.peer) == (
        office.boss.member.fleet,
        "shop-7",
        "till-1",
        key.peer_id,
    )
    assert member.roles == {NODE}
    assert membership.enroller is None
    assert verify_pass_untrusted(membership.chain, office.boss.root, NOW) == member


async def test_any_enroller_of_the_fleet_honours_another_ones_token(fleet: Fleet) -> None:
    text = Office(fleet).token()
    membership = await Office(fleet).join(text, NodeKey.generate())
    assert len(membership.chain) == 2


async def test_a_token_is_good_for_so_many_machines_and_the_same_one_counts_once(fleet: Fleet) -> None:
    office = Office(fleet)
    text = office.token(uses=2)
    first, second = NodeKey.generate(), NodeKey.generate()
    for key in (first, first, second, first):
        await office.join(text, key)
    with pytest.raises(DeniedError, match="used up"):
        await office.join(text, NodeKey.generate())


async def test_uses_told_by_another_enroller_count(fleet: Fleet) -> None:
    one, other = Office(fleet), Office(fleet)
    text = one.token()
    await one.join(text, NodeKey.generate())
    assert other.ledger.merge(one.ledger.records(), NOW) == 1
    with pytest.raises(DeniedError, match="used up"):
        await other.join(text, NodeKey.generate())


async def test_uses_outlive_the_process(fleet: Fleet, tmp_path: Path) -> None:
    boss = fleet.member("boss", enroller=True, directory=tmp_path)
    office = Office(fleet, boss)
    text = office.token()
    await office.join(text, NodeKey.generate())
    with pytest.raises(DeniedError, match="used up"):
        await Office(fleet, boss).join(text, NodeKey.generate())


@pytest.mark.parametrize(
    ("later", "lifetime", "words"),
    [(2 * HOUR, HOUR, "expired"), (6 * 366 * DAY, 7 * 366 * DAY, "expired")],
)
async def test_expired_tokens_and_authors_are_refused(
    fleet: Fleet, later: float, lifetime: float, words: str
) -> None:
    text = Office(fleet).token(lifetime=lifetime)
    later_fleet = Fleet(now=NOW + later)
    later_fleet.root = fleet.root
    office = Office(later_fleet, now=NOW + later)
    with pytest.raises(DeniedError, match=words):
        await office.join(text, NodeKey.generate())


async def test_an_enroller_of_another_fleet_is_not_told_the_token(fleet: Fleet) -> None:
    text = Office(fleet).token()
    stranger = Office(Fleet(now=NOW))
    with pytest.raises(DeniedError, match="another fleet") as caught:
        await stranger.join(text, NodeKey.generate())
    assert text.encode() not in caught.value.near.sent  # type: ignore[attr-defined]


async def impostor(certificate: bytes, stream: ByteStream) -> None:
    """Answers every hello, with somebody's certificate, and hopes for the token."""
    await stream.receive_some()
    body = cbor2.dumps(["enroller", certificate])
    await stream.send_all(len(body).to_bytes(4, "big") + body)
    await stream.receive_some()


async def test_the_token_is_told_to_enrollers_only(fleet: Fleet) -> None:
    office = Office(fleet)
    text = office.token()
    node = fleet.member("node")
    mallory = NodeKey.generate()
    assert office.boss.enroller is not None
    foreign = Fleet(now=NOW).enroller.certificate
    for peer, certificate in (
        (mallory.peer_id, office.boss.enroller),  # another's certificate
        (node.key.peer_id, node.chain[0]),  # a member that is no enroller
        (mallory.peer_id, foreign),
        (mallory.peer_id, b""),
        (mallory.peer_id, b"\x30\x82nonsense"),
    ):
        with pytest.raises(DeniedError, match="told nothing") as caught:
            await converse(lambda s, c=certificate: impostor(c, s), peer, text, NodeKey.generate())  # type: ignore[misc]
        sent = caught.value.near.sent  # type: ignore[attr-defined]
        assert sent
        assert text.encode()[:40] not in sent


async def test_a_damaged_token_is_not_sent(fleet: Fleet) -> None:
    office = Office(fleet)
    text = office.token()
    with pytest.raises(InvalidInputError, match="damaged"):
        await office.join(text[:-9], NodeKey.generate())


async def test_a_token_that_no_enroller_sealed_is_refused(fleet: Fleet) -> None:
    """A member who is no enroller makes tokens of its own."""
    office = Office(fleet)
    node = fleet.member("node")
    grant = Grant("shop-7", frozenset({NODE}), 9, NOW + HOUR)
    forged = make(Issuer(node.key, node.chain[0]), node.root, grant, bytes(16))
    with pytest.raises(DeniedError, match="not made by an enroller"):
        await office.join(forged, NodeKey.generate())


async def test_only_where_the_root_key_is_are_enrollers_made(fleet: Fleet, tmp_path: Path) -> None:
    both = frozenset({NODE, "enroller"})
    plain = Office(fleet)
    with pytest.raises(DeniedError, match="root key"):
        await plain.join(plain.token(roles=both), NodeKey.generate())
    boss = identity.init_fleet(tmp_path / "boss", "acme", "hq", "boss", NOW)
    office = Office(fleet, boss)
    key = node_key(tmp_path / "second")
    membership = await office.join(office.token(roles=both), key)
    second = accept_pass(tmp_path / "second", membership.root, membership.chain, membership.enroller)
    assert second.member.roles == both
    third = Office(fleet, second)
    assert (await third.join(third.token(), NodeKey.generate())).root == boss.root


async def test_a_bad_name_is_refused(fleet: Fleet) -> None:
    office = Office(fleet)
    with pytest.raises(DeniedError, match="name"):
        await office.join(office.token(), NodeKey.generate(), name="no spaces, please")


async def test_an_enroller_that_gives_another_pass_is_not_believed(fleet: Fleet) -> None:
    office = Office(fleet)
    assert office.boss.enroller is not None
    issuer = Issuer(office.boss.key, office.boss.enroller)

    async def answer(stream: ByteStream) -> None:
        subject = Fleet.subject(key, "till-1", site="elsewhere")
        await impostor(issuer.certificate, stream)
        body = cbor2.dumps(["pass", list(issue_pass(issuer, subject, NOW)), None])
        await stream.send_all(len(body).to_bytes(4, "big") + body)

    key = NodeKey.generate()
    with pytest.raises(DeniedError, match="another pass"):
        await converse(answer, office.boss.key.peer_id, office.token(), key)


async def test_silence_and_breaking_off_are_unavailable(fleet: Fleet, autojump_clock: MockClock) -> None:
    office = Office(fleet)

    async def silent(stream: ByteStream) -> None:
        while await stream.receive_some():
            pass

    async def gone(_stream: ByteStream) -> None:
        return

    for answer in (silent, gone):
        with pytest.raises(UnavailableError):
            await converse(answer, office.boss.key.peer_id, office.token(), NodeKey.generate())


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\xff",
        b"\0\0\0\1\x80",
        b"\0\0\0\2\x81\x01",
        b"\0\0\0\x07\x81\x65hello",
        b"\0\0\0\x05\x81\x63bye",
    ],
)
async def test_a_joiner_that_talks_nonsense_costs_nothing(
    fleet: Fleet, autojump_clock: MockClock, message: bytes
) -> None:
    office = Office(fleet)
    near, far = stream_pair(NodeKey.generate().peer_id, office.boss.key.peer_id)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            with pytest.raises(StreamBroken) if not message else trio.CancelScope():
                await office.enroller.answer(far)

        nursery.start_soon(serve)
        if message:
            await near.send_all(message)
            assert b"denied" in await near.receive_some()
        await near.aclose()
    assert office.ledger.records() == []


async def test_a_silent_joiner_is_waited_for_only_so_long(fleet: Fleet, autojump_clock: MockClock) -> None:
    office = Office(fleet)
    _near, far = stream_pair(NodeKey.generate().peer_id, office.boss.key.peer_id)
    began = trio.current_time()
    await office.enroller.answer(far)
    assert trio.current_time() - began == pytest.approx(enrol.TIMEOUT)


async def test_nothing_of_the_token_is_logged(fleet: Fleet) -> None:
    office = Office(fleet)
    text = office.token()
    with structlog.testing.capture_logs() as logs:
        await office.join(text, NodeKey.generate())
        with pytest.raises(DeniedError):
            await office.join(text, NodeKey.generate())
    assert [entry["event"] for entry in logs] == ["node enrolled", "enrolment denied"]
    (use,) = office.ledger.records()
    told = str(logs)
    assert use.token not in told
    assert not any(text[start : start + 16] in told for start in range(13, len(text) - 16, 8))


def test_only_enrollers_enrol(fleet: Fleet) -> None:
    with pytest.raises(ConfigError, match="no enroller"):
        Enroller(fleet.member("node"), TokenLedger(None))


async def test_who_was_let_in_and_who_was_not_is_recorded_without_the_token(fleet: Fleet) -> None:
    office = Office(fleet)
    audit = Recorded()
    office.enroller = Enroller(office.boss, office.ledger, lambda: NOW, tell=told_to(audit))
    text, key, late = office.token(), NodeKey.generate(), NodeKey.generate()
    await office.join(text, key)
    for _ in range(3):
        with pytest.raises(DeniedError):
            await office.join(text, late)
    granted, refused = audit.of("node.register")
    assert (granted.actor, granted.outcome) == (Actor("peer", key.peer_id), "success")
    assert (granted.object, granted.reason) == ("till-1 at shop-7 as node", f"token {short_name(text)}")
    assert (refused.actor.id, refused.outcome) == (late.peer_id, "failure")
    assert "used up" in refused.reason
    assert text not in repr(audit.entries)


# --- renewal, another key


async def ask(office: Office, key: NodeKey, question: Callable[[ByteStream], Awaitable[T]]) -> T:
    """A member's conversation with the office, over a stream that proved `key`."""
    near, far = stream_pair(key.peer_id, office.boss.key.peer_id)
    given: list[T] = []
    fault: MeshsatError | None = None

    async def serve() -> None:
        with suppress(StreamBroken):
            await office.enroller.answer(far)
        await far.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            given.append(await question(near))
        except MeshsatError as refusal:
            fault = refusal
        await near.aclose()
    if fault is not None:
        raise fault
    return given[0]


def later_office(fleet: Fleet, later: float, grace: float = 0.0, **settings: Any) -> Office:
    """The fleet's enroller, so many seconds later."""
    office = Office(fleet, now=NOW + later)
    root = fleet.root.certificate
    admission = Admission(root, None, lambda: Reading(NOW + later, Source.MACHINE), grace=grace)
    office.enroller = Enroller(
        office.boss, office.ledger, lambda: NOW + later, admission=admission, **settings
    )
    office.admission = admission
    return office


async def test_a_pass_is_renewed_for_the_same_key_site_name_and_roles(fleet: Fleet) -> None:
    office, node = later_office(fleet, 200 * DAY, lifetime=90 * DAY), fleet.member("till-1", site="shop-7")
    given = await ask(office, node.key, lambda stream: enrol.renew(stream, node))
    renewed = verify_pass_untrusted(given.chain, fleet.root.certificate, NOW + 200 * DAY)
    assert (renewed.peer, renewed.site, renewed.name) == (node.key.peer_id, "shop-7", "till-1")
    assert renewed.roles == {NODE}
    assert renewed.not_after == NOW + 290 * DAY
    assert renewed.serial != node.member.serial
    assert given.enroller is None


@pytest.mark.parametrize(("later", "renewed"), [(2 * DAY, True), (3 * DAY, True), (3 * DAY + 1, False)])
async def test_a_pass_is_renewed_within_the_grace_and_not_after_it(
    fleet: Fleet, later: float, renewed: bool
) -> None:
    node = fleet.member("till", lifetime=DAY)
    office = later_office(fleet, later, grace=2 * DAY)
    if renewed:
        await ask(office, node.key, lambda stream: enrol.renew(stream, node))
    else:
        with pytest.raises(DeniedError, match="join with a token"):
            await ask(office, node.key, lambda stream: enrol.renew(stream, node))


async def test_nobody_renews_anothers_pass_or_a_foreign_one(fleet: Fleet) -> None:
    office, node = later_office(fleet, DAY), fleet.member("till")
    with pytest.raises(DeniedError, match="own key"):
        await ask(office, NodeKey.generate(), lambda stream: enrol.renew(stream, node))
    foreign = Fleet(now=NOW).member("till")
    foreign = replace(foreign, root=fleet.root.certificate, member=replace(foreign.member, fleet=fleet.id))
    with pytest.raises(DeniedError, match="foreign"):
        await ask(office, foreign.key, lambda stream: enrol.renew(stream, foreign))


async def test_a_revoked_one_is_shown_why_and_gets_nothing(fleet: Fleet) -> None:
    office, node = later_office(fleet, 60.0), fleet.member("till")
    root = fleet.root.certificate
    revocation = revoke(
        fleet.root, root, peer=node.key.peer_id, site="hq", at=NOW, until=NOW + DAY, reason="stolen"
    )
    office.admission.revocations.take(revocation)
    with pytest.raises(RevokedError, match="stolen") as caught:
        await ask(office, node.key, lambda stream: enrol.renew(stream, node))
    assert caught.value.revocation == revocation
    with pytest.raises(RevokedError, match="new token"):  # a token does not help that key either
        await ask(office, node.key, lambda stream: join(stream, office.token(uses=9), node.key, "till"))


async def test_the_token_of_whoever_is_revoked_lets_nobody_in_any_more(fleet: Fleet) -> None:
    office, key = later_office(fleet, 0.0), NodeKey.generate()
    text = office.token(uses=9)
    await office.join(text, key)
    root = fleet.root.certificate
    office.admission.revocations.take(
        revoke(fleet.root, root, peer=key.peer_id, site="shop-7", at=NOW, until=NOW + DAY)
    )
    with pytest.raises(DeniedError, match="revoked since"):
        await office.join(text, NodeKey.generate())
    await office.join(office.token(), NodeKey.generate())


async def test_an_enroller_of_one_site_renews_no_pass_of_another(fleet: Fleet) -> None:
    boss = fleet.member("boss", enroller=True, right="hq")
    office, node = Office(fleet, boss), fleet.member("till", site="berlin")
    with pytest.raises(DeniedError, match="site hq only"):
        await ask(office, node.key, lambda stream: enrol.renew(stream, node))


async def test_a_revoked_enroller_issues_nothing(fleet: Fleet) -> None:
    office, node = later_office(fleet, DAY), fleet.member("till")
    office.admission.revocations.take(
        revoke(
            fleet.root,
            fleet.root.certificate,
            peer=office.boss.key.peer_id,
            site="hq",
            at=NOW,
            until=NOW + 9 * DAY,
        )
    )
    for question in (
        lambda stream: enrol.renew(stream, node),
        lambda stream: join(stream, office.token(), NodeKey.generate(), "till"),
    ):
        with pytest.raises(DeniedError):
            await ask(office, node.key, question)


async def test_only_where_the_root_key_is_are_enrollers_renewed(fleet: Fleet, tmp_path: Path) -> None:
    boss = identity.init_fleet(tmp_path, "acme", "hq", "boss", NOW)
    root = boss.root_issuer()
    assert root is not None
    fleet.root = root
    fleet.enroller = Issuer(boss.key, boss.enroller or b"")
    second = fleet.member("second", enroller=True, right="hq")
    with pytest.raises(DeniedError, match="root key"):
        await ask(Office(fleet, second), second.key, lambda stream: enrol.renew(stream, second))
    for right in ("hq", EVERY_SITE):
        other = fleet.member("other", enroller=True, right=right)
        given = await ask(Office(fleet, boss), other.key, partial(enrol.renew, identity=other))
        assert given.enroller is not None
        rights = verify_enroller_untrusted(given.enroller, boss.root, NOW)
        assert (rights.peer, rights.site) == (other.key.peer_id, right)


async def test_another_key_with_the_old_ones_word_and_then_the_old_one_is_revoked(fleet: Fleet) -> None:
    told: list[Pass] = []

    def supersede(old: Pass) -> Revocation:
        told.append(old)
        root = fleet.root.certificate
        return revoke(fleet.root, root, peer=old.peer, site=old.site, at=NOW, until=NOW + DAY)

    office, node, key = (
        later_office(fleet, DAY, supersede=supersede),
        fleet.member("till"),
        NodeKey.generate(),
    )
    given = await ask(office, key, lambda stream: enrol.rotate(stream, node, key))
    rotated = verify_pass_untrusted(given.chain, fleet.root.certificate, None)
    assert (rotated.peer, rotated.name, rotated.site) == (key.peer_id, "till", "hq")
    word = superseding_word(node.key, key.peer_id)
    fresh = Identity(key, rotated, node.root)
    record = await ask(office, key, lambda stream: enrol.supersede(stream, fresh, node.chain, word))
    assert told == [node.member]
    assert record
    # Somebody else's word, and a word for somebody else.
    thief = NodeKey.generate()
    mine = Identity(thief, replace(rotated, peer=thief.peer_id, chain=fleet.chain(thief)), node.root)
    for bad in (superseding_word(thief, thief.peer_id), word):
        with pytest.raises(DeniedError, match="word"):
            await ask(office, thief, partial(enrol.supersede, identity=mine, before=node.chain, word=bad))
    with pytest.raises(DeniedError, match="word"):
        await ask(office, thief, lambda stream: _rotate_with(stream, node, word))
    assert told == [node.member]


async def test_nobody_makes_many_members_out_of_one(fleet: Fleet) -> None:
    office, node = later_office(fleet, DAY), fleet.member("till")
    key, second = NodeKey.generate(), NodeKey.generate()
    given = await ask(office, key, lambda stream: enrol.rotate(stream, node, key))
    await ask(office, key, lambda stream: enrol.rotate(stream, node, key))  # the answer was lost
    with pytest.raises(DeniedError, match="first"):
        await ask(office, second, lambda stream: enrol.rotate(stream, node, second))
    new = Identity(key, verify_pass_untrusted(given.chain, node.root, None), node.root)
    with pytest.raises(DeniedError, match="first"):
        await ask(office, second, lambda stream: enrol.rotate(stream, new, second))
    old = revoke(fleet.root, node.root, peer=node.key.peer_id, site="hq", at=NOW, until=NOW + DAY)
    office.admission.revocations.take(old)
    await ask(office, second, lambda stream: enrol.rotate(stream, new, second))


async def _rotate_with(stream: ByteStream, stolen: Identity, word: bytes) -> Membership:
    await enrol._meet(stream, stolen.root, stolen.member.fleet)
    await enrol._send(stream, enrol.ROTATE, list(stolen.chain), None, word)
    return await enrol._given(stream, stolen.root, enrol._subject(stolen.member, stolen.key.peer_id))
