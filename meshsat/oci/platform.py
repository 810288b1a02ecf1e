"""Platform: what an image runs on (OCI image-spec 1.1, image-index.md). Kept as written, not normalised."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from meshsat.errors import InvalidInputError
from meshsat.oci import fields

if TYPE_CHECKING:
    from meshsat.oci.descriptor import Descriptor

ATTESTED = "vnd.docker.reference.digest"
"""Annotation of an attestation in an index: the digest of the image that it is about (BuildKit)."""

_KNOWN = frozenset({"os", "architecture", "variant", "os.version", "os.features"})


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str | None = None
    os_version: str | None = None
    os_features: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def parse_untrusted(cls, value: object) -> Self:
        """From the JSON object of a descriptor. Raises `InvalidInputError`."""
        if not isinstance(value, dict):
            raise InvalidInputError("platform: not an object")
        return cls(
            os=fields.take_text(value, "os", 255) or "",
            architecture=fields.take_text(value, "architecture", 255) or "",
            variant=fields.take_text(value, "variant", 255),
            os_version=fields.take_text(value, "os.version", 255),
            os_features=fields.take_texts(value, "os.features"),
            extra=fields.unknown_fields(value, _KNOWN),
        )

    def as_json(self) -> dict[str, Any]:
        """The object that parses to this; fields that are not set are left out."""
        document: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.variant is not None:
            document["variant"] = self.variant
        if self.os_version is not None:
            document["os.version"] = self.os_version
        if self.os_features:
            document["os.features"] = list(self.os_features)
        return {**document, **self.extra}

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def is_among(self, wanted: Collection[str]) -> bool:
        """Whether one of these is meant by it; one without a variant stands for all variants."""
        return f"{self.os}/{self.architecture}" in wanted or str(self) in wanted


def of_platforms(listed: "Sequence[Descriptor]", wanted: Collection[str]) -> "tuple[Descriptor, ...]":
    """What an index lists for these platforms (`OS/ARCHITECTURE[/VARIANT]`; none: all), what it lists for no
    platform, and the attestations of what is kept."""
    if not wanted:
        return tuple(listed)
    kept = {one.digest for one in listed if one.platform is None or one.platform.is_among(wanted)}
    return tuple(
        one for one in listed if one.digest in kept or one.annotations.get(ATTESTED) in set(map(str, kept))
    )
