import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.testing

from meshsat.errors import MeshsatError, NotFoundError, UnavailableError
from meshsat.mesh.fetching import Fetching
from meshsat.mesh.sources import OpenBlob, UplinkPort
from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events
from meshsat.protocol.events import Event, Fault
from tests.mesh.memory_store import MemoryStore

DATA = random.Random(5).randbytes((24 << 20) + 1000)
BLOB = Digest.of(DATA)
CHUNK = 1 << 18
COUNT = -(-len(DATA) // CHUNK)
SOURCES = (("up.example", "library/pos", False),)


class Upstream:
    """Each connection brings `rate` bytes a second, all together at most `line`."""

    def __init__(self, rate: float, line: float) -> None:
        self.rate = rate
        self.line = line
        self.open = 0
        self.most = 0
        self.allowed = 100
        self.asked: list[tuple[int, int]] = []
        self.sent = 0
        self.whole_only = False
        self.faults: dict[str, MeshsatError] = {}

    def ignores_ranges(self, registry: str) -> bool:
        return self.whole_only

    @asynccontextmanager
    async def blob(
        self, registry: str, repository: str, digest: Digest, start: int, stop: int, size: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append((start, stop))
        if repository in self.faults:
            raise self.faults[repository]
        if self.open >= self.allowed:
            raise UnavailableError("too many connections")
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            yield self.pieces(start, stop)
        finally:
            self.open -= 1

    async def pieces(self, start: int, stop: int) -> AsyncIterator[bytes]:
        for offset in range(start, stop, 65536):
            piece = DATA[offset : min(offset + 65536, stop)]
            await trio.sleep(len(piece) / min(self.rate, self.line / self.open))
            self.sent += len(piece)
            yield piece


class Rig:
    def __init__(self, upstream: Upstream, connections: int = 8) -> None:
        self.upstream = upstream
        self.fed: list[Event] = []
        self.partials: dict[Digest, OpenBlob] = {}
        self.fetching = Fetching(
            cast("UplinkPort", upstream), self.partials, self.feed, lambda _: None, connections
        )
        self.ended = trio.Event()
        self.on_chunk = 0

    def feed(self, event: Event) -> None:
        self.fed.append(event)
        if isinstance(event, events.UplinkEnded):
            self.ended.set()

    def chunks(self) -> list[int]:
        return [event.index for event in self.fed if isinstance(event, events.ChunkStored)]

    async def run(
        self, start: int = 0, stop: int = COUNT, sources: tuple[tuple[str, str, bool], ...] = SOURCES
    ) -> None:
        if BLOB not in self.partials:
            self.partials[BLOB] = await MemoryStore().partial(BLOB, len(DATA))
        await self.fetching.run(
            self.fetching.prepare(effects.FetchUplink(BLOB, len(DATA), start, stop, sources))
        )


async def test_a_good_line_is_filled_by_one_connection_and_nothing_is_paid_twice(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig(Upstream(rate=2e6, line=2e6))
    await rig.run()
    assert sorted(rig.chunks()) == list(range(COUNT))
    assert rig.fed[-1] == events.UplinkEnded(BLOB, None)
    assert rig.upstream.most <= 2
    assert rig.upstream.sent <= len(DATA) + 2 * 65536
    assert len(rig.upstream.asked) <= 10


async def test_a_lossy_line_gets_several_connections(autojump_clock: trio.testing.MockClock) -> None:
    times = []
    for connections in (1, 8):
        rig = Rig(Upstream(rate=0.25e6, line=6e6), connections)
        began = trio.current_time()
        await rig.run()
        times.append(trio.current_time() - began)
        assert sorted(rig.chunks()) == list(range(COUNT))
        assert rig.upstream.most == connections
        assert rig.upstream.sent <= len(DATA) + 2 * 65536
    assert times[1] < times[0] / 3


async def test_all_bytes_are_told_as_progress(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig(Upstream(rate=0.25e6, line=6e6))
    await rig.run()
    told = [event.size for event in rig.fed if isinstance(event, events.UplinkProgressed)]
    assert sum(told) >= len(DATA)


async def test_chunks_come_in_about_their_order(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig(Upstream(rate=0.25e6, line=6e6))
    await rig.run()
    for place, index in enumerate(rig.chunks()):
        assert abs(place - index) < 64  # two stripes a connection


async def test_a_run_that_is_trimmed_ends_there(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig(Upstream(rate=2e6, line=2e6))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.run)
        await trio.sleep(2)
        rig.fetching.trim(effects.TrimUplink(BLOB, 40))
        await rig.ended.wait()
    assert sorted(rig.chunks()) == list(range(40))
    assert rig.fed[-1] == events.UplinkEnded(BLOB, None)


async def test_a_run_that_is_cancelled_says_no_more(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig(Upstream(rate=2e6, line=2e6))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.run)
        await trio.sleep(2)
        rig.fetching.cancel(BLOB)
        seen = len(rig.fed)
        await trio.sleep(5)
    assert len(rig.fed) == seen
    assert rig.upstream.open == 0


async def test_a_connection_too_many_gives_its_stripe_back(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig(Upstream(rate=0.25e6, line=6e6))
    rig.upstream.allowed = 2
    await rig.run()
    assert sorted(rig.chunks()) == list(range(COUNT))
    assert rig.fed[-1] == events.UplinkEnded(BLOB, None)
    refused = len(rig.upstream.asked) - COUNT // 4
    assert refused < 10


async def test_an_upstream_that_ignores_ranges_gets_one_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig(Upstream(rate=0.25e6, line=6e6))
    rig.upstream.whole_only = True
    await rig.run(0, 40)
    assert rig.upstream.most == 1


@pytest.mark.parametrize("other_has_it", [True, False])
async def test_what_one_source_lacks_another_may_have(
    autojump_clock: trio.testing.MockClock, *, other_has_it: bool
) -> None:
    rig = Rig(Upstream(rate=2e6, line=2e6))
    rig.upstream.faults["a"] = NotFoundError("a has no such blob")
    if not other_has_it:
        rig.upstream.faults["b"] = UnavailableError("b is busy", 7.0)
    await rig.run(0, 4, (("r", "a", False), ("r", "b", False)))
    expected = events.UplinkEnded(BLOB, None)
    if not other_has_it:
        expected = events.UplinkEnded(BLOB, Fault.UNAVAILABLE, "b is busy", 7.0)
    assert rig.fed[-1] == expected
