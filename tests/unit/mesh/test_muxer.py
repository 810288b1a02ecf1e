"""The muxer against itself and against frames made by hand, on trio's autojump clock."""

import math
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshsat.mesh.muxer import MESSAGE_LIMIT, WINDOW, Limits, MuxedStream, Muxer
from meshsat.mesh.transport import StreamBroken

HEADER = struct.Struct("!BBHII")
DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
LIMITS = Limits()


class Half:
    """One end of a channel in memory; `open` holds back what is sent while it is not set."""

    def __init__(self, out: trio.MemorySendChannel[bytes], into: trio.MemoryReceiveChannel[bytes]) -> None:
        self._out = out
        self._into = into
        self.open = trio.Event()
        self.open.set()
        self.sent: list[bytes] = []

    async def receive(self) -> bytes:
        try:
            return await self._into.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return b""

    async def send(self, data: bytes) -> None:
        assert 0 < len(data) <= MESSAGE_LIMIT
        await self.open.wait()
        try:
            await self._out.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise StreamBroken("the channel is closed") from None
        self.sent.append(data)

    async def aclose(self) -> None:
        self._out.close()
        self._into.close()
        await trio.lowlevel.checkpoint()


def channel() -> tuple[Half, Half]:
    there, from_there = trio.open_memory_channel[bytes](math.inf)
    back, from_back = trio.open_memory_channel[bytes](math.inf)
    return Half(there, from_back), Half(back, from_there)


@asynccontextmanager
async def pair(limits: Limits = LIMITS) -> AsyncIterator[tuple[Muxer, Muxer, Half, Half]]:
    near, far = channel()
    one = Muxer(near, initiator=True, limits=limits)
    other = Muxer(far, initiator=False, limits=limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(other.run)
        yield one, other, near, far
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def by_hand(limits: Limits = LIMITS) -> AsyncIterator[tuple[Muxer, Half]]:
    """A muxer that did not dial, and the other end of its channel."""
    near, far = channel()
    muxer = Muxer(far, initiator=False, limits=limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.run)
        yield muxer, near
        nursery.cancel_scope.cancel()


def frame(kind: int, flags: int, number: int, length: int, body: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, number, length) + body


def frames(messages: list[bytes]) -> list[tuple[int, int, int, int]]:
    """Headers (kind, flags, stream, length) in a byte stream; fails where it does not end with a frame."""
    raw, at, found = b"".join(messages), 0, []
    while at < len(raw):
        version, kind, flags, number, length = HEADER.unpack_from(raw, at)
        assert version == 0
        assert kind <= GO_AWAY
        found.append((kind, flags, number, length))
        at += HEADER.size + (length if kind == DATA else 0)
    assert at == len(raw)
    return found


async def both(one: Muxer, other: Muxer) -> tuple[MuxedStream, MuxedStream]:
    stream = one.open_stream()
    return stream, await other.accept_stream()


async def read_all(stream: MuxedStream) -> bytes:
    received = b""
    while data := await stream.receive_some():
        received += data
    return received


async def refused(action: Callable[[], Awaitable[object]]) -> str:
    with pytest.raises(StreamBroken) as broken:
        await action()
    return str(broken.value)


async def test_bytes_arrive_in_order_and_the_end_is_clean(autojump_clock: MockClock) -> None:
    payload = bytes(range(256)) * 8192  # 2 MiB: eight windows
    async with pair() as (one, other, _, _), trio.open_nursery() as nursery:
        stream, accepted = await both(one, other)

        async def send() -> None:
            await stream.send_all(payload)
            stream.close()

        nursery.start_soon(send)
        assert await read_all(accepted) == payload
        assert await accepted.receive_some() == b""
        accepted.close()
        await wait_all_tasks_blocked()
        assert one.open_streams == other.open_streams == 0


async def test_every_frame_fits_a_noise_message(autojump_clock: MockClock) -> None:
    async with pair() as (one, other, near, _):
        stream, accepted = await both(one, other)
        await stream.send_all(bytes(WINDOW))
        await wait_all_tasks_blocked()
        assert max(map(len, near.sent)) <= MESSAGE_LIMIT
        for message in near.sent:
            frames([message])  # whole frames only
        accepted.close()


async def test_receive_into_is_short_only_at_the_end(autojump_clock: MockClock) -> None:
    async with pair() as (one, other, _, _):
        stream, accepted = await both(one, other)
        await stream.send_all(b"abcdef")
        stream.close()
        buffer = bytearray(4)
        assert await accepted.receive_into(memoryview(buffer)) == 4
        assert await accepted.receive_into(memoryview(buffer)) == 2
        assert bytes(buffer[:2]) == b"ef"


async def test_a_reader_that_pauses_for_long_is_waited_for(autojump_clock: MockClock) -> None:
    """py-libp2p's muxer raises after 5 s of back-pressure."""
    payload = bytes(3 * WINDOW)
    async with pair() as (one, other, _, _), trio.open_nursery() as nursery:
        stream, accepted = await both(one, other)
        nursery.start_soon(stream.send_all, payload)
        await trio.sleep(120)
        assert len(nursery.child_tasks) == 1
        buffer = bytearray(len(payload))
        assert await accepted.receive_into(memoryview(buffer)) == len(payload)


async def test_a_stream_that_nobody_reads_holds_up_no_other(autojump_clock: MockClock) -> None:
    async with pair() as (one, other, _, _), trio.open_nursery() as nursery:
        unread, _kept = await both(one, other)
        nursery.start_soon(unread.send_all, bytes(2 * WINDOW))
        await wait_all_tasks_blocked()
        stream, accepted = await both(one, other)
        await stream.send_all(b"past it")
        assert await accepted.receive_some() == b"past it"
        nursery.cancel_scope.cancel()


async def test_a_cancelled_sender_tears_no_frame_and_breaks_its_stream_only(
    autojump_clock: MockClock,
) -> None:
    """py-libp2p's muxer leaves half a frame behind, and every stream of the connection hangs for ever."""
    async with pair() as (one, other, near, _):
        stream, accepted = await both(one, other)
        bystander, bystander_accepted = await both(one, other)
        await wait_all_tasks_blocked()
        near.open = trio.Event()
        with trio.move_on_after(1) as scope:
            await stream.send_all(bytes(4 * WINDOW))
        assert scope.cancelled_caught
        near.open.set()
        await wait_all_tasks_blocked()
        frames(near.sent)
        assert await refused(lambda: stream.send_all(b"more")) == "a send was broken off halfway"
        with pytest.raises(StreamBroken):
            await read_all(accepted)
        await bystander.send_all(b"unharmed")
        assert await bystander_accepted.receive_some() == b"unharmed"


async def test_a_cancelled_send_of_which_nothing_left_does_no_harm(autojump_clock: MockClock) -> None:
    async with pair() as (one, other, _, _):
        stream, accepted = await both(one, other)
        await stream.send_all(bytes(WINDOW))
        with trio.move_on_after(1) as scope:
            await stream.send_all(b"x")
        assert scope.cancelled_caught
        buffer = bytearray(WINDOW)
        await accepted.receive_into(memoryview(buffer))
        await stream.send_all(b"x")
        assert await accepted.receive_some() == b"x"


async def test_a_cancelled_receive_loses_nothing_that_did_not_come(autojump_clock: MockClock) -> None:
    async with pair() as (one, other, _, _):
        stream, accepted = await both(one, other)
        with trio.move_on_after(1):
            await accepted.receive_some()
        await stream.send_all(b"late")
        assert await accepted.receive_some() == b"late"
        await stream.send_all(b"half")
        with trio.move_on_after(1):
            await accepted.receive_into(memoryview(bytearray(8)))
        await refused(accepted.receive_some)


async def test_the_end_of_the_connection_is_no_clean_end(autojump_clock: MockClock) -> None:
    """py-libp2p's muxer reports a crashed peer as the end of the stream."""
    async with pair() as (one, other, near, _):
        stream, accepted = await both(one, other)
        await stream.send_all(b"some")
        ended, ended_accepted = await both(one, other)
        ended.close()
        await wait_all_tasks_blocked()
        await near.aclose()
        assert await accepted.receive_some() == b"some", "what had arrived can be read"
        assert await refused(accepted.receive_some) == "the peer closed the connection"
        await refused(lambda: accepted.send_all(b"x"))
        await refused(other.accept_stream)
        assert await ended_accepted.receive_some() == b"", "this one had ended before"
        assert not other.alive
        with pytest.raises(StreamBroken):
            other.open_stream()


async def test_a_reset_is_no_clean_end(autojump_clock: MockClock) -> None:
    async with pair() as (one, other, _, _):
        stream, accepted = await both(one, other)
        await stream.send_all(b"some")
        stream.reset()
        with pytest.raises(StreamBroken):
            await read_all(accepted)
        await refused(lambda: stream.send_all(b"x"))
        await refused(stream.receive_some)


async def test_closing_wakes_who_waits_and_refuses_what_the_peer_sends(autojump_clock: MockClock) -> None:
    async with pair() as (one, other, _, _), trio.open_nursery() as nursery:
        stream, accepted = await both(one, other)

        async def wait() -> None:
            await refused(stream.receive_some)

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        stream.close()
        assert await accepted.receive_some() == b""
        with suppress(StreamBroken):
            while True:
                await accepted.send_all(bytes(1000))


async def test_end_wakes_everybody(autojump_clock: MockClock) -> None:
    async with pair() as (one, other, near, _), trio.open_nursery() as nursery:
        stream, _ = await both(one, other)
        near.open = trio.Event()
        nursery.start_soon(refused, stream.receive_some)
        nursery.start_soon(refused, lambda: stream.send_all(bytes(4 * WINDOW)))
        nursery.start_soon(refused, one.accept_stream)
        nursery.start_soon(one.flushed)
        await wait_all_tasks_blocked()
        one.end("enough")
        one.end("twice")
        near.open.set()


async def test_flushed_waits_for_the_last_byte(autojump_clock: MockClock) -> None:
    async with pair() as (one, other, near, _):
        stream, _ = await both(one, other)
        near.open = trio.Event()
        await stream.send_all(b"x")
        with trio.move_on_after(1) as scope:
            await one.flushed()
        assert scope.cancelled_caught
        near.open.set()
        await one.flushed()
        assert (DATA, 0, 1, 1) in frames(near.sent)


# --- time


async def test_silence_ends_the_connection_within_its_limit(autojump_clock: MockClock) -> None:
    """py-libp2p's muxer never notices a machine that lost its power."""
    async with by_hand() as (muxer, _):
        stream = muxer.open_stream()
        began = trio.current_time()
        assert await refused(stream.receive_some) == "the peer was silent for 3 s"
        assert trio.current_time() - began == pytest.approx(LIMITS.silence, abs=0.01)


async def test_an_answered_ping_keeps_a_quiet_connection(autojump_clock: MockClock) -> None:
    async with pair() as (one, other, near, far):
        _, accepted = await both(one, other)
        with trio.move_on_after(60) as scope:
            await accepted.receive_some()
        assert scope.cancelled_caught
        pings = [found for found in frames(near.sent + far.sent) if found[0] == PING and found[1] == SYN]
        assert 30 <= len(pings) <= 125
        assert one.alive
        assert other.alive


def test_a_process_that_was_stopped_itself_gives_the_peer_more_time() -> None:
    """A laptop's lid, a stopped process: the peer's pongs wait in the socket when we wake up."""
    clock = MockClock()

    async def main() -> None:
        async with by_hand() as (muxer, near):
            stream = muxer.open_stream()
            await wait_all_tasks_blocked()
            clock.jump(100)
            await wait_all_tasks_blocked()
            assert muxer.alive
            await near.send(frame(PING, ACK, 0, 0))
            await wait_all_tasks_blocked()
            clock.jump(LIMITS.silence - 0.1)
            await wait_all_tasks_blocked()
            assert muxer.alive
            stream.close()

    trio.run(main, clock=clock)


async def test_an_unused_connection_ends_and_costs_nothing_before(autojump_clock: MockClock) -> None:
    async with pair() as (one, other, near, far):
        stream, accepted = await both(one, other)
        stream.close()
        accepted.close()
        await wait_all_tasks_blocked()
        sent = len(near.sent) + len(far.sent)
        began = trio.current_time()
        assert await refused(one.accept_stream) in ("idle", "the peer closed the connection")
        assert trio.current_time() - began == pytest.approx(LIMITS.idle, abs=1)
        assert len(near.sent) + len(far.sent) == sent, "no ping while there are no streams"


async def test_a_connection_that_takes_nothing_ends(autojump_clock: MockClock) -> None:
    async with by_hand(Limits(silence=1000, keepalive=900)) as (muxer, _near):
        half = muxer._channel
        assert isinstance(half, Half)
        half.open = trio.Event()
        stream = muxer.open_stream()
        began = trio.current_time()
        assert await refused(stream.receive_some) == "the peer took no byte for 15 s"
        assert trio.current_time() - began == pytest.approx(LIMITS.stall, abs=0.01)


# --- a peer that does not keep to the format


async def test_the_receive_window_is_enforced(autojump_clock: MockClock) -> None:
    """py-libp2p's muxer warns and keeps on filling memory."""
    async with by_hand() as (muxer, near):
        await near.send(frame(UPDATE, SYN, 1, 0))
        stream = await muxer.accept_stream()
        for _ in range(WINDOW // 32768):
            await near.send(frame(DATA, 0, 1, 32768, bytes(32768)))
        await wait_all_tasks_blocked()
        assert muxer.alive
        await near.send(frame(DATA, 0, 1, 1, b"!"))
        await wait_all_tasks_blocked()
        assert not muxer.alive
        assert len(stream._inbox) == WINDOW
        await refused(lambda: stream.send_all(b"x"))


async def test_credit_comes_with_reading_and_not_for_every_read(autojump_clock: MockClock) -> None:
    async with pair() as (one, other, _, far):
        stream, accepted = await both(one, other)
        for _ in range(64):
            await stream.send_all(bytes(1024))
            await accepted.receive_into(memoryview(bytearray(1024)))
        updates = [found for found in frames(far.sent) if found[0] == UPDATE and found[3]]
        assert updates == []
        await stream.send_all(bytes(WINDOW // 2))
        await accepted.receive_into(memoryview(bytearray(WINDOW // 2)))
        await wait_all_tasks_blocked()
        updates = [found for found in frames(far.sent) if found[0] == UPDATE and found[3]]
        assert 1 <= len(updates) <= 2
        assert all(length >= WINDOW // 2 for _, _, _, length in updates)


async def test_streams_are_bounded_and_those_that_are_left_still_work(autojump_clock: MockClock) -> None:
    async with by_hand(Limits(streams=4)) as (muxer, near):
        for number in range(1, 100, 2):
            await near.send(frame(UPDATE, SYN, number, 0))
        await wait_all_tasks_blocked()
        assert muxer.open_streams == 4
        half = muxer._channel
        assert isinstance(half, Half)
        resets = [found for found in frames(half.sent) if found[1] == RST]
        assert len(resets) == 46
        for _ in range(4):
            (await muxer.accept_stream()).close()
        await near.send(frame(UPDATE, SYN, 101, 0))
        await muxer.accept_stream()


async def test_a_flood_of_pings_from_someone_who_does_not_read_ends(autojump_clock: MockClock) -> None:
    async with by_hand() as (muxer, near):
        half = muxer._channel
        assert isinstance(half, Half)
        half.open = trio.Event()
        with suppress(StreamBroken):
            for _ in range(4):
                await near.send(frame(PING, SYN, 0, 7) * 5000)
        await wait_all_tasks_blocked()
        assert not muxer.alive


async def test_a_ping_is_answered_with_its_number(autojump_clock: MockClock) -> None:
    async with by_hand() as (_, near):
        await near.send(frame(PING, SYN, 0, 4711))
        assert await near.receive() == frame(PING, ACK, 0, 4711)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(HEADER.pack(1, DATA, 0, 1, 0), id="version"),
        pytest.param(frame(9, 0, 1, 0), id="type"),
        pytest.param(frame(UPDATE, SYN, 2, 0), id="our own number"),
        pytest.param(frame(UPDATE, SYN, 0, 0), id="number 0"),
        pytest.param(frame(UPDATE, SYN, 1, 0) * 2, id="opened twice"),
        pytest.param(frame(UPDATE, SYN, 1, 0xFFFFFFFF), id="window overflow"),
        pytest.param(frame(DATA, SYN, 1, WINDOW + 1), id="more than a window"),
        pytest.param(frame(DATA, 0, 77, WINDOW + 1), id="more than a window for nobody"),
    ],
)
async def test_what_the_format_forbids_ends_the_connection(message: bytes, autojump_clock: MockClock) -> None:
    async with by_hand() as (muxer, near):
        await near.send(message)
        await wait_all_tasks_blocked()
        assert not muxer.alive


@pytest.mark.parametrize("cut", [1, 5, 11, 12, 13, 15, 16])
async def test_frames_may_be_cut_anywhere(cut: int, autojump_clock: MockClock) -> None:
    """SYN and FIN on one data frame: the body comes before the end, wherever the messages are cut."""
    raw = frame(DATA, SYN | FIN, 1, 4, b"body")
    async with by_hand() as (muxer, near):
        await near.send(raw[:cut])
        await wait_all_tasks_blocked()
        if raw[cut:]:
            await near.send(raw[cut:])
        assert await read_all(await muxer.accept_stream()) == b"body"


async def test_data_for_a_closed_stream_is_refused_and_passed_over(autojump_clock: MockClock) -> None:
    async with by_hand() as (muxer, near):
        await near.send(frame(DATA, 0, 9, 3, b"???") + frame(DATA, SYN, 11, 2, b"ok"))
        stream = await muxer.accept_stream()
        assert await stream.receive_some() == b"ok"
        assert frames([await near.receive()])[0] == (UPDATE, RST, 9, 0)


async def test_after_go_away_no_stream_is_opened_and_the_old_go_on(autojump_clock: MockClock) -> None:
    async with by_hand() as (muxer, near):
        await near.send(frame(UPDATE, SYN, 1, 0) + frame(GO_AWAY, 0, 0, 0) + frame(DATA, 0, 1, 2, b"on"))
        stream = await muxer.accept_stream()
        assert await stream.receive_some() == b"on"
        assert not muxer.usable
        with pytest.raises(StreamBroken):
            muxer.open_stream()
