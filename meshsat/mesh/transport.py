"""The seam between the mesh and the wires: authenticated duplex byte streams between members.

Laws, the same for every implementation (`tests/contract/test_transport.py` holds them):
a handler sees a stream, and `open_stream` returns one, only after the other side's pass was verified;
whatever goes wrong on a stream surfaces as `StreamBroken`, on a dial as `DialError`, and nothing else does;
one task may send while another receives, but not two at once in one direction;
a send that is cancelled halfway leaves the stream broken;
closing is an abort: quick, never waits for the other side, wakes whoever waits on the stream with
`StreamBroken`.

Messages, flow control and who dials whom are not the matter here.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from meshsat.errors import MeshsatError
from meshsat.mesh.identity import Identity
from meshsat.trust.keys import PeerId
from meshsat.trust.passes import Pass


class TransportError(MeshsatError):
    """A connection to a peer failed."""


class DialError(TransportError):
    """The peer could not be reached at any of its addresses, is not who it should be, or refused us."""


class StreamBroken(TransportError):  # noqa: N818 - it tells what happened
    """The stream is of no use any more. Close it and dial again."""


class ByteStream(Protocol):
    """A duplex stream of bytes to someone who proved to hold the key `peer`."""

    @property
    def peer(self) -> PeerId: ...

    async def send_all(self, data: bytes | memoryview) -> None:
        """Return when the transport has taken all of `data`. Raises `StreamBroken`."""
        ...

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """1 to `max_bytes` bytes, or b"" where the other side ended cleanly. Raises `StreamBroken`."""
        ...

    async def aclose(self) -> None:
        """Abort. May be called any number of times, from any task, and does not fail."""
        ...


class Stream(ByteStream, Protocol):
    """A stream to a member of the fleet."""

    @property
    def member(self) -> Pass:
        """The pass that the other side showed."""
        ...

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill `buffer` to its end; the fast path for payloads whose length is known.

        Returns the number of bytes, which is less than the buffer's length only where the other side ended
        cleanly. Sleeps through small arrivals where the transport can. Raises `StreamBroken`; cancelled, the
        bytes that had arrived are lost.
        """
        ...


async def fill(stream: ByteStream, buffer: memoryview) -> int:
    """`Stream.receive_into` in terms of `receive_some`, for streams without a faster way."""
    filled = 0
    while filled < len(buffer):
        piece = await stream.receive_some(len(buffer) - filled)
        if not piece:
            break
        buffer[filled : filled + len(piece)] = piece
        filled += len(piece)
    return filled


async def receive_exactly(stream: ByteStream, length: int) -> bytes:
    """So many bytes. Raises `StreamBroken`, also where the other side ends before."""
    received = bytearray()
    while len(received) < length:
        arrived = await stream.receive_some(length - len(received))
        if not arrived:
            raise StreamBroken("the other side ended in the middle of a message")
        received += arrived
    return bytes(received)


async def dial_in_turn(
    peer: PeerId,
    addresses: Sequence[str],
    timeout: float,  # noqa: ASYNC109 - several dials share it
    dial: Callable[[str], Awaitable[Stream]],
) -> Stream:
    """The first address that `dial` gets through to, in `timeout` seconds in all. Raises `DialError`."""
    faults = []
    deadline = trio.current_time() + timeout
    for number, address in enumerate(addresses):
        now = trio.current_time()
        # An address that swallows packets leaves the others their share.
        with trio.move_on_at(now + (deadline - now) / (len(addresses) - number)):
            try:
                return await dial(address)
            except DialError as fault:
                faults.append(str(fault))
                continue
        faults.append(f"{address} did not answer in time")
    raise DialError(f"{peer} cannot be reached: {'; '.join(faults) or 'no address of it is known'}")


Handler = Callable[[str, Stream], Awaitable[None]]
"""Called with the protocol id and the stream, which is closed when it returns. What it raises is
contained."""


ServeStatus = trio.TaskStatus[None]
"""What `nursery.start` passes as `task_status`."""


class Transport(Protocol):
    """One plane. Its constructor is told which protocol ids are served here."""

    @property
    def name(self) -> str:
        """`tls`, `libp2p` or `memory`."""
        ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """`host:port` (`[v6]:port`) under which others can dial us. Empty before `serve` has started."""
        ...

    async def serve(self, handler: Handler, *, task_status: ServeStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled. Inbound streams have tasks of their own, and none of them can end this
        one."""
        ...

    async def open_stream(
        self,
        peer: PeerId,
        addresses: Sequence[str],
        protocol: str,
        timeout: float,  # noqa: ASYNC109 - several dials share it
    ) -> Stream:
        """A stream to `peer`, tried at each address in turn, `timeout` seconds in all. Raises `DialError`."""
        ...

    async def drop(self, peer: PeerId) -> None:
        """Break off all streams with `peer`, both ways."""
        ...

    async def recheck(self) -> None:
        """Break off all streams with members that would not be let in any more."""
        ...

    def renew(self, identity: Identity) -> None:
        """Show another pass for the same key from now on. Raises `ConfigError`."""
        ...
