"""The bytes of one connection, plain or TLS: what can be done at once is done, and waiting is another call.

Laws: nothing here waits but what is async; a broken connection reads as ended, and sending on it raises
`ClientGoneError`. Not `trio.SocketStream` and `trio.SSLStream`: those cost a checkpoint and a lock a call,
and the latter carries every byte through two more buffers (docs/decisions/0016, 0004). TLS is as in
mesh/tls_stream.py: OpenSSL works on the non-blocking socket itself; a client that makes it write in order to
read (renegotiation, key updates that do not fit) is broken off.
"""

import errno
import fcntl
import os
import socket
import ssl
import struct
import sys
import termios
from contextlib import suppress

import trio

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: closing sends RST and drops what was not sent."""
RECORD = 16 * 1024
"""Bytes of content that a TLS record holds at most: OpenSSL gives one record a call."""
WRITE_LENGTH = 256 * 1024
"""Bytes given to OpenSSL at a time."""
_OF_THE_FILE = frozenset({errno.EIO, errno.EINVAL, errno.EBADF, errno.EOVERFLOW, errno.ENOMEM})
"""Errors of sendfile(2) that are not the connection's."""


class ClientGoneError(OSError):
    """Raised by ASGI `send` when there is nobody to send to (ASGI: a subclass of OSError)."""


class PlainWire:
    """A TCP or Unix socket, non-blocking. It owns `sock`."""

    scheme = "http"

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.fd = sock.fileno()

    def receive(self, limit: int) -> bytes | None:
        """What is there; None if nothing is, b"" at the end."""
        try:
            return self._sock.recv(limit)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes were taken."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            raise ClientGoneError("the client has gone") from None

    def send_before_more(self, data: bytes) -> int:
        """As `send`; it may wait in the kernel for what is sent next."""
        try:
            return self._sock.send(data, socket.MSG_MORE)
        except BlockingIOError:
            return 0
        except OSError:
            raise ClientGoneError("the client has gone") from None

    def send_file(self, source: int, offset: int, count: int) -> int | None:
        """How many bytes of the file were taken, 0 at its end; None if the connection takes nothing now.

        Raises `ClientGoneError`, and any other `OSError` when the file can't be read.
        """
        try:
            return os.sendfile(self.fd, source, offset, count)
        except BlockingIOError:
            return None
        except OSError as fault:
            if fault.errno in _OF_THE_FILE:
                raise
            raise ClientGoneError("the client has gone") from None

    async def readable(self) -> None:
        """There is something to receive, an end too."""
        await trio.lowlevel.wait_readable(self.fd)

    async def writable(self) -> None:
        await trio.lowlevel.wait_writable(self.fd)

    def queued(self) -> int:
        """Bytes sent that the client has not taken."""
        return _queued(self.fd)

    async def handshake(self) -> bool:
        """Whether one may go on."""
        return True

    def end_sending(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def discard(self, limit: int) -> int | None:
        """How much of what is there was thrown away; None if nothing is there, 0 at the end."""
        data = self.receive(limit)
        return None if data is None else len(data)

    def tell_end(self) -> None:
        """What came before is whole; called before `close` where that is so."""

    def close(self, *, reset: bool = False) -> None:
        """`reset`: so that the client sees that something is missing."""
        if reset:
            with suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._sock.close()


class TlsWire:
    """The server's side of TLS on a non-blocking TCP socket. It owns `sock`. Raises `OSError`."""

    scheme = "https"

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self.fd = self._tls.fileno()

    async def handshake(self) -> bool:
        """Whether one may go on. The deadline is the caller's."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self.fd)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self.fd)
            except (OSError, ValueError):
                return False
            else:
                return True

    def receive(self, limit: int) -> bytes | None:
        parts: list[bytes] = []
        total = 0
        while total < limit:
            try:
                data = self._tls.recv(min(limit - total, RECORD))
            except ssl.SSLWantReadError:
                break
            except (OSError, ValueError):
                data = b""
            if not data:
                return b"".join(parts)  # the end, which the next call sees again
            parts.append(data)
            total += len(data)
        return b"".join(parts) if parts else None

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes were taken. After 0, the next call must be given the same bytes again."""
        try:
            return self._tls.send(memoryview(data)[:WRITE_LENGTH])
        except ssl.SSLWantWriteError:
            return 0
        except (OSError, ValueError):
            raise ClientGoneError("the client has gone") from None

    send_before_more = send

    async def readable(self) -> None:
        if self._tls.pending():
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(self.fd)

    async def writable(self) -> None:
        await trio.lowlevel.wait_writable(self.fd)

    def queued(self) -> int:
        return _queued(self.fd)

    def tell_end(self) -> None:
        """close_notify: without it the end of TCP is a cut (RFC 8446 6.1)."""
        with suppress(OSError, ValueError):  # ended already; that we do not wait for theirs is an "error" too
            self._tls.unwrap()

    def end_sending(self) -> None:
        self.tell_end()
        with suppress(OSError):
            self._tls.shutdown(socket.SHUT_WR)

    def discard(self, limit: int) -> int | None:
        try:
            return len(socket.socket.recv(self._tls, limit))  # ciphertext: nobody reads it
        except BlockingIOError:
            return None
        except OSError:
            return 0

    def close(self, *, reset: bool = False) -> None:
        if reset:
            with suppress(OSError):
                self._tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._tls.close()


Wire = PlainWire | TlsWire


def _queued(fd: int) -> int:
    """tcp(7), unix(7): SIOCOUTQ, which is TIOCOUTQ."""
    return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
