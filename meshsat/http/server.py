"""Serves an ASGI application on TCP and Unix sockets, inside the caller's nursery.

Laws: no client and no application brings it down. When cancelled it stops accepting at once, ends idle
connections, gives responses under way `HttpSection.grace` seconds and then cuts them. At the connection cap
the one idle for longest makes room; where none is idle the newcomer is told so (503), not kept waiting.
Why not Hypercorn: docs/decisions/0001-http-server.md. No TLS: the registry serves its own machine or LAN.
"""

import errno
import os
import socket
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio

from meshsat.config import HttpSection
from meshsat.errors import ConfigError
from meshsat.http.asgi import App
from meshsat.http.connection import Connection

BACKLOG = 512
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TcpBind:
    host: str
    port: int
    """0: the system chooses."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixBind:
    """A socket for its owner only (mode 0600)."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Bind = TcpBind | UnixBind


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
    sockets: list[trio.socket.SocketType] = []
    try:
        for bind in binds:
            sockets.append(await _listen(bind))  # noqa: PERF401 - those bound before a failure must be closed
        async with trio.open_nursery() as nursery:
            connections: trio.Nursery = await nursery.start(server.hold)
            try:
                task_status.started([_bound(one) for one in sockets])
                listeners = [trio.SocketListener(one) for one in sockets]
                await trio.serve_listeners(server.handle, listeners, handler_nursery=connections)
            finally:
                server.stop()
    finally:
        for one, bind in zip(sockets, binds, strict=False):  # some may not be bound
            one.close()
            if isinstance(bind, UnixBind):
                with suppress(OSError):
                    bind.path.unlink()


class _Server:
    def __init__(self, app: App, limits: HttpSection) -> None:
        self._app = app
        self._limits = limits
        self._connections: dict[Connection, None] = {}
        """In the order of their last request."""
        self._stopping = trio.Event()
        self._date = (0, b"")

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

    async def handle(self, stream: trio.SocketStream) -> None:
        if self._stopping.is_set() or not self._make_room():
            with suppress(trio.BrokenResourceError):
                await stream.send_all(BUSY)  # fits in any socket's buffer: does not wait
            return
        try:
            connection = Connection(self._app, stream, self._limits, self._now)
        except OSError:  # gone already
            return
        self._connections[connection] = None
        try:
            await connection.run()
        except Exception:  # the wall: a fault in serving one connection costs that connection
            log.exception("connection failed")
        finally:
            del self._connections[connection]

    def _make_room(self) -> bool:
        """Whether one more connection may come in; at the cap, at the cost of the one idle for longest."""
        if len(self._connections) < self._limits.max_connections:
            return True
        idle = [one for one in self._connections if one.idle]
        if idle:
            min(idle, key=lambda one: one.idle_since).close_when_idle()
        return bool(idle)

    def _now(self) -> bytes:
        """The Date field (RFC 9110 6.6.1), made once a second."""
        second = int(time.time())
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True).encode("ascii"))
        return self._date[1]


async def _listen(bind: Bind) -> trio.socket.SocketType:
    try:
        if isinstance(bind, UnixBind):
            return trio.socket.from_stdlib_socket(_unix_socket(bind.path))
        found = await trio.socket.getaddrinfo(
            bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        return trio.socket.from_stdlib_socket(_tcp_socket(socket.socket(family, kind, protocol), address))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {bind}: {reason}; choose another address or port") from None


def _tcp_socket(sock: socket.socket, address: Any) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _unix_socket(path: Path) -> socket.socket:
    """Listen on `path` for this user only: by the time anybody can connect (`listen`), the mode is set."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        sock.bind(os.fspath(path))
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_stale(path: Path) -> None:
    """Remove the socket that a killed process left; a live one's is left, and binding will fail."""
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        if stat.S_ISSOCK(path.lstat().st_mode) and probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED:
            path.unlink()


def _bound(sock: trio.socket.SocketType) -> str:
    name = sock.getsockname()
    return str(TcpBind(name[0], name[1])) if isinstance(name, tuple) else f"unix:{name}"
