"""A site in one process: real machines, drivers and passes over a network in memory, under trio's fake clock.

Everything that a node does with peers is the shipped code; only wires, disk and upstream are twins.
"""

import hashlib
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshsat.config import PassesSection
from meshsat.errors import MeshsatError, NotFoundError, UnavailableError
from meshsat.mesh.driver import Driver
from meshsat.mesh.identity import Identity
from meshsat.mesh.memory_network import MemoryNetwork
from meshsat.mesh.memory_transport import MemoryTransport
from meshsat.mesh.passes import Passes
from meshsat.mesh.service import Mesh
from meshsat.mesh.token_ledger import TokenLedger
from meshsat.metrics import Metrics
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.protocol import events
from meshsat.protocol.events import Priority
from meshsat.protocol.gossip import ImageRecord, seal
from meshsat.protocol.machine import Machine, Settings
from meshsat.protocol.wire import PROTOCOL as SWAP
from meshsat.protocol.wire import Source
from meshsat.trust.keys import NodeKey, PeerId
from meshsat.trust.passes import verify_pass_untrusted
from tests.fleet import Fleet
from tests.mesh.memory_store import MemoryStore

UNIX = 1_800_000_000.0
"""What the clocks on the wall say when trio's says 0."""
SOURCE: Source = ("up.example", "library/pos", False)


class Upstream:
    """A registry behind the uplinks: what it holds, how it misbehaves, what it was asked."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.tags: dict[tuple[str, str, str], bytes] = {}
        self.requests: list[str] = []
        self.bytes = 0
        self.fault: MeshsatError | None = None
        self.referrers: dict[Digest, list[Descriptor]] | None = None
        """What its API lists; None: it has none."""

    def add(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        self.blobs[digest] = data
        return digest


class Uplink:
    """One node's way to it, at `rate` bytes per second."""

    def __init__(self, upstream: Upstream, node: "Node", rate: float) -> None:
        self._upstream = upstream
        self._node = node
        self._rate = rate
        self.bytes = 0
        self.down = False
        self.hangs = False
        """It brings nothing and says nothing."""

    def _check(self) -> None:
        fault = self._upstream.fault
        if fault is not None:
            raise fault
        if self.down:
            raise UnavailableError("the uplink is down")

    async def probe(self) -> None:
        await trio.sleep(0.02)
        self._check()

    async def resolve(self, registry: str, repository: str, reference: str) -> ImageRecord:
        self._upstream.requests.append(f"resolve {reference}")
        await trio.sleep(0.02)
        manifest = await self.manifest(registry, repository, reference)
        self._node.store.keep(manifest.raw, manifest.digest)
        self._node.driver.stored(manifest.digest, len(manifest.raw))
        return seal(
            self._node.identity.key,
            registry=registry,
            repository=repository,
            reference=reference,
            media_type=manifest.media_type,
            digest=manifest.digest,
            size=len(manifest.raw),
            resolved_at=UNIX + trio.current_time(),
        )

    async def manifest(
        self, registry: str, repository: str, reference: str, known: Manifest | None = None
    ) -> Manifest:
        self._check()
        raw = self._upstream.tags.get((registry, repository, reference))
        if raw is None and ":" in reference:
            raw = self._upstream.blobs.get(Digest.parse_untrusted(reference))
        if raw is None:
            raise NotFoundError(f"{registry} has no {repository}:{reference}")
        return parse_manifest_untrusted(raw)

    async def referrers(self, registry: str, repository: str, subject: Digest) -> list[Descriptor]:
        self._check()
        await trio.sleep(0.02)
        if self._upstream.referrers is None:
            raise NotFoundError(f"{registry} lists no referrers")
        return self._upstream.referrers.get(subject, [])

    def ignores_ranges(self, registry: str) -> bool:
        return False

    @asynccontextmanager
    async def blob(
        self, registry: str, repository: str, digest: Digest, start: int, stop: int, size: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self._upstream.requests.append(f"blob {digest} {start}-{stop}")
        self._check()
        data = self._upstream.blobs.get(digest)
        if data is None:
            raise NotFoundError(f"{registry}/{repository} has no {digest}")

        async def pieces() -> AsyncIterator[bytes]:
            for offset in range(start, stop, 65536):
                piece = data[offset : min(offset + 65536, stop)]
                await trio.sleep(len(piece) / self._rate)
                while self.hangs:
                    await trio.sleep(0.1)
                self._check()
                self.bytes += len(piece)
                self._upstream.bytes += len(piece)
                yield piece

        yield pieces()


class Node:
    def __init__(self, site: "Site", identity: Identity, host: str, rate: float | None, seed: int) -> None:
        rng = random.Random(seed)
        self.identity = identity
        self.name = identity.member.name
        self.host = host
        self.store = MemoryStore()
        self.metrics = Metrics()
        settings = Settings(
            identity.key.peer_id, self.name, uplink=rate is not None, unix_offset=UNIX, **site.settings
        )
        self.machine = Machine(settings, identity.key.sign, rng)
        self.wall: float | None = None
        """What the machine's clock showed when the test began, where it is wrong."""
        self.passes: Passes | None = None
        admission = None
        if site.passes is not None:
            self.passes = Passes(Path("/nonexistent"), identity, site.passes, wall=self.look_at_clock)
            admission = self.passes.standing.admission
        self.transport = MemoryTransport(
            site.network, site.network.hosts[host], identity, (SWAP,), self.metrics, lambda: UNIX, admission
        )
        self.uplink = Uplink(site.upstream, self, rate) if rate is not None else None
        self.driver = Driver(self.machine, self.store, self.uplink, [self.transport], self.metrics)
        self.ledger = TokenLedger(None, lambda: UNIX + trio.current_time())
        if self.passes is not None:
            self.ledger = self.passes.ledger
            self.passes.attach(self.driver, [self.transport], rng)
        self.mesh = Mesh(self.machine, self.driver, [self.transport], list, self.ledger)
        self.news: list[ImageRecord] = []
        self.driver.on_record = self.news.append
        self.scope = trio.CancelScope()
        self.completed_at: float | None = None

    @property
    def peer(self) -> PeerId:
        return self.identity.key.peer_id

    def look_at_clock(self) -> float:
        return (UNIX if self.wall is None else self.wall) + trio.current_time()

    async def fetch(self, blob: Digest, size: int, *, patience: float = 3600.0) -> None:
        """Want the blob until it is here. Raises `TooSlowError`."""
        with trio.fail_after(patience), self.mesh.demand(blob, size, (SOURCE,), Priority.PULL) as demand:
            while self.store.blob_size(blob) is None:
                await demand.changed()
        self.completed_at = trio.current_time()


class Site:
    def __init__(
        self,
        *,
        latency: float = 0.0005,
        seed: int = 1,
        passes: PassesSection | None = None,
        **settings: float,
    ) -> None:
        """`passes`: nodes judge each other's passes, renew and revoke them, as they are set there."""
        self.passes = passes
        self.settings: dict[str, Any] = dict(settings)
        """Of the machines, where they differ from what is shipped."""
        self.network = MemoryNetwork(latency)
        self.upstream = Upstream()
        self.fleet = Fleet(now=UNIX)
        self.nodes: list[Node] = []
        self._seed = seed
        self._nursery: trio.Nursery | None = None

    def add(
        self,
        name: str,
        *,
        lan: float | None = None,
        uplink: float | None = None,
        identity: Identity | None = None,
    ) -> Node:
        """`lan` and `uplink` in bytes per second; without `uplink` the node is dark."""
        self.network.add_host(name, up=lan, down=lan)
        number = self._seed * 1000 + len(self.nodes)
        node = Node(self, identity or self._member(name, number), name, uplink, number)
        self.nodes.append(node)
        return node

    def _member(self, name: str, number: int) -> Identity:
        """A member whose key follows from the seed, so that a whole run does."""
        private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"key {number}".encode()).digest())
        key = NodeKey.from_private(private)
        member = verify_pass_untrusted(self.fleet.chain(key, name), self.fleet.root.certificate, UNIX)
        return Identity(key, member, self.fleet.root.certificate)

    async def start(self, node: Node) -> None:
        assert self._nursery is not None

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            with node.scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(node.mesh.run)
                    if node.passes is not None:
                        nursery.start_soon(node.passes.run, node.scope)
                    task_status.started()

        await self._nursery.start(run)

    def introduce(self, nodes: Iterable[Node]) -> None:
        """Tell each of each, as discovery would."""
        known = [(node.identity.key.peer_id, node.transport.addresses) for node in nodes]
        for node in nodes:
            for peer, addresses in known:
                node.driver.feed(events.PeerSighted(peer, addresses, addresses))

    def kill(self, node: Node) -> None:
        self.network.kill(node.host)
        node.scope.cancel()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Site"]:
        """All nodes up and met."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for node in self.nodes:
                await self.start(node)
            self.introduce(self.nodes)
            await trio.sleep(3)
            yield self
            nursery.cancel_scope.cancel()
