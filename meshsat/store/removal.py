"""Removal: how the store lets go of a blob.

Laws: who asks for a removal is asked back, when nothing can come between any more, whether it still holds; so
whatever began to rely on the blob meanwhile keeps it. The mirror in memory forgets first, so that nobody
starts to read; then the file goes, then the row. `kill -9` between them leaves a row without its file, which
recovery drops. A reader that has the file open goes on.
"""

import errno
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import structlog
import trio

from meshsat.errors import StorageError
from meshsat.oci.digest import Digest
from meshsat.store import disk
from meshsat.store.ages import Ages
from meshsat.store.database import Contents
from meshsat.store.partial import Backing
from meshsat.store.repositories import Repositories
from meshsat.store.room import Room, Sized

log = structlog.get_logger(__name__)

QUARANTINE_FILES = 64
"""The most that are kept."""
_LOSSES = {errno.ENOENT, errno.EIO}
"""What the system says of a blob that is lost, and not of its own state."""
SLICE = 4 * 1024 * 1024
"""Bytes that are read and hashed in one go."""


class Removal:
    """`turn`: what is a reason to keep something changes in it alone. `opening`: the turn of one blob."""

    def __init__(
        self,
        backing: Backing,
        contents: Contents,
        turn: trio.Lock,
        opening: Callable[[Digest], AbstractAsyncContextManager[None]],
        parts: tuple[Ages, Repositories, Room],
        left: MutableMapping[Digest, int],
        open_: Mapping[Digest, Sized],
    ) -> None:
        self.on_dropped: Callable[[Digest], None] = lambda _digest: None
        """Called, at once, with each blob that is no longer here."""
        self.quarantine_limit = 256 * 1024 * 1024
        """Bytes of what is quarantined."""
        self.quarantined = 0
        """Files of that."""
        self._backing = backing
        self._contents = contents
        self._turn = turn
        self._opening = opening
        self._ages, self._repositories, self._room = parts
        self._left = left
        self._open = open_

    @property
    def opened(self) -> Collection[Digest]:
        """Blobs on their way that somebody has open."""
        return self._open.keys()

    async def drop(self, digest: Digest, holds: Callable[[], bool]) -> int:
        """Remove a published blob if `holds()` is still true; gives the bytes that this freed. Raises
        `StorageError`, the blob being gone from view all the same."""
        return await self._remove(digest, holds, self._unlink)

    async def quarantine(self, digest: Digest) -> int:
        """Put away a published blob whose bytes are not right; gives its size."""
        size = self._contents.blobs.get(digest, 0)
        try:
            size = await self._remove(digest, lambda: True, self._put_away)
        except StorageError as failed:
            log.warning(
                "a rotten blob can't be moved: it is not served", digest=str(digest), problem=str(failed)
            )
        if size:
            self._contents.lost.add(digest)
        return size

    async def _remove(self, digest: Digest, holds: Callable[[], bool], put: Callable[[Digest], None]) -> int:
        size = 0
        async with self._turn, self._opening(digest):
            if digest not in self._contents.blobs or not holds():
                return 0
            size = self._contents.blobs[digest]
            with trio.CancelScope(shield=True):
                del self._contents.blobs[digest]
                self._ages.dropped(digest)
                self.on_dropped(digest)
                await self._backing.threads.run(put, digest)
                await self._backing.threads.run(self._backing.database.drop_blob, digest)
                await self._repositories.lost(digest)
        return size

    async def discard_partial(self, digest: Digest) -> int:
        """Forget what has come of a blob that nobody has open; gives the bytes that this freed."""
        freed = 0
        async with self._opening(digest):
            row = self._contents.partials.get(digest)
            if row is None or digest in self._open:
                return 0
            with trio.CancelScope(shield=True):
                # The file first: on a full disk the database needs the space even to forget.
                await self._backing.threads.run(disk.remove, self._backing.layout.partial(digest))
                await self._backing.threads.run(self._backing.database.drop_partial, row.id)
                self._contents.partials.pop(digest, None)
                freed = self._left.pop(digest, 0)
        return freed

    async def is_right(self, digest: Digest, pace: Callable[[int], Awaitable[None]] | None = None) -> bool:
        """Read all of a blob; False when its file is not there, too short or long, not readable, or has
        another digest. `pace` is called with the bytes of each part before it is read. Raises `StorageError`
        when it can't be told: a lack of descriptors says nothing of the blob."""
        size = self._contents.blobs.get(digest)
        if size is None:
            return True
        path, hasher = self._backing.layout.blob(digest), digest.hasher()
        if not await self._backing.threads.run(disk.has_size, path, size):
            await self._backing.threads.run(
                disk.sizes_in, [path.parent]
            )  # raises when the whole disk is gone
            return digest not in self._contents.blobs
        try:
            for at in range(0, size, SLICE):
                length = min(SLICE, size - at)
                if pace is not None:
                    await pace(length)
                if digest not in self._contents.blobs:
                    return True
                await self._backing.threads.run(self._feed, hasher.update, path, at, length)
        except StorageError as unreadable:
            if digest not in self._contents.blobs:
                return True
            cause = unreadable.__cause__
            if isinstance(cause, OSError) and cause.errno not in _LOSSES:
                raise
            log.warning("a blob can't be read", digest=str(digest), problem=str(unreadable))
            return False
        return hasher.hexdigest() == digest.hex

    async def survey(self) -> list[Digest]:
        """The blobs whose file is gone or has not its size. Raises `StorageError`."""
        before = dict(self._contents.blobs)
        sizes = await self._backing.threads.run(disk.sizes_in, self._backing.layout.blob_dirs)
        layout = self._backing.layout
        return [
            digest
            for digest, size in before.items()
            if digest in self._contents.blobs and sizes.get(layout.blob(digest)) != size
        ]

    # In worker threads

    @staticmethod
    def _feed(update: Callable[[bytes], None], path: Path, at: int, length: int) -> None:
        update(disk.read_span(path, at, length))

    def _unlink(self, digest: Digest) -> None:
        disk.remove(self._backing.layout.blob(digest))

    def _put_away(self, digest: Digest) -> None:
        layout = self._backing.layout
        source = layout.blob(digest)
        if source.exists():
            disk.rename(source, layout.quarantined(digest))
        self.tidy_quarantine()

    def tidy_quarantine(self) -> None:
        """In a worker thread: only the newest stay."""
        self.quarantined, self._room.quarantined = disk.keep_newest(
            self._backing.layout.quarantine_dir, QUARANTINE_FILES, self.quarantine_limit
        )
