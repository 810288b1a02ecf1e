"""Reconcile: this node comes to hold what the desired state wants of it, and goes on holding it.

`fleet/desire.py` says what is to be done; here it is done: images are looked for in the store, fetched (from
peers first, as everything), tags get their meaning, the others are told, and what is wanted no longer is let
go. Nothing here deletes: what `desired` does not name any more, the store's own housekeeping may take.

Laws: what is on the disk is looked at, not what is remembered of it, so that whatever is lost is missed and
fetched again; a tag's meaning is kept over restarts before anybody is told of it.
"""

import random
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace

import structlog
import trio

from meshsat.desired_tags import DesiredTags
from meshsat.errors import (
    DeniedError,
    InvalidInputError,
    MeshsatError,
    NotFoundError,
    StorageError,
    StorageFullError,
)
from meshsat.fetch import Fetcher
from meshsat.fleet.desire import ABSENT, Desire, Wanted
from meshsat.fleet.document import DesiredState
from meshsat.fleet.meanings import Key
from meshsat.fleet.overview import overview
from meshsat.fleet.report import Report, Reports, Stage, seal_report
from meshsat.fleet.telling import Telling
from meshsat.mesh.service import Mesh
from meshsat.oci.digest import Digest
from meshsat.protocol import events
from meshsat.protocol.events import Judgement
from meshsat.protocol.spread import Kind
from meshsat.pull_through import PullThrough
from meshsat.pulling import Closure
from meshsat.status import DesiredStatus
from meshsat.store.store import Store
from meshsat.trust.keys import NodeKey, PeerId

log = structlog.get_logger(__name__)

PATIENCE = 300.0
"""Seconds for which nodes that lag behind are waited for before a tag changes without them."""
LOOK = 1.0
"""Seconds between two looks at who is there and, while something is to be done, at what."""
IDLE_LOOK = 30.0
"""Seconds between two looks at what is to be done, while nothing seems to be."""
DRIFT = 60.0
"""Seconds between two looks at whether all that is desired is still there."""
TELL = 0.05
"""Seconds for which a report waits for more to say."""
RESOLVE_PATIENCE = 30.0
SIGNATURE_PATIENCE = 3.0
"""Seconds in which what is held is found signed; where that takes longer it is looked at again."""
LEAST_ROOM = 1 << 20
"""Bytes without which nothing is fetched."""
PROBLEMS_TOLD = 10
RESOLVES = 4
"""Tags that are looked up at once."""


@dataclass(slots=True)
class _Fetch:
    """One on its way."""

    target: Digest
    scope: trio.CancelScope


async def _keep(_names: Collection[str]) -> None:
    await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class Own:
    """What is this node's own."""

    key: NodeKey
    site: str
    roles: Collection[str]
    unix: Callable[[], float]
    """Gives Unix seconds."""
    rng: random.Random
    room: Callable[[], int | None] = lambda: None
    """Bytes that the disk budget leaves; None: there is no budget."""
    free: Callable[[], int | None] = lambda: None
    """Bytes that this node can take at all; None: nobody can tell."""
    patience: float = PATIENCE
    retire: Callable[[Collection[str]], Awaitable[object]] = _keep
    """Takes names of images that nothing speaks for any more, `REGISTRY/REPOSITORY:TAG`."""


class Reconciler:
    """`tags` are what the registry asks; here is the task that makes them true."""

    def __init__(
        self,
        store: Store,
        mesh: Mesh,
        fetcher: Fetcher,
        policy: PullThrough,
        tags: DesiredTags,
        own: Own,
    ) -> None:
        self._store = store
        self._mesh = mesh
        self._fetcher = fetcher
        self._policy = policy
        self._tags = tags
        self._own = own
        self._rng = own.rng
        me = own.key.peer_id
        self._desire = Desire(me, frozenset(own.roles), own.patience, own.rng)
        self.reports = Reports(me, self._is_member, trio.current_time)
        self._fetches: dict[Key, _Fetch] = {}
        self._closures: dict[tuple[Digest, tuple[str, ...]], Closure] = {}
        self._hidden: list[Key] = []
        """Tags that mean nothing of ours any more, and are to leave the layout's index."""
        self._could_ask: set[PeerId | None] = set()
        """Who was there lately who might have what we lack; None: an uplink."""
        self._news = trio.Event()
        self._drift_at = float("-inf")
        self._telling = Telling()
        self._due_at = float("inf")
        """When to look at what is to be done, at the latest."""
        self._resolve_at: dict[Key, float] = {}
        self._resolving: set[Key] = set()
        self.on_flip: Callable[[str, Digest, Digest | None], None] = lambda _name, _now, _before: None
        """Called with a tag's name, what it means from now on, and what it meant."""

        mesh.driver.judges[Kind.REPORT] = self.reports.judge
        self.reports.on_news = self._wake
        fetcher.desired = tags
        self._spread_names()

    def _is_member(self, peer: PeerId) -> bool:
        return peer in self._mesh.machine.sessions or self._mesh.machine.roster.get(peer) is not None

    def _wake(self) -> None:
        self._news.set()

    # --- what is desired ---

    def follow(self, version: int, digest: Digest, state: DesiredState) -> None:
        """From now on this state holds. Its digest tells it apart from others of any version."""
        images = state.images_for(self._own.site)
        self._desire.follow(version, bytes.fromhex(digest.hex)[:8], images)
        self._hidden += self._tags.drop_others(self._desire.wanted, version)
        for key, fetch in list(self._fetches.items()):
            one = self._desire.wanted.get(key)
            if one is None or one.target != fetch.target:
                fetch.scope.cancel()
        self._resolve_at.clear()
        self._drift_at = float("-inf")
        self._spread_names()
        self._wake()

    def _spread_names(self) -> None:
        names = {key[:2] for key in (*self._desire.wanted, *self._tags.keys())}
        self._policy.desired = frozenset(names)

    def dropped(self, blob: Digest) -> None:
        """The store has it no longer."""
        if any(blob in closure.digests for closure in self._closures.values()):
            self._drift_at = float("-inf")
            self._wake()

    def desired(self) -> set[Digest] | None:
        """All that is to stay on this disk, as far as it is here: what desired images mean, are to mean, and
        meant before. None: that was not looked at yet, so that nothing may go."""
        if self._roots() - self._closures.keys():
            return None
        found: set[Digest] = set()
        for root, platforms in self._roots():
            closure = self._closures.get((root, platforms))
            found.add(root)
            if closure is not None:
                found |= closure.digests
        return found

    def _roots(self) -> set[tuple[Digest, tuple[str, ...]]]:
        roots: set[tuple[Digest, tuple[str, ...]]] = set()
        live = self._live()
        reports = self._reports()
        for place, (key, one) in enumerate(self._desire.wanted.items()):
            if self._desire.is_spare(place, one, reports, live) and self._tags.meaning(*key) == one.target:
                continue
            if one.target is not None:
                roots.add((one.target, one.image.platforms))
            roots.update(self._tags.kept(key))
        for key in self._tags.keys() - self._desire.wanted.keys():
            roots.update(self._tags.kept(key))
        return roots

    # --- the task ---

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                seen, began = self._live(), trio.current_time()
                busy = await self._round(nursery)
                while not self._news.is_set():
                    with trio.move_on_after(LOOK):
                        await self._news.wait()
                    if busy or trio.current_time() >= min(began + IDLE_LOOK, self._due_at):
                        break
                    if self._live() != seen:
                        self._due_at = trio.current_time() + ABSENT + LOOK  # by then the gone count as gone
                        break
                await trio.sleep(TELL)  # others may be about to say more

    async def _round(self, nursery: trio.Nursery) -> bool:
        """Whether there is more to do soon."""
        for peer in self.reports.forget_strangers():
            self._mesh.driver.feed(events.ItemDropped(int(Kind.REPORT), peer))
        if trio.current_time() >= self._due_at:
            self._due_at = float("inf")
        if trio.current_time() >= self._drift_at:
            await self._look_at_all()
        self._resolve_due(nursery)
        self._see_who_could_be_asked()
        now = trio.current_time()
        decision = self._desire.decide(
            now, self._own.unix(), self._live(), self._reports(), self._tags.active()
        )
        for one in decision.stop:
            self._fetches[one.key].scope.cancel()
        for one in decision.fetch:
            one.fetching = True
            fetch = self._fetches[one.key] = _Fetch(_sure(one.target), trio.CancelScope())
            nursery.start_soon(self._fetch, one, fetch)
        if decision.flip:
            await self._flip(decision.flip)
        await self._tags.save()
        while self._hidden:
            await self._hide(self._hidden.pop())
        if self._tags.ended:
            await self._retire()
        self._tell(flipped=bool(decision.flip))
        return any(
            not one.whole or self._tags.meaning(*one.key) != one.target
            for one in self._desire.wanted.values()
        )

    def _see_who_could_be_asked(self) -> None:
        there: set[PeerId | None] = set(self._mesh.machine.sessions)
        if self._mesh.machine.site_has_uplink():
            there.add(None)
        if there - self._could_ask:
            self._desire.try_again()
        self._could_ask = there

    def _live(self) -> set[PeerId]:
        machine = self._mesh.machine
        if machine.large:
            return {record.peer for record in machine.roster} - {machine.me}
        return set(machine.sessions)

    def _reports(self) -> dict[PeerId, Report]:
        return {report.peer: report for report in self.reports}

    def overview(self) -> DesiredStatus:
        machine = self._mesh.machine

        def name_of(peer: PeerId) -> str:
            session = machine.sessions.get(peer)
            return machine.name if peer == machine.me else session.name if session else peer

        return overview(
            self._desire,
            self._tags.active(),
            self._reports(),
            self._live(),
            name_of,
            trio.current_time(),
            self._own.unix(),
        )

    def problems(self) -> list[str]:
        """What an operator should know."""
        found = [] if self._tags.problem is None else [self._tags.problem]
        now, unix = trio.current_time(), self._own.unix()
        for one in self._desire.wanted.values():
            deadline = one.image.deadline
            if one.fault and self._desire.stage(one, now) in (Stage.FAILED, Stage.FULL):
                found.append(f"desired image {one.image.name}: {one.fault}")
            elif deadline is not None and unix > deadline and one.mine and not one.whole:
                found.append(f"desired image {one.image.name} is not here by its deadline")
        return found[:PROBLEMS_TOLD]

    # --- what is held ---

    async def _look_at_all(self) -> None:
        """See what is held of all that is to stay."""
        self._drift_at = trio.current_time() + DRIFT * self._rng.uniform(0.75, 1.25)
        roots = self._roots()
        self._closures = {key: closure for key, closure in self._closures.items() if key in roots}
        for one in list(self._desire.wanted.values()):
            await self._look(one)
        for root, platforms in roots - self._closures.keys():
            await self._closure(root, platforms)

    async def _look(self, one: Wanted) -> None:
        target = one.target
        if target is None:
            return
        was = one.whole
        closure = await self._closure(target, one.image.platforms)
        size = self._store.blob_size
        whole = closure.complete and all(size(digest) is not None for digest in closure.digests)
        whole = whole and await self._is_signed(one, target)
        self._desire.looked(one.key, target, trio.current_time(), whole=whole)
        if was and not whole and one.mine:
            log.warning("a desired image is not whole any more: it is fetched again", image=one.image.name)

    async def _is_signed(self, one: Wanted, target: Digest) -> bool:
        """As it must be, if it must. What is not counts as not held: no tag comes to mean it."""
        reference = replace(one.reference, digest=target)
        with trio.move_on_after(SIGNATURE_PATIENCE):
            try:
                await self._fetcher.pulling.require_signed(reference, target)
            except DeniedError as refused:
                self._desire.failed(one.key, str(refused), trio.current_time())
            except (StorageError, NotFoundError) as lost:
                log.warning("cannot look at an image", image=one.image.name, problem=str(lost))
            else:
                return True
        return False

    async def _closure(self, root: Digest, platforms: tuple[str, ...]) -> Closure:
        """What is behind a manifest never changes: once all of it is known, it is not read again."""
        known = self._closures.get((root, platforms))
        if known is not None and known.complete:
            return known
        try:
            found = await self._fetcher.pulling.closure(root, platforms)
        except (StorageError, NotFoundError) as lost:
            log.warning("cannot look at an image", digest=str(root), problem=str(lost))
            found = known or Closure(frozenset({root}), complete=False)
        self._closures[root, platforms] = found
        return found

    # --- fetching ---

    async def _fetch(self, one: Wanted, fetch: _Fetch) -> None:
        try:
            with fetch.scope:
                await self._bring(one, fetch.target)
        finally:
            if self._fetches.get(one.key) is fetch:
                del self._fetches[one.key]
                one.fetching = False
            self._wake()

    async def _bring(self, one: Wanted, target: Digest) -> None:
        reference = replace(one.reference, digest=target)
        try:
            bringing = self._fetcher.pulling.bring(reference, one.image.platforms)
            async with aclosing(bringing) as progress:
                async for event in progress:
                    one.have, one.total = event.have_bytes, event.total_bytes
        except MeshsatError as failed:
            log.warning("a desired image cannot be fetched now", image=str(reference), problem=str(failed))
            full = isinstance(failed, StorageFullError) or self._lacks_room(one)
            if one.target == target:
                self._desire.failed(one.key, str(failed), trio.current_time(), full=full)
            return
        await self._look(one)
        if one.target == target and not one.whole:
            self._desire.failed(one.key, "not all of it came", trio.current_time())

    def _lacks_room(self, one: Wanted) -> bool:
        """What comes of a fetch that failed tells not whose disk was full."""
        free = self._own.free()
        return free is not None and max(LEAST_ROOM, one.total - one.have) > free

    # --- tags that are followed ---

    def _resolve_due(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        for key, one in self._desire.wanted.items():
            if one.image.parsed.digest is not None or key in self._resolving:
                continue
            due = self._resolve_at.get(key, now)
            if now >= due and len(self._resolving) < RESOLVES:
                self._resolving.add(key)
                nursery.start_soon(self._resolve, key, one)
            else:
                self._due_at = min(self._due_at, max(due, now + LOOK))

    async def _resolve(self, key: Key, one: Wanted) -> None:
        every = one.image.follow
        try:
            record = await self._mesh.resolve(*key, max_age=every, patience=RESOLVE_PATIENCE)
        except MeshsatError as failed:
            every = min(every, RESOLVE_PATIENCE)
            known = self._store.tag(*key)
            if one.target is None and known is not None:
                one.aim(known.descriptor.digest)
            elif one.target is None:
                self._desire.failed(key, str(failed), trio.current_time())
        else:
            if self._desire.wanted.get(key) is one:
                one.aim(record.digest)
                await self._look(one)
        finally:
            self._resolving.discard(key)
            self._resolve_at[key] = trio.current_time() + every * self._rng.uniform(0.75, 1.0)
            self._wake()

    # --- meanings ---

    async def _flip(self, flipping: Iterable[Wanted]) -> None:
        changed = [
            (one, self._tags.change(one.key, _sure(one.target), one.image.platforms, one.image.keep))
            for one in flipping
        ]
        self._spread_names()
        await self._tags.save()
        for one, before in changed:
            target = _sure(one.target)
            log.info("a desired tag has its new meaning", image=one.image.name, digest=str(target))
            self.on_flip(one.image.name, target, before)
            if one.whole:
                await self._show(one, target)

    async def _show(self, one: Wanted, target: Digest) -> None:
        """In the layout's index, for other tools; of an index of which some platforms are held, it is not
        shown, since it is not whole."""
        try:
            await self._fetcher.completion.show(*one.key, target)
        except (NotFoundError, InvalidInputError, StorageError, DeniedError) as failed:
            log.debug("not in the layout's index", image=one.image.name, problem=str(failed))

    async def _retire(self) -> None:
        ended, self._tags.ended = self._tags.ended, []
        try:
            await self._own.retire([f"{registry}/{repository}:{tag}" for registry, repository, tag in ended])
        except StorageError as failed:
            self._tags.ended += ended
            log.warning("what is desired no longer is not freed yet", problem=str(failed))

    async def _hide(self, key: Key) -> None:
        try:
            await self._fetcher.completion.hide(*key)
        except StorageError as failed:
            log.warning("still in the layout's index", image=":".join(key), problem=str(failed))

    # --- what the others are told ---

    def _tell(self, *, flipped: bool) -> None:
        if not self._desire.state:
            return
        now = trio.current_time()
        marks = self._desire.marks(now, lambda key: self._tags.meaning(*key))
        me = self._mesh.machine.me
        report = Report(
            me,
            max(int(self._own.unix() * 1000), self.reports.before + 1),
            self._desire.version,
            self._desire.state,
            tuple(sorted(self._desire.roles)),
            self._own.room(),
            marks,
            self._desire.faults(),
        )
        known = self.reports.get(me)
        if known is not None and known.at < self.reports.before:
            known = None  # others know a later one, from before our clock was set back
        members = len(self._mesh.machine.roster)
        due = self._telling.due(known, report, now, flipped=flipped, members=members)
        if now < due:
            self._due_at = min(self._due_at, due)
            return
        self._telling.told(now)
        sealed = seal_report(self._own.key, report)
        self.reports.put(replace(report, sealed=sealed))
        self._mesh.driver.feed(events.ItemJudged(int(Kind.REPORT), me, sealed, None, Judgement.NEWS))


def _sure(target: Digest | None) -> Digest:
    assert target is not None  # noqa: S101 - `decide` names no image without one
    return target
