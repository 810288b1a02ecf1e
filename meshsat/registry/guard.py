"""Between a route and what it does: who asks, whether they may, and what of it is left for them.

Laws: nothing is looked up before it is known who asks and that they may; a digest is no way around the rules:
whoever may not pull everything gets blobs only that are known to be of a repository that they may pull (of
manifests that is so for everybody: fetch.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from meshsat.http.asgi import Scope
from meshsat.oci.digest import Digest
from meshsat.registry.access import Access, Permit
from meshsat.registry.content import Content
from meshsat.registry.errors import Code, RefusedError
from meshsat.registry.routes import (
    BlobRoute,
    CatalogRoute,
    ManifestRoute,
    PingRoute,
    Route,
    UploadRoute,
    UploadsRoute,
)
from meshsat.registry.rules import Action

READING = frozenset({"GET", "HEAD"})


def everything(_path: str) -> bool:
    """What a list shows to whoever may pull everything."""
    return True


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be done of a request."""

    route: Route
    shows: Callable[[str], bool] = everything
    """Whether a list may name this repository, as it stands in paths."""
    pushes: bool = False
    """Whether who asks may push there as well."""
    user: str | None = None


class Guard:
    def __init__(self, access: Access, content: Content) -> None:
        self._access = access
        self._content = content

    async def allow(self, scope: Scope, route: Route) -> Allowed:
        """Raises `RefusedError`, and what the content raises."""
        match route:
            case PingRoute():
                await self._access.ping(scope)
                return Allowed(route)
            case CatalogRoute():
                principal = await self._access.catalog(scope)
                return Allowed(route, principal.sees)
        action = _action(scope["method"], route)
        permit = await self._access.authorize(scope, action, route.target.name)
        route = replace(route, target=replace(route.target, name=permit.name))
        if isinstance(route, UploadsRoute):
            route = self._mountable(route, permit)
        elif isinstance(route, BlobRoute) and permit.bounded and action is Action.PULL:
            await self._check_belongs(permit, route.digest)
        # By who they are: cosign reads what it is about to sign with a token for pulls.
        user = permit.principal.user
        pushes = isinstance(route, ManifestRoute) and (
            self._access.allowed(user, Action.PUSH, permit.name) is not None
        )
        return Allowed(route, user=user, pushes=pushes)

    async def _check_belongs(self, permit: Permit, blob: Digest) -> None:
        if not await self._content.belongs(permit.name, blob):
            raise RefusedError(404, Code.BLOB_UNKNOWN, f"no {blob} is known to be of {permit.name}")

    @staticmethod
    def _mountable(route: UploadsRoute, permit: Permit) -> UploadsRoute:
        """A mount is a pull from where the blob is; where one may not pull, an ordinary upload begins."""
        if route.mount is None:
            return route
        if route.source is None:
            return replace(route, mount=None) if permit.bounded else route
        source = permit.principal.named(Action.PULL, route.source)
        return replace(route, mount=None, source=None) if source is None else replace(route, source=source)


def _action(method: str, route: Route) -> Action:
    if isinstance(route, UploadsRoute | UploadRoute):
        return Action.PUSH
    if method in READING:
        return Action.PULL
    return Action.DELETE if method == "DELETE" else Action.PUSH
