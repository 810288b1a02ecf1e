"""Store: the way in. One process a data directory; blocking work is done in a few threads of its own.

What other parts ask for all the time (is this blob here, what does this tag mean) is answered from a mirror
of the database in memory, without waiting. Reads trust the disk: what is in `blobs/` was verified when it got
its name. A blob that can't be read is told as suspect. The store fetches nothing, decides nothing about what
to keep (`upkeep` does, through `ages`, `room` and `removal`), and knows no peers.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
import trio

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.errors import DigestMismatchError, StorageError
from meshsat.oci.digest import SHA256, Digest
from meshsat.oci.manifest import Manifest
from meshsat.oci.reference import SITE
from meshsat.shares import Shares
from meshsat.store import disk, images, recovery
from meshsat.store.ages import Ages
from meshsat.store.database import Contents, Database
from meshsat.store.disk import Buffer, Threads
from meshsat.store.layout import Layout
from meshsat.store.lock import DirectoryLock
from meshsat.store.partial import AlreadyPublishedError, Backing, Partial, State
from meshsat.store.published import PublishedBlobs
from meshsat.store.records import AUTHOR_LIMIT, TAGS_LIMIT, BlobFacts, ImageRow, TagRecord
from meshsat.store.removal import Removal
from meshsat.store.repositories import Repositories
from meshsat.store.room import Room
from meshsat.store.uploads import UploadLimits, Uploads
from meshsat.store.whole import SmallBlob, WholeBlobs

log = structlog.get_logger(__name__)

SOURCES_LIMIT = 256
"""Places remembered for one blob."""
DISK_THREADS = 4


class Store(PublishedBlobs):
    """Every coroutine raises `StorageError` when the disk does not go along; nothing is broken by that."""

    def __init__(
        self,
        backing: Backing,
        lock: DirectoryLock,
        contents: Contents,
        limits: UploadLimits,
        unix: Callable[[], float],
    ) -> None:
        super().__init__(backing, contents)
        self._lock = lock
        self._open_partials: dict[Digest, Partial | SmallBlob] = {}
        self._left = {digest: disk.allocated(backing.layout.partial(digest)) for digest in contents.partials}
        self._whole = WholeBlobs(backing, self._published_now)
        self._opening: dict[Digest, trio.Lock] = {}
        self._records = trio.Lock()  # database and mirror change in the same order
        self._unix = unix
        self.threads = backing.threads
        self.path = backing.layout.root
        self.ages = Ages(backing, contents, unix)
        self.room = Room(contents, self._open_partials, self._left)
        self.repositories = Repositories(backing, contents, self._records)
        self.uploads = Uploads(backing, contents.uploads, limits, self._adopt, self.room)
        self._shares: Shares[tuple[str, str, str]] = Shares(TAGS_LIMIT, AUTHOR_LIMIT)
        self.is_member: Callable[[str], bool] = lambda _author: True
        """Whether an author of tags has shown a pass; all others count as one (protocol/gossip.py)."""
        for record in list(contents.tags.values()):
            gone = self._shares.put(record.key, record.version, record.owner)
            if gone is not None:
                del contents.tags[gone]
        self.removal = Removal(
            backing,
            contents,
            self._records,
            self._opening_of,
            (self.ages, self.repositories, self.room),
            self._left,
            self._open_partials,
        )
        self.on_retracted: Callable[[ImageRow], None] = lambda _image: None
        """Called with an image that is shown as whole no longer."""
        self.broken = trio.Event()
        """Set when the database proved no good: this process should end, the next one rebuilds it."""
        self.broken_reason = ""
        self._token = trio.lowlevel.current_trio_token()
        backing.database.on_rotten = self._database_rotten
        self._closed = False

    @classmethod
    async def open(
        cls,
        data_dir: Path,
        threads: int = DISK_THREADS,
        uploads: UploadLimits | None = None,
        unix: Callable[[], float] = time.time,
    ) -> Self:
        """Take the data directory, made if need be, and bring disk and database to agree.

        `threads` bounds the blocking work done at once; 0 does it on the event loop, for tests under a mock
        clock. `unix` gives Unix time. Raises `StoreLockedError` when another process has the directory.
        """
        pool = Threads(threads)
        layout, lock, database, contents = await pool.run(cls._open, Layout(data_dir), unix)
        return cls(Backing(layout, database, pool), lock, contents, uploads or UploadLimits(), unix)

    @classmethod
    def _open(
        cls, layout: Layout, unix: Callable[[], float]
    ) -> tuple[Layout, DirectoryLock, Database, Contents]:
        disk.make_directories(layout.directories)
        lock = DirectoryLock.acquire(layout)
        try:
            database = recovery.open_database(layout, unix)
            try:
                contents = recovery.reconcile(layout, database)
                for target, data in (
                    (layout.marker, images.OCI_LAYOUT),
                    (layout.index, images.encode_index(contents.images.values())),
                ):
                    disk.keep_file(layout.incoming(target.name), target, data)
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
            try:
                await self.ages.flush()
            except StorageError as failed:
                log.warning("what was pulled lately is not remembered", problem=str(failed))
            await self._backing.threads.run(self._backing.database.close)
        self._lock.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # Blobs

    async def put(self, data: Buffer, digest: Digest) -> None:
        """Publish a small blob, a manifest say. Raises `DigestMismatchError`, `StorageFullError`."""
        if digest in self._contents.blobs:
            self._compare(data, digest)
            return
        async with self.room.reserved(len(data)), self._opening_of(digest):
            if digest not in self._contents.blobs:
                await self._whole.put(data, digest)
            else:
                self._compare(data, digest)

    def _compare(self, data: Buffer, digest: Digest) -> None:
        if not digest.matches(memoryview(data)):
            raise DigestMismatchError(f"{len(data)} bytes that came for {digest} are not that blob")
        self.ages.claim(digest)

    def _published_now(self, digest: Digest, size: int) -> None:
        self._contents.blobs[digest] = size
        self._contents.lost.discard(digest)
        self.ages.published(digest)

    # Blobs on their way

    def partials(self) -> Mapping[Digest, int]:
        """Blobs on their way, begun in this process or before, and their sizes in bytes."""
        return {digest: row.size for digest, row in self._contents.partials.items()}

    def partial_path(self, digest: Digest) -> Path:
        return self._backing.layout.partial(digest)

    async def partial(self, digest: Digest, size: int) -> Partial | SmallBlob:
        """Begin a blob of `size` bytes, or go on with it. While it is open, everybody gets the same object.

        Raises `AlreadyPublishedError`, `StorageFullError`; `StorageError` also when it is open with another
        size. One that was left with another size is begun anew: only the digest can tell which size was
        right.
        """
        needed = size - self._left.get(digest, 0)
        if digest in self._contents.blobs or digest in self._open_partials:
            needed = 0
        async with self.room.reserved(max(0, needed)), self._opening_of(digest):
            if digest in self._contents.blobs:
                self.ages.claim(digest)
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
            self._left.pop(digest, None)
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
        self._left.pop(partial.digest, None)
        if partial.state is State.PUBLISHED:
            self._published_now(partial.digest, partial.size)
        if partial.state is not State.CLOSED:
            self._contents.partials.pop(partial.digest, None)
        elif partial.digest in self._contents.partials:
            self._left[partial.digest] = partial.have_bytes

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
                self._published_now(digest, size)
            else:
                self.ages.claim(digest)

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
            known = self._contents.tags.get(record.key)
            if known is None or known.descriptor.digest != record.descriptor.digest:
                self._contents.changes += 1
            self._contents.tags[record.key] = record
            author = record.author if self.is_member(record.author) else ""
            gone = self._shares.put(record.key, record.version, (author, record.owner[1]))
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
                self._contents.changes += 1
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
            image = ImageRow(registry, repository, tag, whole.root.descriptor, whole.size, self._unix())
            await self._backing.threads.run(self._backing.database.put_image, image)
            self._contents.images[image.name] = image
            self._contents.changes += 1
            self.ages.use(digest)
            await self._backing.threads.run(self._write_index)

    async def retract_image(
        self, registry: str, repository: str, reference: str, only: Digest | None = None
    ) -> None:
        """Show it no longer, under that tag or digest; with `only`, if it still means that manifest."""
        end = f"@{reference}" if ":" in reference else f":{reference}"
        name = f"{registry}/{repository}{end}"
        async with self._records:
            image = self._contents.images.get(name)
            if image is not None and only in (None, image.descriptor.digest):
                del self._contents.images[name]
                self.on_retracted(image)
                await self._backing.threads.run(self._backing.database.drop_image, name)
                await self._backing.threads.run(self._write_index)

    def images(self) -> list[ImageRow]:
        """In the order of their names."""
        return sorted(self._contents.images.values(), key=lambda image: image.name)

    async def pin(self, digest: Digest, reason: str) -> None:
        """Something must stay here, and why. There may be several reasons."""
        async with self._records:
            await self._backing.threads.run(self._backing.database.add_pin, digest, reason)
            self._contents.pins[digest] = self._contents.pins.get(digest, frozenset()) | {reason}
            self._contents.changes += 1

    async def unpin(self, digest: Digest, reason: str) -> None:
        """One reason is gone. None that there was is fine."""
        async with self._records:
            await self._backing.threads.run(self._backing.database.drop_pin, digest, reason)
            left = self._contents.pins.pop(digest, frozenset()) - {reason}
            if left:
                self._contents.pins[digest] = left

    @property
    def changes(self) -> int:
        """Grows whenever something begins to be a reason to keep something."""
        return self._contents.changes

    def lost(self) -> set[Digest]:
        """Blobs that were here, proved rotten or missing, and are not back."""
        return set(self._contents.lost)

    def pins(self) -> Mapping[Digest, frozenset[str]]:
        """Reasons by digest, as they are now."""
        return dict(self._contents.pins)

    # In worker threads

    def _database_rotten(self, reason: str) -> None:
        """The next start must not open it again, whatever a check says of it."""
        with suppress(OSError):
            self._backing.layout.rotten_database.touch(mode=0o600)
        self.broken_reason = reason
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.broken.set, idempotent=True)

    def _write_index(self) -> None:
        index = self._backing.layout.index
        document = images.encode_index(list(self._contents.images.values()))
        disk.replace_file(self._backing.layout.incoming(index.name), index, document)

    def _read_whole(self, digest: Digest) -> bytes:
        return disk.read_span(self._backing.layout.blob(digest), 0, self._contents.blobs[digest])
