"""What one node is to do about the desired state: fetch this, let the tag mean that, tell the others so.

Pure: it is told what the state wants, what is held, who is there and what they report, and `decide` says what
follows. The shell around it (reconcile.py) looks, fetches and keeps.

Laws:
1. A tag changes its meaning on a node that is to hold it only when the new image is whole there; nothing of
   the old is let go before that.
2. Nodes change together: when all that are there and are to hold the image have it whole, or as soon as one
   has changed, or at the time that the state names. Who lags behind is waited for, but not for ever.
3. One image's trouble is its own: it is tried again with growing pauses, and the others go on.
4. What is held and not desired here is kept until as many others as are wanted hold it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from meshsat.fleet.document import DesiredImage
from meshsat.fleet.meanings import Key, Meaning
from meshsat.fleet.placement import Candidate, holders
from meshsat.fleet.report import (
    FAULT_LIMIT,
    FAULTS_TOLD,
    IMAGES_TOLD,
    Mark,
    Report,
    Stage,
    prefix_of,
)
from meshsat.oci.digest import Digest
from meshsat.oci.reference import Reference
from meshsat.protocol.rng import Rng
from meshsat.trust.keys import PeerId

ABSENT = 10.0
"""Seconds for which a node that is not seen still counts where copies are placed."""
FETCHES = 3
"""Images that are fetched at once."""
BACKOFF = (5.0, 300.0)
"""Seconds before an image that failed is tried again: the first time, and at most."""


@dataclass(slots=True)
class Wanted:
    """One desired image, and how far it is here."""

    image: DesiredImage
    key: Key
    target: Digest | None = None
    """What the tag is to mean."""
    whole: bool = False
    """All of the target that is wanted is held here."""
    whole_since: float = 0.0
    """On the clock of `decide`."""
    fetching: bool = False
    have: int = 0
    """Bytes of it that are here while it is fetched, and of how many."""
    total: int = 0
    failures: int = 0
    retry_at: float = 0.0
    fault: str = ""
    full: bool = False
    """The fault is that there is no room."""
    mine: bool = True
    """It is to be held here."""
    holders: frozenset[PeerId] = frozenset()
    """Who is to hold it."""

    @property
    def reference(self) -> Reference:
        registry, repository, tag = self.key
        return Reference(registry, repository, tag, self.target)

    def aim(self, target: Digest) -> None:
        if target != self.target:
            self.target = target
            self.whole = self.full = False
            self.failures, self.retry_at, self.fault = 0, 0.0, ""
            self.have = self.total = 0


@dataclass(frozen=True, slots=True)
class Decision:
    fetch: tuple[Wanted, ...] = ()
    """To be fetched now, the most important first."""
    stop: tuple[Wanted, ...] = ()
    """Not to be fetched any more."""
    flip: tuple[Wanted, ...] = ()
    """Whose tag means the target from now on."""


@dataclass(slots=True)
class Desire:
    """`patience`: seconds for which nodes that lag behind are waited for."""

    me: PeerId
    roles: frozenset[str]
    patience: float
    rng: Rng
    wanted: dict[Key, Wanted] = field(default_factory=dict)
    """In the order of importance."""
    version: int = 0
    state: bytes = b""
    """The beginning of the state's digest; empty: there is none."""
    _seen: dict[PeerId, float] = field(default_factory=dict)
    _there: dict[PeerId, frozenset[str]] = field(default_factory=dict)
    """Who counts where copies are placed, with their roles."""
    _full: dict[int, set[PeerId]] = field(default_factory=dict)
    """Images by their place, and who says that there is no room for them."""
    _placed: dict[tuple[str, tuple[str, ...], int | str], frozenset[PeerId]] = field(default_factory=dict)
    """Who is to hold an image that everybody has room for, as long as the same nodes are there."""

    # --- what the shell tells ---

    def follow(self, version: int, state: bytes, images: Iterable[DesiredImage]) -> None:
        """From now on these are desired, the most important first."""
        self.version, self.state = version, state
        before, self.wanted = self.wanted, {}
        self._placed = {}
        for image in images:
            parsed = image.parsed
            key = (parsed.registry, parsed.repository, parsed.tag or "")
            known = before.get(key)
            one = known or Wanted(image, key)
            if known is not None and known.image.platforms != image.platforms:
                one.whole = False
            one.image = image
            self.wanted[key] = one
            if parsed.digest is not None:
                one.aim(parsed.digest)

    def looked(self, key: Key, target: Digest, now: float, *, whole: bool) -> None:
        """What the store holds of it."""
        one = self.wanted.get(key)
        if one is None or one.target != target:
            return
        if whole and not one.whole:
            one.whole_since = now
            one.failures, one.fault, one.full = 0, "", False
        one.whole = whole

    def failed(self, key: Key, fault: str, now: float, *, full: bool = False) -> None:
        """It could not be fetched, or it could not be told what its tag means."""
        one = self.wanted.get(key)
        if one is None:
            return
        one.fault, one.full = fault, full
        wait = min(BACKOFF[0] * 2.0 ** min(one.failures, 16), BACKOFF[1])
        one.failures += 1
        one.retry_at = now + wait * self.rng.uniform(0.75, 1.25)

    def try_again(self) -> None:
        """Somebody is there now who may have what could not be fetched."""
        for one in self.wanted.values():
            if not one.full:
                one.retry_at = 0.0

    # --- what follows ---

    def decide(
        self,
        now: float,
        unix: float,
        live: Collection[PeerId],
        reports: Mapping[PeerId, Report],
        meanings: Mapping[Key, Meaning],
    ) -> Decision:
        """`now` in seconds of a clock that never goes back, `unix` in Unix seconds. `live`: the other nodes
        that are there."""
        self._see(now, live, reports)
        fetch: list[Wanted] = []
        stop: list[Wanted] = []
        flip: list[Wanted] = []
        under_way = sum(one.fetching for one in self.wanted.values())
        for place, one in enumerate(self.wanted.values()):
            one.holders = self._holders(place, one, now)
            one.mine = self.me in one.holders
            if one.target is None:
                continue
            if one.fetching and not one.mine:
                stop.append(one)
            elif self._is_due(one, now, unix) and under_way < FETCHES:
                under_way += 1
                fetch.append(one)
            there = one.holders.intersection((*live, self.me))
            if self._flips(place, one, there, now, unix, reports, meanings):
                flip.append(one)
        return Decision(tuple(fetch), tuple(stop), tuple(flip))

    def _see(self, now: float, live: Collection[PeerId], reports: Mapping[PeerId, Report]) -> None:
        for peer in (*live, self.me):
            self._seen[peer] = now
        self._seen = {peer: at for peer, at in self._seen.items() if now - at <= ABSENT}
        roles = {self.me: self.roles}
        self._full = {}
        for peer in self._seen.keys() - {self.me}:
            report = reports.get(peer)
            roles[peer] = frozenset(report.roles) if report is not None else frozenset()
            if report is not None and report.state == self.state:
                for place in report.full:
                    self._full.setdefault(place, set()).add(peer)
        if roles != self._there:
            self._there, self._placed = roles, {}

    def _holders(self, place: int, one: Wanted, now: float) -> frozenset[PeerId]:
        full = self._full.get(place, set())
        if one.full and now < one.retry_at and not one.whole:
            full.add(self.me)
        image = one.image
        asked = (image.name, image.roles, image.copies)
        if asked not in self._placed or full:
            there = [Candidate(peer, roles, peer not in full) for peer, roles in self._there.items()]
            found = holders(image.name, there, roles=image.roles, copies=image.copies)
            if full:
                return found
            self._placed[asked] = found
        return self._placed[asked]

    def _mark(self, report: Report, place: int) -> Mark | None:
        """What a node says of the image at that place, if it follows the same state."""
        return report.mark(place) if report.state == self.state else None

    def _is_due(self, one: Wanted, now: float, unix: float) -> bool:
        if one.whole or one.fetching or not one.mine or now < one.retry_at:
            return False
        return one.image.not_before is None or unix >= one.image.not_before

    def _flips(
        self,
        place: int,
        one: Wanted,
        wanting: Collection[PeerId],
        now: float,
        unix: float,
        reports: Mapping[PeerId, Report],
        meanings: Mapping[Key, Meaning],
    ) -> bool:
        meaning = meanings.get(one.key)
        if one.target is None or (meaning is not None and meaning.digest == one.target):
            return False
        at = one.image.active_from
        if at is not None and unix < at:
            return False
        if meaning is None:
            return True  # nothing runs yet: clients have it as it comes
        if one.mine and not one.whole:
            return False
        told = {peer: self._mark(report, place) for peer, report in reports.items() if peer != self.me}
        of_target = {peer: mark for peer, mark in told.items() if mark is not None and mark.is_of(one.target)}
        whole = {peer for peer, mark in of_target.items() if mark.stage is Stage.WHOLE}
        if one.whole:
            whole.add(self.me)
        if not whole:
            return False
        if at is not None or any(mark.active for mark in of_target.values()):
            return True
        if all(peer in whole for peer in wanting):
            return True
        return one.whole and now - one.whole_since >= self.patience

    def is_spare(
        self, place: int, one: Wanted, reports: Mapping[PeerId, Report], live: Collection[PeerId]
    ) -> bool:
        """Whether the site has as many copies as it wants without ours, where they are to be: else each of
        two could take the other's for the one that stays. `place`: the image's."""
        if one.mine or one.target is None:
            return False
        others = 0
        for peer in one.holders.intersection(live):
            report = reports.get(peer)
            mark = self._mark(report, place) if report is not None else None
            others += mark is not None and mark.stage is Stage.WHOLE and mark.is_of(one.target)
        return others >= (1 if one.image.copies == "all" else one.image.copies)

    # --- what is told ---

    def marks(self, now: float, means: Callable[[Key], Digest | None]) -> tuple[Mark, ...]:
        found = []
        for one in list(self.wanted.values())[:IMAGES_TOLD]:
            target = prefix_of(one.target) if one.target is not None else Mark().target
            active = one.target is not None and means(one.key) == one.target
            stage = self.stage(one, now)
            percent = min(99, 100 * one.have // one.total) if stage is Stage.FETCHING and one.total else 0
            found.append(Mark(stage, active, target, percent))
        return tuple(found)

    def stage(self, one: Wanted, now: float) -> Stage:
        if one.target is None:
            return Stage.FAILED if one.fault else Stage.UNKNOWN
        if one.whole:
            return Stage.WHOLE
        if one.full and now < one.retry_at:
            return Stage.FULL
        if not one.mine:
            return Stage.ELSEWHERE
        if one.fetching:
            return Stage.FETCHING
        if one.fault and now < one.retry_at:
            return Stage.FAILED
        return Stage.WAITING

    def faults(self) -> tuple[tuple[int, str], ...]:
        told = [
            (place, one.fault[:FAULT_LIMIT])
            for place, one in enumerate(self.wanted.values())
            if one.fault and place < IMAGES_TOLD
        ]
        return tuple(told[:FAULTS_TOLD])
