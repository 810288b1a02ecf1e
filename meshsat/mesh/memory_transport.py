"""The transport's twin in memory: the same laws over a `MemoryNetwork`, with real passes, under any clock."""

import time
from collections.abc import Callable, Sequence

import trio

from meshsat.mesh.identity import Identity
from meshsat.mesh.inbound import OpenStreams, run_handler
from meshsat.mesh.memory_network import MemoryHost, MemoryNetwork, Pipe
from meshsat.mesh.refusals import Refusals
from meshsat.mesh.transport import DialError, Handler, ServeStatus, Stream, StreamBroken, dial_in_turn, fill
from meshsat.metrics import Metrics
from meshsat.trust.admission import Admission
from meshsat.trust.keys import PeerId
from meshsat.trust.passes import Pass, PassError


class MemoryStream:
    """One end."""

    def __init__(self, transport: "MemoryTransport", member: Pass, outbound: Pipe, inbound: Pipe) -> None:
        self.member = member
        self._transport = transport
        self._outbound = outbound
        self._inbound = inbound
        self._sending = False
        self._receiving = False
        self._closed = False

    @property
    def peer(self) -> PeerId:
        return self.member.peer

    async def send_all(self, data: bytes | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed:
            raise StreamBroken("closed")
        self._sending = True
        whole = False
        try:
            await self._outbound.send(data)
            whole = True
        finally:
            self._sending = False
            if not whole:
                self.break_off("a send was not finished")
        self._transport.metrics.lan_out.inc(len(data))

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        if self._closed:
            raise StreamBroken("closed")
        self._receiving = True
        try:
            data = await self._inbound.receive(max_bytes)
        finally:
            self._receiving = False
        self._transport.metrics.lan_in.inc(len(data))
        return data

    async def receive_into(self, buffer: memoryview) -> int:
        return await fill(self, buffer)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._transport.streams.discard(self)
            self._outbound.end()
            self._inbound.break_off("closed")

    def break_off(self, reason: str) -> None:
        self._outbound.break_off(reason)
        self._inbound.break_off(reason)


class MemoryTransport:
    """`protocols` are served here; `admission` judges passes, by default by `clock` (Unix seconds) alone."""

    name = "memory"

    def __init__(
        self,
        network: MemoryNetwork,
        host: MemoryHost,
        identity: Identity,
        protocols: Sequence[str],
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        admission: Admission | None = None,
    ) -> None:
        self.metrics = metrics
        self.streams = OpenStreams()
        self._network = network
        self._host = host
        self._identity = identity
        self._protocols = frozenset(protocols)
        self._admission = admission or Admission.at(identity.root, clock, network.passes)
        self._refusals = Refusals(self.name, metrics, trio.current_time)
        self._nursery: trio.Nursery | None = None
        self._handler: Handler | None = None
        self._port = 0

    @property
    def addresses(self) -> tuple[str, ...]:
        return (f"{self._host.name}:{self._port}",) if self._port else ()

    @property
    def chain(self) -> tuple[bytes, ...]:
        return self._identity.chain

    async def serve(self, handler: Handler, *, task_status: ServeStatus = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery, self._handler = nursery, handler
                self._port = self._host.listen(self)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = self._handler = None
            self._host.listeners.pop(self._port, None)
            self._port = 0

    async def open_stream(
        self,
        peer: PeerId,
        addresses: Sequence[str],
        protocol: str,
        timeout: float,  # noqa: ASYNC109 - several dials share it
    ) -> Stream:
        return await dial_in_turn(
            peer, addresses, timeout, lambda address: self._dial(peer, address, protocol)
        )

    async def drop(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        for stream in self.streams.of(peer):
            await stream.aclose()

    async def recheck(self) -> None:
        await trio.lowlevel.checkpoint()
        for stream in self.streams.failing(self._admission):
            await stream.aclose()

    def renew(self, identity: Identity) -> None:
        self._identity = identity

    def accept(
        self, caller: tuple[bytes, ...], source: str, protocol: str, inbound: Pipe, outbound: Pipe
    ) -> None:
        member = self._judge_untrusted(caller, source)
        if protocol not in self._protocols:
            raise DialError(f"{protocol} is not served there")
        if self._nursery is None or self._handler is None:
            raise DialError("nobody listens there")
        stream = MemoryStream(self, member, outbound, inbound)
        self.streams.add(stream)
        self._nursery.start_soon(run_handler, self._handler, protocol, stream)

    async def _dial(self, peer: PeerId, address: str, protocol: str) -> Stream:
        name, _, port = address.rpartition(":")
        remote = self._network.hosts.get(name)
        if remote is None or not port.isdecimal():
            raise DialError(f"{address} does not exist")
        await self._network.round_trip(self._host, remote)  # TCP's handshake
        await self._network.round_trip(self._host, remote)  # TLS's, and the other side's word
        listener = remote.listeners.get(int(port))
        if listener is None or not remote.alive:
            raise DialError(f"{address} refuses connections")
        member = self._judge_untrusted(listener.chain, name)
        if member.peer != peer:
            raise DialError(f"{address} is {member.peer}")
        there = self._network.pipe(self._host, remote)
        back = self._network.pipe(remote, self._host)
        try:
            listener.accept(self.chain, self._host.name, protocol, inbound=there, outbound=back)
        except DialError:
            there.break_off("refused")
            back.break_off("refused")
            raise
        stream = MemoryStream(self, member, there, back)
        self.streams.add(stream)
        return stream

    def _judge_untrusted(self, chain: tuple[bytes, ...], source: str) -> Pass:
        """Raises `DialError`."""
        try:
            return self._admission.admit_untrusted(chain)
        except PassError as fault:
            self._refusals.refuse(source, fault.reason.value)
            raise DialError(str(fault)) from None
