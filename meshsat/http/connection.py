"""One client's connection: HTTP/1.1 on the wire side, ASGI on the application's.

Laws: one request at a time, in order; the body a client does not take is not made (`send` waits);
a response that its application did not finish is cut, so that no client takes it for a whole one;
whatever an application raises ends here; every wait has a deadline (`HttpSection`) and can be cancelled.
A small request costs one wait, one read and one write: no task, no scope, no checkpoint beside those.
Not here: HTTP/2, upgrades, trailers, compression. The parser is request.py, the framing response.py.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

import structlog
import trio

from meshsat.config import HttpSection
from meshsat.http import files
from meshsat.http.asgi import PEER, App, Message, Scope
from meshsat.http.pace import Pace, TooSlowError
from meshsat.http.request import END_OF_HEADER, BadRequestError, Request, parse_header_untrusted
from meshsat.http.response import CONTINUE, Response, ResponseFault
from meshsat.http.seats import Seats
from meshsat.http.wire import ClientGoneError, PlainWire, Wire

RECEIVE_SIZE = 64 * 1024
BODY_SIZE = 256 * 1024
"""Bytes of a body taken at once: it waits in the kernel's memory until the application asks."""
JOINED = 64 * 1024
"""Bytes up to which the parts of a response leave joined, and a file is read and not sent by the kernel."""
BREATH = 1024 * 1024
"""Bytes after which a response that never had to wait lets other tasks run."""
DRAIN_LIMIT = 256 * 1024
"""Bytes of an unread request body thrown away so that the connection can be used again."""
LINGER_LIMIT = 1024 * 1024
"""The same of what comes behind the last answer."""
ZERO_COPY = "http.response.zerocopysend"
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_EXTENSIONS: dict[str, dict[str, object]] = {ZERO_COPY: {}}

log = structlog.get_logger(__name__)

Address = tuple[str, int | None] | None


@dataclass(frozen=True, slots=True)
class Service:
    """What all connections of a server share. `date` gives the value of the Date field."""

    app: App
    limits: HttpSection
    seats: Seats
    date: Callable[[], bytes]


class Connection:
    """`client` and `server`: ASGI's names of the two ends; `peer`: the process at the other end, where the
    system tells it. The caller has taken a seat for it."""

    def __init__(
        self,
        service: Service,
        wire: Wire,
        client: Address,
        server: Address,
        peer: dict[str, object] | None = None,
    ) -> None:
        self._app = service.app
        self._limits = service.limits
        self._seats = service.seats
        self._date = service.date
        self._wire = wire
        self._client = client
        self._server = server
        self._extensions = _EXTENSIONS if peer is None else {**_EXTENSIONS, PEER: peer}
        self._scope = trio.CancelScope()
        """Ends everything: when waiting for a request takes too long, or somebody else needs the seat."""
        self._ahead = b""
        """What was received and not read yet."""
        self._request: Request | None = None
        self._response = Response("GET", "1.1", close=True)
        self._unread = 0
        """Bytes of the request's body that are still to come; of a chunked one, 1 until it has ended."""
        self._incoming = self._outgoing = Pace(math.inf)
        self._told_end = False
        """The application knows that the body has ended."""
        self._unrested = 0
        """Bytes sent since other tasks could run."""
        self._closing = self._gone = self._reset = False

    def leave(self) -> None:
        """Nothing is under way here, and somebody else needs the seat."""
        self._scope.cancel()

    def close_when_idle(self) -> None:
        """End after the response under way."""
        self._closing = True

    async def run(self) -> None:
        """Serve requests until the connection ends. Raises nothing but `trio.Cancelled`."""
        try:
            with self._scope:
                now = trio.current_time()
                self._seats.beginning(self, now)
                self._scope.deadline = now + self._limits.header_timeout
                if await self._wire.handshake():
                    await self._serve()
        except ClientGoneError:
            pass
        finally:
            self.close()

    async def _serve(self) -> None:
        try:
            while (request := await self._next_request()) is not None:
                await self._answer(request)
                if not await self._recycle():
                    break
        except BadRequestError as error:
            await self._refuse(error.status, error.text)
            await self._linger()

    # --- a request's header ---

    async def _next_request(self) -> Request | None:
        """The next request, or None when the connection has done its duty. Raises `BadRequestError`."""
        if self._closing:
            return None
        data, self._ahead = self._ahead, b""
        if data:
            await trio.lowlevel.checkpoint()
        else:
            self._scope.deadline = trio.current_time() + self._limits.idle_timeout
            if self._request is not None:  # what comes after an answer is never there yet
                self._seats.idle(self)
                await self._wire.readable()
            while (received := self._wire.receive(RECEIVE_SIZE)) is None:
                await self._wire.readable()
            if not received:
                return None
            data = received
        header = await self._whole_header(data)
        if header is None:
            return None
        self._seats.busy(self)
        self._scope.deadline = math.inf
        self._request = request = parse_header_untrusted(header)
        return request

    async def _whole_header(self, data: bytes) -> bytes | None:
        """`data` and what else belongs to the header; what follows it is kept. None when the client has gone.
        Raises `BadRequestError`."""
        data = data.lstrip(b"\r\n")  # before a request they mean nothing (RFC 9112 2.2)
        end = data.find(END_OF_HEADER)
        if end < 0:
            gathered = bytearray(data)
            now = trio.current_time()
            self._seats.beginning(self, now)
            self._scope.deadline = now + self._limits.header_timeout
            while end < 0:
                if gathered and not gathered[:1].isalpha():  # TLS, most likely: no need to wait for its end
                    raise BadRequestError(400, "this is no HTTP request")
                if len(gathered) >= self._limits.header_limit:
                    raise BadRequestError(431, "the header is too long")
                await self._wire.readable()
                received = self._wire.receive(RECEIVE_SIZE)
                if received == b"":
                    return None
                searched = max(0, len(gathered) - len(END_OF_HEADER))
                gathered += received or b""
                if not searched:
                    gathered = gathered.lstrip(b"\r\n")
                end = gathered.find(END_OF_HEADER, searched)
            data = bytes(gathered)
        end += len(END_OF_HEADER)
        if end > self._limits.header_limit:
            raise BadRequestError(431, "the header is too long")
        self._ahead = data[end:]
        return data[:end]

    # --- the application's side ---

    async def _answer(self, request: Request) -> None:
        """Run the application for one request. This is the wall: nothing that it raises goes further."""
        self._unread = 1 if request.body is not None else request.length
        self._told_end = False
        self._incoming = Pace(self._limits.send_timeout)
        self._outgoing = Pace(self._limits.send_timeout)
        self._response = Response(request.method, request.version, close=request.close or self._closing)
        try:
            await self._app(self._asgi_scope(request), self._receive, self._send)
        except* ClientGoneError:
            pass
        except* Exception as faults:  # the containment wall: an application's fault costs one connection
            log.exception("request failed", target=request.target.decode("ascii"), exc_info=faults)
        if not self._response.started and not self._gone:
            await self._refuse(500, "internal error")

    def _asgi_scope(self, request: Request) -> Scope:
        target = request.target
        if not target.startswith(b"/"):  # absolute-form, RFC 9112 3.2.2; `*` and others stay as they are
            _, scheme, rest = target.partition(b"://")
            target = b"/" + rest.partition(b"/")[2] if scheme else target
        raw_path, _, query = target.partition(b"?")
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": request.version,
            "method": request.method,
            "scheme": self._wire.scheme,
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": request.headers,
            "client": self._client,
            "server": self._server,
            "state": {},
            "extensions": self._extensions,
        }

    async def _receive(self) -> Message:
        """ASGI `receive`: the request's body, then `http.disconnect` as soon as the client has gone."""
        while not (self._gone or self._response.complete):
            if self._told_end:
                await self._watch()
                continue
            body = await self._read_body() if self._unread else b""
            if body or not (self._unread or self._gone):
                self._told_end = not self._unread
                return {"type": "http.request", "body": body, "more_body": not self._told_end}
        return {"type": "http.disconnect"}

    async def _read_body(self) -> bytes:
        """Some of the request's body. None of it: chunked coding brought none, or the client has gone."""
        request = self._request
        if request is None:
            return b""
        if request.expects and not self._ahead:
            await self._transmit([CONTINUE])
        request.expects = False
        data, self._ahead = self._ahead, b""
        if not data:
            data = await self._arrival(BODY_SIZE if request.body else min(self._unread, BODY_SIZE))
        if request.body is None:
            body, self._ahead = data[: self._unread], data[self._unread :]
            self._unread -= len(body)
            return body
        try:
            body = request.body.feed_untrusted(data)
        except BadRequestError:
            self._gone = True
            return b""
        if request.body.done:
            self._unread = 0
            self._response.close = self._response.close or request.body.overrun
        return body

    async def _arrival(self, limit: int) -> bytes:
        """What comes of a body; nothing from a client that has gone, or sends too slowly to be waited for."""
        data = self._wire.receive(limit)
        if data:
            await trio.lowlevel.checkpoint()
        try:
            while data is None:
                await self._incoming.wait(self._wire.readable, at_most=self._limits.header_timeout)
                data = self._wire.receive(limit)
        except TooSlowError:
            pass
        if not data:
            self._gone = True
            return b""
        self._incoming.moved(len(data))
        return data

    async def _watch(self) -> None:
        """Wait until the client goes away. What it sends ahead (pipelining) is kept, up to a limit."""
        if len(self._ahead) >= self._limits.header_limit:
            await trio.sleep_forever()
        await self._wire.readable()
        data = self._wire.receive(RECEIVE_SIZE)
        self._gone = data == b""
        self._ahead += data or b""

    async def _send(self, message: Message) -> None:
        """ASGI `send`. Raises `ClientGoneError` when the client has gone, or is too slow to be waited for."""
        if self._gone:
            raise ClientGoneError("the client has gone")
        response = self._response
        if message["type"] == "http.response.start":
            # Who was not told to go on may send its body or not: what comes next can't be told apart.
            unsure = self._request is not None and self._request.expects
            response.close = response.close or self._closing or unsure or self._unread > DRAIN_LIMIT
            response.begin(message["status"], message.get("headers", ()))
            return
        more = message.get("more_body", False)
        if message["type"] == ZERO_COPY:
            await self._send_file(message, more=more)
        else:
            await self._transmit(response.part(message.get("body", b""), self._date(), more=more))

    async def _transmit(self, parts: list[bytes]) -> None:
        """Whatever ends it halfway ends the connection: what was begun can't be taken back."""
        if sum(map(len, parts)) <= JOINED:
            parts = [b"".join(parts)]
        whole = False
        try:
            for part in parts:
                await self._push(part, self._wire.send(part))
            whole = True
        except TooSlowError:
            self._reset = True
            raise ClientGoneError("the client takes too little") from None
        finally:
            self._gone = self._gone or not whole

    async def _push(self, part: bytes, sent: int) -> None:
        """The rest of a part, as the client takes it."""
        if sent == len(part):
            await self._rest(sent)
            return
        rest = memoryview(part)[sent:]
        while rest:
            await self._outgoing.wait(self._wire.writable, queued=self._wire.queued)
            taken = self._wire.send(rest)
            self._outgoing.moved(taken)
            rest = rest[taken:]
        self._unrested = 0

    async def _send_file(self, message: Message, *, more: bool) -> None:
        """A part of the body that stands in a file (ASGI, extension "Zero Copy Send")."""
        source: int = message["file"] if isinstance(message["file"], int) else message["file"].fileno()
        offset: int | None = message.get("offset")
        count: int | None = message.get("count")
        if offset is None:
            offset = os.lseek(source, 0, os.SEEK_CUR)
        if count is None:
            count = max(0, os.fstat(source).st_size - offset)
        before, after = self._response.frame(count, self._date(), more=more)
        if not self._response.has_body:
            count = 0
        whole = False
        try:
            if before and count > JOINED:
                await self._push(before, self._wire.send_before_more(before))
                before = b""
            while count > JOINED:
                taken = await self._send_stretch(source, offset, count)
                offset, count = offset + taken, count - taken
            data = await files.read(source, offset, count) if count else b""
            if len(data) < count:
                raise ResponseFault("a file is shorter than was told")
            await self._transmit([before, data, after])
            whole = True
        except TooSlowError:
            self._reset = True
            raise ClientGoneError("the client takes too little") from None
        finally:
            self._gone = self._gone or not whole

    async def _send_stretch(self, source: int, offset: int, count: int) -> int:
        """How many bytes of the file were taken: a stretch of it, or what the connection takes now."""
        step = min(count, files.STRETCH)
        if isinstance(self._wire, PlainWire):
            taken = await files.send(self._wire, source, offset, step)
        else:
            data = await files.read(source, offset, step)
            await self._push(data, self._wire.send(data) if data else 0)
            taken = len(data)
        if taken == 0:
            raise ResponseFault("a file is shorter than was told")
        taken = taken or 0
        if taken < step:
            await self._outgoing.wait(self._wire.writable, queued=self._wire.queued)
            self._unrested = 0
        self._outgoing.moved(taken)
        await self._rest(taken)
        return taken

    async def _rest(self, sent: int) -> None:
        """Let others run, now and then, when the client takes all at once."""
        self._unrested += sent
        if self._unrested >= BREATH:
            self._unrested = 0
            await trio.lowlevel.checkpoint()

    # --- the end of a request, and of the connection ---

    async def _recycle(self) -> bool:
        """Make ready for the next request; False when this was the last."""
        request, response = self._request, self._response
        if self._gone or not response.complete or request is None:
            return False
        if self._unread and not response.close:
            self._scope.deadline = trio.current_time() + self._limits.header_timeout
            left = DRAIN_LIMIT
            while self._unread and left > 0 and not self._gone:
                left -= len(await self._read_body())
        if self._unread and not self._gone:
            await self._linger()
        return not (self._gone or self._unread or response.close)

    async def _refuse(self, status: int, text: str) -> None:
        """Answer what no application answered, and end the connection."""
        self._response = Response("GET", "1.1", close=True)
        body = f"{text}\n".encode()
        self._response.begin(status, [(b"content-type", b"text/plain")])
        await self._transmit(self._response.part(body, self._date(), more=False))

    async def _linger(self) -> None:
        """Let a client that is still sending read our answer: closing over unread bytes would reset it."""
        self._scope.deadline = trio.current_time() + self._limits.grace
        self._wire.end_sending()
        self._seats.idle(self)
        left = LINGER_LIMIT
        while left > 0:
            await self._wire.readable()
            thrown_away = self._wire.discard(RECEIVE_SIZE)
            if thrown_away == 0:
                return
            left -= thrown_away or 0
        await trio.sleep_forever()  # until the deadline: what it sends now stays in the kernel

    def close(self) -> None:
        """The last thing done; a response that is under way is cut."""
        cut = self._gone or (self._response.started and not self._response.complete)
        if not cut:
            self._wire.tell_end()
        self._wire.close(reset=self._reset or (cut and self._response.ends_with_connection))
