"""Following the states of one satellite: the root, its groups, its configuration, again and again.

Laws: what cannot be fetched or read is as it last was, and never counts as removed; one broken group does
not hold back another; what is offered is also what is remembered, so that a restart in the dark offers it
again; the same state is offered once. The site asks upstream once however many of its nodes follow
(`Artifacts`). All of it is in one registry, the one that the root is read from: hosts in the states are
replaced by it, since Ground Control may call Harbor by a name that means nothing here, and nothing is asked
of other hosts.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
import trio

from meshsat.errors import DeniedError, InvalidInputError, MeshsatError, NotFoundError, StorageError
from meshsat.fleet.document import DesiredState, encode_state
from meshsat.fleet.harbor_satellite import keeping
from meshsat.fleet.harbor_satellite.keeping import DOCUMENTS_LIMIT, Kept, KeptGroup
from meshsat.fleet.harbor_satellite.merge import merge
from meshsat.fleet.harbor_satellite.ports import Artifacts, Offer
from meshsat.fleet.harbor_satellite.shapes import (
    Place,
    SatelliteSettings,
    parse_config_untrusted,
    parse_group_state_untrusted,
    parse_satellite_state_untrusted,
)
from meshsat.store.disk import Threads

log = structlog.get_logger(__name__)

AT_ONCE = 8
"""Groups that are looked at at a time."""


@dataclass(slots=True)
class Troubles:
    """What went wrong at the last look."""

    root: str | None = None
    config: str | None = None
    groups: dict[Place, str] = field(default_factory=dict)
    disk: str | None = None
    merge: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    """Entries that were passed over."""

    def all(self) -> list[str]:
        told = [one for one in (self.root, self.config, self.disk) if one is not None]
        return [*told, *self.groups.values(), *self.merge, *self.states]


class Following:
    """`unix` gives Unix seconds. `threads` do the disk's work."""

    def __init__(
        self,
        artifacts: Artifacts,
        data_dir: Path,
        offer: Offer,
        *,
        unix: Callable[[], float],
        threads: Threads | None = None,
    ) -> None:
        self._artifacts = artifacts
        self._data_dir = data_dir
        self._offer = offer
        self._unix = unix
        self._threads = threads or Threads(1)
        self.kept = Kept()
        self.place: Place | None = None
        """Of the root; None: not known yet."""
        self.troubles = Troubles()
        self.state = DesiredState()
        self.version: str | None = None
        """Of what was offered last, since the start."""
        self._saved = self.kept
        self.denied = False
        """Whether the root was refused at the last look. A group may be for lack of a right."""
        self.missing = False
        """Whether there was no root at the last look."""
        self.checked_at: float | None = None
        """Unix seconds of the last look that found the root."""
        self.took = 0.0
        """Seconds of the last look."""

    @property
    def settings(self) -> SatelliteSettings:
        return self.kept.settings

    async def recall(self) -> None:
        """Take up what an earlier run left."""
        try:
            self.kept = self._saved = await self._threads.run(keeping.load, self._data_dir)
        except (InvalidInputError, StorageError) as fault:
            log.warning("what was remembered of Harbor's states is lost", problem=str(fault))
            self.troubles.disk = f"what was remembered of Harbor's states cannot be read: {fault}"

    def follow(self, place: Place) -> None:
        """Follow this root from now on; offers what is remembered of it."""
        if self.place != place:
            self.place = place
            self.kept = self.kept.of(place)
            self._merge()

    async def look(self, max_age: float) -> None:
        """One look at all of it. `max_age`: seconds for which the site believes what one node was told."""
        place = self.place
        if place is None:
            return
        began = trio.current_time()
        self.troubles = Troubles(disk=self.troubles.disk)
        self.denied = self.missing = False
        await self._look_at_root(place, max_age)
        if self.kept.root is not None:
            await self._look_at_groups(place, max_age)
            await self._look_at_config(place, max_age)
        self._merge()
        self.took = trio.current_time() - began
        if self.kept != self._saved:
            await self.save()

    async def save(self) -> None:
        kept = self.kept
        try:
            await self._threads.run(keeping.save, self._data_dir, kept)
        except StorageError as fault:
            log.warning("Harbor's states are not remembered over a restart", problem=str(fault))
            self.troubles.disk = f"Harbor's states are not remembered over a restart: {fault}"
        else:
            self.troubles.disk = None
            self._saved = kept

    async def _look_at_root(self, place: Place, max_age: float) -> None:
        try:
            digest = await self._artifacts.resolve(place, max_age)
            if digest != self.kept.root_digest:
                root = parse_satellite_state_untrusted(await self._artifacts.document(place, digest))
                self.kept = replace(self.kept, root=root, root_digest=digest)
                log.info("the satellite's state is new", digest=str(digest), groups=len(root.groups))
            self.checked_at = self._unix()
        except NotFoundError:
            self.missing = True
            self.troubles.root = (
                f"there is no {place} yet: Ground Control writes it once the satellite is in a group"
                if self.kept.root is None
                else f"{place} is gone: what it last said stays in force"
            )
        except MeshsatError as fault:
            self.denied = isinstance(fault, DeniedError)
            self.troubles.root = f"{place}: {fault}"

    async def _look_at_groups(self, place: Place, max_age: float) -> None:
        assert self.kept.root is not None  # noqa: S101 - looked at by the caller
        told = [group.at(place.registry) for group in self.kept.root.groups]
        listed = list(dict.fromkeys(told))
        self.kept = replace(
            self.kept, groups={group: known for group, known in self.kept.groups.items() if group in listed}
        )
        limiter = trio.CapacityLimiter(AT_ONCE)

        async def look(group: Place) -> None:
            async with limiter:
                await self._look_at_group(group, max_age)

        async with trio.open_nursery() as nursery:
            for group in listed:
                nursery.start_soon(look, group)

    async def _look_at_group(self, group: Place, max_age: float) -> None:
        known = self.kept.groups.get(group)
        try:
            digest = await self._artifacts.resolve(group, max_age)
            if known is None or digest != known.digest:
                raw = await self._artifacts.document(group, digest)
                state = parse_group_state_untrusted(raw)
                others = sum(len(one.document) for at, one in self.kept.groups.items() if at != group)
                if others + len(raw) > DOCUMENTS_LIMIT:
                    raise InvalidInputError(f"the groups have more than {DOCUMENTS_LIMIT} bytes together")
                fetched = KeptGroup(digest, raw, state, self._unix())
                self.kept = replace(self.kept, groups={**self.kept.groups, group: fetched})
                log.info("a group's state is new", group=group.repository, artifacts=len(state.artifacts))
        except MeshsatError as fault:
            rest = "what it last said stays in force" if known is not None else "what it wants is not known"
            self.troubles.groups[group] = f"{group}: {fault}; {rest}"

    async def _look_at_config(self, place: Place, max_age: float) -> None:
        config = self.kept.root.config if self.kept.root is not None else None
        if config is None:
            return
        config = config.at(place.registry)
        try:
            digest = await self._artifacts.resolve(config, max_age)
            if digest != self.kept.config_digest:
                settings = parse_config_untrusted(await self._artifacts.document(config, digest))
                self.kept = replace(self.kept, settings=settings, config_digest=digest)
        except MeshsatError as fault:
            self.troubles.config = f"{config}: {fault}; the settings stay as they were"

    def _merge(self) -> None:
        """Offer what the groups say together, if that is new."""
        if self.place is None or self.kept.root is None:
            return
        root = self.kept.root
        wanted = {group.at(self.place.registry) for group in root.groups}
        groups = {at: known.state for at, known in self.kept.groups.items() if at in wanted}
        merged = merge(self.place.registry, groups)
        self.troubles.merge = merged.problems
        faults = [(at.repository, fault) for at, state in groups.items() for fault in state.faults]
        self.troubles.states = (
            *(f"{self.place.repository}: {fault}" for fault in root.faults),
            *(f"{name}: {fault}" for name, fault in sorted(faults)),
        )
        if wanted and not groups:
            return  # nothing is known of what is wanted: that is not "nothing is wanted"
        version = version_of(merged.state)
        if version != self.version:
            self.version, self.state = version, merged.state
            if version != self.kept.version:
                self.kept = replace(self.kept, version=version, revision=self.kept.revision + 1)
            self._offer(merged.state, self.kept.revision)


def version_of(state: DesiredState) -> str:
    """The same for the same state."""
    return "harbor-satellite-" + hashlib.sha256(encode_state(state)).hexdigest()[:16]
