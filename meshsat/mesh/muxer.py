"""Many streams over one secure connection, in yamux's wire format (hashicorp/yamux spec.md, `/yamux/1.0.0`).

Our own, because py-libp2p 0.8.1's does not enforce the receive window, corrupts the connection when a writer
is cancelled, fails after 5 s of back-pressure, and reports a crash as a clean end.

Laws: a peer can make us hold at most `WINDOW` bytes a stream and `Limits.streams` streams; who sends past
that loses the connection. Frames leave through one task, whole, so cancelling a sender never tears one.
Waiting for the other side to read has no deadline; a connection that takes no byte for `Limits.stall`
seconds, or brings none for `Limits.silence` with streams open, is over. Only the peer's FIN is a clean end.

Not here: encryption, who the peer is, which protocol a stream speaks.
"""

import struct
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import trio

from meshsat.mesh.transport import StreamBroken

WINDOW = 256 * 1024
"""Bytes of a stream in flight or unread (spec: the initial window). Fixed: a LAN's round trip is short."""
MESSAGE_LIMIT = 65519
"""Plaintext bytes of one Noise message; a frame never needs two."""
_OUTBOX_LIMIT = 4 * MESSAGE_LIMIT
_CONTROL_LIMIT = 64 * 1024
"""Bytes of unsent replies (pongs, resets, updates) after which the peer is taken to be flooding us."""

_HEADER = struct.Struct("!BBHII")
_BODY_LIMIT = MESSAGE_LIMIT - _HEADER.size
_DATA, _UPDATE, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_UINT32 = 0xFFFF_FFFF


class Channel(Protocol):
    """A secure connection that keeps messages in order. Everything that goes wrong is `StreamBroken`."""

    async def receive(self) -> bytes:
        """The next bytes, or b"" at the end."""
        ...

    async def send(self, data: bytes) -> None:
        """At most `MESSAGE_LIMIT` bytes."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, but for `streams`."""

    streams: int = 32
    """Open at once, both sides' together."""
    stall: float = 15.0
    keepalive: float = 1.0
    """Quiet for so long, with streams open, sends a ping."""
    silence: float = 3.0
    idle: float = 60.0
    """A connection without streams for so long is closed."""


class MuxedStream:
    """One stream. Made by `Muxer.open_stream` and `Muxer.accept_stream`."""

    def __init__(self, muxer: "Muxer", number: int) -> None:
        self._muxer = muxer
        self.number = number
        self._inbox = bytearray()
        self._granted = WINDOW
        self._consumed = 0
        self._send_window = WINDOW
        self._broken: str | None = None
        self._closed = False
        self._ended = False
        self._changed = trio.lowlevel.ParkingLot()

    async def send_all(self, data: bytes | memoryview) -> None:
        """Return when all of `data` is on its way. Raises `StreamBroken`."""
        await trio.lowlevel.checkpoint()
        view = memoryview(data).cast("B")
        sent = 0
        try:
            while sent < len(view):
                room = min(self._send_window, _BODY_LIMIT, len(view) - sent)
                if self._broken is not None or self._closed:
                    raise StreamBroken(self._broken or "the stream was closed")
                if room == 0:
                    await self._changed.park()
                elif not self._muxer.has_room:
                    await self._muxer.wait_for_room()
                else:
                    self._send_window -= room
                    self._muxer.queue(_DATA, 0, self.number, room, view[sent : sent + room])
                    sent += room
        finally:
            if 0 < sent < len(view):
                self.reset("a send was broken off halfway")

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """1 to `max_bytes` bytes, or b"" after the peer's clean end. Raises `StreamBroken`."""
        await trio.lowlevel.checkpoint()
        await self._wait_readable()
        received = bytes(self._inbox[:max_bytes])
        self._consume(len(received))
        return received

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill `buffer`; fewer bytes only after the peer's clean end. Raises `StreamBroken`."""
        await trio.lowlevel.checkpoint()
        filled = 0
        try:
            while filled < len(buffer):
                await self._wait_readable()
                count = min(len(self._inbox), len(buffer) - filled)
                if count == 0:
                    return filled
                buffer[filled : filled + count] = memoryview(self._inbox)[:count]
                filled += count
                self._consume(count)
        except trio.Cancelled:
            if filled:
                self.reset("a receive was broken off halfway")
            raise
        return filled

    def close(self) -> None:
        """End cleanly: the peer gets all that was sent, then the end. What it sends is refused."""
        if not self._closed and self._broken is None:
            self._muxer.queue(_UPDATE, _FIN, self.number, 0)
        self._forget()

    def reset(self, why: str = "the stream was reset") -> None:
        """End as broken, for the peer too."""
        if not self._closed and self._broken is None:
            self._muxer.queue(_UPDATE, _RST, self.number, 0)
        self.fail(why)
        self._forget()

    def fail(self, why: str) -> None:
        """The connection or the peer's reset ended it. What had arrived can still be read."""
        if self._broken is None:
            self._broken = why
        self._changed.unpark_all()

    def granted(self, length: int) -> bool:
        """Take `length` announced bytes off the window; False where the peer sends more than it may."""
        self._granted -= length
        return self._granted >= 0

    def arrived(self, data: memoryview) -> None:
        self._inbox += data
        self._changed.unpark_all()

    def widened(self, credit: int) -> bool:
        """The peer reads on; False where its window leaves the format's range."""
        self._send_window += credit
        self._changed.unpark_all()
        return self._send_window <= _UINT32

    def ended(self) -> None:
        self._ended = True
        self._changed.unpark_all()

    def _forget(self) -> None:
        self._closed = True
        self._inbox.clear()
        self._changed.unpark_all()
        self._muxer.forget(self.number)

    async def _wait_readable(self) -> None:
        while not self._inbox:
            if self._closed:
                raise StreamBroken(self._broken or "the stream was closed")
            if self._ended:
                return
            if self._broken is not None:
                raise StreamBroken(self._broken)
            await self._changed.park()
        if self._closed:
            raise StreamBroken(self._broken or "the stream was closed")

    def _consume(self, count: int) -> None:
        del self._inbox[:count]
        self._consumed += count
        # Half a window at a time: a round trip of credit for one small frame, not one frame for every read.
        if self._consumed >= WINDOW // 2 and not self._ended and self._broken is None:
            self._granted += self._consumed
            self._muxer.queue(_UPDATE, 0, self.number, self._consumed)
            self._consumed = 0


class Muxer:
    """Both ends of the streams of one connection. `run` must be running for anything to move."""

    def __init__(self, channel: Channel, *, initiator: bool, limits: Limits) -> None:
        self._channel = channel
        self._limits = limits
        self._next = 1 if initiator else 2
        self._streams: dict[int, MuxedStream] = {}
        self._accepted: deque[MuxedStream] = deque()
        self._acceptable = trio.lowlevel.ParkingLot()
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._control_bytes = 0
        self._filled = trio.Event()
        self._sending = False
        self._room = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self.received = 0
        """Bytes from the peer, frames and all."""
        self._over: str | None = None
        self._going_away = False
        self._rest = b""
        self._due = 0
        self._due_to: MuxedStream | None = None
        self._due_flags = 0
        self._heard = self._used = trio.current_time()
        self._pinged = 0.0
        self._busy = trio.Event()

    @property
    def alive(self) -> bool:
        return self._over is None

    @property
    def usable(self) -> bool:
        """Whether `open_stream` can succeed."""
        return self._over is None and not self._going_away and len(self._streams) < self._limits.streams

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    async def flushed(self) -> None:
        """Return when all that was sent is out, or the connection over."""
        while self._sending or self._outbox:
            await self._room.park()

    def open_stream(self) -> MuxedStream:
        """Does not wait: the peer learns of it with the first frame. Raises `StreamBroken`."""
        if not self.usable or self._next > _UINT32:
            raise StreamBroken(self._over or "the connection takes no more streams")
        stream = self._add(self._next)
        self.queue(_UPDATE, _SYN, self._next, 0)
        self._next += 2
        return stream

    async def accept_stream(self) -> MuxedStream:
        """The next stream that the peer opens. Raises `StreamBroken` when the connection is over."""
        while not self._accepted:
            if self._over is not None:
                raise StreamBroken(self._over)
            await self._acceptable.park()
        return self._accepted.popleft()

    async def run(self) -> None:
        """Move bytes until the connection is over, then close it. Raises nothing but cancellation."""
        try:
            with self._scope:
                if self._over is None:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._receive)
                        nursery.start_soon(self._send)
                        nursery.start_soon(self._watch)
        finally:
            self.end("the connection was closed")
            with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
                await self._channel.aclose()

    def end(self, why: str) -> None:
        """Break the connection off. Every stream on it is broken, but for those that the peer had ended."""
        if self._over is not None:
            return
        self._over = why
        for stream in list(self._streams.values()):
            stream.fail(why)
        self._streams.clear()
        self._outbox.clear()
        self._sending = False
        self._acceptable.unpark_all()
        self._room.unpark_all()
        self._scope.cancel()

    # What the streams call.

    @property
    def has_room(self) -> bool:
        return self._over is not None or self._outbox_bytes < _OUTBOX_LIMIT

    async def wait_for_room(self) -> None:
        await self._room.park()

    def queue(self, kind: int, flags: int, number: int, length: int, body: memoryview | bytes = b"") -> None:
        """Put a frame on its way. Data waits for room first; where others pile up, the peer floods."""
        if self._over is not None:
            return
        frame = _HEADER.pack(0, kind, flags, number, length) + body
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)
        if kind != _DATA:
            self._control_bytes += len(frame)
            if self._control_bytes > _CONTROL_LIMIT:
                self.end("the peer asks for answers and does not read them")
        self._filled.set()

    def forget(self, number: int) -> None:
        if self._streams.pop(number, None) is not None and not self._streams:
            self._used = trio.current_time()

    # The three tasks.

    async def _send(self) -> None:
        while True:
            await self._filled.wait()
            message = self._next_message()
            self._sending = bool(message)
            self._room.unpark_all()
            if not message:
                self._filled = trio.Event()
                continue
            with trio.move_on_after(self._limits.stall) as deadline:
                try:
                    await self._channel.send(message)
                except StreamBroken as broken:
                    self.end(str(broken))
                    return
            if deadline.cancelled_caught:
                self.end(f"the peer took no byte for {self._limits.stall:g} s")
                return

    def _next_message(self) -> bytes:
        """As many whole frames as one message holds."""
        frames: list[bytes] = []
        size = 0
        while self._outbox and size + len(self._outbox[0]) <= MESSAGE_LIMIT:
            frame = self._outbox.popleft()
            size += len(frame)
            frames.append(frame)
            if frame[1] != _DATA:
                self._control_bytes -= len(frame)
        self._outbox_bytes -= size
        return b"".join(frames)

    async def _receive(self) -> None:
        while self._over is None:
            try:
                data = await self._channel.receive()
            except StreamBroken as broken:
                self.end(str(broken))
                return
            if not data:
                self.end("the peer closed the connection")
                return
            self._heard = trio.current_time()
            self.received += len(data)
            fault = self._take_untrusted(data)
            if fault is not None:
                self.end(fault)

    async def _watch(self) -> None:
        """Keepalive while there are streams; the end of a connection that nobody uses."""
        limits = self._limits
        while True:
            if not self._streams:
                self._busy = trio.Event()
                with trio.move_on_at(self._used + limits.idle) as idle:
                    await self._busy.wait()
                if idle.cancelled_caught and not self._streams:
                    self.end("idle")
                    return
                continue
            silent = self._heard + limits.silence
            due = min(silent, max(self._heard, self._pinged) + limits.keepalive)
            await trio.sleep_until(due)
            now = trio.current_time()
            if not self._streams or self._heard + limits.silence != silent:
                continue
            if now >= silent:
                if now - due < limits.keepalive / 2:
                    self.end(f"the peer was silent for {limits.silence:g} s")
                    return
                # Woken late: it was this process that was held up, and the peer's bytes may wait unread.
                self._heard = now - limits.silence + limits.keepalive
            self._pinged = now
            self.queue(_PING, _SYN, 0, 0)

    # The peer's frames.

    def _take_untrusted(self, data: bytes) -> str | None:
        """Act on the frames in `data`. Total; returns what the peer did against the format, if it did."""
        view = memoryview(self._rest + data if self._rest else data)
        at = 0
        while self._over is None:
            if self._due:
                body = view[at : at + self._due]
                if self._due_to is not None:
                    self._due_to.arrived(body)
                self._due -= len(body)
                at += len(body)
                if self._due:
                    break
                self._close_after(self._due_to, self._due_flags)
            if len(view) - at < _HEADER.size:
                break
            fault = self._take_header(*_HEADER.unpack_from(view, at))
            at += _HEADER.size
            if fault is not None:
                return fault
        self._rest = bytes(view[at:])
        return None

    def _take_header(self, version: int, kind: int, flags: int, number: int, length: int) -> str | None:
        if version != 0 or kind > _GO_AWAY:
            return "the peer sent a frame that yamux does not know"
        if kind == _PING:
            if flags & _SYN:
                self.queue(_PING, _ACK, 0, length)
            return None
        if kind == _GO_AWAY:
            self._going_away = True
            return None
        if flags & _SYN and not self._opened(number):
            return "the peer opened a stream under a number that is not its own"
        stream = self._streams.get(number)
        if kind == _DATA and length:
            if length > WINDOW or (stream is not None and not stream.granted(length)):
                return "the peer sent more than the window allows"
            if stream is None and not flags & _RST:
                self.queue(_UPDATE, _RST, number, 0)
            self._due, self._due_to, self._due_flags = length, stream, flags
            return None
        if kind == _UPDATE and stream is not None and not stream.widened(length):
            return "the peer's window overflows"
        self._close_after(stream, flags)
        return None

    def _opened(self, number: int) -> bool:
        if number == 0 or number % 2 == self._next % 2 or number in self._streams:
            return False
        if len(self._streams) >= self._limits.streams:
            self.queue(_UPDATE, _RST, number, 0)
            return True
        self._accepted.append(self._add(number))
        self._acceptable.unpark()
        self.queue(_UPDATE, _ACK, number, 0)
        return True

    def _add(self, number: int) -> MuxedStream:
        if not self._streams:
            # Nobody had a reason to speak until now.
            self._heard = trio.current_time()
            self._busy.set()
        stream = self._streams[number] = MuxedStream(self, number)
        return stream

    def _close_after(self, stream: MuxedStream | None, flags: int) -> None:
        """The end that a frame's flags announce, which comes after its body."""
        if stream is None:
            return
        if flags & _FIN:
            stream.ended()
        if flags & _RST:
            stream.fail("the peer reset the stream")
            self.forget(stream.number)
