"""Between the mesh and the uplink: what the mesh asks of upstream, with manifests kept and answers sealed."""

from collections.abc import Callable

from meshsat.errors import NotFoundError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest
from meshsat.oci.reference import SITE
from meshsat.protocol.gossip import ImageRecord, seal
from meshsat.pull_through import PullThrough
from meshsat.store.store import Store
from meshsat.trust.keys import NodeKey
from meshsat.uplink.blob import BlobStream
from meshsat.uplink.client import Uplink


class UpstreamGate:
    """`mesh.sources.UplinkPort` over a real uplink. `unix` gives Unix time, in which answers are dated.

    Law: `policy` is asked before an upstream is, whoever wants something of it, peers as well.
    """

    def __init__(
        self, uplink: Uplink, store: Store, key: NodeKey, unix: Callable[[], float], policy: PullThrough
    ) -> None:
        self._uplink = uplink
        self._policy = policy
        self._store = store
        self._key = key
        self._unix = unix
        self.on_stored: Callable[[Digest, int], None] = lambda _digest, _size: None
        """Called with each manifest that came into the store."""

    async def probe(self) -> None:
        await self._uplink.probe()

    async def resolve(self, registry: str, repository: str, reference: str) -> ImageRecord:
        if registry == SITE:
            raise NotFoundError(f"{repository} {reference} is site content: no upstream has it")
        manifest = await self.manifest(registry, repository, reference)
        await self._store.put(manifest.raw, manifest.digest)
        await self._store.learn(manifest, registry, repository)
        self.on_stored(manifest.digest, len(manifest.raw))
        return seal(
            self._key,
            registry=registry,
            repository=repository,
            reference=reference,
            media_type=manifest.media_type,
            digest=manifest.digest,
            size=len(manifest.raw),
            resolved_at=self._unix(),
        )

    async def manifest(self, registry: str, repository: str, reference: str) -> Manifest:
        self._policy.may_pass(registry, repository, None if ":" in reference else reference)
        return await self._uplink.manifest(registry, repository, reference)

    def ignores_ranges(self, registry: str) -> bool:
        return self._uplink.ignores_ranges(registry)

    def blob(
        self, registry: str, repository: str, digest: Digest, start: int, stop: int, size: int
    ) -> BlobStream:
        """Raises `DeniedError`."""
        self._policy.may_pass(registry, repository, None)
        return self._uplink.blob(registry, repository, digest, start, stop, size)
