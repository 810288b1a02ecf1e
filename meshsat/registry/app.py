"""The embedded registry: the OCI distribution specification, as an ASGI application.

Laws: nothing is looked up or changed for a request that is not well formed, or that its client has no right
to make. What is read is in `pulls`, what is changed in `pushes`; where content comes from, and where it goes,
is not known here (`content`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from meshsat.audit.event import Audit, NoAudit, recorded
from meshsat.audit.sparing import Sparing
from meshsat.config import RegistrySection
from meshsat.errors import MeshsatError
from meshsat.http.asgi import App, Receive, Scope, Send
from meshsat.http.who import caller_of
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.oci.reference import SITE
from meshsat.registry.access import Access
from meshsat.registry.content import Content, Intake
from meshsat.registry.errors import Code, RefusedError
from meshsat.registry.guard import READING, Allowed, Guard
from meshsat.registry.login import TOKEN_PATH
from meshsat.registry.pulls import JSON, Pulls
from meshsat.registry.pushes import Pushes
from meshsat.registry.request import ClientLeftError, Request, refusal
from meshsat.registry.routes import (
    BlobRoute,
    CatalogRoute,
    ManifestRoute,
    PingRoute,
    ReferrersRoute,
    Route,
    TagsRoute,
    UploadRoute,
    UploadsRoute,
    parse_route_untrusted,
)
from meshsat.registry.token_server import answer_token

METHODS: dict[type[Route], frozenset[str]] = {
    PingRoute: READING,
    ManifestRoute: READING | {"PUT", "DELETE"},
    BlobRoute: READING | {"DELETE"},
    TagsRoute: READING,
    ReferrersRoute: READING,
    CatalogRoute: READING,
    UploadsRoute: frozenset({"POST"}),
    UploadRoute: frozenset({"GET", "HEAD", "PATCH", "PUT", "DELETE"}),
}
KINDS: dict[type[Route], str] = {
    PingRoute: "ping",
    ManifestRoute: "manifest",
    BlobRoute: "blob",
    TagsRoute: "tags",
    ReferrersRoute: "referrers",
    CatalogRoute: "catalog",
    UploadsRoute: "upload",
    UploadRoute: "upload",
}
"""What the metrics call a request."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What clients of one listener may do beyond reading."""

    push: bool = False
    delete: bool = False
    operator: bool = False
    """May also push under the names of other registries, and indexes that are not whole."""


OPERATOR = Rights(push=True, delete=True, operator=True)


PRIVATE = (b"cache-control", b"no-store")


def create_registry(
    content: Content,
    metrics: Metrics,
    section: RegistrySection | None = None,
    *,
    intake: Intake | None = None,
    rights: Rights | None = None,
    access: Access | None = None,
    audit: Audit | None = None,
    now: Callable[[], float] = time.time,
) -> App:
    """The application. `now` gives Unix seconds, for the age of tags. Without `intake` it is read-only,
    without `access` nobody is asked who they are, without `audit` nothing is recorded."""
    section = section or RegistrySection()
    if rights is None:
        rights = Rights(section.push, section.delete)
    record = Sparing(audit or NoAudit(), failures_only=True)
    return _Registry(content, intake, metrics, section, rights, access, record, now)


class _Registry:
    def __init__(
        self,
        content: Content,
        intake: Intake | None,
        metrics: Metrics,
        section: RegistrySection,
        rights: Rights,
        access: Access | None,
        audit: Audit,
        now: Callable[[], float],
    ) -> None:
        self._audit = audit
        self._access = access
        self._guard = Guard(access, content) if access is not None and access.login is not None else None
        self._metrics = metrics
        self._rights = rights if intake is not None else Rights()
        self._pulls = Pulls(content, metrics, section, now)
        self._pushes = Pushes(intake, section.manifest_limit) if intake is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            await self._serve(request)
        except RefusedError as refused:
            await request.refuse(refused)
        except MeshsatError as fault:
            await request.refuse(refusal(fault, _UNKNOWN))
        except ClientLeftError:
            request.status = "left"
        finally:
            self._metrics.registry_requests.labels(request.kind, request.status).inc()

    async def _serve(self, request: Request) -> None:
        if request.path == TOKEN_PATH and self._access is not None and self._access.gives_tokens:
            request.kind = "token"
            await request.answer(200, [JSON, PRIVATE], await answer_token(self._access, request))
            return
        route = parse_route_untrusted(request.path, request.query)
        request.kind = KINDS[type(route)]
        self._check_right(request.method, route)
        allowed = Allowed(route)
        if self._guard is not None:
            allowed = await self._guard.allow(request.scope, route)
            route = allowed.route
        unsigned = allowed.pushes and self._rights.push
        if request.method not in READING or isinstance(route, UploadsRoute | UploadRoute):
            assert self._pushes is not None  # noqa: S101 - nobody has a right without it
            event, about = change_of(request.method, route)
            if event is None:
                await self._pushes.serve(request, route, sparse=self._rights.operator)
                return
            with recorded(self._audit, event, caller_of(request.scope, allowed.user), about) as told:
                pushed = await self._pushes.serve(request, route, sparse=self._rights.operator)
                told.reason = str(pushed or "")
            return
        match route:
            case ManifestRoute():
                await self._pulls.manifest(request, route, unsigned=unsigned)
            case BlobRoute():
                await self._pulls.blob(request, route)
            case PingRoute():
                await request.answer(200, [JSON], b"{}")
            case TagsRoute():
                await self._pulls.tags(request, route)
            case ReferrersRoute():
                await self._pulls.referrers(request, route)
            case CatalogRoute():
                await self._pulls.catalog(request, route, allowed.shows)

    def _check_right(self, method: str, route: Route) -> None:
        """Raises `RefusedError`."""
        uploads = isinstance(route, UploadsRoute | UploadRoute)
        if method in READING and not uploads:
            return
        if method not in METHODS[type(route)]:
            raise self._unsupported(route, f"{method} is not for this")
        deletes = method == "DELETE" and not uploads
        if deletes and not self._rights.delete:
            raise self._unsupported(route, "this registry deletes nothing, unless registry.delete is set")
        if not deletes and not self._rights.push:
            raise self._unsupported(
                route, "this registry is read-only: push to the upstream registry, or set registry.push"
            )
        if isinstance(route, PingRoute | TagsRoute | ReferrersRoute | CatalogRoute):
            return
        if route.target.name.registry not in {None, SITE} and (deletes or not self._rights.operator):
            text = f"{route.target.name} is another registry's: what is pushed here has a name without one"
            raise RefusedError(403, Code.DENIED, text)

    def _unsupported(self, route: Route, text: str) -> RefusedError:
        uploads = isinstance(route, UploadsRoute | UploadRoute)
        allowed = METHODS[type(route)]
        if not self._rights.push:
            allowed = READING if uploads else allowed - {"PUT", "POST", "PATCH"}
        if not self._rights.delete and not uploads:
            allowed -= {"DELETE"}
        header = (b"allow", ", ".join(sorted(allowed)).encode())
        return RefusedError(405, Code.UNSUPPORTED, text, [header])


def change_of(method: str, route: Route) -> tuple[str | None, str]:
    """What the audit log calls a change, and what is changed; None: it is part of a larger one."""
    match route:
        case ManifestRoute(target=target, reference=reference):
            by_digest = isinstance(reference, Digest)
            about = f"{target.name}{'@' if by_digest else ':'}{reference}"
            if method == "PUT":
                return "manifest.create", about
            return ("manifest.delete" if by_digest else "tag.delete"), about
        case BlobRoute(target=target, digest=digest):
            return "blob.delete", f"{target.name}@{digest}"
    return None, ""


_UNKNOWN = RefusedError(404, Code.NAME_UNKNOWN, "nothing is known of that here")
