"""How the bulk plane's streams sleep and wake: the low-water mark never waits for bytes that do not come."""

import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from meshsat.mesh.tls_stream import LOW_WATER, RECORD, TlsStream, explain
from meshsat.mesh.tls_transport import TlsTransport
from meshsat.mesh.transport import Stream, StreamBroken
from meshsat.metrics import Metrics
from tests.fleet import Fleet

PROTOCOL = "/test/1"
PATIENCE = 10.0


@asynccontextmanager
async def ends(directory: Path) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Both ends of one connection."""
    fleet = Fleet()
    near, far = [
        TlsTransport(
            fleet.member(name, directory=directory / name), [PROTOCOL], Metrics(), listen="127.0.0.1"
        )
        for name in ("near", "far")
    ]
    arrived: list[Stream] = []
    there = trio.Event()

    async def handler(_protocol: str, stream: Stream) -> None:
        arrived.append(stream)
        there.set()
        await trio.sleep_forever()

    with trio.fail_after(3 * PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(far.serve, handler)
            stream = await near.open_stream(far._identity.key.peer_id, far.addresses, PROTOCOL, PATIENCE)
            await there.wait()
            assert isinstance(stream, TlsStream)
            assert isinstance(arrived[0], TlsStream)
            yield stream, arrived[0]
            await stream.aclose()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("due", [1, 100, RECORD, RECORD + 1, 40_000, LOW_WATER, 3 * LOW_WATER + 5])
async def test_what_is_due_is_delivered_however_it_comes(tmp_path: Path, due: int) -> None:
    """In pieces that end anywhere in a record, the last one late."""
    rng = random.Random(due)
    payload = rng.randbytes(due)
    async with ends(tmp_path) as (near, far), trio.open_nursery() as nursery:
        buffer = bytearray(due)
        done = trio.Event()

        async def receive() -> None:
            assert await far.receive_into(memoryview(buffer)) == due
            done.set()

        nursery.start_soon(receive)
        sent = 0
        while sent < due:
            length = min(due - sent, rng.choice([1, 1000, RECORD - 1, 50_000]))
            await trio.testing.wait_all_tasks_blocked(0.002)
            assert not done.is_set()
            await near.send_all(memoryview(payload)[sent : sent + length])
            sent += length
        with trio.fail_after(PATIENCE):
            await done.wait()
        assert buffer == payload


async def test_the_end_wakes_whoever_waits_for_much(tmp_path: Path) -> None:
    async with ends(tmp_path) as (near, far), trio.open_nursery() as nursery:

        async def receive() -> None:
            assert await far.receive_into(memoryview(bytearray(LOW_WATER * 4))) == 70_000

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await near.send_all(bytes(70_000))
        await near.aclose()


async def test_a_reset_wakes_whoever_waits_for_much(tmp_path: Path) -> None:
    async with ends(tmp_path) as (near, far), trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(StreamBroken):
                await far.receive_into(memoryview(bytearray(LOW_WATER * 4)))

        nursery.start_soon(receive)
        await near.send_all(bytes(70_000))
        await trio.testing.wait_all_tasks_blocked()
        near._break_off()


async def test_a_cut_is_not_an_end(tmp_path: Path) -> None:
    """TCP's end without TLS's: somebody cut the connection, and what came is not all."""
    async with ends(tmp_path) as (near, far):
        await near.send_all(b"half")
        socket.socket.shutdown(near._tls, socket.SHUT_WR)
        assert await far.receive_some() == b"half"
        with pytest.raises(StreamBroken):
            await far.receive_some()


async def test_after_much_the_little_wakes_again(tmp_path: Path) -> None:
    """The mark of one payload is not left to the next message."""
    async with ends(tmp_path) as (near, far), trio.open_nursery() as nursery:

        async def receive() -> None:
            await far.receive_into(memoryview(bytearray(LOW_WATER * 2)))
            assert await far.receive_some() == b"a"
            assert await far.receive_some() == b"b"

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await near.send_all(bytes(LOW_WATER * 2))
        for message in (b"a", b"b"):
            await trio.testing.wait_all_tasks_blocked(0.002)
            await near.send_all(message)


async def test_one_task_a_direction(tmp_path: Path) -> None:
    async with ends(tmp_path) as (near, far), trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(StreamBroken):
                await far.receive_some()

        async def send() -> None:
            with pytest.raises(StreamBroken):
                await near.send_all(bytes(100_000_000))

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await far.receive_some()
        await far.aclose()
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()


async def test_many_records_at_once(tmp_path: Path) -> None:
    async with ends(tmp_path) as (near, far):
        await near.send_all(bytes(60_000))
        lengths: list[int] = []
        while sum(lengths) < 60_000:
            lengths.append(len(await far.receive_some(40_000)))
        assert RECORD < max(lengths) <= 40_000


def test_faults_in_words() -> None:
    assert explain(ConnectionResetError(104, "Connection reset by peer")) == "connection reset by peer"
    assert (
        explain(ssl.SSLError(1, "raised in Python, without a reason")) == "raised in python, without a reason"
    )
    assert explain(ValueError("closed")) == "closed"
    assert explain(trio.ClosedResourceError()) == "ClosedResourceError"
