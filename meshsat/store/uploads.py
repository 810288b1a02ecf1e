"""Uploads: what clients push, from the first byte until it is a blob of the store.

Laws: what was taken survives `kill -9`, and the client goes on from there; nothing is published that has not
the digest which the client closes with; a client that stays away, or pushes without end, costs a bounded
amount of disk for a bounded time.
"""

import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio

from meshsat.chunking.cut import FIXED_1, MIN_CHUNK, Cut
from meshsat.errors import BusyError, DigestMismatchError, NotFoundError, StorageError, TooLongError
from meshsat.oci.digest import SHA256, Digest
from meshsat.store import disk
from meshsat.store.disk import Buffer
from meshsat.store.partial import Backing
from meshsat.store.records import UploadRow
from meshsat.store.room import Room

log = structlog.get_logger(__name__)

JOINED = 512 * 1024
"""Bytes of small parts that are written together."""
SLICE = 16 * 1024 * 1024
"""Bytes that are hashed again in one go: a cancelled caller waits for no more than that."""
TURN_PATIENCE = 5.0
"""Seconds that a request waits for the one before it on the same upload to end: its client is gone, as a
rule, and we are about to notice."""
LOOK_EVERY = 30.0
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class UploadLimits:
    open: int = 64
    """The most at once."""
    timeout: float = 3600.0
    """Seconds without a byte, after which an upload is thrown away."""
    size: int = 1 << 40
    """Bytes of the largest blob."""


class _Digests:
    """What is known of the bytes so far: the digest of all of them, and of each smallest chunk."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.whole = hashlib.new(algorithm)
        self.size = 0
        self._chunks: list[bytes] = []
        self._chunk = hashlib.sha256()

    def update(self, data: memoryview) -> None:
        self.whole.update(data)
        while data:
            part = data[: MIN_CHUNK - self.size % MIN_CHUNK]
            self._chunk.update(part)
            self.size += len(part)
            if self.size % MIN_CHUNK == 0:
                self._chunks.append(self._chunk.digest())
                self._chunk = hashlib.sha256()
            data = data[len(part) :]

    def recipe(self) -> bytes | None:
        """The chunk digests of a blob that ends here; None where its chunks are larger than the smallest."""
        cut = Cut(FIXED_1, self.size)
        if cut.chunk_length != MIN_CHUNK:
            return None
        rest = [self._chunk.digest()] if self.size % MIN_CHUNK else []
        return b"".join([*self._chunks, *rest])


class Upload:
    """One push. Made by `Uploads`; every method but `turn` is called within a turn."""

    def __init__(self, row: UploadRow, size: int, backing: Backing, limits: UploadLimits, room: Room) -> None:
        self.id = row.id
        self.repository = row.repository
        self.size = size
        """Bytes taken so far."""
        self.touched_at = trio.current_time()
        self.ended = False
        self.adopting = False
        """Its bytes are about to count as a blob's."""
        self._algorithm = row.algorithm
        self._backing = backing
        self._limits = limits
        self._room = room
        self._path = backing.layout.upload(row.id)
        self._digests = _Digests(row.algorithm)
        self._parts: list[Buffer] = []
        self._joined = 0
        self._turn = trio.Lock()

    @property
    def room(self) -> int:
        """Bytes that it may still take."""
        return self._limits.size - self.size

    @property
    def busy(self) -> bool:
        return self._turn.locked()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One request at a time. What it took is written when its turn ends, however it ends. Raises
        `BusyError`; `NotFoundError` when it ended meanwhile."""
        with trio.move_on_after(TURN_PATIENCE):
            await self._turn.acquire()
        if self._turn.statistics().owner is not trio.lowlevel.current_task():
            raise BusyError("another request is writing to this upload; ask for its state, then go on")
        try:
            if self.ended:
                raise NotFoundError("the upload ended meanwhile")
            yield
        finally:
            self.touched_at = trio.current_time()
            try:
                if not self.ended:
                    with trio.CancelScope(shield=True):
                        await self.flush()
            finally:
                self._turn.release()

    async def write(self, data: Buffer) -> None:
        """Take the next bytes; they are not changed meanwhile. Raises `TooLongError`, `StorageError`;
        nothing of them is kept then."""
        if self.size + len(data) > self._limits.size:
            raise TooLongError(f"the blob has more than {self._limits.size} bytes, the limit here")
        self._parts.append(data)
        self._joined += len(data)
        self.size += len(data)
        if self._joined >= JOINED:
            self.touched_at = trio.current_time()
            try:
                await self._room.admit(0)  # these bytes count already
            except BaseException:
                self._parts, self.size, self._joined = [], self.size - self._joined, 0
                raise
            await self.flush()

    async def flush(self) -> None:
        parts, joined, self._parts, self._joined = self._parts, self._joined, [], 0
        if not parts:
            return
        try:
            await self._backing.threads.run(self._write, parts, self.size - joined)
        except BaseException:
            self.size -= joined
            raise

    async def complete(self, digest: Digest) -> bytes:
        """Check that this is that blob; gives its recipe. Raises `DigestMismatchError`, `StorageError`."""
        await self.flush()
        if digest.algorithm != self._digests.algorithm:
            self._digests = _Digests(digest.algorithm)
        await self._catch_up()
        if self._digests.whole.hexdigest() != digest.hex:
            raise DigestMismatchError(
                f"the {self.size} bytes that came have the digest "
                f"{digest.algorithm}:{self._digests.whole.hexdigest()}, not {digest}"
            )
        return self._digests.recipe() or await self._recipe()

    async def _catch_up(self) -> None:
        """Hash what an earlier run of this process took."""
        while self._digests.size < self.size:
            at = self._digests.size
            await self._backing.threads.run(self._hash_again, at, min(self.size - at, SLICE))

    async def _recipe(self) -> bytes:
        cut, chunks = Cut(FIXED_1, self.size), list[bytes]()
        for index in range(cut.count):
            chunks.append(await self._backing.threads.run(self._chunk_digest, *cut.span(index)))
        return b"".join(chunks)

    # In worker threads

    def _write(self, parts: list[Buffer], offset: int) -> None:
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        while self._digests.size < offset:
            self._hash_again(self._digests.size, min(offset - self._digests.size, SLICE))
        try:
            disk.write_span(self._path, offset, data)
        except StorageError:
            disk.truncate(self._path, offset)
            raise
        self._digests.update(memoryview(data))

    def _hash_again(self, offset: int, length: int) -> None:
        self._digests.update(memoryview(disk.read_span(self._path, offset, length)))

    def _chunk_digest(self, offset: int, length: int) -> bytes:
        return hashlib.sha256(disk.read_span(self._path, offset, length)).digest()


class Uploads:
    """`adopt` makes a file that is complete a blob of the store: digest, size, recipe, the upload's id."""

    def __init__(
        self,
        backing: Backing,
        rows: dict[str, UploadRow],
        limits: UploadLimits,
        adopt: Callable[[Digest, int, bytes, str], Awaitable[None]],
        room: Room,
    ) -> None:
        self._backing = backing
        self._limits = limits
        self._adopt = adopt
        self._room = room
        self._open: dict[str, Upload] = {}
        room.uploads = lambda: sum(upload.size for upload in self._open.values() if not upload.adopting)
        for row in rows.values():
            size = backing.layout.upload(row.id).stat().st_size
            self._open[row.id] = Upload(row, size, backing, limits, room)

    def __len__(self) -> int:
        return len(self._open)

    async def begin(self, repository: str, algorithm: str = SHA256) -> Upload:
        """For REGISTRY/REPOSITORY. Raises `BusyError` when too many are open, `StorageError`."""
        if len(self._open) >= self._limits.open:
            await self.expire()
        if len(self._open) >= self._limits.open:
            raise BusyError(f"{len(self._open)} uploads are open, the limit here; try again later")
        row = UploadRow(secrets.token_hex(16), repository, algorithm)
        upload = self._open[row.id] = Upload(row, 0, self._backing, self._limits, self._room)
        try:
            await self._backing.threads.run(disk.create_sparse, self._backing.layout.upload(row.id), 0)
            await self._backing.threads.run(self._backing.database.add_upload, row)
        except BaseException:
            await self.cancel(upload)
            raise
        return upload

    def find(self, repository: str, upload_id: str) -> Upload | None:
        upload = self._open.get(upload_id) if _ID.fullmatch(upload_id) else None
        return upload if upload is not None and upload.repository == repository else None

    async def finish(self, upload: Upload, digest: Digest) -> int:
        """Make it the blob of that digest; gives its bytes. Raises `DigestMismatchError`, which ends it, and
        `StorageError`, after which it can be finished again."""
        try:
            recipe = await upload.complete(digest)
        except DigestMismatchError:
            await self.cancel(upload)
            raise
        with trio.CancelScope(shield=True):
            upload.adopting = True
            try:
                await self._adopt(digest, upload.size, recipe, upload.id)
            except BaseException:
                upload.adopting = False
                raise
            await self.cancel(upload)
        return upload.size

    async def cancel(self, upload: Upload) -> None:
        """Forget it, and what it brought."""
        upload.ended = True
        self._open.pop(upload.id, None)
        with trio.CancelScope(shield=True):
            await self._backing.threads.run(disk.remove, self._backing.layout.upload(upload.id))
            await self._backing.threads.run(self._backing.database.drop_upload, upload.id)

    async def expire(self) -> None:
        """Throw away those whose client stayed away for too long."""
        due = trio.current_time() - self._limits.timeout
        for upload in [one for one in self._open.values() if one.touched_at <= due and not one.busy]:
            log.info(
                "an upload is thrown away: nothing came", repository=upload.repository, bytes=upload.size
            )
            await self.cancel(upload)

    async def run(self) -> None:
        """Run until cancelled: expire what is due."""
        while True:
            await trio.sleep(min(LOOK_EVERY, self._limits.timeout))
            try:
                await self.expire()
            except StorageError as failed:
                log.warning("cannot throw an upload away", problem=str(failed))
