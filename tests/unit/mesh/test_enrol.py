from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import cbor2
import pytest
import structlog
import trio
import trio.testing
from trio.testing import MockClock

from meshsat.audit.event import Actor
from meshsat.errors import ConfigError, DeniedError, InvalidInputError, MeshsatError, UnavailableError
from meshsat.mesh import enrol, identity
from meshsat.mesh.enrol import Enroller, Membership, join
from meshsat.mesh.identity import Identity, accept_pass, make_token, node_key
from meshsat.mesh.token_ledger import TokenLedger
from meshsat.mesh.transport import ByteStream, StreamBroken
from meshsat.trust.keys import NodeKey, PeerId
from meshsat.trust.passes import DAY, NODE, Issuer, issue_pass, verify_pass_untrusted
from meshsat.trust.tokens import Grant, short_name
from tests.fleet import Fleet
from tests.recorded import Recorded

NOW = 1_800_000_000.0
HOUR = 3600.0


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
    answer: Answer, peer: PeerId, text: str, key: NodeKey, *, name: str = "till-1", now: float = NOW
) -> tuple[Membership, MemoryByteStream]:
    near, far = stream_pair(key.peer_id, peer)

    async def serve() -> None:
        with suppress(StreamBroken):
            await answer(far)
        await far.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            membership = await join(near, text, key, name, now)
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
        self.enroller = Enroller(self.boss, self.ledger, lambda: now)

    def token(
        self, *, uses: int = 1, lifetime: float = HOUR, roles: frozenset[str] = frozenset({NODE})
    ) -> str:
        return make_token(self.boss, Grant("shop-7", roles, uses, NOW + lifetime, ("10.0.0.1:4701",)))

    async def join(self, text: str, key: NodeKey, *, now: float = NOW, name: str = "till-1") -> Membership:
        peer = self.boss.key.peer_id
        return (await converse(self.enroller.answer, peer, text, key, now=now, name=name))[0]


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
        await office.join(text, NodeKey.generate(), now=NOW + later)


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
    forged = make_token(
        Identity(node.key, node.member, node.root, node.chain[0]),
        Grant("shop-7", frozenset({NODE}), 9, NOW + HOUR),
    )
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
    office.enroller = Enroller(office.boss, office.ledger, lambda: NOW, audit)
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
