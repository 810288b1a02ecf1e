"""One request to the registry, and what was answered to it."""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from meshsat.errors import (
    BusyError,
    DeniedError,
    DigestMismatchError,
    InvalidInputError,
    NotFoundError,
    StorageFullError,
    TooLongError,
    UnavailableError,
)
from meshsat.http.asgi import Headers, Receive, Scope, Send, respond
from meshsat.http.ranges import Span
from meshsat.registry.content import MissingContentError
from meshsat.registry.errors import Code, RefusedError
from meshsat.registry.routes import Target
from meshsat.registry.whole_files import ZERO_COPY, send_whole_file

VERSION = (b"docker-distribution-api-version", b"registry/2.0")
_CONTENT_RANGE = re.compile(rb"(?:bytes[ =])?([0-9]{1,19})-([0-9]{1,19})(?:/[0-9*]{1,19})?")


class ClientLeftError(Exception):
    """The client went away in the middle of its request: nobody is left to answer."""


@dataclass(frozen=True, slots=True)
class Part:
    """What the header of a push says about its body (distribution-spec, "Pushing a blob in chunks")."""

    start: int | None
    """The offset of its first byte, if it says so."""


class Request:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: bytes = scope["raw_path"]
        self.query: bytes = scope["query_string"]
        self._headers: Headers = scope["headers"]
        self.receive = receive
        self._send = send
        self._zero_copy = ZERO_COPY in scope.get("extensions", ())
        self.kind = "other"
        self.status = "none"
        """What the metrics count: the status of the answer, or that a blob was cut."""

    def fields(self, name: bytes) -> list[bytes]:
        """The values of all header lines of that name."""
        return [value for key, value in self._headers if key == name]

    def part_untrusted(self) -> Part:
        """Raises `RefusedError` for a Content-Range that makes no sense."""
        ranges = self.fields(b"content-range")
        if not ranges:
            return Part(None)
        match = _CONTENT_RANGE.fullmatch(ranges[0])
        if match is None or len(ranges) > 1:
            raise RefusedError(400, Code.BLOB_UPLOAD_INVALID, "Content-Range: must be FIRST-LAST")
        first, last = int(match[1]), int(match[2])
        if last < first:
            raise RefusedError(416, Code.BLOB_UPLOAD_INVALID, "Content-Range: LAST lies before FIRST")
        if self.length is not None and self.length != last - first + 1:
            raise RefusedError(400, Code.SIZE_INVALID, "Content-Range does not fit Content-Length")
        return Part(first)

    async def body(self) -> AsyncIterator[bytes]:
        """The request's body as it comes. Raises `ClientLeftError`."""
        more = True
        while more:
            message = await self.receive()
            if message["type"] != "http.request":
                raise ClientLeftError
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    @property
    def length(self) -> int | None:
        """Bytes of the body, if its header says so."""
        lengths = self.fields(b"content-length")
        return int(lengths[0]) if lengths else None

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises `RefusedError` as soon as it is known to have more than `limit` bytes."""
        too_long = RefusedError(413, Code.SIZE_INVALID, f"a manifest may have {limit} bytes here")
        if (self.length or 0) > limit:
            raise too_long
        parts: list[bytes] = []
        length = 0
        async for part in self.body():
            parts.append(part)
            length += len(part)
            if length > limit:
                raise too_long
        return b"".join(parts)

    async def answer(self, status: int, headers: Headers, body: bytes | None = None) -> None:
        self.status = str(status)
        length = [] if body is None else [(b"content-length", b"%d" % len(body))]
        await respond(self._send, status, [VERSION, *headers, *length], body or b"")

    async def refuse(self, refused: RefusedError, headers: Headers | None = None) -> None:
        extra = [(b"content-type", b"application/json"), *refused.headers, *(headers or [])]
        if refused.status == 503:
            extra.append((b"retry-after", b"5"))
        await self.answer(refused.status, extra, refused.body())

    async def begin(self, status: int, headers: Headers) -> None:
        self.status = str(status)
        await self._send({"type": "http.response.start", "status": status, "headers": [VERSION, *headers]})

    async def send_whole_file(
        self, path: Path | None, span: Span, head: tuple[int, Headers], count: Callable[[int], None]
    ) -> bool:
        """Answer with a part of a file; False, and nothing sent, if that can't be done."""
        if path is None or not self._zero_copy:
            return False
        status, headers = head
        before, self.status = self.status, "cut"
        whole = await send_whole_file(self._send, path, span, (status, [VERSION, *headers]), count)
        self.status = str(status) if whole else before
        return whole

    async def send_part(self, part: bytes) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


def refusal(fault: Exception, unknown: RefusedError) -> RefusedError:
    """What a client is told about `fault`. A miss is a 404, at which every client tries elsewhere at once."""
    text = str(fault)
    match fault:
        case RefusedError():
            return fault
        case DeniedError():
            return RefusedError(403, Code.DENIED, text)
        case NotFoundError() | trio.TooSlowError():
            return unknown
        case UnavailableError():
            return RefusedError(503, Code.UNAVAILABLE, text)
        case BusyError():
            return RefusedError(429, Code.TOOMANYREQUESTS, text, [(b"retry-after", b"5")])
        case DigestMismatchError():
            return RefusedError(400, Code.DIGEST_INVALID, text)
        case MissingContentError():
            return RefusedError(400, Code.MANIFEST_BLOB_UNKNOWN, text)
        case TooLongError():
            return RefusedError(413, Code.SIZE_INVALID, text)
        case InvalidInputError():
            return RefusedError(400, Code.MANIFEST_INVALID, text)
        case StorageFullError():
            return RefusedError(507, Code.UNAVAILABLE, text)
    return RefusedError(500, Code.UNAVAILABLE, text)


def in_namespace(target: Target) -> Headers:
    """distribution-spec, "Registry Proxying"."""
    return [] if target.namespace is None else [(b"oci-namespace", target.namespace.encode("ascii"))]
