"""Scrubbing: what is on the disk is read again, and has the digest that it is named by, or goes.

Laws: it reads at a bounded rate and only while nothing is on its way; what was checked longest ago comes
first, over restarts too. A blob that is not right is put away at once, and never served again.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from meshsat.errors import StorageError
from meshsat.oci.digest import Digest
from meshsat.store.store import Store

log = structlog.get_logger(__name__)

BUSY_LOOK = 10.0
"""Seconds between two looks whether the node is idle."""
AFTER_FAULT = 60.0


class Scrub:
    """`idle`: whether nothing is on its way. `rotten` is called with what is not right, to put it away,
    `count` with the bytes that are read."""

    def __init__(
        self,
        store: Store,
        idle: Callable[[], bool],
        rotten: Callable[[Digest], Awaitable[None]],
        unix: Callable[[], float],
        count: Callable[[int], object] = lambda _size: None,
    ) -> None:
        self.rate = 0
        """Bytes per second; 0: off."""
        self.interval = 0.0
        """Seconds after which a blob is read again."""
        self.checked_bytes = 0
        """Since the process began."""
        self._store = store
        self._idle = idle
        self._rotten = rotten
        self._unix = unix
        self._count = count

    def due(self) -> list[Digest]:
        """What is to be read again, what was checked longest ago first."""
        ages, before = self._store.ages, self._unix() - self.interval
        found = [(at, digest) for digest in self._store.blobs() if (at := ages.due_since(digest)) <= before]
        return [digest for _, digest in sorted(found)]

    def oldest(self) -> float | None:
        """Unix seconds at which the bytes that were checked longest ago were; None: nothing is here."""
        return min(map(self._store.ages.due_since, self._store.blobs()), default=None)

    async def run(self, wait: float) -> None:
        """Until cancelled; `wait`: seconds until it looks again when nothing is due."""
        while True:
            try:
                due = self.due() if self.rate else []
                for digest in due:
                    await self.check(digest, paced=True)
            except StorageError as failed:
                log.warning("scrubbing stops for a while", problem=str(failed))
                await trio.sleep(AFTER_FAULT)
            await trio.sleep(wait)

    async def check(self, digest: Digest, *, paced: bool) -> bool:
        """Read a blob; False when it is not right. Raises `StorageError`."""
        pace = self._pace if paced else None
        # Twice, lest a fault of the memory cost a good blob.
        if await self._store.removal.is_right(digest, pace) or await self._store.removal.is_right(digest):
            if self._store.blob_size(digest) is not None:
                await self._store.ages.found_right(digest)
            return True
        await self._rotten(digest)
        return False

    async def _pace(self, size: int) -> None:
        """Before so many bytes are read: wait as long as the ones before take at the rate."""
        self.checked_bytes += size
        self._count(size)
        while not self._idle():  # noqa: ASYNC110 - many things make a node busy
            await trio.sleep(BUSY_LOOK)
        await trio.sleep(size / max(1, self.rate))
