"""Descriptor: how one thing names another: media type, digest, size (OCI image-spec 1.1, descriptor.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from meshsat.errors import InvalidInputError
from meshsat.oci import fields
from meshsat.oci.digest import Digest
from meshsat.oci.media_types import MANIFEST_TYPES, NONDISTRIBUTABLE_TYPES
from meshsat.oci.platform import Platform

_KNOWN = frozenset({"mediaType", "digest", "size", "platform", "annotations", "artifactType", "urls"})


@dataclass(frozen=True, slots=True)
class Descriptor:
    media_type: str
    digest: Digest
    size: int
    """Bytes."""
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str | None = None
    urls: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Fields that this version does not know, `data` among them, as they were."""

    @classmethod
    def parse_untrusted(cls, value: object) -> Self:
        """From a JSON object. Raises `InvalidInputError`; a size above 1 TiB is refused."""
        if not isinstance(value, dict):
            raise InvalidInputError("descriptor: not an object")
        media_type = fields.take_media_type(value, "mediaType")
        if media_type is None:
            raise InvalidInputError("descriptor: mediaType is missing")
        platform = value.get("platform")
        return cls(
            media_type=media_type,
            digest=Digest.parse_untrusted(value.get("digest")),
            size=fields.take_integer(value, "size", fields.MAX_BLOB_SIZE),
            platform=None if platform is None else Platform.parse_untrusted(platform),
            annotations=fields.take_annotations(value),
            artifact_type=fields.take_media_type(value, "artifactType"),
            urls=fields.take_texts(value, "urls"),
            extra=fields.unknown_fields(value, _KNOWN),
        )

    def as_json(self) -> dict[str, Any]:
        """The object that parses to this; fields that are not set are left out."""
        document: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.platform is not None:
            document["platform"] = self.platform.as_json()
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.artifact_type is not None:
            document["artifactType"] = self.artifact_type
        if self.urls:
            document["urls"] = list(self.urls)
        return {**document, **self.extra}

    @property
    def is_manifest(self) -> bool:
        """Fetched at `/manifests/`, and refers to more; everything else is a blob."""
        return self.media_type in MANIFEST_TYPES

    @property
    def is_foreign(self) -> bool:
        """A layer that clients fetch from its own `urls`, not from a registry."""
        return self.media_type in NONDISTRIBUTABLE_TYPES and bool(self.urls)
