"""The bulk plane: mutual TLS 1.3 over TCP, where the handshake itself proves the pass.

Both sides require a certificate that leads to the fleet's root, the only CA they know; then the pass is read
and judged by `trust/admission.py`, which alone knows the time, and the peer id taken from its key. ALPN (RFC
7301) carries the protocol id. In TLS 1.3 the client is done before the server has looked at its certificate
(RFC 8446, 2), and the time is judged after the handshake: so each side says one byte once it is content with
the other's pass, and waits for the other's. No session tickets: every connection shows its pass.

A caller without a pass holds one of a bounded number of half-open connections for at most 5 s, is closed,
counted and logged once. What it sees of us is what TLS shows any caller: our pass, with fleet, site and peer
id, as mDNS does.
"""

import _ssl
import errno
import socket
import ssl
import sys
import time
from collections.abc import Sequence

import structlog
import trio

from meshsat.audit.event import Audit
from meshsat.errors import ConfigError
from meshsat.mesh.half_open import HalfOpen
from meshsat.mesh.identity import NODE_KEY, PASS, Identity
from meshsat.mesh.inbound import OpenStreams, run_handler
from meshsat.mesh.interfaces import join_address, reachable_addresses, split_address_untrusted
from meshsat.mesh.refusals import Refusals
from meshsat.mesh.tls_stream import TlsStream, close, configure, explain, handshake, openssl_reason
from meshsat.mesh.transport import DialError, Handler, ServeStatus, Stream, dial_in_turn
from meshsat.metrics import Metrics
from meshsat.trust.admission import Admission
from meshsat.trust.keys import PeerId
from meshsat.trust.passes import Pass, PassError

log = structlog.get_logger(__name__)

HANDSHAKE_TIMEOUT = 5.0
"""Seconds that a caller has to prove who it is."""
STREAMS_PER_PEER = 32
"""Inbound streams that one peer may have open."""
BACKLOG = 128
"""Connections that the kernel keeps until we accept them."""
NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME (x509_vfy.h), which `ssl` has no name for."""
_CONTENT = b"\x01"
"""What each side says once it has verified the other's pass."""
_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class TlsTransport:
    """`protocols` are served here, on `listen`:`port` (port 0: the system chooses); `admission` judges
    passes, by default by the machine's clock alone.

    Raises `ConfigError` where the identity's files cannot be used.
    """

    name = "tls"

    def __init__(
        self,
        identity: Identity,
        protocols: Sequence[str],
        metrics: Metrics,
        *,
        listen: str = "0.0.0.0",  # noqa: S104 - whoever has no pass is refused
        port: int = 0,
        admission: Admission | None = None,
        audit: Audit | None = None,
    ) -> None:
        self._identity = identity
        self._metrics = metrics
        self._listen = listen
        self._port = port
        self._bound_port = 0
        self._admission = admission or Admission.at(identity.root, time.time)
        self._refusals = Refusals(self.name, metrics, audit=audit)
        self._half_open = HalfOpen()
        self._streams = OpenStreams()
        self._protocols = list(protocols)
        self._clients: dict[str, ssl.SSLContext] = {}
        self.renew(identity)

    @property
    def addresses(self) -> tuple[str, ...]:
        if not self._bound_port:
            return ()
        return tuple(join_address(host, self._bound_port) for host in reachable_addresses(self._listen))

    async def serve(self, handler: Handler, *, task_status: ServeStatus = trio.TASK_STATUS_IGNORED) -> None:
        """As `Transport.serve`. Raises `ConfigError` where the port cannot be had."""
        with self._open_listener() as listener:
            self._bound_port = listener.getsockname()[1]
            try:
                async with trio.open_nursery() as nursery:
                    task_status.started()
                    while True:
                        accepted = await self._accept(listener)
                        if accepted is not None:
                            nursery.start_soon(self._welcome, handler, *accepted)
            finally:
                self._bound_port = 0

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
        for stream in self._streams.of(peer):
            await stream.aclose()

    async def recheck(self) -> None:
        await trio.lowlevel.checkpoint()
        for stream in self._streams.failing(self._admission):
            await stream.aclose()

    def renew(self, identity: Identity) -> None:
        server = _context(identity, server=True)
        server.set_alpn_protocols(self._protocols)
        self._identity, self._server = identity, server
        self._clients.clear()

    # --- inbound

    def _open_listener(self) -> trio.socket.SocketType:
        family = socket.AF_INET6 if ":" in self._listen else socket.AF_INET
        dual = self._listen == "::"
        try:
            raw = socket.create_server(
                (self._listen, self._port), family=family, backlog=BACKLOG, dualstack_ipv6=dual
            )
        except OSError as fault:
            where = f"bulk plane: {join_address(self._listen, self._port)}"
            raise ConfigError(f"{where}: {fault.strerror}; set mesh.listen and mesh.bulk_port") from None
        raw.setblocking(False)
        return trio.socket.from_stdlib_socket(raw)

    async def _accept(self, listener: trio.socket.SocketType) -> tuple[socket.socket, str] | None:
        """The next connection, detached from trio, and its source address. None where there was none after
        all."""
        try:
            connection, source = await listener.accept()
        except OSError as fault:
            # accept(2): errors of the new connection surface here, and pass. Out of resources: others must
            # end first.
            if fault.errno in _NO_RESOURCES:
                log.warning("cannot accept", plane=self.name, reason=explain(fault))
                await trio.sleep(0.1)
            return None
        return socket.socket(fileno=connection.detach()), str(source[0])

    async def _welcome(self, handler: Handler, raw: socket.socket, source: str) -> None:
        """One inbound connection, from the first byte to the end of its handler."""
        inbound = None
        with trio.move_on_after(HANDSHAKE_TIMEOUT) as scope, self._half_open.admit(source, scope):
            inbound = await self._greet_untrusted(raw, source)
        if scope.cancelled_caught:
            self._refusals.refuse(source, "no handshake in time")
        if inbound is not None:
            await run_handler(handler, *inbound)

    async def _greet_untrusted(self, raw: socket.socket, source: str) -> tuple[str, TlsStream] | None:
        """The handshake as a server. None, and the connection closed, where the caller is refused."""
        connection = raw
        stream = None
        try:
            configure(raw)
            connection = tls = _wrap(self._server, raw, server=True)
            await handshake(tls)
            member = self._member_untrusted(tls)
            protocol = tls.selected_alpn_protocol()
            if protocol is None:
                log.debug("no protocol in common", plane=self.name, peer=member.peer)
            elif len(self._streams.of(member.peer)) >= STREAMS_PER_PEER:
                self._refusals.refuse(source, "too many streams", peer=member.peer)
            else:
                tls.send(_CONTENT)  # the first byte of a connection always fits
                if await _hear(tls) != _CONTENT:
                    raise ConnectionResetError(errno.ECONNRESET, "it is not content with our pass")
                stream = TlsStream(tls, member, self._metrics, self._streams.discard)
                self._streams.add(stream)
                return protocol, stream
        except PassError as fault:
            self._refusals.refuse(source, fault.reason.value)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError) as fault:
            log.debug("caller gone", plane=self.name, source=source, reason=explain(fault))
        except ssl.SSLError as fault:
            self._refusals.refuse(source, _reason(fault), detail=explain(fault))
        except OSError as fault:
            log.debug("caller lost", plane=self.name, source=source, reason=explain(fault))
        finally:
            if stream is None:
                close(connection)
        return None

    # --- outbound

    async def _dial(self, peer: PeerId, address: str, protocol: str) -> TlsStream:
        """Raises `DialError`."""
        target = split_address_untrusted(address)
        if target is None:
            raise DialError(f"{address!r} is not host:port")
        connection: socket.socket | None = None
        stream = None
        try:
            plain = await trio.open_tcp_stream(*target)
            connection = socket.socket(fileno=plain.socket.detach())
            configure(connection)
            connection = tls = _wrap(self._client(protocol), connection, server=False)
            await handshake(tls)
            member = self._member_untrusted(tls)
            if member.peer != peer:
                raise DialError(f"{address} is {member.peer}")
            if tls.selected_alpn_protocol() != protocol:
                raise DialError(f"{address} does not serve {protocol}")
            tls.send(_CONTENT)
            await _heard(tls, address)
            stream = TlsStream(tls, member, self._metrics, self._streams.discard)
            self._streams.add(stream)
        except PassError as fault:
            self._refusals.refuse(target[0], fault.reason.value, dialled=peer)
            raise DialError(f"{address}: {fault}") from None
        except ssl.SSLCertVerificationError as fault:
            self._refusals.refuse(target[0], "no valid pass", dialled=peer, detail=explain(fault))
            raise DialError(f"{address} has no valid pass: {explain(fault)}") from None
        except (OSError, ValueError) as fault:  # ValueError: a name that IDNA does not allow
            raise DialError(f"{address}: {explain(fault)}") from None
        finally:
            if stream is None and connection is not None:
                close(connection)
        return stream

    def _client(self, protocol: str) -> ssl.SSLContext:
        context = self._clients.get(protocol)
        if context is None:
            context = self._clients[protocol] = _context(self._identity, server=False)
            context.set_alpn_protocols([protocol])
        return context

    def _member_untrusted(self, tls: ssl.SSLSocket) -> Pass:
        """The pass of the other side, after the handshake. Raises `PassError`."""
        return self._admission.admit_untrusted(_verified_chain(tls))


async def _hear(tls: ssl.SSLSocket) -> bytes:
    """The other side's first byte. Raises `OSError`."""
    while True:
        try:
            return tls.recv(len(_CONTENT))
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(tls.fileno())


async def _heard(tls: ssl.SSLSocket, address: str) -> None:
    """Wait until the server has verified us, and says so. Raises `DialError`, `OSError`."""
    try:
        word = await _hear(tls)
    except ssl.SSLError as alert:
        raise DialError(f"{address} refused our pass: {explain(alert)}") from None
    if word != _CONTENT:
        raise DialError(f"{address} refused us")


def _context(identity: Identity, *, server: bool) -> ssl.SSLContext:
    if identity.directory is None:
        raise ConfigError("TLS reads keys from files, and this identity has none")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Names are peer ids and not DNS: the pass is compared with who was dialled, after the handshake.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # The time is not OpenSSL's to judge: it knows the machine's clock only, and no grace.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | NO_CHECK_TIME
    if server:
        context.num_tickets = 0
    try:
        context.load_verify_locations(cadata=identity.root)
        context.load_cert_chain(identity.directory / PASS, identity.directory / NODE_KEY)
    except OSError as fault:  # ssl.SSLError among them
        raise ConfigError(f"{identity.directory}: {explain(fault)}; restore {PASS} and {NODE_KEY}") from None
    return context


def _wrap(context: ssl.SSLContext, raw: socket.socket, *, server: bool) -> ssl.SSLSocket:
    return context.wrap_socket(
        raw, server_side=server, do_handshake_on_connect=False, suppress_ragged_eofs=False
    )


def _verified_chain(tls: ssl.SSLSocket) -> list[bytes]:
    """DER, the peer's certificate first, the root last."""
    if sys.version_info >= (3, 13):
        return tls.get_verified_chain()
    # The same method exists since 3.10, one level below; public from 3.13 on.
    certificates = vars(tls)["_sslobj"].get_verified_chain()
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in certificates]


def _reason(fault: ssl.SSLError) -> str:
    """A stranger in one of a few words, so that its attempts count as one."""
    if isinstance(fault, ssl.SSLCertVerificationError):
        return "no valid pass"
    reason = openssl_reason(fault)
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "no pass"
    if "ALERT" in reason:
        return "does not accept our pass"
    return "no TLS 1.3 handshake"
