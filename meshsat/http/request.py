"""A request as a client wrote it: the bytes of its header in, a value out. llhttp (httptools) is the parser.

Laws: pure. Whoever could read the message's end elsewhere than we do is refused, not understood: two lengths,
a length beside a transfer coding, folded lines, bare line feeds, control characters. llhttp has no limits of
its own: a header comes here whole, and its length was checked before; what chunks bring beside their content
is counted here. Upgrades are not offered, so that a request for one is a plain request (RFC 9110 7.8).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import httptools

from meshsat.errors import InvalidInputError

END_OF_HEADER = b"\r\n\r\n"
CHUNK_OVERHEAD = 32 * 1024
"""Bytes that chunks may bring without one of content: extensions and trailers, which nobody reads."""
_VERSIONS = {b" HTTP/1.1": "1.1", b" HTTP/1.0": "1.0"}
_SPECIAL = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})


class BadRequestError(InvalidInputError):
    """What is no request that can be answered: the status and the text of the refusal."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Parser(Protocol):
    """What is used of `httptools.HttpRequestParser`."""

    def feed_data(self, data: bytes) -> None: ...

    def get_method(self) -> bytes: ...


@dataclass(slots=True)
class Request:
    method: str
    target: bytes
    version: str
    """"1.0" or "1.1"."""
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    length: int = 0
    """Bytes of the body; 0 also where that is chunked."""
    body: "ChunkedBody | None" = None
    """The reader of a chunked body."""
    close: bool = False
    """The client wants no further request on this connection."""
    expects: bool = False
    """It waits for 100 (Continue) before it sends the body."""


class _Events:
    """What llhttp calls while it reads. It must not know the parser: the cycle would keep both in memory."""

    __slots__ = ("content", "done", "headers", "on_body", "overrun", "special", "target", "whole")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.special: dict[bytes, list[bytes]] = {}
        self.whole = self.done = self.overrun = False
        self.content: list[bytes] = []
        self.on_body: Callable[[bytes], None] = self.content.append

    def on_message_begin(self) -> None:
        self.overrun = self.done

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.whole:  # a trailer
            return
        name, value = name.lower(), value.rstrip()
        self.headers.append((name, value))
        if name in _SPECIAL:
            self.special.setdefault(name, []).append(value)

    def on_headers_complete(self) -> None:
        self.whole = True

    def on_message_complete(self) -> None:
        self.done = True


def parse_header_untrusted(raw: bytes) -> Request:
    """`raw`: everything up to the first empty line and with it. Raises `BadRequestError`."""
    line = raw[: raw.find(b"\r\n")]
    version = _VERSIONS.get(line[-9:])
    if version is None:
        status = 505 if line[-9:-3] == b" HTTP/" else 400
        raise BadRequestError(status, "the request line must be METHOD TARGET HTTP/1.1")
    if line.startswith(b"CONNECT "):  # its 200 would make a tunnel (RFC 9110 9.3.6)
        raise BadRequestError(501, "this is no proxy")
    if line.count(b" ") != 2:
        raise BadRequestError(400, "the request line must be METHOD TARGET HTTP/1.1")
    events, parser = _read(raw)
    if not events.whole:
        raise BadRequestError(400, "the header does not end where its empty line is")
    request = Request(parser.get_method().decode("ascii"), events.target, version, events.headers)
    _understand(request, events, parser)
    return request


def _read(raw: bytes) -> tuple[_Events, Parser]:
    events = _Events()
    parser: Parser = httptools.HttpRequestParser(events)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        # llhttp would take what follows for another protocol, and pass over the body. As the fields of a
        # header that it has read are one line each, leaving out the one leaves the others as they are.
        lines = raw.split(b"\r\n")
        return _read(b"\r\n".join(one for one in lines if one[:8].lower() != b"upgrade:"))
    except httptools.HttpParserInvalidMethodError:
        raise BadRequestError(501, "no such method") from None
    except httptools.HttpParserError as fault:
        raise BadRequestError(400, str(fault) or "malformed") from None
    return events, parser


def _understand(request: Request, events: _Events, parser: Parser) -> None:
    """The fields that say where the message ends, and how the connection goes on (RFC 9112 3.2, 6, 9.3)."""
    special = events.special
    hosts = len(special.get(b"host", ()))
    if hosts > 1 or (not hosts and request.version == "1.1"):
        raise BadRequestError(400, "a request has exactly one Host")
    request.close = request.version == "1.0"
    if len(special) == hosts:
        return
    for value in special.get(b"connection", ()):
        request.close = request.close or b"close" in [token.strip() for token in value.lower().split(b",")]
    if b"transfer-encoding" in special:
        if request.version == "1.0":
            raise BadRequestError(400, "HTTP/1.0 has no Transfer-Encoding")
        if special[b"transfer-encoding"] != [b"chunked"] and (
            [value.lower() for value in special[b"transfer-encoding"]] != [b"chunked"]
        ):
            raise BadRequestError(501, "the only transfer coding known is chunked")
        request.body = ChunkedBody(events, parser)
    elif b"content-length" in special:
        (value,) = special[b"content-length"]  # llhttp lets no second one, nor anything but digits through
        request.length = int(value)
    has_body = request.body is not None or request.length
    expected = b",".join(special.get(b"expect", ())).lower()
    request.expects = bool(has_body and b"100-continue" in expected and request.version == "1.1")


class ChunkedBody:
    """Takes the bytes that follow a header, gives those of the body."""

    def __init__(self, events: _Events, parser: Parser) -> None:
        self._events = events
        self._parser = parser
        self._overhead = 0
        self.done = False
        self.overrun = False
        """More came than this body, and was read with it: the connection can't be used again."""

    def feed_untrusted(self, data: bytes) -> bytes:
        """Raises `BadRequestError`."""
        events = self._events
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as fault:
            if not events.done:
                raise BadRequestError(400, str(fault) or "malformed chunk") from None
            events.overrun = True
        self.done, self.overrun = events.done, events.overrun
        content = b"".join(events.content) if len(events.content) != 1 else events.content[0]
        events.content.clear()
        self._overhead = 0 if content else self._overhead + len(data)
        if self._overhead > CHUNK_OVERHEAD:
            raise BadRequestError(400, "chunks without content")
        return content
