import structlog
import trio

from meshsat.mesh.inbound import OpenStreams, run_handler
from meshsat.mesh.memory_network import MemoryNetwork
from meshsat.mesh.memory_transport import MemoryStream, MemoryTransport
from meshsat.mesh.transport import Stream, StreamBroken
from meshsat.metrics import Metrics
from tests.fleet import Fleet


def stream(fleet: Fleet, name: str) -> MemoryStream:
    network = MemoryNetwork()
    host = network.add_host("h")
    us = MemoryTransport(network, host, fleet.member("us"), [], Metrics())
    return MemoryStream(us, fleet.member(name).member, network.pipe(host, host), network.pipe(host, host))


async def test_streams_are_kept_by_peer_in_order() -> None:
    fleet, streams = Fleet(), OpenStreams()
    first, other = stream(fleet, "ann"), stream(fleet, "bob")
    for each in (first, other):
        streams.add(each)
    assert streams.of(first.peer) == (first,)
    assert list(streams) == [first, other]
    streams.discard(first)
    streams.discard(first)
    assert streams.of(first.peer) == ()
    assert list(streams) == [other]


async def test_faults_are_told_as_loudly_as_they_deserve() -> None:
    fleet = Fleet()
    told = []
    for fault in (None, StreamBroken("gone"), RuntimeError("ours")):
        each = stream(fleet, "ann")

        async def handler(_protocol: str, _stream: Stream, fault: Exception | None = fault) -> None:
            if fault is not None:
                raise fault

        with structlog.testing.capture_logs() as logs:
            await run_handler(handler, "/x/1", each)
        told.append([entry["log_level"] for entry in logs])
        assert each._closed
    assert told == [[], ["debug"], ["error"]]


async def test_cancelling_passes_through_and_closes() -> None:
    each = stream(Fleet(), "ann")

    async def handler(_protocol: str, _stream: Stream) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(0.01) as scope:
        await run_handler(handler, "/x/1", each)
    assert scope.cancelled_caught
    assert each._closed
