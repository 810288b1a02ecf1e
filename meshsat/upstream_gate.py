"""Between the mesh and the uplink: what the mesh asks of upstream, with manifests kept and answers sealed."""

from collections.abc import Callable

import structlog

from meshsat.errors import InvalidInputError, NotFoundError, StorageError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import MANIFEST_LIMIT, Manifest, parse_manifest_untrusted
from meshsat.oci.reference import SITE
from meshsat.oci.referrers import index_of, subject_of
from meshsat.protocol.gossip import ImageRecord, seal
from meshsat.pull_through import PullThrough
from meshsat.store.store import Store
from meshsat.trust.keys import NodeKey
from meshsat.uplink.blob import BlobStream
from meshsat.uplink.client import Uplink

log = structlog.get_logger(__name__)

WITHOUT_API = 600.0
"""Seconds for which a registry that lists no referrers is not asked for them again."""
PLACES = 1024
"""Repositories of which that is remembered."""


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
        self._without_api: dict[tuple[str, str], float] = {}
        """Repositories whose registry lists no referrers, and until when that is believed (Unix seconds)."""
        self.on_stored: Callable[[Digest, int], None] = lambda _digest, _size: None
        """Called with each manifest that came into the store."""

    async def probe(self) -> None:
        await self._uplink.probe()

    async def resolve(self, registry: str, repository: str, reference: str) -> ImageRecord:
        if registry == SITE:
            raise NotFoundError(f"{repository} {reference} is site content: no upstream has it")
        manifest = await self._referrers(registry, repository, reference)
        if manifest is None:
            known = None if ":" in reference else await self._held(registry, repository, reference)
            manifest = await self.manifest(registry, repository, reference, known)
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

    async def _referrers(self, registry: str, repository: str, tag: str) -> Manifest | None:
        """For the tag that lists referrers: what the registry's own API lists, as an index. None: it is
        another tag, or the registry has no such API, and then it is a tag like any other there."""
        subject = subject_of(tag)
        place = (registry, repository)
        if subject is None or self._unix() < self._without_api.get(place, 0.0):
            return None
        self._policy.may_pass(registry, repository, tag)
        try:
            listed = await self._uplink.referrers(registry, repository, subject)
        except NotFoundError:
            while len(self._without_api) >= PLACES:
                del self._without_api[next(iter(self._without_api))]
            self._without_api[place] = self._unix() + WITHOUT_API
            return None
        if not listed:
            raise NotFoundError(f"nothing refers to {subject} in {registry}/{repository}")
        return index_of(listed)

    async def _held(self, registry: str, repository: str, tag: str) -> Manifest | None:
        """What the tag meant, if it is held as it was: the upstream need not send it again."""
        record = self._store.tag(registry, repository, tag)
        if record is None or not 0 < record.descriptor.size <= MANIFEST_LIMIT:
            return None
        digest = record.descriptor.digest
        if self._store.blob_size(digest) is None:
            return None
        try:
            raw = await self._store.read(digest, 0, MANIFEST_LIMIT)
            held = parse_manifest_untrusted(raw, record.descriptor.media_type, algorithm=digest.algorithm)
        except (InvalidInputError, NotFoundError, StorageError) as lost:
            log.info("a tag's manifest is asked for anew", tag=tag, problem=str(lost))
            return None
        return held if held.digest == digest else None

    async def manifest(
        self, registry: str, repository: str, reference: str, known: Manifest | None = None
    ) -> Manifest:
        self._policy.may_pass(registry, repository, None if ":" in reference else reference)
        return await self._uplink.manifest(registry, repository, reference, known)

    def ignores_ranges(self, registry: str) -> bool:
        return self._uplink.ignores_ranges(registry)

    def blob(
        self, registry: str, repository: str, digest: Digest, start: int, stop: int, size: int
    ) -> BlobStream:
        """Raises `DeniedError`."""
        self._policy.may_pass(registry, repository, None)
        return self._uplink.blob(registry, repository, digest, start, stop, size)
