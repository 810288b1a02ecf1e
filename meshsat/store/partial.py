"""Partial: a blob on its way. A sparse file, and in the database the chunks of it that are right.

Laws: a chunk is recorded after its bytes are in the file, so what is recorded survives `kill -9`; after a
restart every recorded chunk is hashed again before anyone sees it (a power cut may have lost its bytes); the
blob gets its final name only when its own digest was checked. Where chunks come from is not known here.
"""

import enum
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import trio

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.chunking.recipe import self_evident
from meshsat.errors import DigestMismatchError, NotFoundError, StorageError
from meshsat.oci.digest import Digest
from meshsat.store import disk
from meshsat.store.database import Database, PartialRow
from meshsat.store.disk import Buffer, Threads
from meshsat.store.layout import Layout
from meshsat.store.prefix import PrefixDigest

CATCH_UP = 1024 * 1024
"""Bytes that one write reads back at most to bring the running digest forward."""
WORK_SLICE = 64 * 1024 * 1024
"""Bytes that are hashed in one go: a cancelled caller waits for no more than that."""


class AlreadyPublishedError(StorageError):
    """The blob is whole already: read it from the store."""


class State(enum.Enum):
    OPEN = enum.auto()
    PUBLISHED = enum.auto()
    DISCARDED = enum.auto()
    CLOSED = enum.auto()
    """Left as it is; `Store.partial` goes on with it."""


@dataclass(frozen=True, slots=True)
class Backing:
    layout: Layout
    database: Database
    threads: Threads


class Partial:
    """Made by `Store.partial`. Every method raises `StorageError` when the disk does not go along."""

    def __init__(
        self, digest: Digest, row: PartialRow, backing: Backing, on_end: Callable[["Partial"], None]
    ) -> None:
        self.digest = digest
        self.size = row.size
        """Bytes of the whole blob."""
        self.cut = Cut(FIXED_1, row.size)
        self.chunks: Mapping[int, bytes]
        """The chunks that are here and right: index -> raw SHA-256. Changes as they come."""
        self._row = row
        self._backing = backing
        self._on_end = on_end
        self._path = backing.layout.partial(digest)
        self._chunks: dict[int, bytes] = {}
        self.chunks = MappingProxyType(self._chunks)
        self._have_bytes = 0
        self._own_digest = self_evident(digest, row.size)
        self._prefix = PrefixDigest(digest, self.cut, self._read_whole)
        self._writing: dict[int, trio.Event] = {}
        self._one_by_one = (
            trio.Lock()
        )  # side by side they only fight for the locks of the file and of the digest
        self._exclusive = trio.Lock()
        self.state = State.OPEN

    @property
    def have_bytes(self) -> int:
        return self._have_bytes

    async def resume(self) -> None:
        """Hash what was recorded before, and forget what is not right. `Store.partial` has done this."""
        recorded = await self._backing.threads.run(self._backing.database.chunks, self._row.id)
        rotten: list[int] = []
        numbers = list(recorded)
        step = max(1, WORK_SLICE // self.cut.chunk_length)
        for at in range(0, len(numbers), step):
            claims = {number: recorded[number] for number in numbers[at : at + step]}
            right = await self._backing.threads.run(self._verify, claims)
            self._record({number: claims[number] for number in right})
            rotten += claims.keys() - right
        if rotten:
            await self._backing.threads.run(self._backing.database.drop_chunks, self._row.id, rotten)

    async def write(self, index: int, data: Buffer, expect: bytes | None = None) -> bytes:
        """Keep a chunk; gives its raw SHA-256. A chunk that is here already is only compared.

        Raises `DigestMismatchError`, and keeps nothing, when the length is wrong, when the SHA-256 is not
        `expect`, or when another chunk is recorded for the index (`forget` that one first). Raises
        `IndexError`.
        """
        offset, length = self.cut.span(index)
        if len(data) != length:
            raise DigestMismatchError(f"chunk {index} of {self.digest}: {len(data)} bytes, not {length}")
        while index in self._writing:
            await self._writing[index].wait()
        if self.state is not State.PUBLISHED:
            self._require_open()
        recorded = self._chunks.get(index)
        if recorded is not None:
            if expect not in (None, recorded):
                raise DigestMismatchError(f"chunk {index} of {self.digest} is here already, and another one")
            return await self._backing.threads.run(self._check, index, data, recorded)
        done = self._writing[index] = trio.Event()
        try:
            async with self._one_by_one:
                sha256 = await self._backing.threads.run(self._write, index, offset, data, expect)
                self._record({index: sha256})
        finally:
            del self._writing[index]
            done.set()
        return sha256

    async def read(self, index: int, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start` to `stop` of a chunk that is here. Raises `NotFoundError`, `IndexError`."""
        offset, length = self.cut.span(index)
        start, stop, _ = slice(start, stop).indices(length)
        sha256 = self._chunks.get(index)
        if sha256 is None or self.state in (State.DISCARDED, State.CLOSED):
            raise NotFoundError(f"chunk {index} of {self.digest} is not here")
        at, length = offset + start, max(stop - start, 0)
        data = await self._backing.threads.read(self._path, at, length, self._read_span)
        if self._chunks.get(index) is not sha256:
            raise NotFoundError(f"chunk {index} of {self.digest} was forgotten while it was read")
        return data

    async def forget(self, indexes: Collection[int]) -> None:
        """Drop chunks whose source proved wrong. Those that are not here are passed over."""
        async with self._exclusive:
            self._require_open()
            for index in indexes:
                while index in self._writing:
                    await self._writing[index].wait()
            await self._backing.threads.run(self._backing.database.drop_chunks, self._row.id, indexes)
            for index in indexes:
                if self._chunks.pop(index, None) is not None:
                    self._have_bytes -= self.cut.span(index)[1]
            self._prefix.restart()

    async def publish(self) -> None:
        """Make it a blob of the store. Once done, doing it again does nothing.

        Raises `DigestMismatchError` when the whole has not the digest; the chunks stay, for someone to find
        out which of them are wrong. Raises `StorageError` when chunks are missing.
        """
        async with self._exclusive:
            if self.state is State.PUBLISHED:
                return
            self._require_open()
            missing = self.cut.count - len(self._chunks)
            if missing:
                raise StorageError(f"{self.digest} cannot be published: {missing} of its chunks are missing")
            if self._own_digest is None:
                while not await self._backing.threads.run(self._prefix.catch_up, self._chunks, WORK_SLICE):
                    pass
            if not self._is_right():
                raise DigestMismatchError(f"the chunks that came for {self.digest} do not make that blob")
            recipe = b"".join(self._chunks[index] for index in range(self.cut.count))
            await self._backing.threads.run(self._publish, recipe)
            self.state = State.PUBLISHED
            self._on_end(self)

    async def discard(self) -> None:
        """Throw it away, if it is not published."""
        async with self._exclusive:
            if self.state is not State.OPEN:
                return
            self.state = State.CLOSED
            with trio.CancelScope(shield=True):
                await self._finish_writes()
                try:
                    # The file first: on a full disk the database needs the space even to forget.
                    await self._backing.threads.run(disk.remove, self._path)
                    await self._backing.threads.run(self._backing.database.drop_partial, self._row.id)
                    self.state = State.DISCARDED
                finally:
                    self._on_end(self)

    async def aclose(self) -> None:
        """Let go of it. What is here stays, for the next `Store.partial`."""
        with trio.CancelScope(shield=True):
            async with self._exclusive:
                if self.state is State.OPEN:
                    self.state = State.CLOSED
                    await self._finish_writes()
                    self._on_end(self)

    async def _finish_writes(self) -> None:
        while self._writing:
            await next(iter(self._writing.values())).wait()

    def _require_open(self) -> None:
        if self.state is not State.OPEN:
            raise StorageError(f"the partial blob {self.digest} is {self.state.name.lower()}")

    def _record(self, chunks: Mapping[int, bytes]) -> None:
        """On the event loop only: other tasks iterate over `chunks`."""
        self._chunks.update(chunks)
        self._have_bytes += sum(self.cut.span(index)[1] for index in chunks)

    def _is_right(self) -> bool:
        if self._own_digest is not None and self.cut.count == 1:
            return self._chunks[0] == self._own_digest[0]
        return self._prefix.matches()

    # In worker threads

    def _read_span(self, offset: int, length: int) -> bytes:
        """From wherever the file is now: publishing renames it under those who read."""
        path, target = self._path, self._backing.layout.blob(self.digest)
        try:
            return disk.read_span(path, offset, length)
        except StorageError:
            if path == target or not target.exists():
                raise
            return disk.read_span(target, offset, length)

    def _read_whole(self, index: int) -> bytes:
        return self._read_span(*self.cut.span(index))

    def _check(self, index: int, data: Buffer, expect: bytes | None) -> bytes:
        sha256 = hashlib.sha256(data).digest()
        if expect is not None and sha256 != expect:
            raise DigestMismatchError(f"chunk {index} of {self.digest} is not what was promised")
        return sha256

    def _write(self, index: int, offset: int, data: Buffer, expect: bytes | None) -> bytes:
        if self._own_digest is not None:
            expect = self._own_digest[index]
        sha256 = self._check(index, data, expect)
        disk.write_span(self._path, offset, data)
        self._backing.database.add_chunk(self._row.id, index, sha256)
        if self._own_digest is None:
            self._prefix.take(index, data)
            self._prefix.catch_up(self._chunks, CATCH_UP)
        return sha256

    def _verify(self, claims: Mapping[int, bytes]) -> set[int]:
        right = set()
        for index, sha256 in claims.items():
            if 0 <= index < self.cut.count:
                data = self._read_whole(index)
                if hashlib.sha256(data).digest() == sha256:
                    right.add(index)
                    self._prefix.take(index, data)
        return right

    def _publish(self, recipe: bytes) -> None:
        target = self._backing.layout.blob(self.digest)
        if self._path != target:
            disk.publish(self._path, target, mode=0o444)
            self._path = target  # should the next line fail, trying again goes on from here
        self._backing.database.finish_partial(self._row.id, self.digest, self.size, recipe)
