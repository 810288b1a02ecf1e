"""Marking: what must stay, what may go, and in which order. Pure: values in, values out.

Laws: what can be reached from a reason to keep something is never let go; what cannot, and is old enough,
always is. An eviction takes whole images: of what it leaves, nothing is missing afterwards.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from meshsat.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Links:
    """What a manifest refers to."""

    manifests: tuple[Digest, ...] = ()
    blobs: tuple[Digest, ...] = ()
    subject: Digest | None = None
    """What it is about; it lives as long as that does."""

    @property
    def children(self) -> tuple[Digest, ...]:
        return (*self.manifests, *self.blobs)


@dataclass(frozen=True, slots=True)
class Unit:
    """An image, as far as it goes at once: one manifest, and the names under which it is known here."""

    root: Digest
    names: tuple[str, ...]
    used_at: float = 0.0
    """When it was last pulled from here."""
    site: bool = False
    """It is site content: no upstream has it."""


@dataclass(frozen=True, slots=True)
class Stock:
    """All that is held at one moment, and the reasons to keep it."""

    changes: int
    """The store's count of reasons, when this was so."""
    sizes: Mapping[Digest, int]
    """Bytes of each blob that is held."""
    links: Mapping[Digest, Links]
    """Of each manifest that was read."""
    dependents: Mapping[Digest, Collection[Digest]]
    """Manifests that live as long as another does, by that one: signatures, SBOMs."""
    required: frozenset[Digest] = frozenset()
    """Manifests that are pinned or desired."""
    site: frozenset[Digest] = frozenset()
    """Manifests of site content."""
    loose: frozenset[Digest] = frozenset()
    """What belongs to a repository of site content, and no manifest of it that is here refers to."""
    stale: Mapping[str, frozenset[Digest]] = field(default_factory=dict)
    """The same, as long as it may be let go, by repository."""
    units: tuple[Unit, ...] = ()
    wanted: frozenset[Digest] = frozenset()
    """Blobs on their way."""
    young: frozenset[Digest] = frozenset()
    """Blobs that were claimed within the grace."""
    settling: frozenset[Digest] = frozenset()
    """Blobs that were claimed a moment ago: not even eviction takes them."""


@dataclass(frozen=True, slots=True)
class Eviction:
    units: tuple[Unit, ...] = ()
    blobs: frozenset[Digest] = frozenset()
    freed: int = 0
    """Bytes."""


def reach(
    start: Iterable[Digest], links: Mapping[Digest, Links], dependents: Mapping[Digest, Collection[Digest]]
) -> set[Digest]:
    """What `start` refers to, itself included, whether it is held or not; and what is about any of that."""
    reached: set[Digest] = set()
    due = list(start)
    while due:
        digest = due.pop()
        if digest in reached:
            continue
        reached.add(digest)
        found = links.get(digest)
        if found is not None:
            due.extend(found.children)
        due.extend(dependents.get(digest, ()))
    return reached


def above(wanted: Iterable[Digest], links: Mapping[Digest, Links]) -> set[Digest]:
    """The manifests that refer to any of these, directly or not."""
    parents: dict[Digest, list[Digest]] = {}
    for digest, found in links.items():
        for child in found.children:
            parents.setdefault(child, []).append(digest)
    reached: set[Digest] = set()
    due = list(wanted)
    while due:
        for parent in parents.get(due.pop(), ()):
            if parent not in reached:
                reached.add(parent)
                due.append(parent)
    return reached


def mark(stock: Stock) -> set[Digest]:
    """What must stay; it may name what is not held."""
    roots = {*stock.required, *stock.site, *stock.young, *stock.wanted, *(unit.root for unit in stock.units)}
    roots |= above(stock.wanted, stock.links)
    return reach(roots, stock.links, stock.dependents) | stock.loose


def unmarked(stock: Stock, marked: Collection[Digest]) -> list[Digest]:
    """What may go, manifests before what they refer to, so that nobody is promised what is going."""
    gone = [digest for digest in stock.sizes if digest not in marked]
    return _manifests_first(stock, gone)


def _manifests_first(stock: Stock, gone: Iterable[Digest]) -> list[Digest]:
    def depth(digest: Digest) -> int:
        found = stock.links.get(digest)
        return 2 if found is None else 0 if found.manifests else 1

    return sorted(gone, key=lambda digest: (depth(digest), digest))


def choose(
    stock: Stock,
    need: int,
    held_elsewhere: Callable[[Digest], bool],
    only: Collection[str] | None = None,
) -> Eviction:
    """What to evict so that `need` bytes are free, or as many as can be.

    Never what is pinned, desired, on its way or site content of which this is the last copy. First those of
    which peers hold a copy, then the last copies of the site, each time the least recently pulled first. With
    `only`, the images that have none but these names, whatever they free.
    """
    closures = {unit.root: reach([unit.root], stock.links, stock.dependents) for unit in stock.units}
    kept = reach(stock.required, stock.links, stock.dependents)
    kept |= stock.site | stock.loose | stock.wanted | stock.settling
    ranked: list[tuple[int, float, tuple[str, ...], Unit]] = []
    for unit in stock.units:
        rank = _rank(stock, unit, closures[unit.root], kept, held_elsewhere)
        if rank is not None and (only is None or set(unit.names) <= set(only)):
            ranked.append((rank, unit.used_at, unit.names, unit))
    owners = Counter(digest for unit in stock.units for digest in closures[unit.root])
    chosen: list[Unit] = []
    gone: set[Digest] = set()
    freed = 0
    for _, _, _, unit in sorted(ranked, key=lambda one: one[:3]):
        if freed >= need and only is None:
            break
        chosen.append(unit)
        for digest in closures[unit.root]:
            owners[digest] -= 1
            if not owners[digest] and digest in stock.sizes and digest not in kept:
                gone.add(digest)
                freed += stock.sizes[digest]
    evicted = tuple(unit for unit in chosen if only is not None or not gone.isdisjoint(closures[unit.root]))
    return Eviction(evicted, frozenset(gone), freed)


def _rank(
    stock: Stock,
    unit: Unit,
    closure: Collection[Digest],
    kept: Collection[Digest],
    held_elsewhere: Callable[[Digest], bool],
) -> int | None:
    """0: peers have all of it; 1: this is the last copy of something; None: it does not go."""
    manifests = [digest for digest in closure if digest in stock.links]
    if unit.root in stock.required or not stock.wanted.isdisjoint(closure):
        return None
    if not stock.settling.isdisjoint(manifests):
        return None
    last = [one for one in closure if one in stock.sizes and one not in kept and not held_elsewhere(one)]
    if last:
        return None if unit.site else 1
    return 0


def order(stock: Stock, eviction: Eviction) -> Sequence[Digest]:
    """The blobs of an eviction, in the order in which they go."""
    return _manifests_first(stock, eviction.blobs)
