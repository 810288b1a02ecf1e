"""One end of a stream whose other end is a test: it reads what was sent and feeds what arrives, byte by byte."""

import math

import trio

from meshsat.mesh.transport import StreamBroken, fill
from meshsat.protocol import wire
from meshsat.trust.keys import PeerId
from meshsat.trust.passes import Pass
from tests.fleet import Fleet


class LooseStream:
    """`mesh.transport.Stream`. `blocked`: nobody reads what is sent, as behind a full window."""

    def __init__(self, member: Pass | None = None, *, blocked: bool = False) -> None:
        self.member = member or Fleet().member().member
        self.sent = bytearray()
        self.closed = False
        self.going = trio.Event()
        if not blocked:
            self.going.set()
        self._put, self._take = trio.open_memory_channel[bytes | None](math.inf)
        self._rest = b""

    @property
    def peer(self) -> PeerId:
        return self.member.peer

    # --- what the test does ---

    def arrive(self, *data: bytes) -> None:
        for piece in data:
            self._put.send_nowait(piece)

    def arrive_frames(self, *frames: wire.Frame) -> None:
        self.arrive(*(wire.encode(frame) for frame in frames))

    def end(self) -> None:
        """A clean end."""
        self._put.send_nowait(b"")

    def break_off(self) -> None:
        self._put.send_nowait(None)

    def frames(self) -> list[wire.Frame]:
        """What was sent so far, payloads left out."""
        found: list[wire.Frame] = []
        data = bytes(self.sent)
        while data:
            header, payload = wire.decode_lengths_untrusted(data[:8])
            found.append(wire.decode_header_untrusted(data[8 : 8 + header]))
            data = data[8 + header + payload :]
        return found

    # --- what a link does ---

    async def send_all(self, data: bytes | memoryview) -> None:
        await self.going.wait()
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise StreamBroken("closed")
        self.sent += data

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        if not self._rest:
            piece = await self._take.receive()
            if piece is None:
                raise StreamBroken("the cable was pulled")
            self._rest = piece
        taken, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return taken

    async def receive_into(self, buffer: memoryview) -> int:
        return await fill(self, buffer)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True
