"""Dials outwards. That every address has its share of the time, the contract suite shows."""

import socket

import pytest
import trio
from trio.testing import MockClock

from meshsat.mesh.libp2p_dial import ControlStream, connect, open_enrol_stream, shares
from meshsat.mesh.libp2p_wire import Wire
from meshsat.mesh.muxer import Limits, Muxer
from meshsat.mesh.transport import DialError, StreamBroken
from meshsat.trust.keys import NodeKey
from tests.unit.mesh.test_muxer import channel

KEY = NodeKey.generate()


async def test_shares_of_what_is_left(autojump_clock: MockClock) -> None:
    turns = []
    start = trio.current_time()
    for number, (address, turn) in enumerate(shares(["a", "b", "c"], start + 12)):
        turns.append((address, round(turn - start, 6)))
        await trio.sleep([1, 4, 0][number])  # the first is quicker than it may be
    assert turns == [("a", 4.0), ("b", 6.5), ("c", 12.0)]
    assert list(shares([], start)) == []


@pytest.mark.parametrize("address", ["", "nonsense", "127.0.0.1:0", "127.0.0.1:1", "a..b:1", "x" * 70 + ":1"])
async def test_what_cannot_be_dialled_is_a_broken_stream(address: str) -> None:
    with pytest.raises(StreamBroken), trio.fail_after(10):
        await connect(Wire(KEY), address, None)


async def test_a_dial_that_is_given_up_leaves_no_socket_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        with trio.move_on_after(0.2) as scope:
            await connect(Wire(KEY), f"127.0.0.1:{mute.getsockname()[1]}", None)
        assert scope.cancelled_caught
        accepted, _ = mute.accept()
        accepted.settimeout(5)
        with accepted:
            while accepted.recv(1000):
                pass


async def test_nobody_enrols() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        addresses = [f"127.0.0.1:{mute.getsockname()[1]}", "127.0.0.1:1", "nonsense"]
        began = trio.current_time()
        with pytest.raises(DialError, match="nonsense"):
            async with open_enrol_stream(KEY, addresses, 0.3):
                pass
        assert trio.current_time() - began < 5
        with pytest.raises(DialError):
            async with open_enrol_stream(KEY, [], 0.3):
                pass


async def test_a_control_stream_is_the_muxed_one(autojump_clock: MockClock) -> None:
    near, far = channel()
    one = Muxer(near, initiator=True, limits=Limits())
    other = Muxer(far, initiator=False, limits=Limits())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(other.run)
        stream = ControlStream(one.open_stream(), KEY.peer_id)
        accepted = ControlStream(await other.accept_stream(), KEY.peer_id)
        await stream.send_all(b"hello, you")
        assert await accepted.receive_some(5) == b"hello"
        buffer = bytearray(5)
        assert await accepted.receive_into(memoryview(buffer)) == 5
        assert buffer == b", you"
        await stream.aclose()
        await stream.aclose()
        assert await accepted.receive_some() == b""
        again = ControlStream(one.open_stream(), KEY.peer_id)
        taken = ControlStream(await other.accept_stream(), KEY.peer_id)
        again.reset()
        with pytest.raises(StreamBroken):
            await taken.receive_some()
        nursery.cancel_scope.cancel()
