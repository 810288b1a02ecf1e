"""Blobs that come in one piece: small ones, and what clients or upstreams hand over whole.

Law: nothing of them has a name on the disk before all of it is durable. What comes at the same time is made
durable together: one directory sync and one transaction for many.
"""

import itertools
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import trio

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.chunking.recipe import Recipe
from meshsat.errors import DigestMismatchError, NotFoundError, StorageError
from meshsat.oci.digest import Digest
from meshsat.store import disk
from meshsat.store.disk import Buffer
from meshsat.store.partial import Backing, State

BATCH = (128, 8 << 20)
"""Blobs, and bytes, that are made durable in one go; a blob larger than that goes alone."""


@dataclass(slots=True, eq=False)
class _Entry:
    digest: Digest
    data: Buffer
    done: bool = False
    fault: StorageError | DigestMismatchError | None = None
    recipe: bytes = b""


def _mismatch(data: Buffer, digest: Digest) -> DigestMismatchError:
    return DigestMismatchError(f"{len(data)} bytes that came for {digest} are not that blob")


class WholeBlobs:
    """`published` is called with what became durable: digest and size."""

    def __init__(self, backing: Backing, published: Callable[[Digest, int], None]) -> None:
        self._backing = backing
        self._published = published
        self._waiting: deque[_Entry] = deque()
        self._turn = trio.Lock()
        self._names = itertools.count()

    async def put(self, data: Buffer, digest: Digest) -> None:
        """Publish a blob; it is durable then. `data` is not changed meanwhile. Raises `DigestMismatchError`,
        `StorageError`."""
        entry = _Entry(digest, data)
        self._waiting.append(entry)
        try:
            async with self._turn:  # who waited here may find its blob taken along by the one before
                while not entry.done:
                    await self._keep_some()
        except trio.Cancelled:
            if entry in self._waiting:
                self._waiting.remove(entry)
            raise
        if entry.fault is not None:
            raise entry.fault

    async def _keep_some(self) -> None:
        batch = self._next_batch()
        with trio.CancelScope(shield=True):  # it is others' as well
            await self._backing.threads.run(self._keep, batch)
        for entry in batch:
            entry.done = True
            if entry.fault is None:
                self._published(entry.digest, len(entry.data))

    def _next_batch(self) -> list[_Entry]:
        batch = [self._waiting.popleft()]
        size = len(batch[0].data)
        while self._waiting and len(batch) < BATCH[0]:
            size += len(self._waiting[0].data)
            if size > BATCH[1]:
                break
            batch.append(self._waiting.popleft())
        return batch

    # In a worker thread

    def _keep(self, batch: Collection[_Entry]) -> None:
        layout = self._backing.layout
        for entry in batch:
            if not entry.digest.matches(memoryview(entry.data)):
                entry.fault = _mismatch(entry.data, entry.digest)
                continue
            entry.recipe = b"".join(Recipe.of(memoryview(entry.data)).chunks)
            source = layout.incoming(f"whole-{next(self._names)}")
            try:
                disk.write_file(source, entry.data, mode=0o444)
                disk.rename(source, layout.blob(entry.digest))
            except StorageError as fault:
                entry.fault = fault
                disk.remove(source)
        kept = [entry for entry in batch if entry.fault is None]
        try:
            for directory in {layout.blob(entry.digest).parent for entry in kept}:
                disk.sync_directory(directory)
            self._backing.database.add_blobs(
                [(entry.digest, len(entry.data), entry.recipe) for entry in kept]
            )
        except StorageError as fault:
            for entry in kept:
                entry.fault = fault


class SmallBlob:
    """A blob of one chunk on its way: of what is not whole there is nothing to keep. Made by `Store.partial`,
    it is used as a `Partial` is."""

    def __init__(
        self,
        digest: Digest,
        size: int,
        whole: WholeBlobs,
        backing: Backing,
        on_end: Callable[["SmallBlob"], None],
    ) -> None:
        self.digest = digest
        self.size = size
        self.cut = Cut(FIXED_1, size)
        self._chunks: dict[int, bytes] = {}
        self.chunks: Mapping[int, bytes] = MappingProxyType(self._chunks)
        self.state = State.OPEN
        self._whole = whole
        self._backing = backing
        self._on_end = on_end
        self._writing = trio.Lock()

    @property
    def have_bytes(self) -> int:
        return self.size if self._chunks else 0

    async def write(self, index: int, data: Buffer, expect: bytes | None = None) -> bytes:
        """Keep the chunk, which publishes the blob; gives its raw SHA-256.

        Raises `DigestMismatchError` when it is not this blob or not `expect`, `IndexError`, `StorageError`.
        """
        self.cut.span(index)
        raw = self.digest.raw
        if len(data) != self.size or expect not in (None, raw):
            raise _mismatch(data, self.digest)
        async with self._writing:
            if self.state is State.PUBLISHED:
                if not self.digest.matches(memoryview(data)):
                    raise _mismatch(data, self.digest)
                return raw
            self._require_open()
            await self._whole.put(data, self.digest)
            self._chunks[index] = raw
            self.state = State.PUBLISHED
            self._on_end(self)
        return raw

    async def read(self, index: int, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start` to `stop` of the chunk. Raises `NotFoundError` while it is not here, `IndexError`."""
        self.cut.span(index)
        if not self._chunks:
            raise NotFoundError(f"chunk {index} of {self.digest} is not here")
        start, stop, _ = slice(start, stop).indices(self.size)
        path = self._backing.layout.blob(self.digest)
        return await self._backing.threads.read(path, start, max(stop - start, 0))

    async def forget(self, indexes: Collection[int]) -> None:  # noqa: ARG002 - as `Partial` has it
        """Its own digest is its chunk's: what is here was never wrong."""
        self._require_open()

    async def publish(self) -> None:
        """Raises `StorageError` when the chunk has not come."""
        async with self._writing:
            if self.state is not State.PUBLISHED:
                self._require_open()
                raise StorageError(f"{self.digest} cannot be published: nothing of it is here")

    async def discard(self) -> None:
        """Let go of it."""
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of it."""
        with trio.CancelScope(shield=True):
            async with self._writing:
                if self.state is State.OPEN:
                    self.state = State.CLOSED
                    self._on_end(self)

    def _require_open(self) -> None:
        if self.state is not State.OPEN:
            raise StorageError(f"the blob {self.digest} is {self.state.name.lower()}")
