"""Harbor Satellite as a source of desired state: the parts together, and what is shown of them.

Laws: only where it is configured; what it says is unsigned, so where the fleet has a signed desired state
(`overruled`), that alone is in force and this offers nothing; in shadow it offers nothing either.
"""

import random
from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from meshsat.errors import ConfigError, InvalidInputError
from meshsat.fleet.document import DesiredState
from meshsat.fleet.harbor_satellite.enlisting import Doubt, Enlisting
from meshsat.fleet.harbor_satellite.following import Following
from meshsat.fleet.harbor_satellite.ports import Offer, Surroundings
from meshsat.fleet.harbor_satellite.shapes import (
    Place,
    parse_place_untrusted,
    parse_registry_address_untrusted,
)
from meshsat.fleet.harbor_satellite.weighing import Weighing
from meshsat.fleet_sections import HarborSatelliteSection
from meshsat.status import SatelliteGroup, SatelliteStatus, ShadowReport
from meshsat.store.disk import Threads

log = structlog.get_logger(__name__)

POLL = REPORT = 30.0
"""Seconds, as Harbor Satellite's, where neither this node nor the satellite's settings say otherwise."""
LEAST = 10.0
"""Seconds, whatever the satellite's configuration says; what is set on this node may be less."""
JITTER = (0.8, 1.2)
FRESH = 0.75
"""Of the interval: for so long the site believes what one of its nodes was told."""


class HarborSatellite:
    """Raises `ConfigError` for settings that cannot work."""

    def __init__(
        self,
        section: HarborSatelliteSection,
        data_dir: Path,
        around: Surroundings,
        offer: Offer,
        *,
        unix: Callable[[], float],
        rng: random.Random,
        threads: Threads | None = None,
    ) -> None:
        threads = threads or Threads(1)
        self._section = section
        self._around = around
        self._offer = offer
        self._rng = rng
        self._fixed, self._registry = _places(section)
        self.overruled: Callable[[], bool] = lambda: False
        """Whether a signed desired state is in force."""
        self._held_back: tuple[DesiredState, int] | None = None
        """What was not offered, because of that."""
        self._following = Following(around.artifacts, data_dir, self._found, unix=unix, threads=threads)
        self._enlisting = Enlisting(
            self._following, around, section, self._registry, unix=unix, rng=rng, threads=threads
        )
        self._weighing = None
        if section.shadow:
            self._weighing = Weighing(
                around.artifacts, data_dir, nodes=around.nodes, spent=around.spent, unix=unix, threads=threads
            )

    async def run(self) -> None:
        """Run until cancelled."""
        await self._following.recall()
        if self._weighing is not None:
            await self._weighing.recall()
        place = self._place()
        if place is not None:
            self._following.follow(place)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._enlisting.run)
            nursery.start_soon(self._follow)
            if not self._section.shadow and self._section.report:
                nursery.start_soon(self._enlisting.report, self._report_interval)

    async def _follow(self) -> None:
        while True:
            if self._following.place is None:
                await trio.sleep(1.0)
                continue
            await self._following.look(FRESH * self._poll())
            if self._following.denied:
                self._enlisting.doubt(Doubt.REFUSED)
            elif self._following.checked_at is not None and self._following.troubles.root is None:
                self._enlisting.trust()
            if self._weighing is not None:
                await self._weighing.count(self._following.state)
            self._offer_held_back()
            await trio.sleep(self._poll() * self._rng.uniform(*JITTER))

    def _place(self) -> Place | None:
        if self._fixed is not None:
            return self._fixed
        enlisted = self._following.kept.enlisted
        return enlisted.place if enlisted is not None else None

    def _found(self, state: DesiredState, revision: int) -> None:
        images, shadow = len(state.images), self._section.shadow
        log.info("Harbor's states want something else now", images=images, revision=revision, shadow=shadow)
        if shadow:
            return
        self._held_back = (state, revision)
        self._offer_held_back()

    def _offer_held_back(self) -> None:
        if self._held_back is not None and not self.overruled():
            state, revision = self._held_back
            self._held_back = None
            self._offer(state, revision)

    def _poll(self) -> float:
        return self._section.poll or max(LEAST, self._following.settings.poll or POLL)

    def _report_interval(self) -> float:
        return max(LEAST, self._following.settings.report or REPORT)

    # --- what is shown ---

    @property
    def problem(self) -> str | None:
        """For `status`: one line, or nothing."""
        told = self.status().problems
        if not told:
            return None
        more = f" (and {len(told) - 1} more: meshsat satellite status)" if len(told) > 1 else ""
        return f"Harbor Satellite's states: {told[0]}{more}"

    def status(self) -> SatelliteStatus:
        following, enlisting = self._following, self._enlisting
        kept, place = following.kept, following.place
        problems = [*following.troubles.all()]
        problems += [one for one in (enlisting.trouble, enlisting.report_trouble) if one is not None]
        if self._weighing is not None and self._weighing.trouble is not None:
            problems.append(self._weighing.trouble)
        if self.overruled():
            problems.append("a signed desired state is in force: what Harbor's states say is not followed")
        if place is not None and kept.root is not None and self._registry is None:
            others = {group.registry for group in kept.root.groups} - {place.registry}
            problems += [
                f"the states name the registry {other}; all is taken from {place.registry} "
                "(set fleet.harbor_satellite.registry to say so)"
                for other in sorted(others)
            ]
        listed = kept.root.groups if kept.root is not None else ()
        registry = place.registry if place is not None else ""
        groups = []
        for group in sorted({one.at(registry) for one in listed} if registry else ()):
            known = kept.groups.get(group)
            groups.append(
                SatelliteGroup(
                    str(group),
                    str(known.digest) if known is not None else None,
                    len(known.state.artifacts) if known is not None else 0,
                    known.fetched_at if known is not None else None,
                    following.troubles.groups.get(group),
                )
            )
        name = self._section.name or (place.satellite if place is not None else None)
        return SatelliteStatus(
            name=name,
            state=str(place) if place is not None else None,
            shadow=self._section.shadow,
            in_force=following.version is not None and not self._section.shadow and not self.overruled(),
            version=following.version,
            state_digest=str(kept.root_digest) if kept.root_digest is not None else None,
            config_digest=str(kept.config_digest) if kept.config_digest is not None else None,
            registered_at=kept.enlisted.at if kept.enlisted is not None else None,
            checked_at=following.checked_at,
            poll=self._poll(),
            groups=tuple(groups),
            images=tuple(image.reference for image in following.state.images),
            passed_over=kept.settings.passed_over,
            problems=tuple(problems),
        )

    def shadow(self, nodes: int | None) -> ShadowReport | None:
        """None: this node is no shadow."""
        return self._weighing.report(nodes) if self._weighing is not None else None


def _places(section: HarborSatelliteSection) -> tuple[Place | None, str | None]:
    """Where the root is, where that is set, and the registry that stands for all that the states name."""
    try:
        registry = None
        if section.registry is not None:
            registry = parse_registry_address_untrusted(section.registry)
        if section.state is None:
            return None, registry
        place = parse_place_untrusted(section.state)
        return (place if registry is None else place.at(registry)), registry
    except InvalidInputError as fault:
        raise ConfigError(f"fleet.harbor_satellite: {fault}") from None
