"""The store's twin in memory, as far as the mesh goes: no threads, so that a fake clock rules it."""

import hashlib
from collections.abc import Collection, Mapping, Sequence

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.chunking.recipe import Recipe
from meshsat.errors import DigestMismatchError, NotFoundError, StorageError
from meshsat.oci.digest import Digest


class MemoryPartial:
    def __init__(self, store: "MemoryStore", digest: Digest, size: int) -> None:
        self.digest = digest
        self.size = size
        self.cut = Cut(FIXED_1, size)
        self._store = store
        self._data: dict[int, bytes] = store.left.pop(digest, {})
        self._chunks = {index: hashlib.sha256(data).digest() for index, data in self._data.items()}

    @property
    def chunks(self) -> Mapping[int, bytes]:
        return self._chunks

    async def write(self, index: int, data: bytes | bytearray, expect: bytes | None = None) -> bytes:
        if self._store.full:
            raise StorageError("no space left on the device of memory")
        digest = hashlib.sha256(data).digest()
        if expect is not None and digest != expect:
            raise DigestMismatchError(f"chunk {index}")
        self._data[index] = bytes(data)
        self._chunks[index] = digest
        return digest

    async def read(self, index: int, start: int = 0, stop: int | None = None) -> bytes:
        return self._data[index][start:stop]

    async def forget(self, indexes: Collection[int]) -> None:
        for index in indexes:
            self._data.pop(index, None)
            self._chunks.pop(index, None)

    async def publish(self) -> None:
        whole = b"".join(self._data[index] for index in range(self.cut.count))
        self._store.keep(whole, self.digest)

    async def aclose(self) -> None:
        if self._store.blob_size(self.digest) is None:
            self._store.left[self.digest] = self._data


class MemoryStore:
    def __init__(self) -> None:
        self.data: dict[Digest, bytes] = {}
        self.left: dict[Digest, dict[int, bytes]] = {}
        self.full = False

    def keep(self, data: bytes, digest: Digest) -> None:
        if not digest.matches(data):
            raise DigestMismatchError(str(digest))
        self.data[digest] = data

    def blob_path(self, digest: Digest) -> None:
        """There are no files here."""

    def blob_size(self, digest: Digest) -> int | None:
        data = self.data.get(digest)
        return None if data is None else len(data)

    def blobs(self) -> Mapping[Digest, int]:
        return {digest: len(data) for digest, data in self.data.items()}

    async def read(self, digest: Digest, start: int, stop: int) -> bytes:
        if digest not in self.data:
            raise NotFoundError(str(digest))
        return self.data[digest][start:stop]

    async def read_many(self, spans: Sequence[tuple[Digest, int, int]]) -> list[bytes | StorageError]:
        return [await self.read(*span) if span[0] in self.data else StorageError("gone") for span in spans]

    async def partial(self, digest: Digest, size: int) -> MemoryPartial:
        return MemoryPartial(self, digest, size)

    async def recipe(self, digest: Digest) -> Recipe:
        if digest not in self.data:
            raise NotFoundError(str(digest))
        return Recipe.of(self.data[digest])
