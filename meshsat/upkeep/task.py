"""Upkeep: the task that keeps the disk right, one thing at a time, and what it tells of it.

Laws: nothing is let go in the first minute but what the budget needs; rounds never overlap; a round that
can't know what to keep lets nothing go, and says why. Room is made before something is begun, or it is not
begun.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial

import structlog
import trio

from meshsat.config import DiskSection
from meshsat.errors import StorageError, StorageFullError
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.status import DiskStatus
from meshsat.store import disk
from meshsat.store.records import ImageRow
from meshsat.store.store import Store
from meshsat.upkeep.budget import Budget
from meshsat.upkeep.manifests import RefusedError
from meshsat.upkeep.scrub import Scrub
from meshsat.upkeep.stock import Stocktaking
from meshsat.upkeep.sweep import EVICTED, Sweep, Swept

log = structlog.get_logger(__name__)

QUIET = 60.0
"""Seconds after the start before the first round."""
FLUSH_EVERY = 300.0
"""Seconds after which it is written down what was pulled."""
SCRUB_LOOK = 600.0
"""Seconds until scrubbing looks again for what is due."""
ADMIT_PATIENCE = 15.0
"""Seconds that something new waits for room to be made."""
REFUSE_FOR = 5.0
"""Seconds for which it is taken for granted that no room can be made, when none could."""
CROWDED_FOR = 60.0
"""Seconds until eviction is tried again above the high watermark, when there was nothing to evict."""
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Rotten:
    """A blob that is no longer here because its bytes were not right, or gone."""

    digest: Digest
    size: int
    images: tuple[ImageRow, ...]
    """That were whole with it."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a round let go of, or would."""

    swept: Swept
    refused: str | None = None
    """Why nothing was collected."""


class Upkeep:
    """`held_elsewhere`: whether a copy of a blob stays at the site without ours. `wanted`: the blobs that
    somebody fetches or waits for. `unix` gives Unix time, `chance` a number from 0 to 1."""

    def __init__(
        self,
        store: Store,
        section: DiskSection,
        metrics: Metrics,
        *,
        held_elsewhere: Callable[[Digest], bool],
        wanted: Callable[[], Collection[Digest]],
        unix: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.desired: Callable[[], Collection[Digest] | None] = lambda: ()
        """Gives what the desired state wants here, manifests or all that they refer to; None: that is not
        known yet, and nothing is let go."""
        self.on_rotten: Callable[[Rotten], None] = lambda _rotten: None
        """Called with what was put away; whoever can should bring it back."""
        self._store = store
        self._metrics = metrics
        self._unix = unix
        self._chance = chance
        self._wanted = wanted
        self._status = DiskStatus()
        self._budget = Budget(section, store.room, partial(disk.available, store.path))
        self._stocktaking = Stocktaking(store, self._ask_desired, wanted, section.grace)
        self._sweep = Sweep(store, self._stocktaking, held_elsewhere, section.partial_age, unix)
        self.scrub = Scrub(store, self._idle, self._put_away, unix, metrics.scrubbed_bytes.inc)
        self._working = trio.Lock()
        self._kicked = trio.Event()
        self._suspects: set[Digest] = set()
        self._suspected = trio.Event()
        self._retiring: set[str] = set()
        self._refuse_until = float("-inf")
        self._crowded_until = float("-inf")
        self._full: str | None = None
        self.apply(section)
        store.room.admit = self.admit
        store.on_suspect = self.suspect
        metrics.disk_used.set_function(lambda: store.room.used)

    def apply(self, section: DiskSection) -> None:
        """Other settings from now on."""
        self._budget.section = section
        self._stocktaking.grace = section.grace
        self._sweep.partial_age = section.partial_age
        self.scrub.rate, self.scrub.interval = section.scrub_rate, section.scrub_interval
        self._store.removal.quarantine_limit = section.quarantine
        self._metrics.disk_budget.set(section.budget)
        self._refuse_until = float("-inf")
        self._kicked.set()

    def _ask_desired(self) -> Collection[Digest] | None:
        return self.desired()

    # --- what others ask ---

    async def gc(self, *, dry_run: bool = False) -> Collected:
        """A round now. Raises `StorageError`."""
        async with self._working:
            return await self._round(dry=dry_run)

    async def retire(self, names: Collection[str]) -> int:
        """Let go of these images, as `status` names them, unless something else keeps them: a pin, the
        desired state, another name. What can't go now goes in a later round. Gives the bytes freed. Raises
        `StorageError`."""
        async with self._working:
            self._retiring |= set(names)
            swept = Swept()
            try:
                await self._retire(swept)
            except RefusedError as refused:
                log.info("images are not retired yet", reason=str(refused))
            self._count(swept)
            return swept.freed

    def leaves(self) -> int | None:
        """Bytes that the disk budget leaves once all that may go is gone, as far as is known; None: there is
        no budget."""
        if not self._budget.section.budget:
            return None
        kept = self._stocktaking.kept_bytes
        return max(0, self._budget.section.budget - (self._store.room.used if kept is None else kept))

    async def images_with(self, digest: Digest) -> tuple[ImageRow, ...]:
        """The whole images that this manifest or blob is part of."""
        return await self._stocktaking.images_with(digest)

    def suspect(self, digest: Digest) -> None:
        """A blob could not be read as it should be: have it looked at."""
        self._suspects.add(digest)
        self._suspected.set()

    async def admit(self, size: int) -> None:
        """Returns when there is room for so many bytes more. Raises `StorageFullError`."""
        if not self._budget.is_set:
            return
        if self._budget.lacking(size) > 0:
            await self._make_room(size)
        else:
            self._full = None
            if self._budget.over_high() > 0:
                self._kicked.set()

    async def _make_room(self, size: int) -> None:
        budget = self._budget
        if not budget.never_fits(size) and trio.current_time() >= self._refuse_until:
            with trio.move_on_after(ADMIT_PATIENCE):
                async with self._working:
                    await self._make(lambda: budget.to_low(size))
        lacking = budget.lacking(size)
        if lacking > 0:
            if trio.current_time() >= self._refuse_until:
                self._refuse_until = trio.current_time() + REFUSE_FOR
            self._metrics.intake_refused.inc()
            self._full = (
                f"no room for {size} bytes more: {lacking} are lacking under the disk budget, and nothing "
                "more can be evicted; raise disk.budget (or make the disk larger), or delete something"
            )
            raise StorageFullError(self._full)
        self._full = None

    async def _make(self, need: Callable[[], int]) -> None:
        swept = Swept()
        try:
            await self._sweep.discard_partials(self._stocktaking.grace, swept)
            await self._sweep.evict(need, swept)
        except (RefusedError, StorageError) as failed:
            log.warning("no room can be made", problem=str(failed))
            self._status = replace(self._status, gc_refused=str(failed))
        finally:
            self._count(swept)

    # --- the task ---

    async def run(self) -> None:
        """Run until cancelled. Raises `StorageError` when the database proves broken: whoever supervises this
        process starts it again, and what can be is rebuilt then."""
        await self._store.threads.run(self._store.removal.tidy_quarantine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_database)
            nursery.start_soon(self._flush)
            nursery.start_soon(self._look_at_suspects)
            nursery.start_soon(self._rounds)
            await trio.sleep(QUIET)
            nursery.start_soon(self.scrub.run, SCRUB_LOOK)

    async def _watch_database(self) -> None:
        await self._store.broken.wait()
        raise StorageError(
            f"the database is broken: {self._store.broken_reason}; it is rebuilt at the next start"
        )

    async def _flush(self) -> None:
        while True:
            await trio.sleep(FLUSH_EVERY)
            try:
                await self._store.ages.flush()
            except StorageError as failed:
                log.warning("what was pulled lately is not remembered", problem=str(failed))

    async def _rounds(self) -> None:
        due = trio.current_time() + QUIET
        need: Callable[[], int] = partial(self._budget.lacking, 0)  # until peers had the time to come
        while True:
            if need() > 0 and trio.current_time() >= self._crowded_until:
                async with self._working:
                    await self._make(need)
                if need() > 0:
                    self._crowded_until = trio.current_time() + CROWDED_FOR
            self._kicked = trio.Event()
            with trio.move_on_at(due):
                await self._kicked.wait()
            if trio.current_time() >= due:
                due, need = trio.current_time() + self._interval(), self._budget.over_high
                try:
                    await self.gc()
                except StorageError as failed:
                    log.warning("a round of collection failed", problem=str(failed))
            else:
                await trio.sleep(1.0)  # much may come at once

    def _interval(self) -> float:
        return self._budget.section.gc_interval * (1 + JITTER * (2 * self._chance() - 1))

    async def _round(self, *, dry: bool) -> Collected:
        swept, refused = Swept(), None
        if not dry:
            for digest in await self._store.removal.survey():
                self.suspect(digest)
        try:
            if not dry:
                await self._retire(swept)
            await self._sweep.collect(swept, dry=dry)
            await self._sweep.discard_partials(self._sweep.partial_age, swept, dry=dry)
            await self._sweep.evict(lambda: self._over(swept, dry=dry), swept, dry=dry)
        except RefusedError as reason:
            refused = str(reason)
            log.warning("nothing is collected", reason=refused)
        finally:
            if not dry:
                self._count(swept)
        if not dry:
            self._metrics.gc_rounds.labels("refused" if refused else "done").inc()
            self._status = replace(self._status, gc_refused=refused)
            if refused is None:
                self._status = replace(self._status, last_gc=self._unix(), last_gc_freed=swept.freed)
                log.info("collected", blobs=len(swept.blobs), images=len(swept.images), bytes=swept.freed)
        return Collected(swept, refused)

    def _over(self, swept: Swept, *, dry: bool) -> int:
        return self._budget.over_high() - (swept.freed if dry else 0)

    async def _retire(self, swept: Swept) -> None:
        if self._retiring:
            await self._sweep.evict(lambda: 0, swept, only=frozenset(self._retiring))
            stock = await self._stocktaking.take()
            self._retiring &= {name for unit in stock.units for name in unit.names}

    def _count(self, swept: Swept) -> None:
        evicted = sum(size for size, why in swept.blobs.values() if why == EVICTED)
        collected = [size for size, why in swept.blobs.values() if why != EVICTED]
        self._metrics.disk_freed.labels("evicted").inc(evicted)
        self._metrics.disk_freed.labels("collected").inc(sum(collected))
        self._metrics.disk_freed.labels("partial").inc(swept.partials)
        self._metrics.evicted_images.inc(len(swept.images))
        was = self._status
        self._status = replace(
            was,
            evicted_images=was.evicted_images + len(swept.images),
            evicted_bytes=was.evicted_bytes + evicted,
            collected_blobs=was.collected_blobs + len(collected),
            collected_bytes=was.collected_bytes + sum(collected) + swept.partials,
        )

    # --- what is rotten ---

    def _idle(self) -> bool:
        return not self._wanted() and not self._working.locked()

    async def _look_at_suspects(self) -> None:
        while True:
            await self._suspected.wait()
            self._suspected = trio.Event()
            while self._suspects:
                digest = self._suspects.pop()
                try:
                    await self.scrub.check(digest, paced=False)
                except StorageError as failed:
                    log.warning("a suspect blob can't be looked at", digest=str(digest), problem=str(failed))

    async def _put_away(self, digest: Digest) -> None:
        """The images first: killed between the two, none is shown that is not whole."""
        images = await self._stocktaking.images_with(digest)
        for image in images:
            log.warning("an image is no longer whole", image=image.name, lacking=str(digest))
            root = image.descriptor.digest
            try:
                await self._store.retract_image(
                    image.registry, image.repository, image.tag or str(root), only=root
                )
            except StorageError as failed:
                log.warning("an image is still in the index", image=image.name, problem=str(failed))
        size = await self._store.removal.quarantine(digest)
        if size:
            log.error("a blob is rotten: put away, and no longer served", digest=str(digest), size=size)
            self._metrics.rotten_blobs.inc()
            self._status = replace(self._status, rotten=self._status.rotten + 1)
            self.on_rotten(Rotten(digest, size, images))

    # --- what it tells ---

    def status(self) -> DiskStatus:
        section, store = self._budget.section, self._store
        return replace(
            self._status,
            used=store.room.used,
            budget=section.budget,
            low=int(section.low * section.budget),
            high=int(section.high * section.budget),
            available=disk.available(store.path),
            intake_stopped=self._full,
            scrubbed_bytes=self.scrub.checked_bytes,
            scrub_due=len(self.scrub.due()) if section.scrub_rate else 0,
            scrub_oldest=self.scrub.oldest(),
            quarantined=store.removal.quarantined,
        )

    def trouble(self) -> str | None:
        """What an operator should see to, in plain words."""
        found = [self._full] if self._full is not None else []
        if self._full is None and self._budget.over_high() > 0 and self._crowded_until > float("-inf"):
            found.append(
                "the disk is fuller than it should be and nothing can be evicted: all is pinned, desired, on "
                "its way or the last copy of site content; raise disk.budget, or delete something"
            )
        if self._status.gc_refused is not None:
            found.append(f"nothing is collected on the disk: {self._status.gc_refused}")
        if self._status.rotten:
            found.append(
                f"{self._status.rotten} blobs proved rotten since this node started: look at the health of "
                "the disk (smartctl, dmesg)"
            )
        return "; ".join(found) or None
