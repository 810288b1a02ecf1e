"""The twin's network keeps its word about time: rates, latency, cuts, deaths, all on trio's clock."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from meshsat.mesh.memory_network import MemoryNetwork
from meshsat.mesh.memory_transport import MemoryTransport
from meshsat.mesh.transport import DialError, Stream, StreamBroken
from meshsat.metrics import Metrics
from tests.deterministic import deterministic_order
from tests.fleet import Fleet

PROTOCOL = "/test/1"
NOW = 1_800_000_000.0
MB = 1_000_000
FLEET = Fleet(now=NOW)


class Lan:
    """Hosts that count what they receive, and when it was all there."""

    def __init__(self, network: MemoryNetwork, rates: Sequence[tuple[float | None, float | None]]) -> None:
        self.network = network
        self.transports = []
        self.done: list[tuple[str, int, float]] = []
        self.broken: list[str] = []
        for number, (up, down) in enumerate(rates):
            host = network.add_host(f"h{number}", up=up, down=down)
            identity = FLEET.member(f"h{number}")
            self.transports.append(
                MemoryTransport(network, host, identity, [PROTOCOL], Metrics(), lambda: NOW)
            )

    async def sink(self, _protocol: str, stream: Stream) -> None:
        received = 0
        try:
            while data := await stream.receive_some():
                received += len(data)
        except StreamBroken:
            self.broken.append(stream.member.name)
        else:
            self.done.append((stream.member.name, received, trio.current_time()))

    async def dial(self, source: int, target: int, timeout: float = 5.0) -> Stream:
        far = self.transports[target]
        peer = far._identity.key.peer_id
        return await self.transports[source].open_stream(peer, far.addresses, PROTOCOL, timeout)

    async def send(self, source: int, target: int, length: int) -> None:
        stream = await self.dial(source, target)
        await stream.send_all(bytes(length))
        await stream.aclose()


@asynccontextmanager
async def lan(rates: Sequence[tuple[float | None, float | None]], latency: float = 0.0) -> AsyncIterator[Lan]:
    site = Lan(MemoryNetwork(latency), rates)
    async with trio.open_nursery() as nursery:
        for transport in site.transports:
            await nursery.start(transport.serve, site.sink)
        yield site
        nursery.cancel_scope.cancel()


async def until(site: Lan, count: int) -> None:
    with trio.fail_after(1000):
        while len(site.done) + len(site.broken) < count:
            await trio.sleep(0.01)


async def test_the_slower_of_the_two_lanes_sets_the_time(autojump_clock: MockClock) -> None:
    async with lan([(10 * MB, None), (None, 5 * MB), (None, None)]) as site:
        began = trio.current_time()
        await site.send(0, 2, 20 * MB)
        await until(site, 1)
        assert site.done[-1][2] - began == pytest.approx(2.0, rel=0.02)
        began = trio.current_time()
        await site.send(0, 1, 20 * MB)
        await until(site, 2)
        assert site.done[-1][2] - began == pytest.approx(4.0, rel=0.02)
        assert (site.network.hosts["h0"].up.bytes, site.network.hosts["h1"].down.bytes) == (40 * MB, 20 * MB)


async def test_streams_of_a_host_get_equal_shares(autojump_clock: MockClock) -> None:
    """One sender to three, then three to one: all end together, when the shared lane has passed everything."""
    async with lan([(10 * MB, 10 * MB)] * 4) as site, trio.open_nursery() as nursery:
        for target in (1, 2, 3):
            nursery.start_soon(site.send, 0, target, 5 * MB)
        await until(site, 3)
        times = [time for _, _, time in site.done]
        assert max(times) == pytest.approx(1.5, rel=0.02)
        assert min(times) > 0.95 * max(times)
        began = trio.current_time()
        for source in (1, 2, 3):
            nursery.start_soon(site.send, source, 0, 5 * MB)
        await until(site, 6)
        times = [time - began for _, _, time in site.done[3:]]
        assert max(times) == pytest.approx(1.5, rel=0.02)
        assert min(times) > 0.95 * max(times)


async def test_latency_is_one_way(autojump_clock: MockClock) -> None:
    async with lan([(None, None)] * 2, latency=0.1) as site:
        await site.send(0, 1, 10)
        assert trio.current_time() == pytest.approx(0.4)  # two round trips for the handshakes
        await until(site, 1)
        assert site.done[0][2] == pytest.approx(0.5, abs=0.02)


async def test_a_cut_holds_back_and_healing_delivers(autojump_clock: MockClock) -> None:
    async with lan([(MB, MB)] * 3, latency=0.001) as site, trio.open_nursery() as nursery:
        nursery.start_soon(site.send, 0, 1, MB)
        nursery.start_soon(site.send, 1, 2, MB)
        await trio.sleep(0.5)
        site.network.partition(["h0"], ["h1", "h2"])
        with pytest.raises(DialError):
            await site.dial(2, 0, timeout=1)
        await trio.sleep(8.5)
        assert [name for name, _, _ in site.done] == ["h1"]
        site.network.heal_all()
        await until(site, 2)
        assert site.done[1][:2] == ("h0", MB)
        assert site.done[1][2] == pytest.approx(10.5, rel=0.02)


async def test_a_killed_host_breaks_its_streams_at_once_and_refuses(autojump_clock: MockClock) -> None:
    async with lan([(MB, MB)] * 2) as site:
        stream = await site.dial(0, 1)
        await stream.send_all(b"x")
        site.network.kill("h0")
        with pytest.raises(StreamBroken):
            await stream.send_all(b"y")
        await until(site, 1)
        assert site.broken == ["h0"]
        with pytest.raises(DialError):
            await site.dial(1, 0)
        site.network.revive("h0")
        await site.send(1, 0, 5)
        await until(site, 2)
        assert site.done[0][:2] == ("h1", 5)


async def test_a_silent_host_tells_nobody(autojump_clock: MockClock) -> None:
    async with lan([(MB, MB)] * 2) as site:
        stream = await site.dial(0, 1)
        site.network.silence("h0")
        with trio.move_on_after(60) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
        assert site.broken == []
        site.network.revive("h0")
        await stream.aclose()
        await until(site, 1)


async def test_a_host_to_itself_costs_no_network(autojump_clock: MockClock) -> None:
    async with lan([(1000, 1000)], latency=1.0) as site:
        await site.send(0, 0, MB)
        await until(site, 1)
        assert trio.current_time() < 0.1


def test_the_same_program_sees_the_same_times() -> None:
    async def main() -> list[tuple[str, int, float]]:
        async with lan([(10 * MB, 10 * MB)] * 5, latency=0.001) as site, trio.open_nursery() as nursery:
            for source in range(5):
                for target in range(5):
                    if source != target:
                        nursery.start_soon(site.send, source, target, 300_000)
            await until(site, 20)
            return site.done

    results = []
    for _ in range(2):
        with deterministic_order(7):
            results.append(trio.run(main, clock=MockClock(autojump_threshold=0)))
    assert results[0] == results[1]
