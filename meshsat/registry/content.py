"""Where the embedded registry gets what it serves: the interface that fetch.py implements.

Laws: every method answers soon (the content has a time limit of its own; the registry adds one on top), and
says None for what cannot be had. A manifest is given only when every blob behind it can be delivered, because
clients choose their source once, by the manifest (docs/reference/http.md).
Any method may also raise `NotFoundError`, `UnavailableError` or `DeniedError` (meshsat.errors).
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from meshsat.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Name:
    """What a client asks for. `registry` None: the one that the node is configured to mean."""

    registry: str | None
    repository: str

    def __str__(self) -> str:
        return self.repository if self.registry is None else f"{self.registry}/{self.repository}"


@dataclass(frozen=True, slots=True)
class Served:
    """A manifest, in the very bytes and under the very type that the upstream gave it."""

    raw: bytes
    media_type: str
    digest: Digest
    resolved_at: float | None = None
    """For a tag: Unix time at which an upstream last said that the tag means this digest."""
    fresh: bool = True
    """False: the tag is older than it should be, and nobody could be asked."""


class BlobReader(AbstractAsyncContextManager[Any], Protocol):
    """One client's interest in one blob: it begins on entering and ends on leaving.

    Nothing is transferred for a reader that is never entered: a HEAD only looks at `size`.
    """

    @property
    def size(self) -> int:
        """Bytes of the whole blob."""

    def stream(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes [start, stop) in order, each piece (<= 4 MiB) verified and given as soon as it is there.

        Raises a `MeshsatError` when the rest can no longer be had.
        """


class Content(Protocol):
    async def manifest(self, name: Name, reference: "str | Digest") -> Served | None:
        """The manifest under a tag (str) or digest; None when it cannot be had with all that it refers to."""

    async def open_blob(self, name: Name, digest: Digest) -> BlobReader | None:
        """A reader of the blob, complete or arriving; None when it cannot be had."""

    async def tags(self, name: Name) -> list[str] | None:
        """The repository's tags, in any order; None when the repository is not known."""
