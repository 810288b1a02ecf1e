"""Gossip between two sides over a network in memory: complete soon, whatever one of them sends."""

import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import cbor2
import pytest
import trio
import trio.testing

from meshsat.mesh import anti_entropy as module
from meshsat.mesh.anti_entropy import (
    EXCHANGE_DEADLINE,
    MESSAGE_LIMIT,
    PROTOCOL,
    AntiEntropy,
    MessageError,
    decode_message_untrusted,
    encode_message,
)
from meshsat.mesh.memory_network import MemoryNetwork
from meshsat.mesh.memory_transport import MemoryTransport
from meshsat.mesh.token_ledger import TokenLedger, TokenUse
from meshsat.mesh.transport import Stream
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.protocol import events, wire
from meshsat.protocol.gossip import ImageRecord, seal
from meshsat.protocol.machine import Machine, Settings
from meshsat.trust.keys import NodeKey
from tests.fleet import Fleet

UNIX = 1_800_000_000.0
FLEET = Fleet(now=UNIX)
INTERVAL = 30.0


def use(number: int) -> TokenUse:
    return TokenUse(f"{number:032x}", NodeKey.generate().peer_id, UNIX, UNIX + 1e8)


class Side:
    def __init__(self, network: MemoryNetwork, name: str, directory: Path | None = None) -> None:
        self.identity = FLEET.member(name)
        self.machine = Machine(
            Settings(self.identity.key.peer_id, name, uplink=False, unix_offset=UNIX),
            self.identity.key.sign,
            random.Random(name),
        )
        self.transport = MemoryTransport(
            network, network.add_host(name), self.identity, (PROTOCOL,), Metrics(), lambda: UNIX
        )
        self.ledger = TokenLedger(directory)
        self.news: list[ImageRecord] = []
        self.gossip = AntiEntropy(
            self.machine,
            self.transport,
            lambda: UNIX + trio.current_time(),
            self._took,
            self.ledger,
            random.Random(name),
            INTERVAL,
        )

    @property
    def peer(self) -> str:
        return self.identity.key.peer_id

    async def _took(self, news: list[ImageRecord]) -> None:
        await trio.lowlevel.checkpoint()
        self.news += news

    async def _answer(self, _protocol: str, stream: Stream) -> None:
        await self.gossip.handle(stream)

    def seal(self, tag: str, resolved_at: float = UNIX) -> ImageRecord:
        return seal(
            self.identity.key,
            registry="up.example",
            repository="library/pos",
            reference=tag,
            media_type="application/vnd.oci.image.manifest.v1+json",
            digest=Digest.of(tag.encode()),
            size=100,
            resolved_at=resolved_at,
        )

    def know(self, *tags: str) -> None:
        self.machine.take_records([self.seal(tag) for tag in tags])

    @property
    def tags(self) -> set[str]:
        return {record.reference for record in self.machine.records}

    def meet(self, other: "Side") -> None:
        now = trio.current_time()
        self.machine.handle(events.SessionOpened(other.identity.key.peer_id, dialled=True), now)
        hello = wire.Hello("x", uplink=False, control=other.transport.addresses, bulk=())
        self.machine.handle(events.FrameReceived(other.identity.key.peer_id, hello), now)
        self.gossip.met(other.identity.key.peer_id)


class Pair:
    def __init__(self, directory: Path | None = None) -> None:
        self.network = MemoryNetwork(0.001)
        self.one, self.other = Side(self.network, "one", directory), Side(self.network, "other")

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Pair"]:
        async with trio.open_nursery() as nursery:
            for side in (self.one, self.other):
                await nursery.start(side.transport.serve, side._answer)
                nursery.start_soon(side.gossip.run)
            yield self
            nursery.cancel_scope.cancel()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with Pair().running() as made:
        yield made


# --- what it is for ---


async def test_who_meets_is_complete_soon_on_both_sides(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    pair.one.know("a", "b")
    pair.other.know("c")
    pair.one.meet(pair.other)
    await trio.sleep(1)
    assert pair.one.tags == pair.other.tags == {"a", "b", "c"}
    assert [record.reference for record in pair.one.news] == ["c"]
    assert sorted(record.reference for record in pair.other.news) == ["a", "b"]


async def test_the_younger_word_wins_wherever_it_was(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    young, old = pair.one.seal("a", UNIX - 1), pair.one.seal("a", UNIX - 2)
    for mine, theirs in ((young, old), (old, young)):
        pair.one.machine.take_records([mine])
        pair.other.machine.take_records([theirs])
        pair.one.meet(pair.other)
        await trio.sleep(1)
        assert pair.one.machine.records.get(young.key) == young
        assert pair.other.machine.records.get(young.key) == young


async def test_what_was_missed_comes_with_a_later_round(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    pair.one.meet(pair.other)
    await trio.sleep(1)
    pair.other.know("missed")
    await trio.sleep(1)
    assert pair.one.tags == set()
    await trio.sleep(2 * INTERVAL)
    assert pair.one.tags == {"missed"}


async def test_news_goes_to_every_peer_at_once_and_is_not_sent_back(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    third = Side(pair.network, "third")
    async with trio.open_nursery() as nursery:
        await nursery.start(third.transport.serve, third._answer)
        pair.one.meet(pair.other)
        pair.one.meet(third)
        await trio.sleep(1)
        record = pair.one.seal("new")
        pair.one.machine.take_records([record])
        pair.one.gossip.announce(record)
        await trio.sleep(1)
        assert pair.other.news == third.news == [record]
        assert pair.one.news == []
        nursery.cancel_scope.cancel()


async def test_uses_of_tokens_merge_both_ways_and_outlast_a_restart(
    tmp_path: Path,
) -> None:
    """In real time: the file is written by a thread."""
    async with Pair(tmp_path).running() as pair:
        mine, theirs = use(1), use(2)
        pair.one.ledger.merge([mine], UNIX)
        pair.other.ledger.merge([theirs], UNIX)
        pair.one.meet(pair.other)
        with trio.fail_after(10):
            while not (tmp_path / "tokens.json").exists() or len(pair.other.ledger.records()) < 2:
                await trio.sleep(0.01)
        assert pair.one.ledger.records() == pair.other.ledger.records() == [mine, theirs]
    assert TokenLedger(tmp_path).records() == [mine, theirs]


async def test_more_than_fits_one_message_comes_all_the_same(
    pair: Pair, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECORDS_AT_ONCE", 10_000)
    monkeypatch.setattr(module, "MESSAGE_LIMIT", 25_000)
    pair.one.know(*(f"mine{number}" for number in range(100)))
    pair.other.know(*(f"theirs{number}" for number in range(100)))
    pair.one.meet(pair.other)
    pair.other.meet(pair.one)
    await trio.sleep(INTERVAL / 2)
    assert len(pair.one.tags) == len(pair.other.tags) == 200


# --- what may go wrong ---


async def test_a_peer_that_cannot_be_reached_costs_nothing(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    third = Side(pair.network, "third")
    pair.one.meet(third)  # it serves nothing
    pair.one.gossip.met(NodeKey.generate().peer_id)  # nobody knows where that is
    pair.one.meet(pair.other)
    pair.other.know("a")
    await trio.sleep(1)
    assert pair.one.tags == {"a"}


async def test_a_peer_that_falls_silent_holds_an_exchange_for_no_longer_than_its_deadline(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    pair.one.meet(pair.other)
    pair.network.silence("other")
    pair.other.know("a")
    await trio.sleep(EXCHANGE_DEADLINE + 1)
    pair.network.heal_all()
    await trio.sleep(2 * INTERVAL)
    assert pair.one.tags == {"a"}


def message(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


MALFORMED = {
    "garbage": message(b"\xff\xff"),
    "no message": message(cbor2.dumps({"summary": []})),
    "too long": struct.pack("!I", MESSAGE_LIMIT + 1),
    "cut off": message(bytes(100))[:50],
    "empty": b"",
    "a record that is none": message(cbor2.dumps([[], [b"no envelope"], []])),
    "a use that is none": message(cbor2.dumps([[], [], [{"token": "x"}]])),
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_message_costs_its_exchange_and_nothing_else(
    pair: Pair, autojump_clock: trio.testing.MockClock, sent: bytes
) -> None:
    addresses = pair.other.transport.addresses
    stream = await pair.one.transport.open_stream(pair.other.identity.key.peer_id, addresses, PROTOCOL, 5.0)
    await stream.send_all(sent)
    await stream.aclose()
    await trio.sleep(EXCHANGE_DEADLINE + 1)
    assert pair.other.tags == set()
    pair.one.know("a")
    pair.one.meet(pair.other)
    await trio.sleep(1)
    assert pair.other.tags == {"a"}


async def test_who_answers_with_a_malformed_message_costs_the_exchange_alone(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    class Liar(Side):
        async def _answer(self, _protocol: str, stream: Stream) -> None:
            await stream.receive_some(1)
            await stream.send_all(message(b"\xff"))

    liar = Liar(pair.network, "liar")
    async with trio.open_nursery() as nursery:
        await nursery.start(liar.transport.serve, liar._answer)
        pair.one.meet(liar)
        pair.one.meet(pair.other)
        pair.other.know("a")
        await trio.sleep(1)
        assert pair.one.tags == {"a"}
        nursery.cancel_scope.cancel()


async def test_a_record_from_the_future_costs_only_itself(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    """A peer passes on in good faith what another's wrong clock dated."""
    future = pair.other.seal("future", UNIX + 86_400)
    pair.other.machine.take_records([future])
    pair.other.know("a", "b")
    pair.one.meet(pair.other)
    await trio.sleep(1)
    assert pair.one.tags == {"a", "b"}


async def test_more_wrong_records_than_chance_explains_end_the_exchange(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    forged = [bytes([number]) * 200 for number in range(module.WRONG_LIMIT + 1)]
    stream = await pair.one.transport.open_stream(
        pair.other.identity.key.peer_id, pair.other.transport.addresses, PROTOCOL, 5.0
    )
    await stream.send_all(encode_message({}, [*forged, pair.one.seal("a").sealed]))
    assert await stream.receive_some(1) == b""
    assert pair.other.tags == set()


# --- the message itself ---


def test_a_message_survives_the_wire() -> None:
    summary = {("r", "repo", "tag"): 1.5, ("r", "repo", "other"): 0.0}
    records, uses = [b"sealed", b"too"], [use(1), use(2)]
    encoded = encode_message(summary, records, uses)
    (length,) = struct.unpack("!I", encoded[:4])
    assert length == len(encoded) - 4
    decoded = decode_message_untrusted(encoded[4:])
    assert (decoded.summary, decoded.records, decoded.uses) == (summary, records, uses)


@pytest.mark.parametrize(
    "items",
    [
        None,
        [],
        [[], []],
        [[], [], [], []],
        [[], [], {}],
        [[["r", "repo", "tag", 1]], [], []],
        [[["r", "repo", "tag"]], [], []],
        [[["r", "repo", "tag", float("nan")]], [], []],
        [[], ["text"], []],
        [[], [bytes(5000)], []],
        [[], [], ["use"]],
        [[], [b""] * 65_537, []],
        [[], [], cbor2.CBORTag(258, [1])],
        cbor2.CBORTag(35, "(a+)+$"),
    ],
    ids=lambda items: repr(items)[:30],
)
def test_what_is_no_message_is_refused(items: object) -> None:
    with pytest.raises(MessageError):
        decode_message_untrusted(cbor2.dumps(items))
