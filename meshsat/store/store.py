"""Store: the way in. One process a data directory; blocking work is done in a few threads of its own.

What other parts ask for all the time (is this blob here, what does this tag mean) is answered from a mirror
of the database in memory, without waiting. Reads trust the disk: what is in `blobs/` was verified when it got
its name. The store fetches nothing, decides nothing about what to keep, and knows no peers.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
import trio

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.chunking.recipe import Recipe
from meshsat.errors import DigestMismatchError, NotFoundError, StorageError
from meshsat.oci.digest import SHA256, Digest
from meshsat.oci.manifest import Manifest
from meshsat.oci.reference import SITE
from meshsat.shares import Shares
from meshsat.store import disk, images, recovery
from meshsat.store.database import Contents, Database
from meshsat.store.disk import Buffer, Threads
from meshsat.store.layout import Layout
from meshsat.store.lock import DirectoryLock
from meshsat.store.partial import AlreadyPublishedError, Backing, Partial, State
from meshsat.store.records import AUTHOR_LIMIT, TAGS_LIMIT, BlobFacts, ImageRow, TagRecord
from meshsat.store.repositories import Repositories
from meshsat.store.uploads import UploadLimits, Uploads
from meshsat.store.whole import SmallBlob, WholeBlobs

log = structlog.get_logger(__name__)

READ_LIMIT = 4 * 1024 * 1024
"""Bytes that one `read` gives at most."""
SOURCES_LIMIT = 256
"""Places remembered for one blob."""
DISK_THREADS = 4


class Store:
    """Every coroutine raises `StorageError` when the disk does not go along; nothing is broken by that."""

    def __init__(
        self, backing: Backing, lock: DirectoryLock, contents: Contents, limits: UploadLimits
    ) -> None:
        self._backing = backing
        self._lock = lock
        self._contents = contents
        self._open_partials: dict[Digest, Partial | SmallBlob] = {}
        self._whole = WholeBlobs(backing, self._contents.blobs.__setitem__)
        self._opening: dict[Digest, trio.Lock] = {}
        self._records = trio.Lock()  # database and mirror change in the same order
        self.repositories = Repositories(backing, contents, self._records)
        self.uploads = Uploads(backing, contents.uploads, limits, self._adopt)
        self._shares: Shares[tuple[str, str, str]] = Shares(TAGS_LIMIT, AUTHOR_LIMIT)
        for record in list(contents.tags.values()):
            gone = self._shares.put(record.key, record.version, record.owner)
            if gone is not None:
                del contents.tags[gone]
        self._closed = False

    @classmethod
    async def open(
        cls, data_dir: Path, threads: int = DISK_THREADS, uploads: UploadLimits | None = None
    ) -> Self:
        """Take the data directory, made if need be, and bring disk and database to agree.

        `threads` bounds the blocking work done at once; 0 does it on the event loop, for tests under a mock
        clock. Raises `StoreLockedError` when another process has the directory.
        """
        pool = Threads(threads)
        layout, lock, database, contents = await pool.run(cls._open, Layout(data_dir))
        return cls(Backing(layout, database, pool), lock, contents, uploads or UploadLimits())

    @classmethod
    def _open(cls, layout: Layout) -> tuple[Layout, DirectoryLock, Database, Contents]:
        disk.make_directories(layout.directories)
        lock = DirectoryLock.acquire(layout)
        try:
            database = recovery.open_database(layout)
            try:
                contents = recovery.reconcile(layout, database)
                cls._keep_file(layout, layout.marker, images.OCI_LAYOUT)
                cls._keep_file(layout, layout.index, images.encode_index(contents.images.values()))
            except BaseException:
                database.close()
                raise
        except BaseException:
            lock.release()
            raise
        log.info(
            "store open", path=str(layout.root), blobs=len(contents.blobs), partial=len(contents.partials)
        )
        return layout, lock, database, contents

    async def aclose(self) -> None:
        """What is open is let go of as it is. Once done, doing it again does nothing."""
        if self._closed:
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            for partial in list(self._open_partials.values()):
                await partial.aclose()
            await self._backing.threads.run(self._backing.database.close)
        self._lock.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # Blobs

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
        return await self._backing.threads.read(path, start, max(stop - start, 0))

    async def read_many(self, spans: Sequence[tuple[Digest, int, int]]) -> list[bytes | StorageError]:
        """Of each (published blob, start, stop) its bytes, or why they can't be read; of small ones many cost
        little more than one."""
        found = [(self._backing.layout.blob(blob), start, stop - start) for blob, start, stop in spans]
        return await self._backing.threads.run(disk.read_spans, found)

    async def put(self, data: Buffer, digest: Digest) -> None:
        """Publish a small blob, a manifest say. Raises `DigestMismatchError`."""
        if digest not in self._contents.blobs:
            await self._whole.put(data, digest)
        elif not digest.matches(memoryview(data)):
            raise DigestMismatchError(f"{len(data)} bytes that came for {digest} are not that blob")

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

    # Blobs on their way

    def partials(self) -> Mapping[Digest, int]:
        """Blobs on their way, begun in this process or before, and their sizes in bytes."""
        return {digest: row.size for digest, row in self._contents.partials.items()}

    async def partial(self, digest: Digest, size: int) -> Partial | SmallBlob:
        """Begin a blob of `size` bytes, or go on with it. While it is open, everybody gets the same object.

        Raises `AlreadyPublishedError`; `StorageError` also when it is open with another size. One that was
        left with another size is begun anew: only the digest can tell which size was right.
        """
        async with self._opening_of(digest):
            if digest in self._contents.blobs:
                raise AlreadyPublishedError(f"{digest} is in the store already")
            partial = self._open_partials.get(digest)
            if partial is not None and partial.state is not State.OPEN:
                await partial.aclose()  # it is about to end: waits for that
                partial = None
            if partial is None:
                partial = await self._open_partial(digest, size)
                self._open_partials[digest] = partial
            if partial.size != size:
                raise StorageError(f"{digest} is on its way with {partial.size} bytes, not {size}")
            return partial

    async def _open_partial(self, digest: Digest, size: int) -> Partial | SmallBlob:
        threads, database, layout = self._backing.threads, self._backing.database, self._backing.layout
        row = self._contents.partials.get(digest)
        if row is None and digest.algorithm == SHA256 and Cut(FIXED_1, size).count == 1:
            return SmallBlob(digest, size, self._whole, self._backing, self._partial_ended)
        if row is not None and not await threads.run(disk.has_size, layout.partial(digest), size):
            log.warning("blob begun anew: told another size", digest=str(digest), size=size, before=row.size)
            await threads.run(disk.remove, layout.partial(digest))
            await threads.run(database.drop_partial, row.id)
            del self._contents.partials[digest]
            row = None
        if row is None:
            await threads.run(disk.create_sparse, layout.partial(digest), size)
            row = await threads.run(database.add_partial, digest, size)
            self._contents.partials[digest] = row
        partial = Partial(digest, row, self._backing, self._partial_ended)
        await partial.resume()
        return partial

    def _partial_ended(self, partial: Partial | SmallBlob) -> None:
        del self._open_partials[partial.digest]
        if partial.state is State.PUBLISHED:
            self._contents.blobs[partial.digest] = partial.size
        if partial.state is not State.CLOSED:
            self._contents.partials.pop(partial.digest, None)

    @asynccontextmanager
    async def _opening_of(self, digest: Digest) -> AsyncIterator[None]:
        lock = self._opening.setdefault(digest, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._opening.pop(digest, None)

    # Blobs that clients push (uploads.py)

    async def _adopt(self, digest: Digest, size: int, recipe: bytes, upload_id: str) -> None:
        async with self._opening_of(digest):
            if digest not in self._contents.blobs:
                await self._backing.threads.run(self._publish_upload, digest, size, recipe, upload_id)
                self._contents.blobs[digest] = size

    def _publish_upload(self, digest: Digest, size: int, recipe: bytes, upload_id: str) -> None:
        layout = self._backing.layout
        if not layout.blob(digest).exists():  # else an earlier try came as far as this
            disk.publish(layout.upload(upload_id), layout.blob(digest), 0o444)
        self._backing.database.add_blob(digest, size, recipe)

    # Tags

    async def put_tag(self, record: TagRecord) -> None:
        """Remember what a tag means, in place of what was known. Whose word counts is decided elsewhere.

        Where its author has more than a share of what is kept, or there is too much in all, the oldest goes.
        """
        async with self._records:
            await self._backing.threads.run(self._backing.database.put_tag, record)
            self._contents.tags[record.key] = record
            gone = self._shares.put(record.key, record.version, record.owner)
            if gone is not None:
                self._contents.tags.pop(gone, None)
                log.info("too many tags: an old one is forgotten", repository=gone[1], tag=gone[2])
                await self._backing.threads.run(self._backing.database.drop_tag, *gone)

    def record(self, registry: str, repository: str, reference: str) -> TagRecord | None:
        """What is known of a tag, or of a manifest of site content by its digest; also that it is gone."""
        return self._contents.tags.get((registry, repository, reference))

    def records(self) -> list[TagRecord]:
        """All that `record` gives."""
        return list(self._contents.tags.values())

    def tag(self, registry: str, repository: str, tag: str) -> TagRecord | None:
        found = self._contents.tags.get((registry, repository, tag))
        return None if found is None or found.is_gone else found

    def tags(self, registry: str, repository: str) -> list[TagRecord]:
        """Of one repository, in the order of their names."""
        return sorted(
            (tag for tag in self.all_tags() if (tag.registry, tag.repository) == (registry, repository)),
            key=lambda record: record.tag,
        )

    def all_tags(self) -> list[TagRecord]:
        return [tag for tag in self._contents.tags.values() if not (tag.is_gone or tag.names_digest)]

    # What manifests tell

    async def learn(self, manifest: Manifest, registry: str, repository: str) -> None:
        """Remember size, type and whereabouts of a manifest and of all that it refers to."""
        async with self._records:
            news = [self._merged(fact) for fact in images.facts_of(manifest, registry, repository)]
            news = [fact for fact in news if fact != self._contents.facts.get(fact.digest)]
            if news:
                await self._backing.threads.run(self._backing.database.put_facts, news)
                self._contents.facts.update((fact.digest, fact) for fact in news)
        await self.repositories.take_in(manifest, registry, repository)

    def _merged(self, fact: BlobFacts) -> BlobFacts:
        known = self._contents.facts.get(fact.digest)
        sources = (*fact.sources, *(known.sources if known else ()))
        return replace(fact, sources=tuple(sorted(set(sources[:SOURCES_LIMIT]))))

    def belongs(self, registry: str, repository: str, digest: Digest) -> bool:
        """Whether this manifest or blob is known to be of that repository."""
        if registry == SITE:
            return self.repositories.holds(repository, digest)
        facts = self._contents.facts.get(digest)
        return facts is not None and (registry, repository) in facts.sources

    def facts(self, digest: Digest) -> BlobFacts | None:
        return self._contents.facts.get(digest)

    # Images and pins

    async def publish_image(self, registry: str, repository: str, tag: str | None, digest: Digest) -> None:
        """Show an image as whole, to other tools too.

        Raises `NotFoundError` that names the first thing missing, `InvalidInputError` when something that is
        called a manifest is none.
        """
        async with self._records:
            whole = await self._backing.threads.run(
                images.closure, digest, self._contents.blobs, self._read_whole
            )
            image = ImageRow(registry, repository, tag, whole.root.descriptor, whole.size, time.time())
            await self._backing.threads.run(self._backing.database.put_image, image)
            self._contents.images[image.name] = image
            document = images.encode_index(self._contents.images.values())
            layout = self._backing.layout
            await self._backing.threads.run(self._replace_file, layout, layout.index, document)

    async def retract_image(self, registry: str, repository: str, reference: str) -> None:
        """Show it no longer, under that tag or digest."""
        end = f"@{reference}" if ":" in reference else f":{reference}"
        name = f"{registry}/{repository}{end}"
        async with self._records:
            if self._contents.images.pop(name, None) is not None:
                layout, threads = self._backing.layout, self._backing.threads
                await threads.run(self._backing.database.drop_image, name)
                document = images.encode_index(self._contents.images.values())
                await threads.run(self._replace_file, layout, layout.index, document)

    def images(self) -> list[ImageRow]:
        """In the order of their names."""
        return sorted(self._contents.images.values(), key=lambda image: image.name)

    async def pin(self, digest: Digest, reason: str) -> None:
        """Something must stay here, and why. There may be several reasons."""
        async with self._records:
            await self._backing.threads.run(self._backing.database.add_pin, digest, reason)
            self._contents.pins[digest] = self._contents.pins.get(digest, frozenset()) | {reason}

    async def unpin(self, digest: Digest, reason: str) -> None:
        """One reason is gone. None that there was is fine."""
        async with self._records:
            await self._backing.threads.run(self._backing.database.drop_pin, digest, reason)
            left = self._contents.pins.pop(digest, frozenset()) - {reason}
            if left:
                self._contents.pins[digest] = left

    def pins(self) -> Mapping[Digest, frozenset[str]]:
        """Reasons by digest, as they are now."""
        return dict(self._contents.pins)

    # In worker threads

    @classmethod
    def _keep_file(cls, layout: Layout, target: Path, data: bytes) -> None:
        with disk.storage_errors("read", target):
            same = target.exists() and target.read_bytes() == data
        if not same:
            cls._replace_file(layout, target, data)

    @staticmethod
    def _replace_file(layout: Layout, target: Path, data: Buffer) -> None:
        source = layout.incoming(target.name)
        try:
            disk.write_file(source, data)
            disk.publish(source, target, 0o600)
        except StorageError:
            disk.remove(source)
            raise

    def _read_whole(self, digest: Digest) -> bytes:
        return disk.read_span(self._backing.layout.blob(digest), 0, self._contents.blobs[digest])
