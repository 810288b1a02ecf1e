"""What the embedded registry serves, and where pushes go: the interfaces that fetch.py and site_content.py
implement.

Laws: every method answers soon (the content has a time limit of its own; the registry adds one on top), and
says None for what cannot be had. A manifest is given only when every blob behind it can be delivered, because
clients choose their source once, by the manifest (docs/reference/http.md).
Any method may also raise `NotFoundError`, `UnavailableError` or `DeniedError` (meshsat.errors).
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from meshsat.errors import MeshsatError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest


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

    @property
    def path(self) -> Path | None:
        """The file that holds the verified blob and nothing else, if there is one to be sent from."""

    def stream(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes [start, stop) in order, each piece (<= 4 MiB) verified and given as soon as it is there.

        Raises a `MeshsatError` when the rest can no longer be had.
        """


class Content(Protocol):
    async def manifest(
        self, name: Name, reference: "str | Digest", *, unsigned: bool = False
    ) -> Served | None:
        """The manifest under a tag (str) or digest; None when it cannot be had with all that it refers to.
        `unsigned`: who asks may push there, and gets what was pushed before it is signed, to sign it."""

    def manifest_at_hand(self, name: Name, reference: "str | Digest") -> Served | None:
        """The same, if it can be told at once, without waiting for anything; None also when it can't."""

    async def open_blob(self, name: Name, digest: Digest) -> BlobReader | None:
        """A reader of the blob, complete or arriving; None when it cannot be had."""

    async def belongs(self, name: Name, blob: Digest) -> bool:
        """Whether the blob is known to be of that repository."""

    async def tags(self, name: Name) -> list[str] | None:
        """The repository's tags, in any order; None when the repository is not known."""

    async def referrers(self, name: Name, subject: Digest) -> list[Descriptor]:
        """The manifests of the repository that refer to this one; it need not exist."""

    async def repositories(self) -> list[str]:
        """All that something is known of, as they stand in a request's path, in any order."""


class Upload(Protocol):
    """One push of a blob. A request to it holds its turn (`BusyError`); what was taken in a turn is kept when
    that ends, however it ends."""

    @property
    def id(self) -> str:
        """32 lower-case hex digits."""

    @property
    def size(self) -> int:
        """Bytes taken so far."""

    @property
    def room(self) -> int:
        """Bytes that it may still take."""

    def turn(self) -> AbstractAsyncContextManager[None]: ...

    async def write(self, data: bytes, /) -> None:
        """Take the next bytes. Raises `TooLongError`, `StorageError`."""


class BlobIntake(Protocol):
    """Pushed blobs."""

    async def begin_upload(self, name: Name, algorithm: str) -> Upload:
        """Raises `BusyError` when too many are open."""

    def find_upload(self, name: Name, upload_id: str) -> Upload | None: ...

    async def finish_upload(self, name: Name, upload: Upload, digest: Digest) -> None:
        """The upload becomes a blob of the repository. Raises `DigestMismatchError`, which ends it."""

    async def cancel_upload(self, upload: Upload) -> None: ...

    async def mount(self, name: Name, digest: Digest, source: Name | None) -> bool:
        """Take a blob of another repository (None: of any) into this one; False where that has none."""


class Intake(BlobIntake, Protocol):
    """All that clients may change. What is not the site's own can't be deleted."""

    async def put_manifest(
        self, name: Name, manifest: Manifest, tags: Sequence[str], *, sparse: bool
    ) -> None:
        """Publish a manifest, and have these tags mean it. `sparse`: an index need not be whole.

        Raises `MissingContentError` when something that it refers to does not belong to the repository.
        """

    async def delete_manifest(self, name: Name, reference: "str | Digest") -> bool:
        """A tag alone, or a manifest and all tags that mean it, on the whole site; False if there is none."""

    async def delete_blob(self, name: Name, digest: Digest) -> bool:
        """It belongs to the repository no longer, on this node; False if it did not."""


class MissingContentError(MeshsatError):
    """A manifest refers to what its repository does not have."""
