"""The control plane: streams between members over libp2p connections (TCP, Noise, yamux, multistream-select).

Laws, beside those of `transport.py`: a connection that shows no valid pass within `Limits.proof` seconds is
closed, and where strangers crowd, the oldest goes first, so that a flood of them does not lock members out;
every stream begins with a greeting (`greeting.py`), and before it nothing is said, listed or handled;
whatever happens to one connection, or to the listener itself, `serve` lives on and listens again. The one
door without a pass is enrolment: `ENROL` streams go to the enrol handler, a few at a time. Not here: what
libp2p itself is used for (`libp2p_wire.py`), the muxer, who dials whom and when.
"""

import errno
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import structlog
import trio

from meshsat.audit.event import Audit
from meshsat.errors import ConfigError, InvalidInputError
from meshsat.mesh.greeting import (
    CONTENT,
    Greeting,
    encode_greeting,
    read_content_untrusted,
    read_greeting_untrusted,
)
from meshsat.mesh.half_open import HalfOpen
from meshsat.mesh.identity import Identity
from meshsat.mesh.inbound import run_handler
from meshsat.mesh.interfaces import join_address, reachable_addresses
from meshsat.mesh.libp2p_dial import ENROL, ControlStream, connect, shares
from meshsat.mesh.libp2p_wire import NoiseChannel, Wire
from meshsat.mesh.muxer import Limits as MuxerLimits
from meshsat.mesh.muxer import MuxedStream, Muxer
from meshsat.mesh.refusals import Refusals
from meshsat.mesh.transport import (
    ByteStream,
    DialError,
    Handler,
    ServeStatus,
    Stream,
    StreamBroken,
    TransportError,
)
from meshsat.metrics import Metrics
from meshsat.trust.admission import Admission
from meshsat.trust.keys import PeerId
from meshsat.trust.passes import Pass, PassError

log = structlog.get_logger(__name__)

MEMBER = "/meshsat/member/1"
"""The libp2p protocol id of every stream between members; the one that is meant is named in its greeting."""

EnrolHandler = Callable[[ByteStream], Awaitable[None]]
"""Called with a stream to a stranger. Contained and closed like a `Handler`."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts, and seconds."""

    connections: int = 512
    """Inbound, in all."""
    links_per_member: int = 4
    streams_unproved: int = 2
    """Streams that a stranger may have open at once."""
    enrolments: int = 4
    handshake: float = 10.0
    proof: float = 10.0
    greeting: float = 5.0
    enrolment: float = 60.0
    restart: float = 0.5
    """Before the listener is opened again after a fault; doubles up to `restart_most`."""
    restart_most: float = 30.0
    muxer: MuxerLimits = field(default_factory=MuxerLimits)


class MemberStream(ControlStream):
    """A `Stream`; its bytes are counted."""

    def __init__(self, stream: MuxedStream, member: Pass, metrics: Metrics) -> None:
        super().__init__(stream, member.peer)
        self.member = member
        self._metrics = metrics

    async def send_all(self, data: bytes | memoryview) -> None:
        await super().send_all(data)
        self._metrics.lan_out.inc(len(data))

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        data = await super().receive_some(max_bytes)
        self._metrics.lan_in.inc(len(data))
        return data

    async def receive_into(self, buffer: memoryview) -> int:
        count = await super().receive_into(buffer)
        self._metrics.lan_in.inc(count)
        return count


@dataclass(eq=False, slots=True)
class _Link:
    """A connection whose other side has proved its key."""

    peer: PeerId
    source: str
    """The other side's address, without the port."""
    muxer: Muxer
    member: Pass | None = None
    proved: trio.Event = field(default_factory=trio.Event)
    """It has shown a valid pass, or is over."""
    enrolling: bool = False


class Libp2pTransport:
    """`protocols` are served here; `admission` judges passes, by default by the machine's clock alone.

    Making one imports what is used of py-libp2p: a quarter of a second, once a process.
    """

    name = "libp2p"

    def __init__(  # noqa: PLR0913 - all but three by name
        self,
        identity: Identity,
        protocols: Sequence[str],
        metrics: Metrics,
        *,
        listen: str = "0.0.0.0",  # noqa: S104 - whoever has no pass is refused
        port: int = 0,
        enrol_handler: EnrolHandler | None = None,
        admission: Admission | None = None,
        limits: Limits | None = None,
        audit: Audit | None = None,
    ) -> None:
        self._identity = identity
        self._metrics = metrics
        self._listen = listen
        self._port = port
        self._protocols = frozenset(protocols)
        self._enrol_handler = enrol_handler
        self._admission = admission or Admission.at(identity.root, time.time)
        self._limits = limits or Limits()
        self._refusals = Refusals(self.name, metrics, audit=audit)
        self._wire = Wire(identity.key)
        self._nursery: trio.Nursery | None = None
        self._handler: Handler | None = None
        self._links: dict[PeerId, list[_Link]] = {}
        self._half_open = HalfOpen()
        self._inbound = 0
        self._enrolments = 0
        self._dialling: dict[PeerId, trio.Lock] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        if self._nursery is None:
            return ()
        return tuple(join_address(host, self._port) for host in reachable_addresses(self._listen))

    async def serve(self, handler: Handler, *, task_status: ServeStatus = trio.TASK_STATUS_IGNORED) -> None:
        """As `Transport.serve`. Raises `ConfigError` where the port cannot be had at the start."""
        listeners = await self._open_listeners()
        self._handler = handler
        pause, told = self._limits.restart, ""
        while True:
            began = trio.current_time()
            try:
                await self._run(listeners, task_status)
            except Exception as fault:  # the wall: nothing that happens down there ends the node
                text = f"{type(fault).__name__}: {fault}"
                if text != told:
                    log.exception("control plane failed, starting again", plane=self.name)
                told = text
            task_status = trio.TASK_STATUS_IGNORED
            if trio.current_time() - began > self._limits.restart_most:
                pause, told = self._limits.restart, ""
            listeners = []
            while not listeners:
                await trio.sleep(pause)
                pause = min(2 * pause, self._limits.restart_most)
                try:
                    listeners = await self._open_listeners()
                except ConfigError as fault:
                    if str(fault) != told:
                        log.warning("control plane cannot listen, trying on", reason=str(fault))
                    told = str(fault)

    async def open_stream(
        self,
        peer: PeerId,
        addresses: Sequence[str],
        protocol: str,
        timeout: float,  # noqa: ASYNC109 - several dials share it
    ) -> Stream:
        if self._nursery is None:
            raise DialError("the control plane is not up")
        faults: list[str] = []
        with trio.move_on_after(timeout) as scope:
            stream = await self._open_on_link(peer, protocol, faults)
            if stream is not None:
                return stream
            # One dial a peer at a time: whoever waits finds the other's connection.
            lock = self._dialling.setdefault(peer, trio.Lock())
            try:
                async with lock:
                    stream = await self._open_on_link(peer, protocol, faults)
                    if stream is None:
                        stream = await self._dial_each(peer, addresses, protocol, scope.deadline, faults)
                    return stream
            finally:
                if not lock.statistics().tasks_waiting and not lock.locked():
                    self._dialling.pop(peer, None)
        raise DialError(f"{peer} did not answer within {timeout:g} s ({'; '.join(faults) or 'silence'})")

    async def drop(self, peer: PeerId) -> None:
        for link in self._links.pop(peer, []):
            link.muxer.end("dropped")
        await trio.lowlevel.checkpoint()

    async def recheck(self) -> None:
        await trio.lowlevel.checkpoint()
        for link in [link for links in self._links.values() for link in links]:
            if link.member is not None and self._admission.refuses(link.member):
                link.muxer.end("no valid pass any more")  # and `_run_link` forgets it

    def renew(self, identity: Identity) -> None:
        self._identity = identity

    # Listening.

    async def _open_listeners(self) -> list[trio.SocketListener]:
        """Raises `ConfigError`."""
        try:
            listeners = await trio.open_tcp_listeners(self._port, host=self._listen, backlog=_BACKLOG)
        except OSError as fault:
            where = f"control plane: {join_address(self._listen, self._port)}"
            reason = fault.strerror or str(fault)
            raise ConfigError(f"{where}: {reason}; set mesh.listen and mesh.control_port") from None
        self._port = int(listeners[0].socket.getsockname()[1])
        return list(listeners)

    async def _run(self, listeners: list[trio.SocketListener], task_status: ServeStatus) -> None:
        """Until cancelled, or something breaks that must not."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, nursery)
        finally:
            self._nursery = None
            for links in list(self._links.values()):
                for link in links:
                    link.muxer.end("the control plane went down")
            self._links.clear()
            for listener in listeners:
                listener.socket.close()

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as fault:
                if fault.errno not in _EXHAUSTED:
                    raise
                self._refusals.refuse("anyone", "out of sockets or memory")
                await trio.sleep(0.1)
                continue
            nursery.start_soon(_contained, self._welcome, stream)

    async def _welcome(self, stream: trio.SocketStream) -> None:
        """One inbound connection, from the first byte to the last."""
        try:
            source = str(stream.socket.getpeername()[0])
        except OSError:
            await trio.aclose_forcefully(stream)
            return
        if self._inbound >= self._limits.connections:
            self._refusals.refuse(source, "too many connections")
            await trio.aclose_forcefully(stream)
            return
        self._inbound += 1
        try:
            # Half open until its pass is shown; then `proved` lets go of the place, while the scope stays.
            with trio.CancelScope() as scope, ExitStack() as place:
                place.enter_context(self._half_open.admit(source, scope))
                with trio.fail_after(self._limits.handshake):
                    channel = await self._wire.secure_inbound(stream)
                await self._run_link(self._link(channel, source), place.close)
            if scope.cancelled_caught:
                self._refusals.refuse(source, "crowded out")
        except (StreamBroken, trio.TooSlowError) as fault:
            self._refusals.refuse(source, "no handshake", detail=str(fault))
        finally:
            self._inbound -= 1
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    # Connections.

    def _link(self, channel: NoiseChannel, source: str) -> _Link:
        # The one who dialled opens odd streams; the channel knows which of the two we are.
        return _Link(
            channel.peer, source, Muxer(channel, initiator=channel.initiator, limits=self._limits.muxer)
        )

    async def _run_link(self, link: _Link, proved: Callable[[], None] | None) -> None:
        """Move its bytes and take its streams until it ends. `proved`: to be called once, inbound only."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.muxer.run)
                if proved is not None:
                    nursery.start_soon(self._expect_pass, link, proved)
                while True:
                    try:
                        stream = await link.muxer.accept_stream()
                    except StreamBroken:
                        link.proved.set()
                        break
                    if link.member is None and link.muxer.open_streams > self._limits.streams_unproved:
                        stream.reset()
                    else:
                        nursery.start_soon(self._answer, link, stream)
        finally:
            link.muxer.end("the connection was closed")
            self._unregister(link)

    async def _expect_pass(self, link: _Link, proved: Callable[[], None]) -> None:
        with trio.move_on_after(self._limits.proof):
            await link.proved.wait()
        if link.member is None and link.enrolling:
            with trio.move_on_after(self._limits.enrolment):
                await link.proved.wait()
        if link.member is not None:
            proved()
        elif link.muxer.alive:
            self._refusals.refuse(link.source, "no pass shown")
            link.muxer.end("no pass was shown in time")

    def _register(self, link: _Link, member: Pass) -> None:
        """From now on its peer's streams may use it too."""
        if link.member is None:
            links = self._links.setdefault(link.peer, [])
            if len(links) >= self._limits.links_per_member:
                oldest = min(links, key=lambda other: other.muxer.open_streams)
                oldest.muxer.end("the peer has too many connections")
                links.remove(oldest)
            links.append(link)
        link.member = member
        link.proved.set()

    def _unregister(self, link: _Link) -> None:
        links = self._links.get(link.peer, [])
        if link in links:
            links.remove(link)
        if not links:
            self._links.pop(link.peer, None)

    # Streams from the other side.

    async def _answer(self, link: _Link, stream: MuxedStream) -> None:
        """One stream that the other side opened. Contains everything."""
        offered = [MEMBER] if self._enrol_handler is None else [MEMBER, ENROL]
        try:
            with trio.fail_after(self._limits.greeting):
                chosen = await self._wire.answer(stream, offered)
                protocol = await self._receive_greeting(link, stream) if chosen == MEMBER else ENROL
        except (StreamBroken, trio.TooSlowError):
            stream.reset()
            return
        if chosen == ENROL:
            await self._enrol(link, stream)
        elif protocol is None or link.member is None or self._handler is None:
            stream.close()
        else:
            await run_handler(self._handler, protocol, MemberStream(stream, link.member, self._metrics))

    async def _receive_greeting(self, link: _Link, stream: MuxedStream) -> str | None:
        """The protocol that a member wants, None where it is not served here. Raises `StreamBroken`."""
        try:
            greeting = await read_greeting_untrusted(stream)
            member = self._verify(greeting, link.peer)
            self._register(link, member)
            served = greeting.protocol in self._protocols
            await stream.send_all(encode_greeting(self._identity.chain, greeting.protocol if served else ""))
            await read_content_untrusted(stream)
        except InvalidInputError as fault:
            self._refuse(link, fault)
            raise StreamBroken("no valid pass") from None
        return greeting.protocol if served else None

    def _refuse(self, link: _Link, fault: InvalidInputError) -> None:
        reason = f"pass {fault.reason.value}" if isinstance(fault, PassError) else "malformed greeting"
        self._refusals.refuse(link.source, reason, detail=str(fault))
        link.muxer.end("no valid pass")

    def _verify(self, greeting: Greeting, peer: PeerId) -> Pass:
        """Raises `InvalidInputError`."""
        member = self._admission.admit_untrusted(greeting.chain)
        if member.peer != peer:
            raise InvalidInputError(f"the pass of {member.peer}, shown by {peer}")
        return member

    async def _enrol(self, link: _Link, stream: MuxedStream) -> None:
        handler = self._enrol_handler
        if handler is None or link.enrolling or self._enrolments >= self._limits.enrolments:
            stream.reset()
            return
        link.enrolling = True
        self._enrolments += 1
        try:
            with trio.move_on_after(self._limits.enrolment):
                await handler(ControlStream(stream, link.peer))
            stream.close()
        except TransportError as fault:
            log.debug("enrolment ended", peer=link.peer, reason=str(fault))
        except Exception:  # as in `run_handler`: what a stranger brings about ends with its stream
            log.exception("enrol handler failed", peer=link.peer)
        finally:
            stream.reset()
            self._enrolments -= 1
            link.enrolling = False

    # Streams to the other side.

    async def _open_on_link(self, peer: PeerId, protocol: str, faults: list[str]) -> Stream | None:
        """A stream on a connection that is there; None where none is, or none works."""
        for link in list(self._links.get(peer, [])):
            if link.muxer.usable:
                try:
                    return await self._greet(link, protocol)
                except StreamBroken as fault:
                    faults.append(str(fault))
        return None

    async def _dial_each(
        self, peer: PeerId, addresses: Sequence[str], protocol: str, deadline: float, faults: list[str]
    ) -> Stream:
        """Raises `DialError`. Each address has an equal share of the time that is left."""
        for address, turn in shares(addresses, deadline):
            with trio.move_on_at(turn):
                try:
                    link = await self._dial(peer, address)
                    return await self._greet(link, protocol)
                except StreamBroken as fault:
                    faults.append(f"{address}: {fault}")
                    continue
            faults.append(f"{address} did not answer")
        raise DialError(f"{peer} cannot be reached: {'; '.join(faults) or 'no address is known'}")

    async def _dial(self, peer: PeerId, address: str) -> _Link:
        """A new connection, running. Raises `StreamBroken`."""
        channel = await connect(self._wire, address, peer)
        if self._nursery is None:
            await channel.aclose()
            raise StreamBroken("the control plane went down")
        link = self._link(channel, address.rpartition(":")[0])
        self._nursery.start_soon(_contained, self._run_link, link, None)
        return link

    async def _greet(self, link: _Link, protocol: str) -> Stream:
        """Open a stream, show passes. Raises `StreamBroken`; `DialError` where `protocol` is not served."""
        began, before = trio.current_time(), link.muxer.received
        stream = link.muxer.open_stream()
        member = None
        try:
            await self._wire.select(stream, MEMBER)
            await stream.send_all(encode_greeting(self._identity.chain, protocol))
            greeting = await read_greeting_untrusted(stream)
            member = self._verify(greeting, link.peer)
            self._register(link, member)
            await stream.send_all(CONTENT)
        except InvalidInputError as fault:
            self._refuse(link, fault)
            raise StreamBroken(f"the peer is no member: {fault}") from None
        finally:
            if member is None:
                stream.reset()
                # Given up by the caller, it may be dead: without a stream nobody would ping it.
                waited = trio.current_time() - began > self._limits.muxer.keepalive
                if link.member is None or (waited and link.muxer.received == before):
                    link.muxer.end("the peer did not answer")
        if greeting.protocol != protocol:
            stream.close()
            raise DialError(f"{link.peer} does not serve {protocol}")
        return MemberStream(stream, member, self._metrics)


async def _contained(task: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """The wall around one connection: what goes wrong with it, and nobody foresaw, ends it alone."""
    try:
        await task(*arguments)
    except Exception:
        log.exception("connection failed")
