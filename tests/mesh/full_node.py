"""A node of a site in memory with all that is above the mesh: a real store, the upstream gate, records,
fetcher.

The store does its work on the event loop (`threads=0`), so that the fake clock rules it too.
"""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import trio

from meshsat.config import PullThroughSection
from meshsat.fetch import Fetcher
from meshsat.mesh.sources import UplinkPort
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest
from meshsat.oci.reference import SITE
from meshsat.protocol import events
from meshsat.protocol.gossip import ImageRecord
from meshsat.pull_through import PullThrough
from meshsat.records import RecordKeeper, from_store_untrusted
from meshsat.registry.content import Name
from meshsat.signature_policy import SignaturePolicy
from meshsat.signatures import Verifier
from meshsat.site_content import SiteContent
from meshsat.store.store import Store
from meshsat.uplink.client import Uplink as RealUplink
from meshsat.upstream_gate import UpstreamGate
from tests.images import Image
from tests.mesh.site import UNIX, Node, Site, Uplink, Upstream

POS = Name("up.example", "library/pos")
RATE = 10_000_000.0
"""Bytes per second of an uplink."""


class CountingUplink(Uplink):
    """Tells the upstream which manifests were asked for."""

    async def manifest(
        self, registry: str, repository: str, reference: str, known: Manifest | None = None
    ) -> Manifest:
        self._upstream.requests.append(f"manifest {reference}")
        await trio.sleep(0.02)
        return await super().manifest(registry, repository, reference)


class FullNode:
    def __init__(self, site: Site, node: Node, store: Store, **options: Any) -> None:
        policy = options.pop("policy", None) or PullThrough(
            PullThroughSection(), options.pop("tag_ttl", 60.0)
        )
        self.signature_policy = SignaturePolicy(options.pop("signatures", ()))
        self.verifier = Verifier(store, self.signature_policy)
        self.site = site
        self.node = node
        self.store = store
        self.keeper = RecordKeeper(store)
        node.machine.take_records(from_store_untrusted(store, unix()))
        node.driver._store = store
        node.driver.on_record = self._heard
        if node.uplink is not None:
            node.uplink = CountingUplink(site.upstream, node, RATE)
            uplink = cast("RealUplink", node.uplink)
            gate = UpstreamGate(uplink, store, node.identity.key, unix, policy, self.verifier)
            gate.on_stored = node.driver.stored
            gate.on_record = lambda record: node.driver.feed(events.RecordMade(record))
            node.driver.fetching.uplink = cast("UplinkPort", gate)
        settings: dict[str, Any] = {"upstream": None, "policy": policy, "resolve_timeout": 5.0, **options}
        settings["verifier"] = self.verifier
        self.fetcher = Fetcher(store, node.mesh, unix, **settings)
        self.site_content = SiteContent(store, node.mesh, self.fetcher, node.identity.key, unix, pin=True)

    def _heard(self, record: ImageRecord) -> None:
        (self.site_content.heard if record.registry == SITE else self.keeper.keep)(record)

    @property
    def uplink(self) -> Uplink:
        assert self.node.uplink is not None
        return self.node.uplink

    async def pull(self, reference: str) -> int:
        """To its end; returns the bytes of all that it refers to."""
        events = [event async for event in self.fetcher.pull(reference)]
        assert events[-1].event == "done"
        return events[-1].total_bytes


def unix() -> float:
    return UNIX + trio.current_time()


def hold(upstream: Upstream, image: Image, tag: str, name: Name = POS) -> None:
    """Put the image into the registry behind the uplinks."""
    assert name.registry is not None
    for digest, data in image.contents.items():
        upstream.blobs[Digest.parse_untrusted(digest)] = data
    upstream.tags[name.registry, name.repository, tag] = image.raw


@asynccontextmanager
async def full_site(
    *names: str,
    directory: Path | None = None,
    policies: Mapping[str, PullThrough] | None = None,
    **options: Any,
) -> AsyncIterator[list[FullNode]]:
    """Nodes that have met; those whose name begins with `up` have an uplink. `directory` keeps their stores,
    `policies` are those of some."""
    async with AsyncExitStack() as stack:
        where = directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = Site()
        nodes = []
        for name in names:
            store = await stack.enter_async_context(await Store.open(where / name, threads=0))
            node = site.add(name, uplink=RATE if name.startswith("up") else None)
            policy = (policies or {}).get(name)
            nodes.append(FullNode(site, node, store, policy=policy, **options))
        async with site.running(), trio.open_nursery() as nursery:
            for full in nodes:
                nursery.start_soon(full.keeper.run)
                nursery.start_soon(full.fetcher.run)
                nursery.start_soon(full.site_content.run)
            yield nodes
            nursery.cancel_scope.cancel()
