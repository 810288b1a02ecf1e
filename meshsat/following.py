"""Following: the parts of a node that have to do with what is desired of it, put together.

A state comes from a source (signed: `state_sources.py`; Harbor Satellite's: `satellite.py`), says what is to
be held (`reconcile.py`) and within which means (`means.py`); `planning.py` tells what another one would take.
Law: where a signed state is in force, no other source counts.
"""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

import trio

from meshsat.audit.event import NODE, SUCCESS, Audit
from meshsat.config import Config
from meshsat.desired_tags import DesiredTags
from meshsat.fetch import Fetcher
from meshsat.fleet.document import DesiredState
from meshsat.means import Means
from meshsat.mesh.identity import Identity
from meshsat.mesh.service import Mesh
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.planning import Planning, Self
from meshsat.pull_through import PullThrough
from meshsat.reconcile import Own, Reconciler
from meshsat.satellite import SatelliteSource
from meshsat.state_sources import StateSources
from meshsat.status import SatelliteStatus, ShadowReport
from meshsat.store.store import Store
from meshsat.trust.keys import PeerId
from meshsat.upkeep.task import Upkeep
from meshsat.uplink.client import Uplink
from meshsat.vault.vault import Vault


@dataclass(frozen=True, slots=True)
class Around:
    """What the rest of the node gives."""

    config: Config
    identity: Identity
    store: Store
    mesh: Mesh
    fetcher: Fetcher
    policy: PullThrough
    uplink: Uplink | None
    upkeep: Upkeep
    means: Means
    vault: Vault
    audit: Audit
    metrics: Metrics
    unix: Callable[[], float]
    """Gives Unix seconds, as well as this node knows them."""
    chance: Callable[[], random.Random]
    passed: Callable[[float], None]
    """To be told of a moment (Unix seconds) that those who may sign states say has passed."""


class Following:
    def __init__(self, around: Around) -> None:
        """Raises `ConfigError`, `StorageError`."""
        config, mesh, policy, upkeep = around.config, around.mesh, around.policy, around.upkeep
        member, key = around.identity.member, around.identity.key
        self._mesh = mesh
        self._audit = around.audit
        self._means = around.means
        own = Self(key.peer_id, mesh.machine.name, member.site, member.roles, config.data_dir, around.unix)
        self.planning = Planning(
            own, around.store, mesh, around.fetcher.pulling, policy, around.uplink, around.metrics.lan_in
        )
        self.planning.roles_of = self._roles_of
        self.planning.budget = upkeep.leaves
        self._tags = DesiredTags(config.data_dir, around.unix)
        self.reconciler = Reconciler(
            around.store,
            mesh,
            around.fetcher,
            policy,
            self._tags,
            Own(
                key,
                member.site,
                member.roles,
                around.unix,
                around.chance(),
                upkeep.leaves,
                retire=upkeep.retire,
                free=self.planning.room,
                patience=config.fleet.patience,
            ),
        )
        self.reconciler.on_flip = self._flipped
        upkeep.desired = self._staying
        self.states = StateSources(
            config, around.identity, around.store, mesh, policy, around.unix, around.chance()
        )
        self.states.follow, self.states.audit = self._follow_signed, around.audit
        self._passed = around.passed
        self._satellite: SatelliteSource | None = None
        section = config.fleet.harbor_satellite
        if section is not None:
            self._satellite = SatelliteSource(
                config, section, around.store, mesh, policy, around.uplink, around.vault, self._follow
            )
            self._satellite.source.overruled = lambda: self.states.states.in_force is not None

    def _staying(self) -> set[Digest] | None:
        found = self.reconciler.desired()
        return None if found is None else found | self.states.bodies()

    def _follow_signed(self, revision: int, digest: Digest, state: DesiredState) -> None:
        accepted = self.states.states.in_force
        if accepted is not None:
            self._passed(accepted.issued)
        self._follow(revision, digest, state)

    def _follow(self, revision: int, digest: Digest, state: DesiredState) -> None:
        self._means.follow(state)
        self.reconciler.follow(revision, digest, state)

    def _flipped(self, name: str, digest: Digest, before: Digest | None) -> None:
        was = "" if before is None else f"it meant {before}"
        self._audit.record("tag.change", actor=NODE, object=f"{name}@{digest}", outcome=SUCCESS, reason=was)

    def _roles_of(self, peer: PeerId) -> Collection[str]:
        link = self._mesh.driver.links.get(peer)
        return link.stream.member.roles if link is not None else ()

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as parts:
            parts.start_soon(self.reconciler.run)
            parts.start_soon(self.planning.run)
            parts.start_soon(self.states.run)
            if self._satellite is not None:
                parts.start_soon(self._satellite.run)

    def problems(self) -> list[str]:
        """What an operator should do something about."""
        told = [self._means.problem, self._satellite.problem() if self._satellite is not None else None]
        found = [problem for problem in told if problem is not None]
        return self.states.problems() + self.reconciler.problems() + found

    def satellite(self) -> SatelliteStatus | None:
        return self._satellite.source.status() if self._satellite is not None else None

    def shadow(self, nodes: int | None) -> ShadowReport | None:
        return self._satellite.source.shadow(nodes) if self._satellite is not None else None
