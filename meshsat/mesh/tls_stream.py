"""One mutual TLS 1.3 connection as a `Stream`: OpenSSL on a non-blocking socket, trio only waits.

Not `trio.SSLStream`: that carries every byte through two memory buffers in Python and wakes for every few
packets, at 1.4 CPU seconds a GiB received at full speed and 5 at 200 Mbit/s. Here OpenSSL decrypts from the
socket straight into the caller's buffer, and where the length still due is known, SO_RCVLOWAT lets the
process sleep until a large part of it is there: 1.0 and 2.1 (docs/decisions/0004; `sim/bench_transport.py`).

TLS 1.3 without renegotiation, tickets or key updates: reading never needs to write once the handshake is
over, nor writing to read, so each direction waits for its own half of the socket only. A peer that forces it
is broken off.
"""

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import trio

from meshsat.mesh.transport import StreamBroken
from meshsat.metrics import Metrics
from meshsat.trust.keys import PeerId
from meshsat.trust.passes import Pass

WRITE_LENGTH = 256 * 1024
"""Bytes given to OpenSSL at a time: 16 records, a quarter of a millisecond."""
BREATH = 1024 * 1024
"""Bytes after which a send that never had to wait lets other tasks run."""
LOW_WATER = 256 * 1024
"""Bytes: the most that may gather in the kernel before the receiver is woken."""
RECORD_SLACK = 16 * 1024 + 1024
"""Bytes of a record that OpenSSL may have taken from the socket without having delivered any of it: as much
may already be missing from what the kernel will still see (RFC 8446, 5.2: 2^14 + 256 and a header)."""
USER_TIMEOUT = 15_000
"""Milliseconds after which unacknowledged data end a connection (RFC 5482). Sessions notice silence much
earlier."""
KEEPALIVE_IDLE = 60
"""Seconds after which TCP itself asks: later than any session does, which would only cost bytes."""
UNSENT = 256 * 1024
"""Bytes that may wait unsent in the kernel: a sender is woken at half of it. Less costs wake-ups (trio's own
streams have 16 KiB, at 3.5 CPU seconds a GiB sent at 200 Mbit/s, against 1.9), more lets urgent messages wait
behind bulk: this is 10 ms at 200 Mbit/s."""
RECORD = 16 * 1024
_FAULTS = (OSError, ValueError, trio.ClosedResourceError)
"""What a dead connection raises; `ssl.SSLError` is an `OSError`."""
_ABORT = struct.pack("ii", 1, 0)  # struct linger: close drops what is unsent and resets


def configure(raw: socket.socket) -> None:
    """The options that every connection of the plane has. Raises `OSError`."""
    raw.setblocking(False)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)


async def handshake(tls: ssl.SSLSocket) -> None:
    """Raises `OSError` (`ssl.SSLError` among them). The deadline is the caller's."""
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(tls.fileno())
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(tls.fileno())
        else:
            return


def abort(connection: socket.socket) -> None:
    """Close at once, unsent data and all, and wake whoever waits on it."""
    with suppress(OSError):  # closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    close(connection)


def close(connection: socket.socket) -> None:
    if connection.fileno() >= 0:
        trio.lowlevel.notify_closing(connection.fileno())
    connection.close()


def openssl_reason(fault: Exception) -> str:
    """OpenSSL's name of it, or "" where it is not OpenSSL's."""
    return str(getattr(fault, "reason", None) or "")


def explain(fault: Exception) -> str:
    """A few words for a log or an error, without OpenSSL's file names and line numbers."""
    verdict = getattr(fault, "verify_message", None)  # not every SSLError has what OpenSSL's have
    if verdict:
        return str(verdict)
    if openssl_reason(fault):
        return openssl_reason(fault).lower().replace("_", " ")
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror.lower()
    return str(fault) or type(fault).__name__


class TlsStream:
    """Made by `TlsTransport` once both passes are verified."""

    def __init__(
        self, tls: ssl.SSLSocket, member: Pass, metrics: Metrics, on_close: Callable[["TlsStream"], None]
    ) -> None:
        self.member = member
        self._tls = tls
        self._metrics = metrics
        self._on_close = on_close
        self._closed = False
        self._low_water = 1
        self._sending = False
        self._receiving = False

    @property
    def peer(self) -> PeerId:
        return self.member.peer

    async def send_all(self, data: bytes | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        whole = False
        try:
            await self._send(memoryview(data).cast("B"))
            whole = True
        finally:
            self._sending = False
            if not whole:  # cancelled halfway too: what OpenSSL holds of a record cannot be taken back
                self._break_off()
        self._metrics.lan_out.inc(len(data))

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        await trio.lowlevel.checkpoint()
        with self._receiver():
            while True:
                self._check()
                try:
                    data = self._records(max_bytes)
                except ssl.SSLWantReadError:
                    await self._until_readable(1)
                except _FAULTS as fault:
                    raise self._broken(fault) from None
                else:
                    self._metrics.lan_in.inc(len(data))
                    return data

    def _records(self, max_bytes: int) -> bytes:
        """What is there, as OpenSSL gives it: a record at a time. After a full one there are often more."""
        data = self._tls.recv(min(max_bytes, RECORD))
        if len(data) < RECORD:
            return data
        pieces, total = [data], len(data)
        with suppress(*_FAULTS):  # nothing more for now; or the end, which the next call sees too
            while total < max_bytes and len(pieces[-1]) == RECORD:
                pieces.append(self._tls.recv(min(max_bytes - total, RECORD)))
                total += len(pieces[-1])
        return b"".join(pieces)

    async def receive_into(self, buffer: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        filled = 0
        with self._receiver():
            while filled < len(buffer):
                self._check()
                try:
                    count = self._tls.recv_into(buffer[filled:])
                except ssl.SSLWantReadError:
                    await self._until_readable(len(buffer) - filled)
                except _FAULTS as fault:
                    raise self._broken(fault) from None
                else:
                    if not count:
                        break
                    filled += count
        self._metrics.lan_in.inc(filled)
        return filled

    async def aclose(self) -> None:
        if self._closed:
            return
        if self._sending:
            self._break_off()
            return
        self._closed = True
        with suppress(*_FAULTS):
            # Sends close_notify (RFC 8446, 6.1), so that the other side knows the end from a cut; that we do
            # not wait for theirs is an "error" to suppress.
            self._tls.unwrap()
        close(self._tls)
        self._on_close(self)

    async def _send(self, view: memoryview) -> None:
        sent = rested = 0
        while sent < len(view):
            self._check()
            try:
                # After "want write" OpenSSL must be given the same bytes again, and is: `sent` has not moved.
                sent += self._tls.send(view[sent : sent + WRITE_LENGTH])
            except ssl.SSLWantWriteError:
                await self._until_writable()
                rested = sent
            except _FAULTS as fault:
                raise self._broken(fault) from None
            if sent - rested >= BREATH:
                rested = sent
                await trio.lowlevel.checkpoint()

    @contextmanager
    def _receiver(self) -> Iterator[None]:
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receiving = True
        try:
            yield
        finally:
            self._receiving = False

    async def _until_readable(self, due: int) -> None:
        """Until the kernel has some of the `due` bytes: many, where many are due."""
        low_water = max(1, min(due - RECORD_SLACK, LOW_WATER))
        try:
            if low_water != self._low_water:
                self._tls.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low_water)
                self._low_water = low_water
            await trio.lowlevel.wait_readable(self._tls.fileno())
        except _FAULTS as fault:
            raise self._broken(fault) from None

    async def _until_writable(self) -> None:
        try:
            await trio.lowlevel.wait_writable(self._tls.fileno())
        except _FAULTS as fault:
            raise self._broken(fault) from None

    def _check(self) -> None:
        """Before every use of the socket: `ssl` sends and receives in the clear once a connection is
        unwrapped."""
        if self._closed:
            raise StreamBroken("closed")

    def _broken(self, fault: Exception) -> StreamBroken:
        text = "closed" if self._closed else explain(fault)
        self._break_off()
        return StreamBroken(text)

    def _break_off(self) -> None:
        if not self._closed:
            self._closed = True
            abort(self._tls)
            self._on_close(self)
