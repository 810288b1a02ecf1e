"""The wall around py-libp2p: what it does to log handlers and threads, and what comes out of it."""

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from meshsat.mesh.libp2p_wire import NoiseChannel, Wire, _SocketBytes, _StreamBytes, _walled
from meshsat.mesh.muxer import MESSAGE_LIMIT, Limits, MuxedStream, Muxer
from meshsat.mesh.transport import StreamBroken
from meshsat.trust.keys import NodeKey, PeerId

ANN, BOB = NodeKey.generate(), NodeKey.generate()


async def secured(peer: PeerId | None = None) -> tuple[NoiseChannel, NoiseChannel]:
    """Ann's and Bob's ends; Ann expects `peer`."""
    near, far = memory_stream_pair()
    ends: list[NoiseChannel] = []

    async def accept() -> None:
        ends.append(await Wire(BOB).secure_inbound(far))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        ends.insert(0, await Wire(ANN).secure_outbound(near, peer))
    return ends[0], ends[1]


@asynccontextmanager
async def streams() -> AsyncIterator[tuple[MuxedStream, MuxedStream]]:
    one, other = await secured()
    near = Muxer(one, initiator=True, limits=Limits())
    far = Muxer(other, initiator=False, limits=Limits())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.run)
        nursery.start_soon(far.run)
        stream = near.open_stream()
        yield stream, await far.accept_stream()
        nursery.cancel_scope.cancel()


async def test_both_ends_know_whom_they_speak_with() -> None:
    near, far = await secured(BOB.peer_id)
    assert (near.peer, near.initiator) == (BOB.peer_id, True)
    assert (far.peer, far.initiator) == (ANN.peer_id, False)
    await near.send(bytes(MESSAGE_LIMIT))
    assert await far.receive() == bytes(MESSAGE_LIMIT)


async def test_whoever_answers_in_anothers_name_is_found_out() -> None:
    eve = NodeKey.generate().peer_id
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broken, Wire(BOB).secure_inbound, far)
        with pytest.raises(StreamBroken, match="peer id"):
            await Wire(ANN).secure_outbound(near, eve)
        await near.aclose()


async def broken(action: Any, *arguments: object) -> None:
    with pytest.raises(StreamBroken):
        await action(*arguments)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff" * 40,
        b"\x13/multistream/1.0.0\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x00",
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20" + bytes(32) + b"\x00\x80" + bytes(128),
        b"\x13/multistream/1.0.0\n\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x13/multistream/1.0.0\n\x80\x80\x80\x02" + bytes(100),
        b"\x13/multistream/1.0.0\n\x03\xff\xfe\n",
    ],
)
async def test_whatever_a_stranger_says_it_is_a_broken_stream(said: bytes) -> None:
    near, far = memory_stream_pair()
    await near.send_all(said)
    await near.send_eof()
    with pytest.raises(StreamBroken), trio.fail_after(5):
        await Wire(BOB).secure_inbound(far)


async def test_bytes_that_were_tampered_with_break_the_channel() -> None:
    near, far = await secured()
    await near.send(b"hello")
    bytes_on_the_wire = far._session.conn.read_writer.read_write_closer
    await near._stream.send_all(b"\x00\x20" + bytes(32))
    assert await far.receive() == b"hello"
    with pytest.raises(StreamBroken):
        await far.receive()
    assert len(bytes_on_the_wire._ahead) == 0


async def test_protocols_are_agreed_on() -> None:
    wire = Wire(ANN)
    async with streams() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(wire.select, near, "/test/two/1")
        assert await wire.answer(far, ["/test/one/1", "/test/two/1"]) == "/test/two/1"


async def test_a_protocol_that_is_not_spoken_breaks_the_stream() -> None:
    wire = Wire(ANN)
    async with streams() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(broken, wire.answer, far, ["/test/one/1"])
        with pytest.raises(StreamBroken):
            await wire.select(near, "/test/two/1")
        near.reset()


@pytest.mark.parametrize("length", [b"\xff\xff\x7f", b"\x81\x08"])
async def test_a_protocol_name_that_is_too_long_is_not_collected(length: bytes) -> None:
    async with streams() as (near, far):
        await near.send_all(b"\x13/multistream/1.0.0\n" + length + bytes(2000))
        with pytest.raises(StreamBroken, match="too long"):
            await Wire(BOB).answer(far, ["/test/one/1"])


@pytest.mark.parametrize("n", [None, 65536])
async def test_reads_are_bounded(n: int | None) -> None:
    near, _far = memory_stream_pair()
    with pytest.raises(StreamBroken):
        await _SocketBytes(near).read(n)
    async with streams() as (stream, _):
        with pytest.raises(StreamBroken):
            await _StreamBytes(stream).read(n)


async def test_reads_are_exact_over_any_fragments() -> None:
    near, far = memory_stream_pair()
    reader = _SocketBytes(far)
    for octet in b"abcdef":
        await near.send_all(bytes([octet]))
    assert await reader.read(4) == b"abcd"
    assert await reader.read(0) == b""
    await near.send_eof()
    with pytest.raises(StreamBroken):
        await reader.read(3)


@pytest.mark.parametrize(
    "fault",
    [
        ValueError("x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        AssertionError(),
        ExceptionGroup("g", [KeyError()]),
    ],
)
def test_nothing_but_broken_streams_comes_through_the_wall(fault: Exception) -> None:
    with pytest.raises(StreamBroken) as broken, _walled():
        raise fault
    assert type(fault).__name__ in str(broken.value)


async def test_cancellation_comes_through_the_wall() -> None:
    with trio.move_on_after(0) as scope, _walled():
        await trio.sleep_forever()
    assert scope.cancelled_caught


LOGGING = """
    import logging, threading, warnings
    logging.basicConfig(filename="/dev/null", level=logging.ERROR)
    before = list(logging.root.handlers), logging.root.level, threading.active_count()
    from meshsat.mesh import libp2p_transport
    import sys
    assert "libp2p" not in sys.modules, "imported before it is needed"
    import trio
    from trio.testing import memory_stream_pair
    from meshsat.mesh.libp2p_wire import Wire
    from meshsat.mesh.transport import StreamBroken
    from meshsat.trust.keys import NodeKey

    async def main():
        wire = Wire(NodeKey.generate())
        for said in (b"\\x06hello\\n", b"nonsense", b"\\x13/multistream/1.0.0\\n\\x07/noise\\n" + bytes(64)):
            for secure in (wire.secure_inbound, lambda far: wire.secure_outbound(far, None)):
                near, far = memory_stream_pair()
                await near.send_all(said)
                await near.send_eof()
                try:
                    await secure(far)
                except StreamBroken:
                    print("refused")

    trio.run(main)
    assert "libp2p.security.noise" in sys.modules
    assert not {"libp2p.bitswap", "libp2p.kad_dht", "libp2p.host", "requests"} & set(sys.modules)
    assert (list(logging.root.handlers), logging.root.level, threading.active_count()) == before
"""


@pytest.mark.slow
def test_it_is_imported_late_logs_nothing_and_starts_no_thread() -> None:
    """The library's import takes over its loggers, and it logs what strangers do as errors, to stderr."""
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOGGING)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "refused\n" * 6
