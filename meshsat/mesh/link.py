"""One swap session on one stream: frames in, frames and chunks out.

It moves bytes and keeps bounds. What a frame means is the machine's matter; what it thinks of a chunk the
driver's. Control frames overtake chunks; small chunks are read and written together.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from meshsat.mesh.transport import Stream, StreamBroken
from meshsat.oci.digest import Digest
from meshsat.protocol import wire
from meshsat.protocol.joining import next_frame
from meshsat.trust.keys import PeerId

QUEUE_LIMIT = 20_000
"""Frames that wait for a peer that does not read, before it is given up."""
SEND_STALL = 20.0
"""Seconds for a peer to take one chunk, or one batch of frames."""
BATCH = 1 << 18
"""Bytes of frames, or of small chunks, that go into one write."""
READ = 1 << 18
PROGRESS = 0.25
"""Seconds between two reports of a chunk's progress."""


class Receiver(Protocol):
    """What the link tells its driver."""

    def frame_received(self, link: "Link", frame: wire.Frame) -> None: ...

    def payload_progressed(self, link: "Link") -> None: ...

    def expected(self, link: "Link", frame: wire.Chunk) -> tuple[int, bytes] | None:
        """Length and digest of the chunk, if it was asked for."""
        ...

    async def chunk_received(
        self, link: "Link", frame: wire.Chunk, digest: bytes, payload: bytearray
    ) -> None: ...

    async def read_chunks(self, chunks: Sequence[tuple[Digest, int]]) -> list[bytes | None]: ...

    def chunk_sent(self, link: "Link", blob: Digest, index: int, *, failed: bool) -> None: ...


class Link:
    def __init__(self, stream: Stream, receiver: Receiver, *, dialled: bool, plane: str) -> None:
        self.stream = stream
        self.dialled = dialled
        self.plane = plane
        self.bytes_in = 0
        self.bytes_out = 0
        self.reason: str | None = None
        """Why we ended it, where we did."""
        self._receiver = receiver
        self._frames: deque[wire.Frame] = deque()
        self._chunks: deque[tuple[Digest, int, int]] = deque()
        self._wake = trio.Event()
        self._scope = trio.CancelScope()
        self._buffer = bytearray()

    @property
    def peer(self) -> PeerId:
        return self.stream.peer

    def abort(self, reason: str) -> None:
        """End the session at once."""
        if self.reason is None:
            self.reason = reason
        self._scope.cancel()

    def send(self, frame: wire.Frame) -> None:
        """Queue a frame; never waits."""
        if len(self._frames) >= QUEUE_LIMIT:
            self.abort("it does not read what we send")
            return
        self._frames.append(frame)
        self._wake.set()

    def send_chunk(self, blob: Digest, index: int, length: int) -> None:
        """Queue a chunk of so many bytes; bounded by the machine, which hands over few at a time."""
        self._chunks.append((blob, index, length))
        self._wake.set()

    async def run(self) -> str:
        """Run until the session ends; returns why. Raises nothing but what the receiver does."""
        ended = "the connection ended"
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._contained, self._send_all)
                    await self._contained(self._receive_all)
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):  # an abort: it does not wait
                await self.stream.aclose()
        return self.reason or ended

    async def _contained(self, half: Callable[[], Awaitable[None]]) -> None:
        try:
            await half()
        except StreamBroken as broken:
            self.abort(str(broken) or "the connection broke")
        except wire.FrameError as malformed:
            self.abort(f"it does not speak {wire.PROTOCOL}: {malformed}")
        except trio.TooSlowError:
            self.abort(f"it took nothing for {SEND_STALL:g} s")

    # --- out ---

    async def _send_all(self) -> None:
        while True:
            if self._frames:
                await self._send_frames()
            elif self._chunks:
                await self._send_chunks(self._next_chunks())
            else:
                self._wake = trio.Event()
                await self._wake.wait()

    async def _send_frames(self) -> None:
        batch = bytearray()
        while self._frames and len(batch) < BATCH:
            batch += wire.encode(next_frame(self._frames))
        await self._write(batch)

    def _next_chunks(self) -> list[tuple[Digest, int]]:
        """The next chunk, and small ones behind it that go along."""
        blob, index, size = self._chunks.popleft()
        chunks = [(blob, index)]
        while self._chunks and (size := size + self._chunks[0][2]) <= BATCH:
            blob, index, _ = self._chunks.popleft()
            chunks.append((blob, index))
        return chunks

    async def _send_chunks(self, chunks: Sequence[tuple[Digest, int]]) -> None:
        payloads = await self._receiver.read_chunks(chunks)
        small = bytearray()
        for (blob, index), payload in zip(chunks, payloads, strict=True):
            if payload is None:
                continue
            head = wire.encode(wire.Chunk(blob, index), len(payload))
            if len(chunks) == 1:
                await self._write(head)
                await self._write(payload)
            else:
                small += head
                small += payload
        if small:
            await self._write(small)
        for (blob, index), payload in zip(chunks, payloads, strict=True):
            self._receiver.chunk_sent(self, blob, index, failed=payload is None)

    async def _write(self, data: bytes | bytearray) -> None:
        with trio.fail_after(SEND_STALL):
            await self.stream.send_all(memoryview(data))
        self.bytes_out += len(data)

    # --- in ---

    async def _receive_all(self) -> None:
        while True:
            if not await self._fill(wire.PREFIX.size):
                return
            header_length, payload_length = wire.decode_lengths_untrusted(self._take(wire.PREFIX.size))
            await self._need(header_length)
            frame = wire.decode_header_untrusted(self._take(header_length))
            if isinstance(frame, wire.Chunk):
                await self._receive_chunk(frame, payload_length)
            elif payload_length:
                raise wire.FrameError("a payload behind a frame that has none")
            else:
                self._receiver.frame_received(self, frame)

    async def _receive_chunk(self, frame: wire.Chunk, length: int) -> None:
        expected = self._receiver.expected(self, frame)
        payload = bytearray(length)
        buffered = min(length, len(self._buffer))
        payload[:buffered] = self._take(buffered)
        to_come = length - buffered
        told = trio.current_time()
        with memoryview(payload) as view:
            while buffered < length:
                slot = view[buffered : min(length, buffered + READ)]
                if await self.stream.receive_into(slot) < len(slot):
                    raise StreamBroken("it ended in the middle of a chunk")
                buffered += len(slot)
                if trio.current_time() - told > PROGRESS:
                    told = trio.current_time()
                    self._receiver.payload_progressed(self)
        self.bytes_in += to_come
        if expected is None:
            await self._receiver.chunk_received(self, frame, b"", payload)
        elif expected[0] != length:
            raise wire.FrameError(f"a chunk of {length} bytes where {expected[0]} were asked for")
        else:
            await self._receiver.chunk_received(self, frame, expected[1], payload)

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    async def _fill(self, length: int) -> bool:
        """Have `length` bytes in the buffer; False at a clean end between two frames."""
        while len(self._buffer) < length:
            piece = await self.stream.receive_some(READ)
            if not piece:
                if self._buffer:
                    raise StreamBroken("it ended in the middle of a frame")
                return False
            self.bytes_in += len(piece)
            self._buffer += piece
        return True

    async def _need(self, length: int) -> None:
        if not await self._fill(length):
            raise StreamBroken("it ended in the middle of a frame")
