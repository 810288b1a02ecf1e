"""Addresses to listen on, and the sockets made of them."""

import errno
import os
import resource
import socket
import ssl
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from meshsat.errors import ConfigError

BACKLOG = 4096
"""What may wait to be accepted: a thousand that come at once must not make others wait for a second SYN."""
OTHER_FILES = 512
"""Open files that are not for clients: the store's, peers', libraries'."""
FEWEST = 16
"""Connections, however few files there may be."""
UNSENT = 512 * 1024
"""Bytes that may wait unsent in the kernel: the sender is woken at half of it. More makes a client that is as
fast as we are slower (what it reads has left the processor's cache), less costs wake-ups (decisions/0016)."""


_UCRED = struct.Struct("iII")
"""pid, uid, gid."""


@dataclass(frozen=True, slots=True)
class TcpBind:
    host: str
    port: int
    """0: the system chooses."""
    tls: ssl.SSLContext | None = field(default=None, compare=False)
    """None: plain HTTP. The server sets ALPN and forbids renegotiation in it."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixBind:
    """A socket for its owner only (mode 0600)."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Bind = TcpBind | UnixBind


async def listen(bind: Bind) -> socket.socket:
    """A non-blocking socket that listens. Raises `ConfigError`."""
    try:
        if isinstance(bind, UnixBind):
            return _unix_socket(bind.path)
        found = await trio.socket.getaddrinfo(
            bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        sock = _tcp_socket(socket.socket(family, kind, protocol), address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {bind}: {reason}; choose another address or port") from None
    if bind.tls is not None:
        bind.tls.set_alpn_protocols(["http/1.1"])
        bind.tls.options |= ssl.OP_NO_RENEGOTIATION
    return sock


def seats_for(wanted: int) -> int:
    """How many connections this process may have open files for, its limit raised as far as it may be raised
    (getrlimit(2)): each is a socket and the file that it is sent."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    return min(wanted, max(FEWEST, (soft - OTHER_FILES) // 2))


def bound(sock: socket.socket) -> str:
    """The address really bound: `HOST:PORT`, `unix:PATH`."""
    name = sock.getsockname()
    return str(TcpBind(name[0], name[1])) if isinstance(name, tuple) else f"unix:{name}"


def peer_of(sock: socket.socket) -> dict[str, object] | None:
    """The process that connected to a Unix socket, as it was then (SO_PEERCRED). Raises `OSError`."""
    if sock.family != socket.AF_UNIX:
        return None
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return {"pid": pid, "uid": uid}


def _tcp_socket(sock: socket.socket, address: Any) -> socket.socket:
    """What is set here, accepted connections inherit."""
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
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
        sock.setblocking(False)
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
