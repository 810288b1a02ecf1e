"""The laws of `mesh/discovery.py`, on both twins. mDNS runs for real, on the loopback interface."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from meshsat.mesh.discovery import (
    Announcement,
    Discovery,
    MdnsDiscovery,
    MemoryDiscovery,
    MemoryLan,
    Sighting,
)
from meshsat.trust.keys import NodeKey, PeerId
from tests.mdns import hasten

pytestmark = pytest.mark.slow  # it waits on real clocks

PATIENCE = 15.0
Make = Callable[[str, PeerId, int], Discovery]
"""Of a member of a fleet: `(fleet, peer, port)`; the bulk port is one more."""


def memory_twin() -> Make:
    lan = MemoryLan()

    def make(fleet: str, peer: PeerId, port: int) -> Discovery:
        return MemoryDiscovery(lan, sighting(fleet, peer, port))

    return make


def mdns_twin() -> Make:
    def make(fleet: str, peer: PeerId, port: int) -> Discovery:
        return MdnsDiscovery("127.0.0.1", fleet, Announcement(fleet, peer, "hq", port, port + 1))

    return make


TWINS = {"mdns": mdns_twin, "memory": memory_twin}


def sighting(fleet: str, peer: PeerId, port: int) -> Sighting:
    return Sighting(fleet, peer, "hq", (f"127.0.0.1:{port}",), (f"127.0.0.1:{port + 1}",))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


@pytest.fixture(params=sorted(TWINS))
def make(request: pytest.FixtureRequest) -> Make:
    return TWINS[request.param]()


def fleet() -> str:
    """One of its own for each test: a LAN is for everybody."""
    return f"test-{NodeKey.generate().peer_id[-16:].lower()}"


@dataclass
class Lookout:
    """A discovery that runs, and whom it has found."""

    peer: PeerId
    found: dict[PeerId, Sighting]
    scope: trio.CancelScope


class Site:
    def __init__(self, make: Make, nursery: trio.Nursery) -> None:
        self._make = make
        self._nursery = nursery

    async def enter(self, fleet: str, port: int, peer: PeerId | None = None) -> Lookout:
        one = Lookout(peer or NodeKey.generate().peer_id, {}, trio.CancelScope())

        async def run(task_status: trio.TaskStatus[None]) -> None:
            with one.scope:
                discovery = self._make(fleet, one.peer, port)
                await discovery.run(lambda seen: one.found.update({seen.peer: seen}), task_status=task_status)

        await self._nursery.start(run)
        return one


@asynccontextmanager
async def site(make: Make) -> AsyncIterator[Site]:
    with trio.fail_after(2 * PATIENCE):
        async with trio.open_nursery() as nursery:
            yield Site(make, nursery)
            nursery.cancel_scope.cancel()


async def until(true: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not true():
            await trio.sleep(0.02)


async def test_those_of_a_fleet_find_each_other_and_nobody_else(make: Make) -> None:
    ours, theirs = fleet(), fleet()
    async with site(make) as lan:
        ann = await lan.enter(ours, 1001)
        eve = await lan.enter(theirs, 2001)
        bob = await lan.enter(ours, 3001)
        await until(lambda: ann.found and bob.found)
        assert ann.found == {bob.peer: sighting(ours, bob.peer, 3001)}
        assert bob.found == {ann.peer: sighting(ours, ann.peer, 1001)}
        assert eve.found == {}


async def test_a_node_that_comes_back_elsewhere_is_found_there(make: Make) -> None:
    ours = fleet()
    async with site(make) as lan:
        ann = await lan.enter(ours, 1001)
        bob = await lan.enter(ours, 2001)
        await until(lambda: ann.found)
        bob.scope.cancel()
        ann.found.clear()
        await lan.enter(ours, 3001, bob.peer)
        await until(lambda: ann.found.get(bob.peer) == sighting(ours, bob.peer, 3001))
        assert set(ann.found) == {bob.peer}


async def test_it_ends_within_a_second(make: Make) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(make(fleet(), NodeKey.generate().peer_id, 1001).run, lambda _: None)
            await trio.sleep(0.3)
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 1
