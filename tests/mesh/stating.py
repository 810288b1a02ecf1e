"""Sites in memory whose nodes hold the desired state of their fleet, and those who sign it."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from meshsat.config import Config
from meshsat.fleet.artifact import artifact_of
from meshsat.fleet.state_file import StateFile
from meshsat.fleet_sections import FleetSection
from meshsat.oci.digest import Digest
from meshsat.pull_through import PullThrough
from meshsat.state_sources import StateSources
from meshsat.store.disk import Threads
from meshsat.trust.dsse import encode_signed, sign
from meshsat.trust.keys import NodeKey
from meshsat.trust.state_documents import Root, unsigned
from tests.authors import Signers, key_of, role, sealed
from tests.fleet import Fleet
from tests.mesh.full_node import FullNode, full_site, unix
from tests.mesh.site import Upstream
from tests.states import body

TAG = ("up.example", "fleet/state", "latest")
POLL = 60.0


@dataclass
class Authors:
    """They sign for the fleet of a site, whose own root key is the anchor."""

    fleet: Fleet
    roots: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.signers = Signers(self.fleet.id, "", role("r1"), role("s1"))
        key: NodeKey = self.fleet.root.key
        self.roots = [encode_signed(sign(sign(unsigned(self.signers.root_of()), key), key_of("r1")))]

    def rotate(self, **changes: Any) -> Root:
        """The next root."""
        root = self.signers.root_of(len(self.roots) + 1, **changes)
        self.roots.append(sealed(root, "r1"))
        return root

    def head(self, version: int, *, by: str = "s1", raw: bytes = b"", **changes: Any) -> bytes:
        return self.signers.head(version, by=(by,), body=raw or self.body(version), **changes)

    def body(self, version: int) -> bytes:
        return body(f"r.example/a:{version}")

    def file(self, version: int = 1, **changes: Any) -> StateFile:
        raw = changes.pop("raw", self.body(version))
        return StateFile(tuple(self.roots), self.head(version, raw=raw, **changes), raw)


def publish(upstream: Upstream, file: StateFile) -> Digest:
    """At `TAG`."""
    artifact = artifact_of(file)
    upstream.blobs.update(artifact.blobs)
    upstream.tags[TAG] = artifact.manifest.raw
    return artifact.manifest.digest


class Follower:
    """One node, with its sources as the configuration of `fleet` says."""

    def __init__(self, full: FullNode, directory: Path, **fleet: Any) -> None:
        self.full = full
        self.name = full.node.name
        self.revisions: list[int] = []
        config = Config(data_dir=directory / self.name, fleet=FleetSection(**fleet))
        policy: PullThrough = full.fetcher._policy
        self.sources = StateSources(
            config,
            full.node.identity,
            full.store,
            full.node.mesh,
            policy,
            unix,
            random.Random(self.name),
            threads=Threads(0),
        )
        self.states = self.sources.states
        self.sources.follow = lambda revision, _digest, _state: self.revisions.append(revision)

    @property
    def in_force(self) -> int | None:
        return self.states.in_force.version if self.states.in_force is not None else None

    @property
    def problem(self) -> str | None:
        """Of its one source."""
        (problem,) = self.sources.status().sources.values()
        return problem

    def knows(self, other: "Follower") -> bool:
        """Whether it has a session with it."""
        return other.full.node.peer in self.full.node.machine.sessions


@asynccontextmanager
async def following(
    directory: Path, *names: str, fleet: Any = None, **options: Any
) -> AsyncIterator[list[Follower]]:
    """Nodes that have met. One named `deaf` has no source but gossip."""
    fleet = {} if fleet is None else fleet
    async with (
        full_site(*names, directory=directory / "stores", **options) as nodes,
        trio.open_nursery() as nursery,
    ):
        followers = [Follower(one, directory, **(fleet if one.node.name != "deaf" else {})) for one in nodes]
        for one in followers:
            nursery.start_soon(one.sources.run)
        yield followers
        nursery.cancel_scope.cancel()
