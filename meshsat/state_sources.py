"""Where a node has its desired state from: gossip (`fleet.states`), a registry, a file; bodies from peers.

Laws: no source is believed more than another, since all that counts is signed. What a source brings has a
bound in bytes before it is fetched; that it can't be reached is told, and harms nothing.
"""

import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

import structlog
import trio

from meshsat.audit.event import NODE, SUCCESS, Audit, NoAudit
from meshsat.config import Config
from meshsat.errors import (
    ConfigError,
    InvalidInputError,
    MeshsatError,
    StorageError,
    UnavailableError,
)
from meshsat.fleet.artifact import MANIFEST_LIMIT, file_of_untrusted, layers_untrusted
from meshsat.fleet.document import DesiredState
from meshsat.fleet.file_source import FileSource
from meshsat.fleet.state_file import encode_state_file, parse_state_file_untrusted
from meshsat.fleet.states import Accepted, Settings, States
from meshsat.manifests import Manifests, sources_of
from meshsat.mesh.identity import Identity
from meshsat.mesh.service import Mesh
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.reference import SITE, Reference
from meshsat.protocol.events import Priority
from meshsat.protocol.spread import Kind
from meshsat.pull_through import PullThrough
from meshsat.reading import Part
from meshsat.status import StateStatus
from meshsat.store.disk import Threads
from meshsat.store.store import Store
from meshsat.trust.passes import parse_root_untrusted, root_peer

log = structlog.get_logger(__name__)

DIRECTORY = "fleet"
BODY_PATIENCE = 60.0
"""Seconds for which a body is waited for without a peer that gives it."""
RESOLVE_PATIENCE = 30.0
IN_FORCE_PATIENCE = 5.0
"""Seconds for which whoever publishes waits for it to be in force."""


Follow = Callable[[int, Digest, DesiredState], None]
"""Takes a revision, its digest, and what it says."""


class Source(Protocol):
    problem: str | None

    @property
    def name(self) -> str: ...

    async def run(self) -> None: ...


class MeshBodies:
    """`fleet.states.Bodies`: from the store and from peers; no upstream has them by their digest alone."""

    def __init__(self, store: Store, mesh: Mesh) -> None:
        self._store = store
        self._mesh = mesh

    async def fetch(self, digest: Digest, size: int) -> bytes:
        if self._store.blob_size(digest) is None:
            with (
                self._mesh.demand(digest, size, (), Priority.PULL) as demand,
                trio.move_on_after(BODY_PATIENCE),
            ):
                while self._store.blob_size(digest) is None:
                    await demand.changed()
        if self._store.blob_size(digest) != size:
            raise UnavailableError("no node that is reached now has it")
        return await self._store.read(digest, 0, size)

    async def keep(self, digest: Digest, body: bytes) -> None:
        await self._store.put(body, digest)
        self._mesh.driver.stored(digest, len(body))


class RegistrySource:
    """An artifact in a registry. The site asks for its tag as for any other: once, whoever wants to know."""

    def __init__(
        self,
        reference: Reference,
        poll: float,
        states: States,
        store: Store,
        mesh: Mesh,
        policy: PullThrough,
        rng: random.Random,
    ) -> None:
        """`poll` in seconds."""
        self._reference = reference
        self._poll = poll
        self._states = states
        self._store = store
        self._mesh = mesh
        self._policy = policy
        self._rng = rng
        self._manifests = Manifests(store, mesh, policy, RESOLVE_PATIENCE)
        self._seen: Digest | None = None
        self.problem: str | None = None

    @property
    def name(self) -> str:
        return f"registry {self._reference}"

    async def run(self) -> None:
        """Run until cancelled."""
        with self._policy.lifted(self._reference.registry, self._reference.repository):
            while True:
                if self._mesh.machine.site_has_uplink():
                    await self.look()
                    wait = self._poll
                else:  # nobody can be asked; when that changes, soon
                    wait = min(self._poll, 10.0)
                await trio.sleep(wait * self._rng.uniform(0.75, 1.25))

    async def look(self) -> None:
        """Ask what the tag means, and offer that if it is news."""
        try:
            digest = await self._look()
        except MeshsatError as fault:
            if self.problem != str(fault):
                log.warning("no desired state from the registry", source=self.name, why=str(fault))
            self.problem = str(fault)
        else:
            self._seen, self.problem = digest, None

    async def _look(self) -> Digest:
        registry, repository = self._reference.registry, self._reference.repository
        tag = self._reference.tag or "latest"
        record = await self._mesh.resolve(
            registry, repository, tag, max_age=self._poll, patience=RESOLVE_PATIENCE
        )
        if record.digest == self._seen:
            return record.digest
        if record.size > MANIFEST_LIMIT:
            raise InvalidInputError(f"{record.digest} has {record.size} bytes: too many for a desired state")
        part = Part(record.size, sources_of(registry, repository, manifest=True), record.media_type)
        manifest = await self._manifests.bring(record.digest, part, registry, repository)
        layers = layers_untrusted(manifest)
        await self._bring(list(layers.values()))
        read = {kind: await self._store.read(layer.digest, 0, layer.size) for kind, layer in layers.items()}
        await self._states.offer(file_of_untrusted(read), self.name)
        return record.digest

    async def _bring(self, layers: list[Descriptor]) -> None:
        sources = sources_of(self._reference.registry, self._reference.repository, manifest=False)
        parts = {layer.digest: Part(layer.size, sources) for layer in layers}
        async with aclosing(self._manifests.arrivals(parts)) as arrivals:
            async for _held in arrivals:
                pass


class StateSources:
    """A node's states, with all sources that it is configured for."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        store: Store,
        mesh: Mesh,
        policy: PullThrough,
        unix: Callable[[], float],
        rng: random.Random,
        *,
        threads: Threads | None = None,
    ) -> None:
        """Raises `ConfigError`, `StorageError`."""
        self.follow: Follow = lambda _revision, _digest, _state: None
        """Called with what is put in force, and at the start with what is."""
        self.audit: Audit = NoAudit()
        section = config.fleet
        settings = Settings(
            parse_root_untrusted(identity.root).fleet, root_peer(identity.root), section.grace
        )
        threads = threads or Threads(1)
        self.states = States(
            config.data_dir / DIRECTORY,
            settings,
            MeshBodies(store, mesh),
            mesh.driver.feed,
            unix,
            rng,
            threads=threads,
        )
        self.states.on_accepted = self._accepted
        mesh.driver.judges[Kind.STATE] = self.states.judge
        self._sources: list[Source] = []
        if section.state is not None:
            reference = _reference(section.state)
            self._sources.append(
                RegistrySource(reference, section.poll, self.states, store, mesh, policy, rng)
            )
        if section.state_file is not None:
            self._sources.append(FileSource(section.state_file, self.states.offer, threads))

    def _accepted(self, accepted: Accepted) -> None:
        revision = f"revision {accepted.version} {accepted.digest}"
        self.audit.record("state.activate", actor=NODE, object=revision, outcome=SUCCESS)
        self.follow(accepted.version, accepted.digest, accepted.state)

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.states.run)
            for source in self._sources:
                nursery.start_soon(source.run)

    def status(self) -> StateStatus:
        return replace(
            self.states.status(), sources={source.name: source.problem for source in self._sources}
        )

    def bodies(self) -> set[Digest]:
        """What is to stay in the store, so that peers get it here."""
        in_force = self.states.in_force
        return set() if in_force is None else {in_force.digest}

    @property
    def next_revision(self) -> int:
        """The lowest that would be taken next."""
        return self.states.next_version

    def problems(self) -> list[str]:
        """What an operator should do something about."""
        return self.states.problems()

    async def offer_untrusted(self, raw: bytes) -> int | None:
        """A state file that the operator brought. Returns when it is in force, as a rule. Raises
        `InvalidInputError`."""
        revision = await self.states.offer(parse_state_file_untrusted(raw), "the operator")
        await self.states.settled(IN_FORCE_PATIENCE)
        return revision

    async def file(self, revision: int | None) -> bytes:
        """Raises `NotFoundError`, `UnavailableError`."""
        try:
            return encode_state_file(await self.states.file(revision))
        except StorageError as broken:
            raise UnavailableError(str(broken)) from None


def _reference(text: str) -> Reference:
    try:
        reference = Reference.parse_untrusted(text)
    except InvalidInputError as fault:
        raise ConfigError(f"fleet.state: {fault}") from None
    if reference.registry == SITE or reference.digest is not None:
        raise ConfigError(f"fleet.state: {text} is no tag of an upstream registry")
    return reference
