"""What the driver needs of the store and the uplink: interfaces where they are used, with twins in tests."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from meshsat.chunking.cut import Cut
from meshsat.chunking.recipe import Recipe
from meshsat.errors import (
    DeniedError,
    DigestMismatchError,
    InvalidInputError,
    MeshsatError,
    NotFoundError,
    StorageError,
)
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest
from meshsat.protocol.events import Fault
from meshsat.protocol.gossip import ImageRecord


class OpenBlob(Protocol):
    """A blob on its way: `store.partial.Partial`."""

    @property
    def digest(self) -> Digest: ...

    @property
    def size(self) -> int: ...

    @property
    def cut(self) -> Cut: ...

    @property
    def chunks(self) -> Mapping[int, bytes]: ...

    async def write(self, index: int, data: bytes | bytearray, expect: bytes | None = None) -> bytes: ...

    async def read(self, index: int, start: int = 0, stop: int | None = None) -> bytes: ...

    async def forget(self, indexes: Collection[int]) -> None: ...

    async def publish(self) -> None: ...

    async def aclose(self) -> None: ...


class BlobStore(Protocol):
    """`store.Store`, as far as blobs go."""

    def blob_size(self, digest: Digest) -> int | None: ...

    def blobs(self) -> Mapping[Digest, int]: ...

    async def read(self, digest: Digest, start: int, stop: int) -> bytes: ...

    async def read_many(self, spans: Sequence[tuple[Digest, int, int]]) -> list[bytes | StorageError]: ...

    async def partial(self, digest: Digest, size: int) -> OpenBlob: ...

    async def recipe(self, digest: Digest) -> Recipe: ...


class UplinkPort(Protocol):
    """The way upstream. All raise `MeshsatError`s."""

    async def probe(self) -> None:
        """Raises `UnavailableError` where no upstream that is known can be reached."""
        ...

    async def resolve(self, registry: str, repository: str, reference: str) -> ImageRecord:
        """What the tag or digest means; the manifest itself is in the store afterwards."""
        ...

    async def manifest(self, registry: str, repository: str, reference: str) -> Manifest: ...

    def ignores_ranges(self, registry: str) -> bool:
        """Whether it answers a range with the whole, so that several connections would pay several times."""
        ...

    def blob(
        self, registry: str, repository: str, digest: Digest, start: int, stop: int, size: int
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


def fault_of(error: MeshsatError) -> Fault:
    """What an error of the store or the uplink is called between nodes."""
    match error:
        case NotFoundError():
            return Fault.NOT_FOUND
        case DeniedError():
            return Fault.DENIED
        case DigestMismatchError() | InvalidInputError():
            return Fault.WRONG_BYTES
        case StorageError():
            return Fault.STORAGE
        case _:
            return Fault.UNAVAILABLE
