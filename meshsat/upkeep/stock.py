"""Taking stock: what is held, and every reason that there is to keep it.

Law: no reason is overlooked. Where one can't be known now, nothing is let go (`RefusedError`): the desired
state is not read yet, a manifest can't be read, or one was lost whose blobs would look forsaken.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress

import trio

from meshsat.oci.digest import Digest
from meshsat.oci.media_types import MANIFEST_TYPES
from meshsat.oci.reference import SITE
from meshsat.oci.referrers import subject_of_tag
from meshsat.store.records import ImageRow, TagRecord
from meshsat.store.store import Store
from meshsat.upkeep.manifests import Graph, RefusedError
from meshsat.upkeep.marking import Links, Stock, Unit, mark, reach

SETTLE = 15.0
"""Seconds for which even eviction leaves alone what was just claimed: somebody is about to use it."""
LOST_PATIENCE = 24 * 3600.0
"""Seconds for which a manifest that was lost may come back, before what it refers to may go."""


class Stocktaking:
    """`desired`: what the desired state wants here, manifests or all that they refer to; None: not known yet.
    `wanted`: blobs that somebody fetches or waits for."""

    def __init__(
        self,
        store: Store,
        desired: Callable[[], Collection[Digest] | None],
        wanted: Callable[[], Collection[Digest]],
        grace: float,
    ) -> None:
        self.grace = grace
        self._store = store
        self._desired = desired
        self._wanted = wanted
        self._graph = Graph(store)
        self._lost_at: dict[Digest, float] = {}
        self.kept_bytes: int | None = None
        """Of what eviction may never take, when stock was last taken."""

    async def take(self) -> Stock:
        """Raises `RefusedError`."""
        store = self._store
        desired = self._desired()
        if desired is None:
            raise RefusedError("the desired state is not known yet")
        trusted = {*store.pins(), *(image.descriptor.digest for image in store.images())}
        tags = [tag.descriptor.digest for tag in store.records() if not tag.is_gone]
        others = [digest for digest in (*desired, *tags) if self._may_be_manifest(digest)]
        await self._graph.load([*trusted, *others], trusted)
        # Nothing waits from here on: all of it is of one moment.
        desired = self._desired()
        if desired is None:
            raise RefusedError("the desired state is not known any more")
        stock = self._compose(frozenset(store.pins()) | frozenset(desired))
        self._check_lost(stock)
        kept = reach(stock.required, stock.links, stock.dependents) | stock.site | stock.loose
        self.kept_bytes = sum(stock.sizes.get(digest, 0) for digest in kept)
        self._graph.forget({*stock.sizes, *mark(stock)})
        return stock

    def _may_be_manifest(self, digest: Digest) -> bool:
        """What is desired may be told with all that it refers to: layers are not read for that."""
        facts = self._store.facts(digest)
        return facts is None or facts.media_type in MANIFEST_TYPES

    async def images_with(self, digest: Digest) -> tuple[ImageRow, ...]:
        """The whole images that a manifest or blob is part of, as far as their manifests can be read."""
        roots = [image.descriptor.digest for image in self._store.images()]
        with suppress(RefusedError):
            await self._graph.load(roots, ())
        links = self._graph.links
        return tuple(
            image for image in self._store.images() if digest in reach([image.descriptor.digest], links, {})
        )

    def still(self, stock: Stock, digest: Digest, age: float) -> bool:
        """Whether no reason to keep the blob came up since, and nobody claimed it for so many seconds."""
        store = self._store
        return (
            store.changes == stock.changes
            and store.ages.age(digest) > age
            and digest not in self.wanted()
            and stock.required >= frozenset(self._desired() or ())
        )

    def wanted(self) -> frozenset[Digest]:
        return frozenset(self._wanted()) | frozenset(self._store.removal.opened)

    def _compose(self, required: frozenset[Digest]) -> Stock:
        store = self._store
        sizes, links = store.blobs(), dict(self._graph.links)
        live = [record for record in store.records() if not record.is_gone]
        dependents = _dependents(links, live, sizes)
        site = frozenset(
            record.descriptor.digest
            for record in live
            if record.registry == SITE and record.descriptor.digest in sizes
        )
        young = frozenset(store.ages.claimed_within(self.grace))
        loose, stale = self._holdings(live, links, dependents, young)
        return Stock(
            changes=store.changes,
            sizes=sizes,
            links=links,
            dependents=dependents,
            required=required,
            site=site,
            loose=loose,
            stale=stale,
            units=self._units(live, sizes, links),
            wanted=self.wanted(),
            young=young,
            settling=frozenset(store.ages.claimed_within(SETTLE)),
        )

    def _holdings(
        self,
        live: Iterable[TagRecord],
        links: Mapping[Digest, Links],
        dependents: Mapping[Digest, Collection[Digest]],
        young: Collection[Digest],
    ) -> tuple[frozenset[Digest], dict[str, frozenset[Digest]]]:
        """Of site content, what no manifest that is here refers to: what stays all the same, and what may go.
        As long as a manifest of the repository is still to come, all stays: its blobs may be here already."""
        of_repository: dict[str, set[Digest]] = {}
        for record in live:
            if record.registry == SITE:
                of_repository.setdefault(record.repository, set()).add(record.descriptor.digest)
        loose: set[Digest] = set()
        stale: dict[str, frozenset[Digest]] = {}
        for repository in self._store.repositories.names():
            manifests = of_repository.get(repository, set())
            rest = self._store.repositories.held_in(repository) - reach(manifests, links, dependents)
            if any(self._store.blob_size(digest) is None for digest in manifests):
                loose |= rest
                continue
            loose |= rest & set(young)
            if rest - set(young):
                stale[repository] = frozenset(rest - set(young))
        return frozenset(loose), stale

    def _units(
        self, live: Iterable[TagRecord], sizes: Mapping[Digest, int], links: Mapping[Digest, Links]
    ) -> tuple[Unit, ...]:
        """Images and tags whose manifest is held; what is about another is part of that one."""
        names: dict[Digest, set[str]] = {}
        site: set[Digest] = set()
        for image in self._store.images():
            if subject_of_tag(image.tag) is None:
                names.setdefault(image.descriptor.digest, set()).add(image.name)
                if image.registry == SITE:
                    site.add(image.descriptor.digest)
        for record in live:
            digest = record.descriptor.digest
            if digest in sizes and subject_of_tag(record.tag) is None:
                end = "@" if record.names_digest else ":"
                names.setdefault(digest, set()).add(f"{record.registry}/{record.repository}{end}{record.tag}")
                if record.registry == SITE:
                    site.add(digest)
        return tuple(
            Unit(digest, tuple(sorted(known)), self._used_at(digest, links), digest in site)
            for digest, known in names.items()
        )

    def _used_at(self, root: Digest, links: Mapping[Digest, Links]) -> float:
        """An index is pulled when one of its manifests is."""
        found = links.get(root, Links())
        return max(self._store.ages.used_at(one) for one in (root, *found.manifests))

    def _check_lost(self, stock: Stock) -> None:
        lost, now = self._store.lost(), trio.current_time()
        self._lost_at = {digest: self._lost_at.get(digest, now) for digest in lost}
        missing = reach(_roots(stock), stock.links, stock.dependents) & lost
        for digest in missing - stock.links.keys():
            if self._may_be_manifest(digest) and now - self._lost_at[digest] < LOST_PATIENCE:
                raise RefusedError(f"{digest} was lost and is not back yet: what it refers to is not known")


def _roots(stock: Stock) -> set[Digest]:
    return {*stock.required, *stock.site, *(unit.root for unit in stock.units)}


def _dependents(
    links: Mapping[Digest, Links], live: Iterable[TagRecord], sizes: Mapping[Digest, int]
) -> dict[Digest, set[Digest]]:
    found: dict[Digest, set[Digest]] = {}
    for digest, one in links.items():
        if one.subject is not None:
            found.setdefault(one.subject, set()).add(digest)
    for record in live:
        subject = subject_of_tag(record.tag)
        if subject is not None and record.descriptor.digest in sizes:
            found.setdefault(subject, set()).add(record.descriptor.digest)
    return found
