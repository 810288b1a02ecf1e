"""The laws of `mesh/transport.py`, on every transport.

Waits here are real (TLS runs on real sockets), so a test waits for events and never for a time to pass, except
where that nothing happens is the point.
"""

import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from meshsat.mesh.identity import Identity
from meshsat.mesh.transport import DialError, Handler, Stream, StreamBroken, Transport
from meshsat.metrics import Metrics
from tests.contract.transports import TWINS, Twin
from tests.fleet import Fleet

ECHO = "/test/echo/1"
OTHER = "/test/other/1"
PATIENCE = 10.0
MIB = 1024 * 1024


class Bench:
    """Makes members and their transports for one test."""

    def __init__(self, twin: Twin, directory: Path) -> None:
        self.twin = twin
        self.fleet = Fleet()
        self.metrics: dict[str, Metrics] = {}
        self._directory = directory

    def identity(self, name: str, fleet: Fleet | None = None) -> Identity:
        return (fleet or self.fleet).member(name, directory=self._directory / name)

    def expired(self, name: str) -> Identity:
        return self.fleet.expired(name, directory=self._directory / name)

    def transport(self, identity: Identity, *protocols: str) -> Transport:
        metrics = self.metrics[identity.member.name] = Metrics()
        return self.twin.make(identity, protocols or (ECHO,), metrics, None)

    def refused(self, name: str) -> float:
        metrics = self.metrics[name]
        return sum(
            sample.value
            for family in metrics.refused.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        )


@pytest.fixture(params=sorted(TWINS))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    twin = TWINS[request.param]()
    yield Bench(twin, tmp_path)
    for close in twin.closing:
        close()


@asynccontextmanager
async def serving(transport: Transport, handler: Handler) -> AsyncIterator[None]:
    with trio.fail_after(3 * PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(transport.serve, handler)
            yield
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def pair(bench: Bench, handler: Handler) -> AsyncIterator[tuple[Stream, Transport, Transport]]:
    """A stream from `ann` to `bob`, who serves it with `handler`; and their transports."""
    ann, bob = bench.identity("ann"), bench.identity("bob")
    near, far = bench.transport(ann), bench.transport(bob, ECHO, OTHER)
    async with serving(far, handler), serving(near, handler):
        stream = await near.open_stream(bob.key.peer_id, far.addresses, ECHO, PATIENCE)
        yield stream, near, far
        await stream.aclose()


async def echo(_protocol: str, stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def hold(_protocol: str, _stream: Stream) -> None:
    await trio.sleep_forever()


async def receive_all(stream: Stream) -> bytes:
    pieces = []
    while data := await stream.receive_some():
        pieces.append(data)
    return b"".join(pieces)


async def receive_exactly(stream: Stream, length: int) -> bytes:
    buffer = bytearray(length)
    assert await stream.receive_into(memoryview(buffer)) == length
    return bytes(buffer)


async def expect_break(action: Callable[[], Awaitable[object]]) -> None:
    """The stream is told that it is broken, if not at the first attempt."""
    with suppress(StreamBroken):
        while True:
            await action()


async def test_both_ends_are_told_who_and_what(bench: Bench) -> None:
    seen: list[tuple[str, str, str]] = []

    async def handler(protocol: str, stream: Stream) -> None:
        seen.append((protocol, stream.member.name, stream.peer))
        await stream.send_all(b"seen")

    ann, bob = bench.identity("ann"), bench.identity("bob")
    near, far = bench.transport(ann), bench.transport(bob, ECHO, OTHER)
    async with serving(far, handler), serving(near, hold):
        for protocol in (ECHO, OTHER):
            stream = await near.open_stream(bob.key.peer_id, far.addresses, protocol, PATIENCE)
            assert await receive_all(stream) == b"seen"
            assert (stream.peer, stream.member) == (bob.key.peer_id, bob.member)
            await stream.aclose()
    assert seen == [(ECHO, "ann", ann.key.peer_id), (OTHER, "ann", ann.key.peer_id)]


async def test_large_payload_arrives_whole_and_ends_cleanly(bench: Bench) -> None:
    payload = random.Random(1).randbytes(3 * MIB + 17)

    async def handler(_protocol: str, stream: Stream) -> None:
        await stream.send_all(memoryview(payload))

    async with pair(bench, handler) as (stream, _, _):
        received = await receive_all(stream)
        assert hashlib.sha256(received).digest() == hashlib.sha256(payload).digest()


async def test_both_directions_at_once(bench: Bench) -> None:
    payload = random.Random(2).randbytes(2 * MIB)
    async with pair(bench, echo) as (stream, _, _), trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, payload)
        assert await receive_exactly(stream, len(payload)) == payload


async def test_small_and_large_pieces_keep_their_order(bench: Bench) -> None:
    rng = random.Random(3)
    pieces = [rng.randbytes(rng.choice([1, 3, 100, 16384, 16385, 70000])) for _ in range(40)]

    async with pair(bench, echo) as (stream, _, _), trio.open_nursery() as nursery:

        async def send() -> None:
            for piece in pieces:
                await stream.send_all(piece)

        nursery.start_soon(send)
        for piece in pieces:
            assert await receive_exactly(stream, len(piece)) == piece


async def test_receive_some_gives_no_more_than_asked(bench: Bench) -> None:
    async with pair(bench, echo) as (stream, _, _):
        await stream.send_all(b"x" * 1000)
        received = 0
        while received < 1000:
            data = await stream.receive_some(7)
            assert 1 <= len(data) <= 7
            received += len(data)


async def test_receive_into_is_short_only_at_the_end(bench: Bench) -> None:
    async def handler(_protocol: str, stream: Stream) -> None:
        await stream.send_all(b"a" * 100_000)
        await stream.send_all(b"b" * 50)

    async with pair(bench, handler) as (stream, _, _):
        assert await receive_exactly(stream, 100_000) == b"a" * 100_000
        rest = bytearray(100)
        assert await stream.receive_into(memoryview(rest)) == 50
        assert rest[:50] == b"b" * 50
        assert await stream.receive_into(memoryview(rest)) == 0


async def test_the_clean_end_stays_the_end(bench: Bench) -> None:
    async def handler(_protocol: str, stream: Stream) -> None:
        await stream.send_all(b"bye")

    async with pair(bench, handler) as (stream, _, _):
        assert await receive_all(stream) == b"bye"
        assert await stream.receive_some() == b""


async def test_many_streams_between_two(bench: Bench) -> None:
    async with pair(bench, echo) as (first, near, far), trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            stream = await near.open_stream(first.peer, far.addresses, ECHO, PATIENCE)
            await stream.send_all(bytes([number]) * 1000)
            assert await receive_exactly(stream, 1000) == bytes([number]) * 1000
            await stream.aclose()

        for number in range(12):
            nursery.start_soon(one, number)


async def test_dial_failures(bench: Bench) -> None:
    ann, bob, eve = bench.identity("ann"), bench.identity("bob"), bench.identity("eve")
    near, far = bench.transport(ann), bench.transport(bob)
    with pytest.raises(DialError):
        await near.open_stream(bob.key.peer_id, (), ECHO, PATIENCE)
    for address in ("", "nonsense", ":", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:1"):
        with trio.fail_after(PATIENCE), pytest.raises(DialError):
            await near.open_stream(bob.key.peer_id, [address], ECHO, PATIENCE)
    async with serving(far, echo), serving(near, hold):
        with pytest.raises(DialError):
            await near.open_stream(eve.key.peer_id, far.addresses, ECHO, PATIENCE)
        with pytest.raises(DialError):
            await near.open_stream(bob.key.peer_id, far.addresses, "/test/unknown/1", PATIENCE)
        stream = await near.open_stream(bob.key.peer_id, ["127.0.0.1:1", *far.addresses], ECHO, PATIENCE)
        await stream.aclose()


@pytest.mark.slow
async def test_whoever_never_answers_costs_the_timeout_and_leaves_time_for_the_next(bench: Bench) -> None:
    ann, bob = bench.identity("ann"), bench.identity("bob")
    near, far = bench.transport(ann), bench.transport(bob)
    mute = bench.twin.mute()
    with trio.fail_after(PATIENCE), pytest.raises(DialError):
        await near.open_stream(bob.key.peer_id, [mute], ECHO, 0.1)
    async with serving(far, echo), serving(near, hold):
        stream = await near.open_stream(bob.key.peer_id, [mute, *far.addresses], ECHO, 1.2)
        await stream.aclose()


@pytest.mark.parametrize("kind", ["foreign", "expired"])
async def test_a_stranger_gets_nothing(bench: Bench, kind: str) -> None:
    bob, ann = bench.identity("bob"), bench.identity("ann")
    stranger = bench.identity("eve", Fleet()) if kind == "foreign" else bench.expired("eve")
    handled: list[str] = []

    async def handler(_protocol: str, stream: Stream) -> None:
        handled.append(stream.member.name)

    far, near, odd = bench.transport(bob), bench.transport(ann), bench.transport(stranger)
    async with serving(far, handler), serving(near, hold), serving(odd, hold):
        for _ in range(3):
            with pytest.raises(DialError):
                await odd.open_stream(bob.key.peer_id, far.addresses, ECHO, PATIENCE)
        stream = await near.open_stream(bob.key.peer_id, far.addresses, ECHO, PATIENCE)
        assert await receive_all(stream) == b""
        await stream.aclose()
    assert handled == ["ann"]
    if kind == "expired":  # one of another fleet refuses us first, and need not show anything
        assert bench.refused("bob") == 3


@pytest.mark.parametrize("kind", ["foreign", "expired"])
async def test_a_stranger_is_not_dialled(bench: Bench, kind: str) -> None:
    ann = bench.identity("ann")
    stranger = bench.identity("eve", Fleet()) if kind == "foreign" else bench.expired("eve")
    handled: list[str] = []

    async def handler(_protocol: str, stream: Stream) -> None:
        handled.append(stream.member.name)

    near, odd = bench.transport(ann), bench.transport(stranger)
    async with serving(odd, handler), serving(near, hold):
        with pytest.raises(DialError):
            await near.open_stream(stranger.key.peer_id, odd.addresses, ECHO, PATIENCE)
    assert handled == []


@pytest.mark.parametrize(
    "fault",
    [ValueError("handler"), StreamBroken("handler"), ExceptionGroup("handlers", [KeyError(1), OSError()])],
)
async def test_what_a_handler_raises_ends_its_stream_only(bench: Bench, fault: Exception) -> None:
    faults = [fault]

    async def handler(protocol: str, stream: Stream) -> None:
        if faults:
            raise faults.pop()
        await echo(protocol, stream)

    async with pair(bench, handler) as (stream, near, far):
        with trio.fail_after(PATIENCE):
            assert await receive_all(stream) == b""
        again = await near.open_stream(stream.peer, far.addresses, ECHO, PATIENCE)
        await again.send_all(b"still here")
        assert await receive_exactly(again, 10) == b"still here"
        await again.aclose()


async def test_closing_is_prompt_and_wakes_both_ends(bench: Bench) -> None:
    over = trio.Event()

    async def handler(_protocol: str, stream: Stream) -> None:
        try:
            await receive_all(stream)
        finally:
            over.set()

    async with pair(bench, handler) as (stream, _, _), trio.open_nursery() as nursery:
        nursery.start_soon(expect_break, stream.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE):
            await stream.aclose()
            await stream.aclose()
            await over.wait()
        await expect_break(lambda: stream.send_all(b"x"))
        await expect_break(stream.receive_some)


async def test_a_sender_waits_for_a_reader_and_closing_does_not(bench: Bench) -> None:
    async with pair(bench, hold) as (stream, _, _), trio.open_nursery() as nursery:

        async def send() -> None:
            await expect_break(lambda: stream.send_all(bytes(64 * MIB)))

        nursery.start_soon(send)
        await trio.sleep(0.2)
        assert len(nursery.child_tasks) == 1, "64 MiB were taken though nobody reads"
        with trio.fail_after(1):
            await stream.aclose()


async def test_a_cancelled_send_leaves_the_stream_broken(bench: Bench) -> None:
    async with pair(bench, hold) as (stream, _, _):
        with trio.move_on_after(0.2) as scope:
            await stream.send_all(bytes(64 * MIB))
        assert scope.cancelled_caught
        with pytest.raises(StreamBroken):
            await stream.send_all(b"more")
        with trio.fail_after(1):
            await stream.aclose()


async def test_a_cancelled_receive_leaves_the_stream_whole(bench: Bench) -> None:
    async with pair(bench, echo) as (stream, _, _):
        with trio.move_on_after(0.05) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
        await stream.send_all(b"later")
        assert await receive_exactly(stream, 5) == b"later"


async def test_drop_breaks_all_streams_with_a_peer(bench: Bench) -> None:
    begun, over = trio.Event(), trio.Event()

    async def handler(_protocol: str, stream: Stream) -> None:
        begun.set()
        try:
            await receive_all(stream)
        finally:
            over.set()

    async with pair(bench, handler) as (stream, near, far):
        dialler = next(iter(bench.metrics))
        assert dialler == "ann"
        await begun.wait()
        await near.drop(stream.peer)
        with trio.fail_after(PATIENCE):
            await expect_break(lambda: stream.send_all(b"x"))
            await over.wait()
        again = await near.open_stream(stream.peer, far.addresses, ECHO, PATIENCE)
        await again.aclose()


async def test_the_served_side_can_drop_too(bench: Bench) -> None:
    ann, bob = bench.identity("ann"), bench.identity("bob")
    near, far = bench.transport(ann), bench.transport(bob)
    async with serving(far, hold), serving(near, hold):
        stream = await near.open_stream(bob.key.peer_id, far.addresses, ECHO, PATIENCE)
        await far.drop(ann.key.peer_id)
        with trio.fail_after(PATIENCE):
            with suppress(StreamBroken):
                assert await stream.receive_some() == b""
        await stream.aclose()


async def test_when_serving_ends_so_do_its_streams_and_its_address(bench: Bench) -> None:
    ann, bob = bench.identity("ann"), bench.identity("bob")
    near, far = bench.transport(ann), bench.transport(bob)
    assert far.addresses == ()
    async with serving(near, hold):
        async with serving(far, hold):
            addresses = far.addresses
            assert addresses
            stream = await near.open_stream(bob.key.peer_id, addresses, ECHO, PATIENCE)
        with trio.fail_after(PATIENCE):
            with suppress(StreamBroken):
                assert await stream.receive_some() == b""
            await stream.aclose()
            with pytest.raises(DialError):
                await near.open_stream(bob.key.peer_id, addresses, ECHO, PATIENCE)
    assert far.addresses == ()


async def test_payload_bytes_are_counted(bench: Bench) -> None:
    async with pair(bench, echo) as (stream, _, _):
        await stream.send_all(bytes(5000))
        await receive_exactly(stream, 5000)
        assert bench.metrics["ann"].lan_out._value.get() == 5000
        assert bench.metrics["ann"].lan_in._value.get() == 5000
