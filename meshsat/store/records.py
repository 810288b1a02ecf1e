"""What the store remembers beside the bytes: values, no behaviour."""

from dataclasses import dataclass

from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.reference import SITE

TAGS_LIMIT = 65_536
"""Records of tags that are kept."""
AUTHOR_LIMIT = 16_384
"""Of one author's upstream tags, and of one author's site content: as many as travel (protocol/gossip.py)."""


@dataclass(frozen=True, slots=True)
class TagRecord:
    """What a tag was found to mean, when, and by whom."""

    registry: str
    repository: str
    tag: str
    descriptor: Descriptor
    """Only media type, digest and size are kept."""
    resolved_at: float
    """Unix seconds at which the upstream said so; 0 when that was lost."""
    author: str
    """Peer id of the node that asked the upstream; empty when that was lost."""
    sealed: bytes = b""
    """The author's signed record, to be passed on by gossip; empty when that was lost."""

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.registry, self.repository, self.tag)

    @property
    def version(self) -> tuple[float, str, bytes]:
        """Its age among others: the order of protocol/gossip.py."""
        return (self.resolved_at, str(self.descriptor.digest), self.sealed)

    @property
    def owner(self) -> tuple[str, bool]:
        """Whose share it counts to."""
        return (self.author, self.registry == SITE)

    @property
    def is_gone(self) -> bool:
        """It tells that the tag, or the manifest, was deleted (protocol/gossip.py)."""
        return self.descriptor.size == 0

    @property
    def names_digest(self) -> bool:
        """Not a tag: it tells of a manifest of site content, by its digest."""
        return ":" in self.tag


@dataclass(frozen=True, slots=True)
class BlobFacts:
    """What manifests told about something that need not be here."""

    digest: Digest
    size: int
    """Bytes."""
    media_type: str
    sources: tuple[tuple[str, str], ...]
    """(registry, repository) that it can be had from."""


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image or artifact of which everything is here."""

    registry: str
    repository: str
    tag: str | None
    descriptor: Descriptor
    size: int
    """Bytes of all that it refers to and of its manifests, each once."""
    published_at: float
    """Unix seconds."""

    @property
    def name(self) -> str:
        """As in `index.json`: REGISTRY/REPOSITORY:TAG, or with @DIGEST when it has no tag."""
        end = f":{self.tag}" if self.tag is not None else f"@{self.descriptor.digest}"
        return f"{self.registry}/{self.repository}{end}"


@dataclass(frozen=True, slots=True)
class UploadRow:
    """A push that was begun."""

    id: str
    repository: str
    """REGISTRY/REPOSITORY that it is for."""
    algorithm: str
    """Of the digest that the client wants to close with, as far as it said."""
