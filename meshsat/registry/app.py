"""The embedded registry: the read side of the OCI distribution specification, as an ASGI application.

Laws: read-only. Nothing is looked up for a request that is not well formed. A client hears soon whether it
gets something; a response once begun ends whole or visibly cut, never short. A client that goes away takes
its interest with it. Bytes are handed on as they come, and no faster than the client takes them.
Accept is not negotiated: the stored type is served (docs/reference/http.md says why).
Where content comes from is not known here (`content.Content`).
"""

import json
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar
from urllib.parse import quote

import structlog
import trio

from meshsat.config import RegistrySection
from meshsat.errors import DeniedError, MeshsatError, NotFoundError, UnavailableError
from meshsat.http.asgi import App, Headers, Receive, Scope, Send, cancelled_by_disconnect, respond
from meshsat.http.ranges import (
    RangeNotSatisfiableError,
    Span,
    none_match_untrusted,
    parse_range_untrusted,
)
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.registry.content import BlobReader, Content, Served
from meshsat.registry.errors import Code, RefusedError
from meshsat.registry.routes import (
    BlobRoute,
    ManifestRoute,
    PingRoute,
    TagsRoute,
    Target,
    UploadRoute,
    parse_route_untrusted,
)

READ_METHODS = frozenset({"GET", "HEAD"})
MARGIN = 1.0
"""Seconds that the content may be late behind its own time limit."""
VERSION = (b"docker-distribution-api-version", b"registry/2.0")
FOR_EVER = (b"cache-control", b"public, max-age=31536000, immutable")
"""For what is named by its digest."""
REVALIDATE = (b"cache-control", b"no-cache")
"""For what is named by a tag."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


def create_registry(
    content: Content,
    metrics: Metrics,
    section: RegistrySection | None = None,
    *,
    now: Callable[[], float] = time.time,
) -> App:
    """The application. `now` gives Unix seconds, for the age of tags."""
    return _Registry(content, metrics, section or RegistrySection(), now)


class _Registry:
    def __init__(
        self, content: Content, metrics: Metrics, section: RegistrySection, now: Callable[[], float]
    ) -> None:
        self._content = content
        self._metrics = metrics
        self._patience = section.resolve_timeout + MARGIN
        self._stall_timeout = section.stall_timeout
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _Request(scope, receive, send)
        try:
            await self._serve(request)
        except RefusedError as refused:
            await request.refuse(refused)
        finally:
            self._metrics.registry_requests.labels(request.kind, request.status).inc()

    async def _serve(self, request: "_Request") -> None:
        route = parse_route_untrusted(request.path, request.query)
        if request.method not in READ_METHODS or isinstance(route, UploadRoute):
            raise RefusedError(
                405, Code.UNSUPPORTED, "this registry is read-only: push to the upstream registry"
            )
        match route:
            case PingRoute():
                request.kind = "ping"
                await request.answer(200, [(b"content-type", b"application/json")], b"{}")
            case ManifestRoute():
                request.kind = "manifest"
                await self._manifest(request, route)
            case BlobRoute():
                request.kind = "blob"
                await self._blob(request, route)
            case TagsRoute():
                request.kind = "tags"
                await self._tags(request, route)

    async def _manifest(self, request: "_Request", route: ManifestRoute) -> None:
        unknown = RefusedError(
            404, Code.MANIFEST_UNKNOWN, f"no {route.reference} of {route.target.path} here"
        )
        served = await self._ask(self._content.manifest(route.target.name, route.reference), unknown)
        headers = [*_identity(served.digest, route.target), *self._freshness(route, served)]
        if not none_match_untrusted(request.fields(b"if-none-match"), _etag(served.digest)):
            await request.answer(304, headers)
            return
        headers.append((b"content-type", served.media_type.encode("ascii")))
        await request.answer(200, headers, served.raw)

    def _freshness(self, route: ManifestRoute, served: Served) -> Headers:
        """How long to believe it and, for a tag, how long ago an upstream said so (RFC 9111 5.1, 5.5)."""
        if isinstance(route.reference, Digest):
            return [FOR_EVER]
        headers = [REVALIDATE]
        if served.resolved_at is not None:
            age = max(0, int(self._now() - served.resolved_at))
            headers.append((b"age", str(age).encode()))
            if not served.fresh:
                warning = f'299 - "tag last confirmed by its registry {age} s ago; it cannot be asked now"'
                headers.append((b"warning", warning.encode()))
        return headers

    async def _blob(self, request: "_Request", route: BlobRoute) -> None:
        unknown = RefusedError(404, Code.BLOB_UNKNOWN, f"no blob {route.digest} of {route.target.path} here")
        reader = await self._ask(self._content.open_blob(route.target.name, route.digest), unknown)
        etag = _etag(route.digest)
        headers = [*_identity(route.digest, route.target), FOR_EVER, (b"accept-ranges", b"bytes")]
        if not none_match_untrusted(request.fields(b"if-none-match"), etag):
            await request.answer(304, headers)
            return
        headers.append((b"content-type", b"application/octet-stream"))
        if request.method == "HEAD":  # Range is for GET alone (RFC 9110 14.2); nothing is transferred
            await request.answer(200, [*headers, (b"content-length", b"%d" % reader.size)])
            return
        try:
            part = parse_range_untrusted(
                request.fields(b"range"), request.fields(b"if-range"), etag, reader.size
            )
        except RangeNotSatisfiableError as fault:
            refused = RefusedError(416, Code.RANGE_INVALID, str(fault))
            await request.refuse(refused, [(b"content-range", b"bytes */%d" % reader.size)])
            return
        status = 200
        if part is not None:
            status = 206
            headers.append((b"content-range", part.content_range))
        span = part or Span(0, reader.size, reader.size)
        headers.append((b"content-length", b"%d" % span.length))
        await self._stream(request, route, reader, span, (status, headers))

    async def _stream(
        self,
        request: "_Request",
        route: BlobRoute,
        reader: BlobReader,
        span: Span,
        head: tuple[int, Headers],
    ) -> None:
        """Send `span` as it comes. The head waits for the first bytes, so that a source that fails before
        those is a plain error, at which clients turn elsewhere. Later the response is left unfinished, and
        the server cuts the connection."""
        sent = 0
        failure: RefusedError | None = None
        async with cancelled_by_disconnect(request.receive):
            try:
                with trio.fail_after(self._stall_timeout) as stall:
                    async with reader, aclosing(reader.stream(span.start, span.stop)) as pieces:
                        async for piece in pieces:
                            if sent == 0:
                                await request.begin(*head)
                            stall.deadline = math.inf  # how long a client may take is the server's matter
                            await request.send_part(piece)
                            stall.deadline = trio.current_time() + self._stall_timeout
                            sent += len(piece)
                            self._metrics.registry_out.inc(len(piece))
            except (MeshsatError, trio.TooSlowError) as fault:
                reason = str(fault) or f"not a byte came in {self._stall_timeout:.0f} s"
                failure = _refusal(fault, RefusedError(404, Code.BLOB_UNKNOWN, reason))
                log.warning(
                    "blob cut short", blob=str(route.digest), sent=sent, of=span.length, reason=reason
                )
            if sent == span.length:
                if sent == 0:
                    await request.begin(*head)
                await request.end()
            elif sent == 0 and failure is not None:
                await request.refuse(failure)
        if 0 < sent < span.length:
            request.status = "cut"

    async def _tags(self, request: "_Request", route: TagsRoute) -> None:
        """The order is that of the characters' codes ("ASCIIbetical", distribution-spec, end-8)."""
        target = route.target
        unknown = RefusedError(404, Code.NAME_UNKNOWN, f"no repository {target.path} here")
        known = await self._ask(self._content.tags(target.name), unknown)
        names = sorted(tag for tag in known if route.last is None or tag > route.last)
        shown = names if route.n is None else names[: route.n]
        headers = [(b"content-type", b"application/json"), REVALIDATE, *_namespace(target)]
        if shown and len(shown) < len(names):
            ns = f"&ns={quote(target.namespace)}" if target.namespace else ""
            link = f'</v2/{target.path}/tags/list?n={route.n}&last={shown[-1]}{ns}>; rel="next"'
            headers.append((b"link", link.encode("ascii")))
        await request.answer(200, headers, json.dumps({"name": target.path, "tags": shown}).encode())

    async def _ask(self, asked: Awaitable[T | None], unknown: RefusedError) -> T:
        """The content's answer, or the refusal to send: a miss is told soon, whatever the content does."""
        try:
            with trio.fail_after(self._patience):
                found = await asked
        except (MeshsatError, trio.TooSlowError) as fault:
            raise _refusal(fault, unknown) from None
        if found is None:
            raise unknown
        return found


class _Request:
    """One request and what was answered to it, for the metrics."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: bytes = scope["raw_path"]
        self.query: bytes = scope["query_string"]
        self._headers: Headers = scope["headers"]
        self.receive = receive
        self._send = send
        self.kind = "other"
        self.status = "none"
        """What the metrics count: the status of the answer, or that a blob was cut."""

    def fields(self, name: bytes) -> list[bytes]:
        """The values of all header lines of that name."""
        return [value for key, value in self._headers if key == name]

    async def answer(self, status: int, headers: Headers, body: bytes | None = None) -> None:
        self.status = str(status)
        length = [] if body is None else [(b"content-length", b"%d" % len(body))]
        await respond(self._send, status, [VERSION, *headers, *length], body or b"")

    async def refuse(self, refused: RefusedError, headers: Headers | None = None) -> None:
        extra = [(b"content-type", b"application/json"), *(headers or [])]
        if refused.status == 405:
            extra.append((b"allow", b"GET, HEAD"))
        elif refused.status == 503:
            extra.append((b"retry-after", b"5"))
        await self.answer(refused.status, extra, refused.body())

    async def begin(self, status: int, headers: Headers) -> None:
        self.status = str(status)
        await self._send({"type": "http.response.start", "status": status, "headers": [VERSION, *headers]})

    async def send_part(self, part: bytes) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


def _refusal(fault: Exception, unknown: RefusedError) -> RefusedError:
    """What a client is told about `fault`. A miss is a 404, at which every client tries elsewhere at once."""
    match fault:
        case DeniedError():
            return RefusedError(403, Code.DENIED, str(fault))
        case NotFoundError() | trio.TooSlowError():
            return unknown
        case UnavailableError():
            return RefusedError(503, Code.UNAVAILABLE, str(fault))
    return RefusedError(500, Code.UNAVAILABLE, str(fault))


def _etag(digest: Digest) -> bytes:
    return f'"{digest}"'.encode("ascii")


def _identity(digest: Digest, target: Target) -> Headers:
    return [
        (b"docker-content-digest", str(digest).encode("ascii")),
        (b"etag", _etag(digest)),
        *_namespace(target),
    ]


def _namespace(target: Target) -> Headers:
    return [] if target.namespace is None else [(b"oci-namespace", target.namespace.encode("ascii"))]
