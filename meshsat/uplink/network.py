"""Network: every byte of the uplink passes here, below TLS, and is counted and rationed at the socket.

    Line (HTTP/1.1 connections, httpcore) -> TLS (trio.SSLStream) -> MeteredStream -> TCP

`Line.send` gives an `Answer`, read piece by piece; an Answer that is closed early closes its connection at
once, so that no further byte of it is paid for. Only `WireError` leaves this file, with a text for people.
No authentication, no redirects, no retries: those are client.py's.
"""

import logging
import math
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from typing import Any, Self, cast

import httpcore
import httpx
import trio

from meshsat.errors import InvalidInputError, UplinkShutError
from meshsat.uplink.budget import READ_SIZE
from meshsat.uplink.meter import Meter
from meshsat.uplink.sockets import connect

# At level DEBUG httpcore logs all headers: tokens, and the signed addresses of object storage.
logging.getLogger("httpcore").setLevel(logging.WARNING)

COALESCE = 0.005
"""Seconds by which a body's next read is put off after a short one. A line slower than the machine would else
wake the process for every packet (measured at 50 and 200 Mbit/s: 2 to 4 times the CPU); TCP's window covers
the pause many times over. Twice as long, or after longer reads, and fast lines begin to suffer."""
SHORT_READ = READ_SIZE // 2
KEEPALIVE = 30.0
"""Seconds for which an idle connection is kept."""

_FAULTS = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)


class WireError(Exception):
    """One exchange with an upstream failed; the text says where and why."""

    def __init__(self, text: str, *, permanent: bool = False, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.permanent = permanent
        """Trying again will not help until somebody changes something."""
        self.retry_after = retry_after
        """Seconds, if the upstream said so."""


class _ConnectFault(httpcore.ConnectError):
    def __init__(self, text: str, *, permanent: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent


class MeteredStream(trio.abc.Stream):
    """A TCP connection over the WAN: counts what passes, asks for and reads no more than the meter allows.

    Raises `UplinkShutError` where a quota is used up."""

    def __init__(self, stream: trio.SocketStream, meter: Meter, window: int | None) -> None:
        """`window`: what `connect` was given."""
        self._stream = stream
        self._meter = meter
        self._metrics = meter.metrics
        self._counted = meter.open(stream, window)
        self._short = False
        self.coalesce = False
        """True while a body is read."""
        self.silence_limit = math.inf
        """Seconds without a byte after which a read raises `trio.TooSlowError`. Rationing does not count."""
        self.closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = min(max_bytes or READ_SIZE, self._meter.budget.read_size)
        await self._counted.before_reading(size)
        if self._short and self.coalesce:
            await trio.sleep(COALESCE)
        with trio.fail_after(self.silence_limit):
            data = bytes(await self._stream.receive_some(size))
        self._counted.read(len(data))
        self._metrics.wan_in.inc(len(data))
        self._short = len(data) < min(size, SHORT_READ)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._counted.before_asking()
        with trio.fail_after(self.silence_limit):
            await self._stream.send_all(bytes(data))
        self._metrics.wan_out.inc(len(data))

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    def abort(self) -> None:
        """Close now. Unread bytes make the kernel reset the connection: the sender stops."""
        if not self.closed:
            self._counted.close()
        self.closed = True
        self._stream.socket.close()

    async def aclose(self) -> None:
        self.abort()
        await trio.lowlevel.checkpoint()

    def rest(self) -> None:
        """The answer is here, and nothing was asked for since."""
        if not self.closed:
            self._counted.rest()

    def is_readable(self) -> bool:
        return self.closed or self._stream.socket.is_readable()


class _NetworkStream(httpcore.AsyncNetworkStream):
    """What httpcore reads and writes: a MeteredStream, with or without TLS over it."""

    def __init__(self, stream: trio.abc.Stream, wire: MeteredStream, where: str) -> None:
        self._stream = stream
        self.wire = wire
        self._where = where
        self.heard = False
        """True once something came after the last write."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        self.wire.silence_limit = timeout or math.inf
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        except trio.TooSlowError:
            raise httpcore.ReadTimeout(f"{self._where} sent nothing for {timeout:g} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            raise httpcore.ReadError(f"connection to {self._where} broke: {_cause(broken)}") from None
        self.heard = True
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        self.heard = False
        self.wire.silence_limit = timeout or math.inf
        try:
            await self._stream.send_all(buffer)
        except trio.TooSlowError:
            raise httpcore.WriteTimeout(f"{self._where} took nothing for {timeout:g} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            raise httpcore.WriteError(f"connection to {self._where} broke: {_cause(broken)}") from None

    async def aclose(self) -> None:
        # Not through SSLStream: HTTP frames its messages, a close_notify would only cost time.
        await self.wire.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
    ) -> httpcore.AsyncNetworkStream:
        secured = trio.SSLStream(
            self.wire, ssl_context, server_hostname=server_hostname, https_compatible=True
        )
        try:
            with trio.fail_after(timeout or math.inf):
                await secured.do_handshake()
        except trio.TooSlowError:
            self.wire.abort()
            raise httpcore.ConnectTimeout(f"{self._where} did not finish the TLS handshake") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            self.wire.abort()
            raise _tls_fault(self._where, broken) from None
        except BaseException:
            self.wire.abort()
            raise
        return _NetworkStream(secured, self.wire, self._where)

    def get_extra_info(self, info: str) -> Any:
        return self.wire.is_readable() if info == "is_readable" else None


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        del local_address, socket_options
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        window = self._meter.budget.first_window
        try:
            with trio.fail_after(timeout or math.inf):
                stream = await connect(host, port, window)
        except trio.TooSlowError:
            raise httpcore.ConnectTimeout(
                f"{where} does not answer within {timeout:g} s; check the line, and the firewalls on the way"
            ) from None
        except OSError as refused:
            raise _connect_fault(host, where, refused) from None
        except UnicodeError:
            raise _ConnectFault(f"{host!r} is not a host name", permanent=True) from None
        wire = MeteredStream(stream, self._meter, window)
        return _NetworkStream(wire, wire, where)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class Answer:
    """One response. Read `part` until None, or `body_untrusted`; then `aclose`, in every case."""

    def __init__(self, response: httpcore.Response, url: httpx.URL) -> None:
        self._response = response
        self._parts: AsyncIterator[bytes] = aiter(cast("AsyncIterable[bytes]", response.stream))
        network = cast("_NetworkStream", response.extensions["network_stream"])
        self._wire = network.wire
        self.premature = not network.heard
        """It was here before its request was sent: the tail of an answer that was longer than it said."""
        self._ended = False
        self.status = response.status
        self.headers = httpx.Headers(response.headers)
        self.url = url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def part(self) -> bytes | None:
        """The next bytes of the body as they were sent, no content coding undone; None at its end."""
        if self._ended:
            return None
        self._wire.coalesce = True
        try:
            return await anext(self._parts)
        except StopAsyncIteration:
            self._ended = True
            return None
        except _FAULTS as fault:
            self._ended = True
            raise _wire_error(fault, self.url) from None
        finally:
            self._wire.coalesce = False

    async def body_untrusted(self, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes; `InvalidInputError` if it is longer."""
        told = self.headers.get("content-length", "")
        body = bytearray()
        if not (told.isdecimal() and len(told) < 20 and int(told) > limit):
            while (part := await self.part()) is not None:
                body += part
                if len(body) > limit:
                    break
            else:
                return bytes(body)
        raise InvalidInputError(f"{origin_of(self.url)} sent more than {limit} bytes where that is the limit")

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end; close it otherwise."""
        with trio.CancelScope(shield=True):  # nothing below waits: the socket is closed first
            if not self._ended or self.premature:
                self._wire.abort()
                # Run httpcore's generators to their ends, or the garbage collector does it at some odd time.
                with suppress(StopAsyncIteration, UplinkShutError, *_FAULTS):
                    while True:
                        await anext(self._parts)
            await self._response.aclose()
            self._wire.rest()


class Line:
    """The connections to all upstreams that one TLS context is right for."""

    def __init__(self, meter: Meter, tls: ssl.SSLContext | None, size: int) -> None:
        """`tls` None: for plain HTTP only. `size`: the most connections; further requests wait for one."""
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=size,
            max_keepalive_connections=size,
            keepalive_expiry=KEEPALIVE,
            network_backend=_Backend(meter),
        )

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def send(
        self,
        method: str,
        url: httpx.URL,
        headers: dict[str, str],
        timeouts: tuple[float, float],
        content: bytes | None = None,
    ) -> Answer:
        """Send one request and wait for the header of its answer. `timeouts` in seconds: to connect, and
        of silence. The wait for a free connection has none: whoever holds one is bound by these. Raises
        `WireError`."""
        connect, silence = timeouts
        request = httpcore.Request(
            method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=[("Host", url.netloc.decode()), ("Accept-Encoding", "identity"), *headers.items()],
            content=content,
            extensions={"timeout": {"connect": connect, "read": silence, "write": silence}},
        )
        try:
            response = await self._pool.handle_async_request(request)
        except _FAULTS as fault:
            raise _wire_error(fault, url) from None
        answer = Answer(response, url)
        if answer.premature:
            await answer.aclose()
            raise WireError(f"{origin_of(url)} sent more than the length that it gave")
        return answer


def origin_of(url: httpx.URL) -> str:
    """`scheme://host[:port]`: what may be shown of an address; its query may hold a secret."""
    return f"{url.scheme}://{url.netloc.decode()}"


def _wire_error(fault: Exception, url: httpx.URL) -> WireError:
    text = str(fault) or type(fault).__name__
    if isinstance(fault, httpcore.ProtocolError):
        text = f"{origin_of(url)} broke the exchange off or does not speak HTTP: {text}"
    return WireError(text, permanent=isinstance(fault, _ConnectFault) and fault.permanent)


def _cause(broken: BaseException) -> str:
    cause = broken.__cause__
    return (getattr(cause, "strerror", None) or str(cause)) if cause else "closed"


def _connect_fault(host: str, where: str, refused: OSError) -> _ConnectFault:
    if isinstance(refused, socket.gaierror):
        return _ConnectFault(
            f"the name {host} cannot be resolved ({refused.strerror}); check the name and this machine's DNS"
        )
    group = refused.__cause__  # trio's: one error for every address that was tried
    errors = (
        [e for e in group.exceptions if isinstance(e, OSError)] if isinstance(group, ExceptionGroup) else []
    )
    reasons = ", ".join(sorted({e.strerror or str(e) for e in errors})) or str(refused)
    if any(isinstance(e, ConnectionRefusedError) for e in errors):
        return _ConnectFault(f"{where} refuses connections; check that a registry listens there")
    return _ConnectFault(f"{where} cannot be reached ({reasons}); check this machine's uplink")


def _tls_fault(where: str, broken: BaseException) -> _ConnectFault:
    cause = broken.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _ConnectFault(
            f"the certificate of {where} is not trusted ({cause.verify_message}); if that CA is yours, "
            "set ca_file for this registry in [[uplink.registries]]",
            permanent=True,
        )
    if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return _ConnectFault(
            f"{where} does not speak TLS; if it is meant to be plain HTTP, set plain_http = true for this "
            "registry in [[uplink.registries]]",
            permanent=True,
        )
    reason = (cause.reason if isinstance(cause, ssl.SSLError) else None) or _cause(broken)
    return _ConnectFault(f"TLS with {where} failed ({reason})")
