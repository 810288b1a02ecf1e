"""One client's connection: HTTP/1.1 by h11 on the wire side, ASGI on the application's.

Laws: one request at a time, in order; the body a client does not take is not made (`send` waits);
a response that its application did not finish is cut, so that no client takes it for a whole one;
whatever an application raises ends here; every wait has a deadline (`HttpSection`) and can be cancelled.
Not here: TLS, HTTP/2, upgrades, trailers, compression.
"""

import struct
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import h11
import structlog
import trio

from meshsat.config import HttpSection
from meshsat.http.asgi import App, Headers, Message, Scope

RECEIVE_SIZE = 64 * 1024
SEND_UNIT = 64 * 1024
"""What must go out in one `send_timeout`; smaller parts leave joined, in one packet."""
DRAIN_LIMIT = 256 * 1024
"""Bytes of an unread request body thrown away so that the connection can be used again."""
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: closing sends RST and drops what was not sent."""
FINISHED = frozenset({h11.DONE, h11.MUST_CLOSE})
"""States of our side once a response is whole."""
REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}

log = structlog.get_logger(__name__)


class ClientGoneError(OSError):
    """Raised by ASGI `send` when there is nobody to send to (ASGI: a subclass of OSError)."""


class Connection:
    """`date` gives the value of the Date field. Raises OSError when the client has gone before it was met."""

    def __init__(
        self,
        app: App,
        stream: trio.SocketStream,
        limits: HttpSection,
        date: Callable[[], bytes],
    ) -> None:
        self._app = app
        self._stream = stream
        self._limits = limits
        self._date = date
        self._wire = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_limit)
        self._client = _address(stream.socket.getpeername())
        self._server = _address(stream.socket.getsockname())
        self._closing = False
        self._idle: trio.CancelScope | None = None
        """Not None while waiting for a request."""
        self.idle_since = trio.current_time()
        self._head: h11.Response | None = None
        self._method = b"GET"
        self._started = self._request_read = self._gone = self._reset = False
        self._ahead = 0

    @property
    def idle(self) -> bool:
        """Waiting for a request, and not told to close yet."""
        return self._idle is not None and not self._closing

    def close_when_idle(self) -> None:
        """End now if waiting for a request, else after the response under way."""
        self._closing = True
        if self._idle is not None:
            self._idle.cancel()

    async def run(self) -> None:
        """Serve requests until the connection ends. Raises nothing but `trio.Cancelled`."""
        try:
            await self._serve()
            await self._linger()
        except (ClientGoneError, *BROKEN):
            pass
        finally:
            self._close()

    async def _serve(self) -> None:
        try:
            while (request := await self._next_request()) is not None:
                if request.method == b"CONNECT":  # its 200 would make a tunnel (RFC 9110 9.3.6)
                    await self._refuse(501, "this is no proxy")
                    break
                await self._answer(request)
                if not await self._recycle():
                    break
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)

    async def _next_request(self) -> h11.Request | None:
        """The next request's head, or None when the connection has done its duty."""
        waiting = not self._wire.trailing_data[0]
        patience = self._limits.idle_timeout if waiting else self._limits.header_timeout
        self.idle_since = trio.current_time()
        scope = self._idle = trio.CancelScope(deadline=self.idle_since + patience)
        with scope:
            while not self._closing:
                event = self._wire.next_event()
                if isinstance(event, h11.Request):
                    self._idle = None
                    return event
                if event is not h11.NEED_DATA:  # ConnectionClosed
                    break
                self._wire.receive_data(await self._stream.receive_some(RECEIVE_SIZE))
                if waiting:
                    waiting = False
                    scope.deadline = trio.current_time() + self._limits.header_timeout
        return None

    async def _answer(self, request: h11.Request) -> None:
        """Run the application for one request. This is the wall: nothing that it raises goes further."""
        self._method = request.method
        self._started = self._request_read = False
        self._ahead = 0
        try:
            await self._app(self._scope(request), self._receive, self._send)
        except* ClientGoneError:
            pass
        except* Exception as faults:  # the containment wall: an application's fault costs one connection
            log.exception("request failed", target=request.target.decode("ascii"), exc_info=faults)
        if not self._started and not self._gone:
            self._head = None
            await self._refuse(500, "internal error")

    def _scope(self, request: h11.Request) -> Scope:
        target = request.target
        if not target.startswith(b"/"):  # absolute-form, RFC 9112 3.2.2; `*` and others stay as they are
            _, scheme, rest = target.partition(b"://")
            target = b"/" + rest.partition(b"/")[2] if scheme else target
        raw_path, _, query = target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii"),
            "scheme": "http",
            "path": unquote(raw_path.decode("ascii")),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers),
            "client": self._client,
            "server": self._server,
            "state": {},
        }

    async def _receive(self) -> Message:
        """ASGI `receive`: the request's body, then `http.disconnect` as soon as the client has gone."""
        while not self._gone:
            if self._request_read:
                await self._watch()
                continue
            if self._wire.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._transmit([self._wire.send(go_on) or b""])
            try:
                event = self._wire.next_event()
            except h11.RemoteProtocolError:
                break
            if isinstance(event, h11.Data):
                return {"type": "http.request", "body": bytes(event.data), "more_body": True}
            if isinstance(event, h11.EndOfMessage):
                self._request_read = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if event is not h11.NEED_DATA:
                break
            await self._read_body()
        self._gone = True
        return {"type": "http.disconnect"}

    async def _read_body(self) -> None:
        data = b""
        with trio.move_on_after(self._limits.header_timeout), suppress(*BROKEN):
            data = bytes(await self._stream.receive_some(RECEIVE_SIZE))
        if not data:
            self._gone = True
        self._wire.receive_data(data)

    async def _watch(self) -> None:
        """Wait until the client goes away. What it sends ahead (pipelining) is kept, up to a limit."""
        if self._ahead >= self._limits.header_limit:
            await trio.sleep_forever()
        try:
            data = await self._stream.receive_some(RECEIVE_SIZE)
        except BROKEN:
            data = b""
        if not data:
            self._gone = True
            return
        self._ahead += len(data)
        self._wire.receive_data(data)

    async def _send(self, message: Message) -> None:
        """ASGI `send`. Raises `ClientGoneError` when the client has gone, or is too slow to be waited for."""
        if self._gone:
            raise ClientGoneError("the client has gone")
        if message["type"] == "http.response.start":
            # Held until the first byte of the body: both leave in one packet.
            self._head = h11.Response(
                status_code=message["status"],
                reason=REASONS.get(message["status"], b""),
                headers=self._complete(message["headers"]),
            )
            return
        parts: list[Any] = []
        if self._head is not None:
            parts += self._wire.send_with_data_passthrough(self._head) or ()
            self._head, self._started = None, True
        body = message.get("body", b"")
        if body and self._method != b"HEAD":
            parts += self._wire.send_with_data_passthrough(h11.Data(data=body)) or ()
        if not message.get("more_body", False):
            parts += self._wire.send_with_data_passthrough(h11.EndOfMessage()) or ()
        await self._transmit(parts)

    def _complete(self, headers: Headers) -> Headers:
        names = {name.lower() for name, _ in headers}
        if b"content-length" not in names and self._wire.their_http_version != b"1.1":
            # The end of the connection will be that of the body: if it comes too early, it must look broken.
            self._reset = True
        extra = [] if b"date" in names else [(b"date", self._date())]
        if self._closing:
            extra.append((b"connection", b"close"))
        return [*headers, *extra]

    async def _transmit(self, parts: list[Any]) -> None:
        size = sum(map(len, parts))
        if not size:
            return
        if size <= SEND_UNIT:
            parts = [b"".join(parts)]
        try:
            with trio.fail_after(self._limits.send_timeout * (1 + size // SEND_UNIT)):
                for part in parts:
                    await self._stream.send_all(part)
        except trio.TooSlowError:
            self._gone = self._reset = True
            raise ClientGoneError("the client takes nothing") from None
        except BROKEN:
            self._gone = True
            raise ClientGoneError("the client has gone") from None

    async def _recycle(self) -> bool:
        """Make ready for the next request; False when this was the last."""
        if self._gone or self._wire.our_state not in FINISHED:
            return False
        self._reset = False
        drained = 0
        while self._wire.their_state is h11.SEND_BODY and drained < DRAIN_LIMIT:
            event = self._wire.next_event()
            if isinstance(event, h11.Data):
                drained += len(event.data)
            elif event is h11.NEED_DATA:
                await self._read_body()
        if self._wire.our_state is not h11.DONE or self._wire.their_state is not h11.DONE:
            return False
        self._wire.start_next_cycle()
        return True

    async def _refuse(self, status: int, text: str = "bad request") -> None:
        """Answer what no application answered, and end the connection."""
        if self._wire.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        body = f"{text}\n".encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        self._closing = True
        with suppress(ClientGoneError):
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self._send({"type": "http.response.body", "body": body})

    async def _linger(self) -> None:
        """Let a client that is still sending read our answer: closing over unread bytes would reset it."""
        finished = self._wire.our_state in FINISHED and not self._gone
        if not finished or self._wire.their_state not in {h11.SEND_BODY, h11.ERROR}:
            return
        await self._stream.send_eof()
        left = DRAIN_LIMIT
        with trio.move_on_after(self._limits.grace):
            while left > 0 and (data := await self._stream.receive_some(RECEIVE_SIZE)):
                left -= len(data)

    def _close(self) -> None:
        if self._reset and self._wire.our_state not in FINISHED:
            with suppress(OSError):
                self._stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, RESET)
        self._stream.socket.close()


def _address(name: Any) -> tuple[str, int | None] | None:
    """ASGI's form of a socket's name: IP and port, or the path of a Unix socket."""
    if isinstance(name, tuple):
        return name[0], name[1]
    return (name, None) if isinstance(name, str) and name else None
