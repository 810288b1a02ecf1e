"""Manifest: the bytes that name everything else of an image or artifact, parsed once.

Reads OCI image manifests and indexes, Docker schema 2 manifests and lists, and artifact manifests (image-spec
1.1.0-rc2); of any other type, the fields that all of these have. Laws: the digest is that of the bytes
received, which are kept and never serialised again; unknown fields are kept; a body that could be read as two
kinds of manifest is refused (CVE-2021-41190). It does not look at what the descriptors name, and fetches
nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from meshsat.errors import InvalidInputError
from meshsat.oci import fields
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import SHA256, Digest
from meshsat.oci.media_types import (
    DOCKER_SCHEMA1,
    GENERIC_TYPES,
    IMAGE_TYPES,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_ARTIFACT_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
)

MANIFEST_LIMIT = 4 * 1024 * 1024
"""Bytes: the least that the distribution specification asks a registry to take (end-7)."""

_KNOWN = frozenset(
    "schemaVersion mediaType manifests config layers blobs subject artifactType annotations".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Manifest:
    raw: bytes = field(repr=False)
    media_type: str
    digest: Digest
    manifests: tuple[Descriptor, ...] = ()
    """The manifests that an index lists."""
    blobs: tuple[Descriptor, ...] = ()
    """Config first, then layers; for an index, whatever it lists that is no manifest."""
    foreign: tuple[Descriptor, ...] = ()
    """Layers that clients fetch from their own `urls`: nobody needs to hold them."""
    subject: Descriptor | None = None
    """What this one is about (a signature, an SBOM). It need not exist."""
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw), artifact_type=self.artifact_type)

    @property
    def referrer(self) -> Descriptor:
        """As the referrers API lists it (distribution-spec, "Listing Referrers"): an image manifest without
        an artifact type counts as one of its config's."""
        kind = self.artifact_type
        if kind is None and self.media_type in IMAGE_TYPES and self.blobs:
            kind = self.blobs[0].media_type
        return Descriptor(
            self.media_type, self.digest, len(self.raw), annotations=self.annotations, artifact_type=kind
        )

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """What must be there for this manifest to be whole, each digest once: manifests, then blobs."""
        unique = {child.digest: child for child in reversed(self.manifests + self.blobs)}
        return tuple(reversed(unique.values()))


def parse_manifest_untrusted(
    raw: bytes, media_type: str | None = None, limit: int = MANIFEST_LIMIT, algorithm: str = SHA256
) -> Manifest:
    """Parse what a registry, a peer or the disk holds. Raises `InvalidInputError`.

    `media_type` is what the Content-Type header or the descriptor said, if anything did; parameters are
    dropped. `limit` is in bytes. `algorithm` is the one that the manifest's digest is wanted in.
    """
    if len(raw) > limit:
        raise InvalidInputError(f"manifest: {len(raw)} bytes, more than {limit}")
    declared = (media_type or "").partition(";")[0].strip().lower()
    if declared in DOCKER_SCHEMA1:
        raise _schema1()
    body = fields.parse_object_untrusted(raw, "manifest")
    try:
        kind = _kind(body, declared)
        manifests, blobs, foreign = _children(body, kind)
        subject = body.get("subject")
        return Manifest(
            raw=raw,
            media_type=kind,
            digest=Digest.of(raw, algorithm),
            manifests=manifests,
            blobs=blobs,
            foreign=foreign,
            subject=None if subject is None else Descriptor.parse_untrusted(subject),
            artifact_type=fields.take_media_type(body, "artifactType"),
            annotations=fields.take_annotations(body),
            extra=fields.unknown_fields(body, _KNOWN),
        )
    except InvalidInputError as fault:
        raise InvalidInputError(f"manifest: {fault}") from None


def _schema1() -> InvalidInputError:
    return InvalidInputError(
        "manifest: Docker schema 1 is not supported; push the image again with a tool of this decade"
    )


def _kind(body: Mapping[str, Any], declared: str) -> str:
    """The media type, agreed between the sender's word, the body's and the body's shape."""
    own = fields.take_media_type(body, "mediaType")
    if body.get("schemaVersion") == 1 or "fsLayers" in body or own in DOCKER_SCHEMA1:
        raise _schema1()
    lists = body.get("manifests") is not None
    holds = body.get("config") is not None or body.get("layers") is not None
    if lists and holds:
        raise InvalidInputError("both an index and an image manifest")
    if declared in GENERIC_TYPES:
        declared = ""
    kind = own or declared or (OCI_INDEX if lists else OCI_MANIFEST)
    if own and declared and own != declared:
        raise InvalidInputError(f"sent as {declared!r}, but says of itself {own!r}")
    if kind not in MANIFEST_TYPES:
        return kind  # registries keep manifests of any type; what such a one refers to is not known
    if (kind in INDEX_TYPES and holds) or (kind not in INDEX_TYPES and lists):
        raise InvalidInputError(f"fields do not fit {kind}")
    if kind != OCI_ARTIFACT_MANIFEST and fields.take_integer(body, "schemaVersion", 2) != 2:
        raise InvalidInputError("schemaVersion: not 2")
    return kind


_Children = tuple[tuple[Descriptor, ...], tuple[Descriptor, ...], tuple[Descriptor, ...]]


def _children(body: Mapping[str, Any], kind: str) -> _Children:
    """Manifests, blobs and foreign layers. One digest with two sizes contradicts itself and is refused."""
    if kind in INDEX_TYPES:
        listed = _descriptors(fields.take_objects(body, "manifests"))
        # Build caches are indexes that list layers: those are fetched as blobs.
        manifests = tuple(child for child in listed if child.is_manifest)
        candidates = tuple(child for child in listed if not child.is_manifest)
    elif kind == OCI_ARTIFACT_MANIFEST:
        manifests, candidates = (), _descriptors(fields.take_objects(body, "blobs"))
    elif kind not in MANIFEST_TYPES:
        return (), (), ()
    else:
        config = Descriptor.parse_untrusted(body.get("config"))
        manifests, candidates = (), (config, *_descriptors(fields.take_objects(body, "layers")))
    sizes: dict[Digest, int] = {}
    for child in (*manifests, *candidates):
        if sizes.setdefault(child.digest, child.size) != child.size:
            raise InvalidInputError(f"{child.digest} is given two sizes")
    blobs = tuple(child for child in candidates if not child.is_foreign)
    return manifests, blobs, tuple(child for child in candidates if child.is_foreign)


def _descriptors(items: Iterable[Any]) -> tuple[Descriptor, ...]:
    return tuple(Descriptor.parse_untrusted(item) for item in items)
