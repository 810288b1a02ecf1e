"""Between the mesh and the uplink: what the mesh asks of upstream, with manifests kept and answers sealed."""

from collections.abc import Callable

import structlog

from meshsat.errors import DigestMismatchError, InvalidInputError, NotFoundError, StorageError
from meshsat.evidence import Held
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import MANIFEST_LIMIT, Manifest, parse_manifest_untrusted
from meshsat.oci.reference import SITE
from meshsat.oci.referrers import index_of, is_about_digest, subject_of
from meshsat.protocol.gossip import ImageRecord, seal
from meshsat.pull_through import PullThrough
from meshsat.signature_policy import needs_no_signature
from meshsat.signatures import Verifier
from meshsat.store.store import Store
from meshsat.trust.keys import NodeKey
from meshsat.uplink.blob import BlobStream
from meshsat.uplink.client import Uplink

log = structlog.get_logger(__name__)

SIGNATURES_DEADLINE = 8.0
"""Seconds for an upstream to give an image's signatures: less than a peer waits that asked about a tag."""
WITHOUT_API = 600.0
"""Seconds for which a registry that lists no referrers is not asked for them again."""
PLACES = 1024
"""Repositories of which that is remembered."""


class UpstreamGate:
    """`mesh.sources.UplinkPort` over a real uplink. `unix` gives Unix time, in which answers are dated.

    Laws: `policy` is asked before an upstream is, whoever wants something of it, peers as well. What a
    reference means is told, and its manifest kept, only when it is signed as it must be.
    """

    def __init__(
        self,
        uplink: Uplink,
        store: Store,
        key: NodeKey,
        unix: Callable[[], float],
        policy: PullThrough,
        verifier: Verifier,
    ) -> None:
        self._uplink = uplink
        self._verifier = verifier
        self._signatures = FromUpstream(self, store)
        self._policy = policy
        self._store = store
        self._key = key
        self._unix = unix
        self._without_api: dict[tuple[str, str], float] = {}
        """Repositories whose registry lists no referrers, and until when that is believed (Unix seconds)."""
        self.on_stored: Callable[[Digest, int], None] = lambda _digest, _size: None
        """Called with each manifest and signature that came into the store."""
        self.on_record: Callable[[ImageRecord], None] = lambda _record: None
        """Called with what a signature's tag means: the site will want to know."""

    async def probe(self) -> None:
        await self._uplink.probe()

    async def resolve(self, registry: str, repository: str, reference: str) -> ImageRecord:
        manifest = await self._meant(registry, repository, reference)
        asked = Digest.parse_untrusted(reference) if ":" in reference else reference
        await self._verifier.require(
            registry, repository, asked, manifest, self._signatures, SIGNATURES_DEADLINE, lenient=True
        )
        await self.keep(manifest, registry, repository)
        return self._sealed(registry, repository, reference, manifest)

    async def tell_signatures(self, registry: str, repository: str, tag: str) -> Manifest | None:
        """What is under a signature's tag, kept and told; None: something else. Raises a `MeshsatError`."""
        manifest = await self._meant(registry, repository, tag)
        if not needs_no_signature(manifest, (tag,)):
            return None
        await self.keep(manifest, registry, repository)
        self.on_record(self._sealed(registry, repository, tag, manifest))
        return manifest

    async def _meant(self, registry: str, repository: str, reference: str) -> Manifest:
        if registry == SITE:
            raise NotFoundError(f"{repository} {reference} is site content: no upstream has it")
        manifest = await self._referrers(registry, repository, reference)
        if manifest is None:
            known = None if ":" in reference else await self._held(registry, repository, reference)
            manifest = await self.manifest(registry, repository, reference, known)
        return manifest

    def _sealed(self, registry: str, repository: str, reference: str, manifest: Manifest) -> ImageRecord:
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

    async def keep(self, manifest: Manifest, registry: str, repository: str) -> None:
        """Have it in the store, and the site know."""
        await self._store.put(manifest.raw, manifest.digest)
        await self._store.learn(manifest, registry, repository)
        self.on_stored(manifest.digest, len(manifest.raw))

    async def _referrers(self, registry: str, repository: str, tag: str) -> Manifest | None:
        """For the tag that lists referrers: what the registry's own API lists, as an index. None: it is
        another tag, or the registry has no such API, and then it is a tag like any other there."""
        subject = subject_of(tag)
        place = (registry, repository)
        if subject is None or self._unix() < self._without_api.get(place, 0.0):
            return None
        self._policy.may_pass(registry, repository, None)
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
        of_any_tag = ":" in reference or is_about_digest(reference)
        self._policy.may_pass(registry, repository, None if of_any_tag else reference)
        return await self._uplink.manifest(registry, repository, reference, known)

    def ignores_ranges(self, registry: str) -> bool:
        return self._uplink.ignores_ranges(registry)

    def blob(
        self, registry: str, repository: str, digest: Digest, start: int, stop: int, size: int
    ) -> BlobStream:
        """Raises `DeniedError`."""
        self._policy.may_pass(registry, repository, None)
        return self._uplink.blob(registry, repository, digest, start, stop, size)


class FromUpstream(Held):
    """Signatures as the upstream has them. They are in the store afterwards, and their tag is told: without
    an uplink they are needed as well."""

    def __init__(self, gate: UpstreamGate, store: Store) -> None:
        super().__init__(store)
        self._gate = gate

    async def tagged(self, registry: str, repository: str, tag: str) -> Manifest | None:
        try:
            return await self._gate.tell_signatures(registry, repository, tag)
        except NotFoundError:
            return None

    async def manifest(self, registry: str, repository: str, listed: Descriptor) -> Manifest | None:
        held = await super().manifest(registry, repository, listed)
        if held is not None:
            return held
        try:
            manifest = await self._gate.manifest(registry, repository, str(listed.digest))
        except (NotFoundError, InvalidInputError, DigestMismatchError):
            return None
        if not needs_no_signature(manifest, ()):
            return None
        await self._gate.keep(manifest, registry, repository)
        return manifest

    async def blob(self, registry: str, repository: str, blob: Descriptor) -> bytes | None:
        held = await super().blob(registry, repository, blob)
        if held is not None:
            return held
        data = bytearray()
        try:
            async with self._gate.blob(registry, repository, blob.digest, 0, blob.size, blob.size) as pieces:
                async for piece in pieces:
                    data += piece
            await self._store.put(bytes(data), blob.digest)
        except (NotFoundError, DigestMismatchError):
            return None
        self._gate.on_stored(blob.digest, len(data))
        return bytes(data)
