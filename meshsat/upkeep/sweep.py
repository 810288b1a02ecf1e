"""Sweeping: lets go of what was chosen, one blob at a time, as long as the choice still holds.

Laws: an image is shown no longer before anything of it goes; manifests go before what they refer to. When a
new reason to keep something comes up meanwhile, nothing more is let go before stock was taken anew.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import structlog
import trio

from meshsat.oci.digest import Digest
from meshsat.store import disk
from meshsat.store.store import Store
from meshsat.upkeep.marking import Eviction, Stock, choose, mark, order, reach, unmarked
from meshsat.upkeep.stock import SETTLE, Stocktaking

log = structlog.get_logger(__name__)

ATTEMPTS = 20
"""Times that stock is taken in one round, because the world changed under it."""
UNREFERENCED = "no image, tag, pin, site content or desired state refers to it"
EVICTED = "evicted under the disk budget"


@dataclass(slots=True)
class Swept:
    """What went, or would go."""

    blobs: dict[Digest, tuple[int, str]] = field(default_factory=dict)
    """Bytes, and why."""
    images: list[str] = field(default_factory=list)
    """That were evicted."""
    partials: int = 0
    """Bytes of blobs on their way that nobody wants."""

    @property
    def freed(self) -> int:
        return self.partials + sum(size for size, _ in self.blobs.values())


class Sweep:
    """`held_elsewhere`: whether a copy of a blob stays at the site without ours. `partial_age`: seconds after
    which what came of a blob that nobody wants may go. `unix` gives Unix time."""

    def __init__(
        self,
        store: Store,
        stocktaking: Stocktaking,
        held_elsewhere: Callable[[Digest], bool],
        partial_age: float,
        unix: Callable[[], float],
    ) -> None:
        self.partial_age = partial_age
        self._store = store
        self._stocktaking = stocktaking
        self._held_elsewhere = held_elsewhere
        self._unix = unix

    # --- what nothing refers to ---

    async def collect(self, swept: Swept, *, dry: bool = False) -> None:
        """Raises `RefusedError`, `StorageError`."""
        for _ in range(ATTEMPTS):
            stock = await self._stocktaking.take()
            doomed = await self._store.threads.run(_doomed, stock)
            if dry:
                swept.blobs.update((one, (stock.sizes[one], UNREFERENCED)) for one in doomed)
                return
            if await self._collect(stock, doomed, swept):
                return

    async def _collect(self, stock: Stock, doomed: Collection[Digest], swept: Swept) -> bool:
        """Whether it held to the end."""
        store, grace = self._store, self._stocktaking.grace
        for repository, digests in stock.stale.items():
            await store.repositories.release(repository, digests, lambda: store.changes == stock.changes)
        await self._retract(stock, doomed)
        return await self._drop(stock, doomed, grace, UNREFERENCED, swept)

    async def _retract(self, stock: Stock, gone: Collection[Digest]) -> None:
        """Show no image of which something is going."""
        for image in self._store.images():
            closure = reach([image.descriptor.digest], stock.links, {})
            if not closure.isdisjoint(gone) and self._store.changes == stock.changes:
                root = image.descriptor.digest
                await self._store.retract_image(
                    image.registry, image.repository, image.tag or str(root), only=root
                )

    async def _drop(self, stock: Stock, gone: Iterable[Digest], age: float, why: str, swept: Swept) -> bool:
        for digest in gone:
            size = await self._store.removal.drop(
                digest,
                lambda digest=digest: self._stocktaking.still(stock, digest, age),  # type: ignore[misc]
            )
            if size:
                swept.blobs[digest] = (size, why)
                log.debug("a blob is let go", digest=str(digest), size=size, reason=why)
            if self._store.changes != stock.changes or (
                not size and self._store.blob_size(digest) is not None
            ):
                return False
            await trio.lowlevel.checkpoint()
        return True

    # --- under the budget ---

    async def evict(
        self, need: Callable[[], int], swept: Swept, *, only: Collection[str] | None = None, dry: bool = False
    ) -> None:
        """Let go of images until `need()` is 0 or less; with `only`, of these. Raises `RefusedError`,
        `StorageError`."""
        for _ in range(ATTEMPTS):
            lacking = need()
            if lacking <= 0 and only is None:
                return
            stock = await self._stocktaking.take()
            chosen = choose(stock, lacking, self._held_elsewhere, only)
            if dry:
                swept.blobs.update((one, (stock.sizes[one], EVICTED)) for one in chosen.blobs)
                swept.images += _names(chosen)
                return
            if await self._evict(stock, chosen, swept):
                return

    async def _evict(self, stock: Stock, chosen: Eviction, swept: Swept) -> bool:
        await self._retract(stock, {*chosen.blobs, *(unit.root for unit in chosen.units)})
        held = await self._drop(stock, order(stock, chosen), SETTLE, EVICTED, swept)
        for name in _names(chosen):
            if name not in swept.images:
                swept.images.append(name)
                log.info("an image is evicted", image=name)
        return held

    # --- what has come of blobs on their way ---

    async def discard_partials(self, age: float, swept: Swept, *, dry: bool = False) -> None:
        """Of those that nobody wants, and that did not grow for so many seconds. Raises `StorageError`."""
        wanted = self._stocktaking.wanted()
        for digest in self._store.partials():
            if digest in wanted:
                continue
            path = self._store.partial_path(digest)
            quiet = self._unix() - await self._store.threads.run(disk.modified_at, path)
            if self._store.blob_size(digest) is None and quiet < age:
                continue
            if dry:
                swept.partials += await self._store.threads.run(disk.allocated, path)
            elif digest not in self._stocktaking.wanted():
                swept.partials += await self._store.removal.discard_partial(digest)


def _doomed(stock: Stock) -> list[Digest]:
    return unmarked(stock, mark(stock))


def _names(eviction: Eviction) -> list[str]:
    return [name for unit in eviction.units for name in unit.names]
