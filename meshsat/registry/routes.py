"""What a client asks the registry for: a request's path and query, parsed once into a route.

A name may itself hold the elements `blobs`, `manifests`, `tags` and `uploads`, so a path is read from its
right end. A path is cut at its slashes before it is decoded: `%2f` never becomes one.
Laws: pure; nothing of a refused path is ever looked up.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, unquote_to_bytes

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import ALGORITHMS, SHA256, Digest
from meshsat.oci.reference import (
    DOCKER_HUB,
    looks_like_registry,
    parse_registry_untrusted,
    parse_repository_untrusted,
    parse_tag_untrusted,
    registry_of_component_untrusted,
)
from meshsat.registry.content import Name
from meshsat.registry.errors import Code, RefusedError

ROUTES_KEPT = 512
"""Clients ask for the same again and again; what is refused is not kept."""
PATH_LIMIT = 2048
"""Bytes of a path; the longest valid one has under 700."""
QUERY_LIMIT = 8192
"""Bytes of a query; as many tags as that holds may be given at once."""
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class PingRoute:
    """`/v2/` (end-1): is this a registry?"""


@dataclass(frozen=True, slots=True)
class Target:
    """The repository that a request names."""

    path: str
    """As it stands in the path."""
    name: Name
    namespace: str | None
    """The registry named by `?ns=`."""


@dataclass(frozen=True, slots=True)
class ManifestRoute:
    """`/v2/NAME/manifests/TAG-or-DIGEST?tag=...` (end-3, end-7, end-9)."""

    target: Target
    reference: str | Digest
    tags: tuple[str, ...] = ()
    """More tags for a manifest that is pushed (end-7b)."""


@dataclass(frozen=True, slots=True)
class BlobRoute:
    """`/v2/NAME/blobs/DIGEST` (end-2, end-10)."""

    target: Target
    digest: Digest


@dataclass(frozen=True, slots=True)
class TagsRoute:
    """`/v2/NAME/tags/list?n=&last=` (end-8)."""

    target: Target
    n: int | None
    last: str | None


@dataclass(frozen=True, slots=True)
class UploadsRoute:
    """`/v2/NAME/blobs/uploads/` (end-4, end-11): begin an upload."""

    target: Target
    digest: Digest | None
    """The whole blob is in this request."""
    mount: Digest | None
    source: Name | None
    """The repository to mount from; None: any."""
    algorithm: str


@dataclass(frozen=True, slots=True)
class UploadRoute:
    """`/v2/NAME/blobs/uploads/ID` (end-5, end-6, end-13, end-14)."""

    target: Target
    id: str
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class ReferrersRoute:
    """`/v2/NAME/referrers/DIGEST?artifactType=` (end-12)."""

    target: Target
    subject: Digest
    artifact_type: str | None
    n: int | None
    last: str | None


@dataclass(frozen=True, slots=True)
class CatalogRoute:
    """`/v2/_catalog?n=&last=` (not in the specification; Docker's registry has it)."""

    n: int | None
    last: str | None


Route = (
    PingRoute
    | ManifestRoute
    | BlobRoute
    | TagsRoute
    | UploadsRoute
    | UploadRoute
    | ReferrersRoute
    | CatalogRoute
)


@lru_cache(ROUTES_KEPT)
def parse_route_untrusted(raw_path: bytes, query: bytes) -> Route:
    """Raises `RefusedError`: 404 for what is no endpoint, or no tag can be called; 400 for a malformed name,
    digest or number."""
    if len(raw_path) > PATH_LIMIT or len(query) > QUERY_LIMIT:
        raise RefusedError(400, Code.NAME_INVALID, "the request's path or query is too long")
    if raw_path in {b"/v2", b"/v2/"}:
        return PingRoute()
    root, *parts = [_decode_segment(segment) for segment in raw_path.removeprefix(b"/").split(b"/")]
    if not raw_path.startswith(b"/") or root != "v2":
        raise RefusedError(404, Code.UNSUPPORTED, "not an endpoint of a registry")
    # Beyond ASCII nothing is of use, and lower-casing could make a host's name of it (U+212A is "K").
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="ascii")
    options = dict(pairs)
    match parts:
        case ["_catalog"]:
            return CatalogRoute(_number(options.get("n")), options.get("last"))
        case [*name, "tags", "list"]:
            return TagsRoute(_target(name, options), _number(options.get("n")), options.get("last"))
        case [*name, "manifests", reference]:
            target = _target(name, options)
            tags = tuple(_tag(value) for key, value in pairs if key == "tag")
            return ManifestRoute(target, _reference(reference), tags)
        case [*name, "blobs", "uploads"] | [*name, "blobs", "uploads", ""]:
            return _uploads(_target(name, options), options)
        case [*name, "blobs", "uploads", upload]:
            digest = _digest(options["digest"]) if "digest" in options else None
            return UploadRoute(_target(name, options), upload, digest)
        case [*name, "blobs", digest]:
            return BlobRoute(_target(name, options), _digest(digest))
        case [*name, "referrers", subject]:
            n, last = _number(options.get("n")), options.get("last")
            kind = options.get("artifactType", "").replace(" ", "+") or None  # no type has a space
            return ReferrersRoute(_target(name, options), _digest(subject), kind, n, last)
    raise RefusedError(404, Code.UNSUPPORTED, "not an endpoint that this registry has")


def _decode_segment(segment: bytes) -> str:
    """One element of the path. A slash, NUL or byte beyond ASCII in it fits no name, tag or digest."""
    text = unquote_to_bytes(segment).decode("latin-1")
    if not (text.isascii() and text.isprintable()) or "/" in text:
        raise RefusedError(400, Code.NAME_INVALID, "the path holds a character that no name may hold")
    return text


def _target(parts: list[str], options: dict[str, str]) -> Target:
    """`?ns=` names the registry that is meant (distribution-spec, "Registry proxying"); without it, a first
    element that looks like a host does: so do clients tell it that cannot send `ns` (podman's mirrors)."""
    path = "/".join(parts)
    namespace = registry = None
    try:
        if "ns" in options:
            namespace = registry = parse_registry_untrusted(options["ns"])
            repository = path
        elif len(parts) > 1 and looks_like_registry(parts[0]):
            registry, repository = registry_of_component_untrusted(parts[0]), "/".join(parts[1:])
        else:
            registry, repository = None, path
        if registry == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        return Target(path, Name(registry, parse_repository_untrusted(repository)), namespace)
    except InvalidInputError as fault:
        raise RefusedError(400, Code.NAME_INVALID, str(fault)) from None


def _uploads(target: Target, options: dict[str, str]) -> UploadsRoute:
    mount = _digest(options["mount"]) if "mount" in options else None
    origin = options.get("from")
    source = None
    if mount is not None and origin:
        source = _target(origin.split("/"), {key: options[key] for key in ("ns",) if key in options}).name
    digest = _digest(options["digest"]) if "digest" in options else None
    algorithm = options.get("digest-algorithm", SHA256)
    if algorithm not in ALGORITHMS:
        raise RefusedError(400, Code.DIGEST_INVALID, f"digest-algorithm: {' or '.join(ALGORITHMS)}")
    return UploadsRoute(target, digest, mount, source, algorithm)


def _reference(text: str) -> str | Digest:
    """What no tag can be called is found nowhere: 404 (so the specification's own suite wants it)."""
    if ":" in text:
        return _digest(text)
    try:
        return parse_tag_untrusted(text)
    except InvalidInputError as fault:
        raise RefusedError(404, Code.MANIFEST_UNKNOWN, str(fault)) from None


def _tag(text: str) -> str:
    try:
        return parse_tag_untrusted(text)
    except InvalidInputError as fault:
        raise RefusedError(400, Code.NAME_INVALID, str(fault)) from None


def _digest(text: str) -> Digest:
    try:
        return Digest.parse_untrusted(text)
    except InvalidInputError as fault:
        raise RefusedError(400, Code.DIGEST_INVALID, str(fault)) from None


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise RefusedError(400, Code.UNSUPPORTED, "n must be a whole number, 0 or more")
    return int(text)
