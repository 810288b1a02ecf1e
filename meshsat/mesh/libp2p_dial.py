"""Connections outwards over libp2p: to a member's address, and to whoever enrols.

Addresses are tried in turn, each with its share of the time: py-libp2p would try the first only, and
without a limit.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import trio

from meshsat.mesh.interfaces import split_address_untrusted
from meshsat.mesh.libp2p_wire import NoiseChannel, Wire
from meshsat.mesh.muxer import Limits, MuxedStream, Muxer
from meshsat.mesh.transport import ByteStream, DialError, StreamBroken
from meshsat.trust.keys import NodeKey, PeerId

ENROL = "/meshsat/enrol/1"
"""The libp2p protocol id of enrolment, the only one that is answered without a pass."""


class ControlStream:
    """A `ByteStream` over a muxed one."""

    def __init__(self, stream: MuxedStream, peer: PeerId) -> None:
        self._stream = stream
        self.peer = peer

    async def send_all(self, data: bytes | memoryview) -> None:
        await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive_some(max_bytes)

    async def receive_into(self, buffer: memoryview) -> int:
        return await self._stream.receive_into(buffer)

    async def aclose(self) -> None:
        self._stream.close()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def reset(self) -> None:
        """Close so that the other side sees `StreamBroken`, not an end."""
        self._stream.reset()


def shares(addresses: Sequence[str], deadline: float) -> Iterator[tuple[str, float]]:
    """Each address with the time (trio's clock) by which it is the next one's turn."""
    for number, address in enumerate(addresses):
        now = trio.current_time()
        yield address, now + (deadline - now) / (len(addresses) - number)


async def connect(wire: Wire, address: str, peer: PeerId | None) -> NoiseChannel:
    """TCP, then Noise, with `peer` or, where that is None, with anybody. Raises `StreamBroken`."""
    target = split_address_untrusted(address)
    if target is None:
        raise StreamBroken("not an address")
    try:
        stream = await trio.open_tcp_stream(*target)
    except (OSError, ValueError) as fault:  # ValueError: a name that IDNA does not allow
        raise StreamBroken(str(fault)) from None
    try:
        return await wire.secure_outbound(stream, peer)
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
        raise


@asynccontextmanager
async def open_enrol_stream(
    key: NodeKey,
    addresses: Sequence[str],
    timeout: float,  # noqa: ASYNC109 - several dials share it
) -> AsyncIterator[ByteStream]:
    """For a machine that is no member yet: a stream to whoever answers for enrolment at one of `addresses`.

    `timeout` seconds are for getting there. The other side has proved to hold the key of `peer`, and
    nothing else: that it may enrol is for the caller to check. Raises `DialError`.
    """
    wire = Wire(key)
    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            connection, stream = await _reach(wire, addresses, timeout, nursery)
            try:
                yield stream
            finally:
                await stream.aclose()
                with trio.move_on_after(1):
                    await connection.flushed()
                connection.end("the caller is done")
        except Exception as fault:  # noqa: BLE001 - raised again below, as itself and not in the nursery's group
            raised = fault
    if raised is not None:
        raise raised


async def _reach(
    wire: Wire,
    addresses: Sequence[str],
    timeout: float,  # noqa: ASYNC109 - several dials share it
    nursery: trio.Nursery,
) -> tuple[Muxer, ControlStream]:
    """The first of `addresses` that answers for enrolment."""
    faults: list[str] = []
    for address, turn in shares(addresses, trio.current_time() + timeout):
        connection = None
        with trio.move_on_at(turn):
            try:
                channel = await connect(wire, address, None)
                connection = Muxer(channel, initiator=True, limits=Limits())
                nursery.start_soon(connection.run)
                stream = connection.open_stream()
                await wire.select(stream, ENROL)
                return connection, ControlStream(stream, channel.peer)
            except StreamBroken as fault:
                faults.append(f"{address}: {fault}")
        if connection is not None:
            connection.end("nobody there enrols")
    raise DialError(f"nobody answers for enrolment: {'; '.join(faults) or 'silence'}")
