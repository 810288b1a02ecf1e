"""The driver by itself: sessions that meet, faults of transports, disks and upstreams that stay where they are."""

import hashlib
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshsat.chunking.cut import MIN_CHUNK
from meshsat.errors import (
    DeniedError,
    DigestMismatchError,
    InvalidInputError,
    MeshsatError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from meshsat.mesh import driver as module
from meshsat.mesh.demand import Demand, Question
from meshsat.mesh.driver import Driver
from meshsat.mesh.identity import Identity
from meshsat.mesh.transport import DialError, Handler, ServeStatus, Stream
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.protocol import effects, events, wire
from meshsat.protocol.events import Event, Fault, Priority
from meshsat.protocol.gossip import ImageRecord, seal
from meshsat.protocol.machine import Machine, Settings
from meshsat.trust.keys import NodeKey, PeerId
from meshsat.trust.passes import verify_pass_untrusted
from tests.fleet import Fleet
from tests.images import build_image
from tests.mesh.loose_stream import LooseStream
from tests.mesh.memory_store import MemoryPartial, MemoryStore

FLEET = Fleet()
SOURCE: wire.Source = ("up.example", "library/pos", False)
ADDRESS = ("10.0.0.1:4702",)
GREETING = wire.Hello("other", uplink=False, control=ADDRESS, bulk=ADDRESS)


def member(seed: int) -> Identity:
    key = NodeKey.from_private(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"%d" % seed).digest()))
    passed = verify_pass_untrusted(FLEET.chain(key, f"n{seed}"), FLEET.root.certificate, None)
    return Identity(key, passed, FLEET.root.certificate)


LOW, ME, HIGH = sorted((member(seed) for seed in range(3)), key=lambda one: one.key.peer_id)


class Plane:
    """A transport that gives out streams that the test made, or fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.addresses: tuple[str, ...] = ()
        self.streams: deque[Stream] = deque()
        self.dialled: list[tuple[str, ...]] = []

    async def serve(self, handler: Handler, *, task_status: ServeStatus = trio.TASK_STATUS_IGNORED) -> None:
        raise NotImplementedError

    async def open_stream(
        self, peer: PeerId, addresses: Sequence[str], protocol: str, timeout: float
    ) -> Stream:
        self.dialled.append(tuple(addresses))
        await trio.lowlevel.checkpoint()
        if not self.streams:
            raise DialError("nobody there")
        return self.streams.popleft()

    async def drop(self, peer: PeerId) -> None:
        raise NotImplementedError

    async def recheck(self) -> None:
        raise NotImplementedError

    def renew(self, identity: Identity) -> None:
        raise NotImplementedError


class Upstream:
    """An uplink that gives `data` in small pieces, or raises `fault`."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.faults: dict[str, MeshsatError] = {}
        """By repository."""
        self.asked: list[tuple[str, int, int]] = []
        self.gate = trio.Event()
        self.gate.set()
        self.record: ImageRecord | None = None
        self.reachable = True
        self.read_to_the_end = 0
        """Answers of which even the end was read: their connections serve again."""

    async def probe(self) -> None:
        if not self.reachable:
            raise UnavailableError("no route")

    async def resolve(self, registry: str, repository: str, reference: str) -> ImageRecord:
        await trio.lowlevel.checkpoint()
        if self.record is None:
            raise self.faults[repository]
        return self.record

    async def manifest(self, registry: str, repository: str, reference: str) -> Manifest:
        await trio.lowlevel.checkpoint()
        if repository in self.faults:
            raise self.faults[repository]
        return parse_manifest_untrusted(self.data)

    def ignores_ranges(self, registry: str) -> bool:
        return False

    @asynccontextmanager
    async def blob(
        self, registry: str, repository: str, digest: Digest, start: int, stop: int, size: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append((repository, start, stop))
        if repository in self.faults:
            raise self.faults[repository]

        async def pieces() -> AsyncIterator[bytes]:
            for offset in range(start, min(stop, len(self.data)), 100_000):
                await self.gate.wait()
                await trio.lowlevel.checkpoint()
                yield self.data[offset : min(offset + 100_000, stop)]
            self.read_to_the_end += 1

        yield pieces()


class Rig:
    def __init__(self, *, uplink: Upstream | None = None, store: MemoryStore | None = None) -> None:
        settings = Settings(ME.key.peer_id, "me", uplink=uplink is not None, settle=0.0)
        self.machine = Machine(settings, ME.key.sign, random.Random(1))
        self.store = store or MemoryStore()
        self.bulk, self.control = Plane("tls"), Plane("libp2p")
        self.metrics = Metrics()
        self.driver = Driver(self.machine, self.store, uplink, [self.bulk, self.control], self.metrics)
        self.fed: list[Event] = []
        handle = self.machine.handle

        def recording(event: Event, now: float) -> list[effects.Effect]:
            if not isinstance(event, events.TimerExpired):
                self.fed.append(event)
            return handle(event, now)

        self.machine.handle = recording  # type: ignore[method-assign]

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.fed if isinstance(event, kind)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Rig"]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.driver.run)
            yield self
            nursery.cancel_scope.cancel()

    def want(self, blob: Digest, size: int, *sources: wire.Source) -> Demand:
        demand = Demand(blob, size)
        self.driver.demands.setdefault(blob, []).append(demand)
        self.driver.feed(events.BlobWanted(blob, size, sources or (SOURCE,), Priority.PULL))
        return demand

    def unwant(self, demand: Demand) -> None:
        self.driver.demands[demand.blob].remove(demand)
        self.driver.feed(events.BlobUnwanted(demand.blob, Priority.PULL))


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked(0.001)


# --- sessions ---


@pytest.mark.parametrize("other", [LOW, HIGH], ids=["smaller", "larger"])
@pytest.mark.parametrize("dialled_first", [True, False])
async def test_of_two_sessions_the_one_that_the_smaller_peer_id_dialled_stays(
    other: Identity, dialled_first: bool
) -> None:
    rig = Rig()
    ours, theirs = LooseStream(other.member), LooseStream(other.member)
    async with rig.running(), trio.open_nursery() as sessions:
        for dialled in (dialled_first, not dialled_first):
            if dialled:
                rig.bulk.streams.append(ours)
                rig.driver._do(effects.Dial(other.key.peer_id, (), ADDRESS))
            else:
                sessions.start_soon(rig.driver.accept, wire.PROTOCOL, theirs, "tls")
            await settle()
        stays = ours if ME.key.peer_id < other.key.peer_id else theirs
        (link,) = rig.driver.links.values()
        assert link.stream is stays
        assert [stream.closed for stream in (ours, theirs)] == [stays is not ours, stays is not theirs]
        assert list(rig.machine.sessions) == [other.key.peer_id]
        stays.end()
        await settle()
        assert rig.machine.sessions == {}
        assert len(rig.of(events.SessionOpened)) == len(rig.of(events.SessionClosed))


async def test_of_two_sessions_the_same_way_the_newer_stays() -> None:
    rig = Rig()
    first, second = LooseStream(LOW.member), LooseStream(LOW.member)
    async with rig.running(), trio.open_nursery() as sessions:
        for stream in (first, second):
            sessions.start_soon(rig.driver.accept, wire.PROTOCOL, stream, "tls")
            await settle()
        assert (first.closed, second.closed) == (True, False)
        assert rig.driver.links[LOW.key.peer_id].stream is second
        second.end()


async def test_a_silent_session_gives_way_to_one_that_the_rule_would_refuse(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It is dead, and the other side knows: it would not dial otherwise."""
    rig = Rig()
    old, new = LooseStream(HIGH.member), LooseStream(HIGH.member)
    async with rig.running(), trio.open_nursery() as sessions:
        rig.bulk.streams.append(old)
        rig.driver._do(effects.Dial(HIGH.key.peer_id, (), ADDRESS))
        await trio.sleep(0.6 * rig.machine.silence_limit)
        sessions.start_soon(rig.driver.accept, wire.PROTOCOL, new, "tls")
        await trio.sleep(0.1)
        assert rig.driver.links[HIGH.key.peer_id].stream is new
        new.end()


async def test_a_session_of_another_protocol_is_not_ours() -> None:
    rig = Rig()
    async with rig.running():
        await rig.driver.accept("/meshsat/other/1", LooseStream(LOW.member), "tls")
        assert rig.fed == []


async def test_a_dial_tries_the_planes_in_order_each_at_its_own_addresses() -> None:
    rig = Rig()
    stream = LooseStream(LOW.member)
    rig.control.streams.append(stream)
    async with rig.running():
        rig.driver._do(effects.Dial(LOW.key.peer_id, ("c:1",), ("b:1", "b:2")))
        await settle()
        assert (rig.bulk.dialled, rig.control.dialled) == ([("b:1", "b:2")], [("c:1",)])
        assert rig.driver.links[LOW.key.peer_id].plane == "libp2p"
        rig.driver._do(effects.Dial(HIGH.key.peer_id, (), ADDRESS))
        await settle()
        assert rig.control.dialled == [("c:1",)]
        assert rig.of(events.DialFailed) == [events.DialFailed(HIGH.key.peer_id, refused=False)]


async def test_a_session_on_the_control_plane_moves_to_the_bulk_plane_when_its_address_is_told() -> None:
    rig = Rig()
    slow, fast = LooseStream(LOW.member), LooseStream(LOW.member)
    rig.control.streams.append(slow)
    rig.bulk.streams.append(fast)
    async with rig.running():
        rig.driver._do(effects.Dial(LOW.key.peer_id, ADDRESS, ()))
        await settle()
        assert rig.driver.links[LOW.key.peer_id].plane == "libp2p"
        slow.arrive_frames(wire.Hello("low", uplink=True, control=ADDRESS, bulk=("b:9",)))
        await settle()
        assert rig.bulk.dialled == [("b:9",)]
        assert rig.driver.links[LOW.key.peer_id].plane == "tls"
        assert (slow.closed, fast.closed) == (True, False)


async def test_where_the_bulk_plane_is_out_of_reach_the_session_stays_on_the_control_plane() -> None:
    rig = Rig()
    slow = LooseStream(LOW.member)
    rig.control.streams.append(slow)
    async with rig.running():
        rig.driver._do(effects.Dial(LOW.key.peer_id, ADDRESS, ()))
        await settle()
        slow.arrive_frames(GREETING)
        await settle()
        assert rig.bulk.dialled == [ADDRESS]
        assert not slow.closed
        assert rig.machine.sessions[LOW.key.peer_id].greeted


async def test_what_the_machine_says_to_a_peer_goes_over_its_session() -> None:
    rig = Rig(store=MemoryStore())
    data = random.Random(1).randbytes(MIN_CHUNK + 1)
    rig.store.keep(data, blob := Digest.of(data))
    stream = LooseStream(LOW.member)
    async with rig.running(), trio.open_nursery() as sessions:
        sessions.start_soon(rig.driver.accept, wire.PROTOCOL, stream, "tls")
        await settle()
        rig.driver._do(effects.Send(LOW.key.peer_id, wire.Ping(7)))
        rig.driver._do(effects.SendChunk(LOW.key.peer_id, blob, 1, 1))
        rig.driver._do(effects.SendChunk(LOW.key.peer_id, Digest.of(b"nothing"), 0, 7))
        rig.driver._do(effects.Send(HIGH.key.peer_id, wire.Ping(8)))  # nobody we know
        await settle()
        nothing = wire.Reject(Digest.of(b"nothing"), 0)
        assert [frame for frame in stream.frames() if not isinstance(frame, wire.Hello)] == [
            wire.Ping(7),
            wire.Chunk(blob, 1),
            nothing,
        ]
        assert wire.encode(wire.Chunk(blob, 1), 1) + data[-1:] in stream.sent
        assert [(event.index, event.failed) for event in rig.fed if isinstance(event, events.ChunkSent)] == [
            (1, False),
            (0, True),
        ]
        rig.driver._do(effects.Disconnect(LOW.key.peer_id, "enough"))
        await settle()
        assert stream.closed
        assert rig.driver.links == {}


# --- the store ---


class SlowStore(MemoryStore):
    """Opening takes until the test says so; failing, where it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = trio.Event()
        self.fault: StorageError | None = None
        self.opened = 0

    async def partial(self, digest: Digest, size: int) -> MemoryPartial:
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.opened += 1
        return await super().partial(digest, size)


@pytest.mark.parametrize("times", range(1, 7))
async def test_wanted_and_given_up_at_once_again_and_again_it_ends_as_the_last_word_says(times: int) -> None:
    for last in (True, False):
        store = SlowStore()
        rig = Rig(store=store)
        blob = Digest.of(b"blob")
        async with rig.running():
            for number in range(times):
                demand = rig.want(blob, 4)
                if number % 2:
                    await trio.lowlevel.checkpoint()
                if number < times - 1 or not last:
                    rig.unwant(demand)
            await settle()
            store.gate.set()
            await settle()
            assert (blob in rig.machine.transfers) is last
            assert (rig.driver.partial(blob) is not None) is last
            assert not rig.driver._opening


async def test_closes_that_meet_end_in_peace() -> None:
    """As many as there may be, in whichever order the tasks of one moment run."""
    store = SlowStore()
    rig = Rig(store=store)
    blob = Digest.of(b"blob")
    async with rig.running():
        rig.unwant(rig.want(blob, 4))
        await settle()
        for _ in range(3):
            rig.driver._do(effects.CloseTransfer(blob))
        store.gate.set()
        await settle()
        assert rig.driver.partial(blob) is None
        assert not rig.driver._opening


async def test_a_blob_that_is_asked_for_with_another_size_is_begun_anew() -> None:
    rig = Rig()
    blob = Digest.of(b"blob")
    async with rig.running():
        demand = rig.want(blob, 4)
        await settle()
        rig.unwant(demand)
        rig.want(blob, 5)
        await settle()
        partial = rig.driver.partial(blob)
        assert partial is not None
        assert partial.size == 5


async def test_a_disk_that_cannot_make_room_costs_that_blob_alone() -> None:
    store = SlowStore()
    store.gate.set()
    store.fault = StorageError("no space left")
    rig = Rig(store=store)
    async with rig.running():
        demand = rig.want(Digest.of(b"blob"), 4)
        await settle()
        assert (demand.fault, demand.message) == (Fault.STORAGE, "no space left")
        assert rig.machine.transfers == {}
        store.fault = None
        again = rig.want(Digest.of(b"other"), 5)
        await settle()
        assert again.fault is None


async def test_a_blob_that_is_there_already_is_told_at_once() -> None:
    rig = Rig()
    data = b"there"
    published: list[Digest] = []
    rig.driver.on_published = published.append
    async with rig.running():
        rig.store.keep(data, blob := Digest.of(data))
        demand = rig.want(blob, 5)
        await settle()
        assert demand.published
        assert published == [blob]


async def test_what_comes_another_way_while_it_is_on_its_way_lets_go_of_the_disk() -> None:
    data = b"a manifest"
    blob = Digest.of(data)
    rig = Rig()
    async with rig.running():
        rig.want(blob, len(data))
        await settle()
        assert rig.driver.partial(blob) is not None
        rig.store.keep(data, blob)
        rig.driver.stored(blob, len(data))
        await settle()
        assert rig.driver.partial(blob) is None


async def test_an_empty_blob_needs_nobody() -> None:
    rig = Rig()
    async with rig.running():
        demand = rig.want(Digest.of(b""), 0)
        await settle()
        assert demand.published
        assert rig.store.blob_size(Digest.of(b"")) == 0


async def test_a_recipe_that_cannot_be_read_costs_nothing_else() -> None:
    rig = Rig()
    rig.store.keep(b"x", blob := Digest.of(b"x"))
    async with rig.running():
        rig.driver._do(effects.LoadRecipe(Digest.of(b"nothing")))
        rig.driver._do(effects.LoadRecipe(blob))
        await settle()
        assert [event.blob for event in rig.fed if isinstance(event, events.RecipeLoaded)] == [blob]


async def test_what_is_open_is_closed_at_the_end() -> None:
    rig = Rig()
    blob = Digest.of(b"blob")
    async with rig.running():
        rig.want(blob, 4)
        await settle()
        assert blob not in rig.store.left
    assert blob in rig.store.left


# --- the uplink ---


async def test_the_uplink_brings_a_blob_chunk_by_chunk() -> None:
    data = random.Random(2).randbytes(3 * MIN_CHUNK + 17)
    upstream = Upstream(data)
    rig = Rig(uplink=upstream)
    async with rig.running():
        demand = rig.want(Digest.of(data), len(data))
        await settle()
        assert demand.published
    assert rig.store.data[Digest.of(data)] == data
    assert upstream.asked == [("library/pos", 0, len(data))]
    assert rig.of(events.UplinkEnded) in ([], [events.UplinkEnded(Digest.of(data), None)])


async def test_a_source_that_does_not_have_it_is_passed_over() -> None:
    data = random.Random(2).randbytes(1000)
    upstream = Upstream(data)
    upstream.faults = {"gone": NotFoundError("gone"), "secret": DeniedError("secret")}
    rig = Rig(uplink=upstream)
    async with rig.running():
        sources = [("up.example", name, False) for name in ("gone", "secret", "library/pos")]
        demand = rig.want(Digest.of(data), len(data), *sources)
        await settle()
        assert demand.published
    assert [name for name, _, _ in upstream.asked] == ["gone", "secret", "library/pos"]


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (NotFoundError("not there"), Fault.NOT_FOUND),
        (DeniedError("not for you"), Fault.DENIED),
        (DigestMismatchError("other bytes"), Fault.WRONG_BYTES),
        (InvalidInputError("no manifest"), Fault.WRONG_BYTES),
        (StorageError("disk full"), Fault.STORAGE),
        (UnavailableError("busy", retry_after=7.0), Fault.UNAVAILABLE),
        (MeshsatError("else"), Fault.UNAVAILABLE),
    ],
)
async def test_each_fault_of_the_upstream_is_told(error: MeshsatError, fault: Fault) -> None:
    upstream = Upstream()
    upstream.faults = {"library/pos": error}
    rig = Rig(uplink=upstream)
    async with rig.running():
        demand = rig.want(blob := Digest.of(b"blob"), 4)
        await settle()
        assert (demand.fault, demand.message) == (fault, str(error))
        retry_after = getattr(error, "retry_after", None)
        assert rig.of(events.UplinkEnded) == [events.UplinkEnded(blob, fault, str(error), retry_after)]
        assert rig.machine.uplink_up is (fault is not Fault.UNAVAILABLE or retry_after is not None)


async def test_an_upstream_that_ends_early_is_told() -> None:
    data = random.Random(2).randbytes(MIN_CHUNK + 1000)
    rig = Rig(uplink=Upstream(data[:-1]))
    async with rig.running():
        demand = rig.want(Digest.of(data), len(data))
        await settle()
        assert demand.fault is Fault.UNAVAILABLE
        assert "early" in demand.message
        partial = rig.driver.partial(Digest.of(data))
        assert partial is not None
        assert list(partial.chunks) == [0]


@pytest.mark.parametrize("size", [1000, 2 * MIN_CHUNK + 5])
async def test_the_answer_that_brought_all_is_read_to_its_end(size: int) -> None:
    data = random.Random(2).randbytes(size)
    upstream = Upstream(data)
    rig = Rig(uplink=upstream)
    async with rig.running():
        demand = rig.want(Digest.of(data), len(data))
        await settle()
        assert demand.published
        assert upstream.read_to_the_end == len(upstream.asked) == 1


async def test_who_stops_wanting_ends_the_run_and_nothing_is_told_of_it() -> None:
    data = random.Random(2).randbytes(2 * MIN_CHUNK)
    upstream = Upstream(data)
    upstream.gate = trio.Event()
    rig = Rig(uplink=upstream)
    async with rig.running():
        demand = rig.want(Digest.of(data), len(data))
        await settle()
        assert upstream.asked
        rig.unwant(demand)
        upstream.gate.set()
        await settle()
        assert rig.of(events.UplinkEnded) == []
        assert rig.of(events.ChunkStored) == []
        again = rig.want(Digest.of(data), len(data))
        await settle()
        assert again.published


async def test_a_manifest_is_asked_for_as_such_and_must_have_the_size_told() -> None:
    image = build_image([b"layer"])
    digest = Digest.parse_untrusted(image.root)
    rig = Rig(uplink=Upstream(image.raw))
    async with rig.running():
        source = ("up.example", "library/pos", True)
        wrong = rig.want(digest, len(image.raw) + 1, source)
        await settle()
        assert wrong.fault is Fault.WRONG_BYTES
        rig.unwant(wrong)
        right = rig.want(digest, len(image.raw), source)
        await settle()
        assert right.published
    assert rig.store.data[digest] == image.raw


async def test_bytes_that_are_wrong_are_told_as_such() -> None:
    data = random.Random(2).randbytes(2 * MIN_CHUNK)
    rig = Rig(uplink=Upstream(bytes(len(data))))
    async with rig.running():
        demand = rig.want(Digest.of(data), len(data))
        await settle()
        assert demand.fault is Fault.WRONG_BYTES
        assert rig.store.blobs() == {}


async def test_answers_of_the_upstream_reach_those_who_asked() -> None:
    upstream = Upstream()
    upstream.faults = {"library/pos": NotFoundError("no such tag")}
    rig = Rig(uplink=upstream)
    kept: list[ImageRecord] = []
    rig.driver.on_record = kept.append
    record = seal(
        ME.key,
        registry="up.example",
        repository="library/pos",
        reference="42",
        media_type="m",
        digest=Digest.of(b"m"),
        size=1,
        resolved_at=0.0,
    )
    async with rig.running():
        for reference, answer in (("41", None), ("42", record)):
            upstream.record = answer
            question = Question()
            key = ("up.example", "library/pos", reference)
            rig.driver.questions[key] = [question]
            rig.driver.feed(events.ReferenceWanted(*key, 10.0))
            await settle()
            assert question.record is answer
            assert rig.driver.questions == {}
            if answer is None:
                assert (question.fault, question.message) == (Fault.NOT_FOUND, "no such tag")
    assert kept
    assert set(kept) == {record}


async def test_a_manifest_that_is_none_does_not_take_the_uplink_down() -> None:
    upstream = Upstream()
    upstream.faults = {"library/old": InvalidInputError("Docker schema 1 is not supported")}
    rig = Rig(uplink=upstream)
    async with rig.running():
        question = Question()
        rig.driver.questions["up.example", "library/old", "1"] = [question]
        rig.driver.feed(events.ReferenceWanted("up.example", "library/old", "1", 10.0))
        await settle()
        assert question.fault is Fault.WRONG_BYTES
        assert "schema 1" in question.message
        assert rig.machine.uplink_up


# --- chunks that come from peers ---


class OneChunk(Rig):
    """A blob of two chunks on its way; the peer LOW was asked for the first."""

    def __init__(self) -> None:
        super().__init__()
        self.data = random.Random(3).randbytes(2 * MIN_CHUNK)
        self.blob = Digest.of(self.data)
        self.stream = LooseStream(LOW.member)

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[None]:
        digests = [
            hashlib.sha256(self.data[at : at + MIN_CHUNK]).digest()
            for at in range(0, len(self.data), MIN_CHUNK)
        ]
        message = wire.entries_message(self.blob, 0, b"".join(digests))
        entries = wire.Entries(self.blob, LOW.key.peer_id, 0, b"".join(digests), LOW.key.sign(message))
        async with self.running(), trio.open_nursery() as sessions:
            sessions.start_soon(self.driver.accept, wire.PROTOCOL, self.stream, "tls")
            self.demand = self.want(self.blob, len(self.data))
            self.stream.arrive_frames(GREETING, wire.Holds(((self.blob, len(self.data)),)), entries)
            await settle()
            assert any(isinstance(frame, wire.Request) for frame in self.stream.frames())
            yield
            self.stream.break_off()

    def arrive(self, index: int, payload: bytes) -> None:
        self.stream.arrive(wire.encode(wire.Chunk(self.blob, index), len(payload)), payload)

    def right(self, index: int) -> bytes:
        return self.data[index * MIN_CHUNK : (index + 1) * MIN_CHUNK]

    def counted(self, result: str) -> float:
        return float(self.metrics.chunks_in.labels(result)._value.get())


async def test_chunks_of_a_peer_make_the_blob() -> None:
    rig = OneChunk()
    async with rig.asked():
        rig.arrive(1, rig.right(1))
        rig.arrive(0, rig.right(0))
        await settle()
        assert rig.demand.published
        assert rig.counted("stored") == 2
    assert rig.store.data[rig.blob] == rig.data


async def test_wrong_bytes_cost_the_peer_its_session_and_are_not_kept() -> None:
    rig = OneChunk()
    async with rig.asked():
        rig.arrive(0, bytes(MIN_CHUNK))
        await settle()
        assert rig.stream.closed
        assert rig.counted("wrong") == 1
        partial = rig.driver.partial(rig.blob)
        assert partial is not None
        assert partial.chunks == {}


async def test_a_chunk_that_comes_twice_is_a_duplicate() -> None:
    rig = OneChunk()
    async with rig.asked():
        for _ in range(2):
            rig.arrive(0, rig.right(0))
        await settle()
        assert (rig.counted("stored"), rig.counted("unasked")) == (1, 1)
        assert rig.metrics.duplicate_bytes._value.get() == MIN_CHUNK
        assert not rig.stream.closed


async def test_a_disk_that_is_full_is_no_fault_of_the_peer() -> None:
    rig = OneChunk()
    async with rig.asked():
        rig.store.full = True
        rig.arrive(0, rig.right(0))
        await settle()
        assert rig.demand.fault is Fault.STORAGE
        assert not rig.stream.closed


async def test_a_chunk_waits_until_all_that_is_to_be_forgotten_is() -> None:
    """Else what was just stored would be taken for what proved wrong."""
    rig = OneChunk()
    async with rig.asked():
        partial = rig.driver.partial(rig.blob)
        assert isinstance(partial, MemoryPartial)
        first, second = trio.Event(), trio.Event()
        forget = partial.forget

        async def slowly(indexes: tuple[int, ...]) -> None:
            await (first if indexes == (1,) else second).wait()
            await forget(indexes)

        partial.forget = slowly  # type: ignore[method-assign, assignment]
        rig.driver._do(effects.ForgetChunks(rig.blob, (1,)))
        rig.driver._do(effects.ForgetChunks(rig.blob, (0,)))
        await settle()
        rig.arrive(0, rig.right(0))
        first.set()
        await settle()
        assert partial.chunks == {}
        second.set()
        await settle()
        assert list(partial.chunks) == [0]


@pytest.mark.parametrize("reachable", [True, False])
async def test_an_uplink_is_probed_and_the_answer_told(
    autojump_clock: trio.testing.MockClock, reachable: bool
) -> None:
    upstream = Upstream()
    upstream.reachable = reachable
    rig = Rig(uplink=upstream)
    async with rig.running():
        rig.driver._do(effects.ProbeUplink())
        await trio.testing.wait_all_tasks_blocked()
    assert events.UplinkProbed(reachable) in rig.fed


async def test_a_slow_disk_holds_a_session_up_only_where_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blobs that come meanwhile are made durable together; how many may wait is bounded."""
    monkeypatch.setattr(module, "SMALL", 3)
    rig = Rig()
    disk = trio.Event()

    write = MemoryPartial.write

    async def slow(self: MemoryPartial, index: int, data: bytes, expect: bytes | None = None) -> bytes:
        await disk.wait()
        return await write(self, index, data, expect)

    monkeypatch.setattr(MemoryPartial, "write", slow)
    small = [b"small %d" % number for number in range(5)]
    stream = LooseStream(LOW.member)
    async with rig.running(), trio.open_nursery() as sessions:
        sessions.start_soon(rig.driver.accept, wire.PROTOCOL, stream, "tls")
        for data in small:
            rig.want(Digest.of(data), len(data))
        held = tuple((Digest.of(data), len(data)) for data in small)
        stream.arrive_frames(GREETING, wire.Holds(held))
        await settle()
        for data in small:
            stream.arrive(wire.encode(wire.Chunk(Digest.of(data), 0), len(data)) + data)
        stream.arrive_frames(wire.Ping(1))
        await settle()
        assert not [frame for frame in stream.frames() if isinstance(frame, wire.Pong)]
        disk.set()
        await settle()
        assert len(rig.of(events.ChunkStored)) == 5
        assert [frame for frame in stream.frames() if isinstance(frame, wire.Pong)] == [wire.Pong(1)]
        sessions.cancel_scope.cancel()
