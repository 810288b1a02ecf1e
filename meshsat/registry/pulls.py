"""What clients read: manifests, blobs, tags, referrers and the catalog.

Laws: a client hears soon whether it gets something; a response once begun ends whole or visibly cut, never
short. A client that goes away takes its interest with it. Bytes are handed on as they come, and no faster
than the client takes them. Accept is not negotiated: the stored type is served (docs/reference/http.md says
why).
"""

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TypeVar
from urllib.parse import quote

import structlog
import trio

from meshsat.config import RegistrySection
from meshsat.errors import MeshsatError
from meshsat.http.asgi import Headers, cancelled_by_disconnect
from meshsat.http.ranges import (
    RangeNotSatisfiableError,
    Span,
    none_match_untrusted,
    parse_range_untrusted,
)
from meshsat.metrics import Metrics
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.media_types import OCI_INDEX
from meshsat.registry.content import BlobReader, Content, Served
from meshsat.registry.errors import Code, RefusedError
from meshsat.registry.request import Request, in_namespace, refusal
from meshsat.registry.routes import BlobRoute, CatalogRoute, ManifestRoute, ReferrersRoute, TagsRoute, Target

MARGIN = 1.0
"""Seconds that the content may be late behind its own time limit."""
PAGE_LIMIT = 10_000
"""Entries of a list that are given at once, whatever the client asks for."""
REFERRERS_PAGE = 256
"""Referrers given at once, if"""
REFERRERS_BYTES = 4 * 1024 * 1024 - 1024
"""they have not more bytes than clients take of an index."""
JSON = (b"content-type", b"application/json")
FOR_EVER = (b"cache-control", b"public, max-age=31536000, immutable")
"""For what is named by its digest."""
REVALIDATE = (b"cache-control", b"no-cache")
"""For what is named by a tag."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Pulls:
    """`now` gives Unix seconds, for the age of tags."""

    def __init__(
        self, content: Content, metrics: Metrics, section: RegistrySection, now: Callable[[], float]
    ) -> None:
        self._content = content
        self._metrics = metrics
        self._patience = section.resolve_timeout + MARGIN
        self._stall_timeout = section.stall_timeout
        self._now = now

    async def manifest(self, request: Request, route: ManifestRoute, *, unsigned: bool) -> None:
        """`unsigned`: also what was pushed and is yet to be signed."""
        name, reference = route.target.name, route.reference
        served = self._content.manifest_at_hand(name, reference)
        if served is None:
            unknown = RefusedError(404, Code.MANIFEST_UNKNOWN, f"no {reference} of {route.target.path} here")
            asked = self._content.manifest(name, reference, unsigned=unsigned)
            served = await self._ask(asked, unknown)
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

    async def blob(self, request: Request, route: BlobRoute) -> None:
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
            refused = RefusedError(416, Code.UNSUPPORTED, str(fault))
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
        request: Request,
        route: BlobRoute,
        reader: BlobReader,
        span: Span,
        head: tuple[int, Headers],
    ) -> None:
        """Send `span` as it comes. The head waits for the first bytes, so that a source that fails before
        those is a plain error, at which clients turn elsewhere. Later the response is left unfinished, and
        the server cuts the connection."""
        if await request.send_whole_file(reader.path, span, head, self._metrics.registry_out.inc):
            return
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
                failure = refusal(fault, RefusedError(404, Code.BLOB_UNKNOWN, reason))
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

    async def tags(self, request: Request, route: TagsRoute) -> None:
        """The order is that of the characters' codes ("ASCIIbetical", distribution-spec, end-8)."""
        target = route.target
        unknown = RefusedError(404, Code.NAME_UNKNOWN, f"no repository {target.path} here")
        known = await self._ask(self._content.tags(target.name), unknown)
        shown, link = _page(known, route.n, route.last, f"/v2/{target.path}/tags/list", _ns(target))
        headers = [JSON, REVALIDATE, *in_namespace(target), *link]
        await request.answer(200, headers, json.dumps({"name": target.path, "tags": shown}).encode())

    async def catalog(self, request: Request, route: CatalogRoute, may_read: Callable[[str], bool]) -> None:
        """Of the repositories, those that this client may read."""
        known = [one for one in await self._ask(self._content.repositories(), _NEVER) if may_read(one)]
        shown, link = _page(known, route.n, route.last, "/v2/_catalog", "")
        await request.answer(200, [JSON, REVALIDATE, *link], json.dumps({"repositories": shown}).encode())

    async def referrers(self, request: Request, route: ReferrersRoute) -> None:
        """Listing Referrers (end-12): an empty list where there are none, or no such repository."""
        target, kind = route.target, route.artifact_type
        found = await self._ask(self._content.referrers(target.name, route.subject), _NEVER)
        listed = {str(one.digest): one for one in found if kind is None or one.artifact_type == kind}
        query = _ns(target) if kind is None else f"&artifactType={quote(kind, safe='')}{_ns(target)}"
        path = f"/v2/{target.path}/referrers/{route.subject}"
        size = min(_fitting(listed, route.last), REFERRERS_PAGE if route.n is None else route.n)
        shown, link = _page(list(listed), size, route.last, path, query)
        headers = [(b"content-type", OCI_INDEX.encode()), REVALIDATE, *in_namespace(target), *link]
        if kind is not None:
            headers.append((b"oci-filters-applied", b"artifactType"))
        index = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [listed[digest].as_json() for digest in shown],
        }
        await request.answer(200, headers, json.dumps(index).encode())

    async def _ask(self, asked: Awaitable[T | None], unknown: RefusedError) -> T:
        """The content's answer, or the refusal to send: a miss is told soon, whatever the content does."""
        try:
            with trio.fail_after(self._patience):
                found = await asked
        except (MeshsatError, trio.TooSlowError) as fault:
            raise refusal(fault, unknown) from None
        if found is None:
            raise unknown
        return found


_NEVER = RefusedError(404, Code.NAME_UNKNOWN, "nothing is known of that here")


def _page(
    known: Sequence[str], n: int | None, last: str | None, path: str, query: str
) -> tuple[list[str], Headers]:
    """The entries after `last`, at most `n`, and the header that leads to those that follow (RFC 8288)."""
    names = sorted(one for one in known if last is None or one > last)
    shown = names[: PAGE_LIMIT if n is None else min(n, PAGE_LIMIT)]
    if not shown or len(shown) == len(names):
        return shown, []
    link = f'<{path}?n={len(shown)}&last={quote(shown[-1])}{query}>; rel="next"'
    return shown, [(b"link", link.encode("ascii"))]


def _fitting(listed: Mapping[str, Descriptor], last: str | None) -> int:
    """How many of those after `last` fit one answer; one at least."""
    fitting = length = 0
    for digest in sorted(one for one in listed if last is None or one > last):
        length += len(json.dumps(listed[digest].as_json())) + 2
        if fitting and length > REFERRERS_BYTES:
            break
        fitting += 1
    return fitting


def _ns(target: Target) -> str:
    return f"&ns={quote(target.namespace)}" if target.namespace else ""


def _etag(digest: Digest) -> bytes:
    return f'"{digest}"'.encode("ascii")


def _identity(digest: Digest, target: Target) -> Headers:
    return [
        (b"docker-content-digest", str(digest).encode("ascii")),
        (b"etag", _etag(digest)),
        *in_namespace(target),
    ]
