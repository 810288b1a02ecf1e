"""Serves an ASGI application on TCP (plain or TLS) and Unix sockets, inside the caller's nursery.

Laws: no client and no application brings it down. When cancelled it stops accepting at once, ends idle
connections, gives responses under way `HttpSection.grace` seconds and then cuts them. At the connection cap
who begins and does not go on makes room, then the one idle for longest; where nobody can, the newcomer is
told so (503), not kept waiting. Why not Hypercorn, and not trio's streams: docs/decisions/0001, 0016.
"""

import errno
import math
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Protocol

import structlog
import trio

from meshsat.config import HttpSection
from meshsat.http.asgi import App
from meshsat.http.connection import Address, Connection, Service
from meshsat.http.listening import Bind, TcpBind, UnixBind, bound, listen, peer_of, seats_for
from meshsat.http.seats import Seats
from meshsat.http.wire import PlainWire, TlsWire, Wire

__all__ = ["Bind", "TcpBind", "UnixBind", "serve_app"]

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
BURST = 16
"""Connections accepted before those that are there may run."""
OUT_OF_FILES = 0.1
"""Seconds to wait when the system has no descriptor, or no memory, for another connection."""
COMPLAINTS = 10.0
"""Seconds between two log lines about that."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = structlog.get_logger(__name__)


class Started(Protocol):
    """What `nursery.start` hands over as `task_status`."""

    def started(self, value: list[str], /) -> None: ...


async def serve_app(
    app: App,
    binds: Sequence[Bind],
    limits: HttpSection | None = None,
    *,
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` on all of `binds` until cancelled.

    `task_status` is started with the addresses really bound (`HOST:PORT`, `unix:PATH`), in the same order.
    Raises `ConfigError` when an address cannot be listened on.
    """
    server = _Server(app, limits or HttpSection())
    sockets: list[socket.socket] = []
    try:
        for bind in binds:
            sockets.append(await listen(bind))  # noqa: PERF401 - those bound before a failure must be closed
        async with trio.open_nursery() as nursery:
            connections: trio.Nursery = await nursery.start(server.hold)
            try:
                task_status.started([bound(one) for one in sockets])
                async with trio.open_nursery() as doors:
                    for one, bind in zip(sockets, binds, strict=True):
                        doors.start_soon(server.accept, one, bind, connections)
            finally:
                for one in sockets:
                    one.close()
                server.stop()
    finally:
        for one, bind in zip(sockets, binds, strict=False):  # some may not be bound
            one.close()
            if isinstance(bind, UnixBind):
                with suppress(OSError):
                    bind.path.unlink()


class _Server:
    def __init__(self, app: App, limits: HttpSection) -> None:
        self._limits = limits
        self._seats = Seats(seats_for(limits.max_connections))
        self._service = Service(app, limits, self._seats, self._now)
        self._connections: set[Connection] = set()
        self._stopping = trio.Event()
        self._complained = -math.inf
        self._second = 0
        self._date = b""

    async def hold(self, *, task_status: Any) -> None:
        """Own the connections' nursery. It outlives the cancellation of the listeners by the grace."""
        async with trio.open_nursery() as connections:
            connections.cancel_scope.shield = True
            task_status.started(connections)
            await self._stopping.wait()
            connections.cancel_scope.deadline = trio.current_time() + self._limits.grace

    def stop(self) -> None:
        self._stopping.set()
        for connection in self._connections:
            connection.close_when_idle()
        self._seats.leave_all()

    async def accept(self, listener: socket.socket, bind: Bind, connections: trio.Nursery) -> None:
        """Let clients in, for ever."""
        tls = bind.tls if isinstance(bind, TcpBind) else None
        server = _address(listener.getsockname())
        everywhere = server is None or server[0] in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
        while True:
            await trio.lowlevel.wait_readable(listener)
            for _ in range(BURST):
                try:
                    sock, peer = listener.accept()
                except BlockingIOError:
                    break
                except OSError as fault:
                    if fault.errno in _EXHAUSTED:
                        await self._out_of_files(fault)
                    continue  # else it has gone already (accept(2))
                sock.setblocking(False)
                if not self._seats.take(trio.current_time()):
                    _turn_away(sock, plain=tls is None)
                    continue
                try:
                    process = peer_of(sock)
                    here = (
                        _address(sock.getsockname()) if everywhere and isinstance(bind, TcpBind) else server
                    )
                    wire: Wire = PlainWire(sock) if tls is None else TlsWire(sock, tls)  # takes it over
                except (OSError, ValueError):  # gone already
                    self._seats.give_up()
                    sock.close()
                    continue
                connections.start_soon(
                    self._serve, Connection(self._service, wire, _address(peer), here, process)
                )

    async def _out_of_files(self, fault: OSError) -> None:
        now = trio.current_time()
        if now >= self._complained + COMPLAINTS:
            self._complained = now
            log.warning("the system gives no room for another connection", reason=fault.strerror)
        self._seats.make_room(now)
        await trio.sleep(OUT_OF_FILES)

    async def _serve(self, connection: Connection) -> None:
        self._connections.add(connection)
        try:
            if self._stopping.is_set():
                connection.close()
            else:
                await connection.run()
        except Exception:  # the wall: a fault in serving one connection costs that connection
            log.exception("connection failed")
        finally:
            self._connections.discard(connection)
            self._seats.give_up(connection)

    def _now(self) -> bytes:
        """The Date field (RFC 9110 6.6.1), made once a second."""
        second = int(time.time())
        if self._second != second:
            self._second, self._date = second, formatdate(second, usegmt=True).encode("ascii")
        return self._date


def _turn_away(sock: socket.socket, *, plain: bool) -> None:
    with suppress(OSError), sock:
        if plain:
            sock.send(BUSY)  # fits in any socket's buffer


def _address(name: Any) -> Address:
    """ASGI's form of a socket's name: IP and port, or the path of a Unix socket."""
    if isinstance(name, tuple):
        return name[0], name[1]
    return (name, None) if isinstance(name, str) and name else None
