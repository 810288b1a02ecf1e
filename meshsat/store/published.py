"""Published blobs: what is whole, where it is, and its bytes.

Law: reads trust the disk, since what is in `blobs/` was verified when it got its name; a blob that can't be
read as it should be is told as suspect.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from meshsat.chunking.recipe import Recipe
from meshsat.errors import NotFoundError, StorageError
from meshsat.oci.digest import Digest
from meshsat.store import disk
from meshsat.store.database import Contents
from meshsat.store.partial import Backing

READ_LIMIT = 4 * 1024 * 1024
"""Bytes that one `read` gives at most."""


class PublishedBlobs:
    """Every coroutine raises `StorageError` when the disk does not go along."""

    def __init__(self, backing: Backing, contents: Contents) -> None:
        self._backing = backing
        self._contents = contents
        self.on_suspect: Callable[[Digest], None] = lambda _digest: None
        """Called with a blob that can't be read as it should be."""

    def blob_size(self, digest: Digest) -> int | None:
        """Bytes of a published blob; None when it is not here whole."""
        return self._contents.blobs.get(digest)

    def blob_path(self, digest: Digest) -> Path:
        """Where a published blob is, read-only and verified; there is no file if it is not here."""
        return self._backing.layout.blob(digest)

    def blobs(self) -> Mapping[Digest, int]:
        """The published blobs and their sizes in bytes, as they are now."""
        return dict(self._contents.blobs)

    async def read(self, digest: Digest, start: int, stop: int) -> bytes:
        """Bytes `start` up to `stop` of a published blob, less where it ends before; `READ_LIMIT` at most.

        Raises `NotFoundError`, `ValueError`.
        """
        size = self._published(digest)
        start, stop = max(start, 0), min(stop, size)
        if stop - start > READ_LIMIT:
            raise ValueError(f"a read of {stop - start} bytes, more than {READ_LIMIT}")
        path = self._backing.layout.blob(digest)
        try:
            return await self._backing.threads.read(path, start, max(stop - start, 0))
        except StorageError:
            self._suspect(digest)
            raise

    @asynccontextmanager
    async def hold(self, digest: Digest) -> AsyncIterator[Callable[[int, int], Awaitable[bytes]]]:
        """Gives what `read` does of one blob, which stays readable meanwhile whatever becomes of it. Raises
        `NotFoundError`."""
        self._published(digest)
        path, threads = self._backing.layout.blob(digest), self._backing.threads

        async def read(start: int, stop: int) -> bytes:
            try:
                found = disk.read_cached_open(file, start, stop - start)
                if found is None:
                    found = await threads.run(disk.read_open, file, path, start, stop - start)
            except StorageError:
                self._suspect(digest)
                raise
            return found

        try:
            file = disk.open_read(path)
        except StorageError:
            self._suspect(digest)
            raise
        try:
            yield read
        finally:
            os.close(file)

    def _suspect(self, digest: Digest) -> None:
        if digest in self._contents.blobs:  # else it was removed meanwhile
            self.on_suspect(digest)

    async def read_many(self, spans: Sequence[tuple[Digest, int, int]]) -> list[bytes | StorageError]:
        """Of each (published blob, start, stop) its bytes, or why they can't be read; of small ones many cost
        little more than one."""
        found = [(self._backing.layout.blob(blob), start, stop - start) for blob, start, stop in spans]
        read = await self._backing.threads.run(disk.read_spans, found)
        for (blob, _, _), data in zip(spans, read, strict=True):
            if isinstance(data, StorageError):
                self._suspect(blob)
        return read

    async def recipe(self, digest: Digest) -> Recipe:
        """The recipe of a published blob. Raises `NotFoundError`."""
        size = self._published(digest)
        packed = await self._backing.threads.run(self._backing.database.recipe, digest)
        try:
            return Recipe.unpack(digest, size, packed or b"")
        except ValueError as fault:
            raise StorageError(f"recipe of {digest} in {self._backing.layout.database}: {fault}") from None

    def _published(self, digest: Digest) -> int:
        size = self._contents.blobs.get(digest)
        if size is None:
            raise NotFoundError(f"{digest} is not in the store")
        return size
