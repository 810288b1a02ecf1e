"""Where signatures come from: the store, and then the mesh, as everything else of an image does.

A registry's own content and what was pushed to the site are treated alike, but that nobody outside has the
latter. Laws: a `Held` asks nobody; what a `Brought` brings is in the store afterwards, and stays provable
without an uplink; no more is fetched of a repository than bounds allow.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

import trio

from meshsat.errors import (
    DeniedError,
    InvalidInputError,
    MeshsatError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from meshsat.manifests import Manifests, sources_of
from meshsat.mesh.service import Mesh
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import MANIFEST_LIMIT, Manifest, parse_manifest_untrusted
from meshsat.oci.reference import SITE
from meshsat.oci.referrers import fallback_tag
from meshsat.reading import Part
from meshsat.store.store import Store
from meshsat.trust.cosign import (
    ARTIFACT_TYPE,
    BUNDLE,
    BUNDLE_LIMIT,
    PAYLOAD_LIMIT,
    SIGNATURE_ANNOTATION,
    SIMPLE_SIGNING,
    signature_tag,
)

SIGNATURES_LIMIT = 64
"""Signatures of one manifest that are looked at."""
REFERRERS_LIMIT = 32
"""Referrers of it that are looked into."""
MAX_AGE = 30.0
"""Seconds for which what another learned of a signature's tag is good enough."""
CONFIG_PATIENCE = 1.0
"""Seconds for the config of a signature, which nobody reads."""
PATIENCE = 10.0
"""Seconds for such a tag to be told."""


@dataclass(frozen=True, slots=True)
class Signed:
    """Bytes that may hold a signature."""

    data: bytes
    signature: str | None
    """Of a simple signing payload; None: a bundle."""


class Source(Protocol):
    """Each gives None for what is not there, or can't be had from here. Raises a `MeshsatError`."""

    async def tagged(self, registry: str, repository: str, tag: str) -> Manifest | None: ...

    async def manifest(self, registry: str, repository: str, listed: Descriptor) -> Manifest | None: ...

    async def blob(self, registry: str, repository: str, blob: Descriptor) -> bytes | None: ...

    def referring(self, registry: str, repository: str, subject: Digest) -> list[Descriptor]: ...


async def signatures_of(
    source: Source, registry: str, repository: str, subject: Digest
) -> AsyncGenerator[Signed, None]:
    """What may be a signature of the manifest: by cosign's tag, then by what refers to it. Raises a
    `MeshsatError` where the source does."""
    given = 0
    tag = signature_tag(subject)
    tagged = await source.tagged(registry, repository, tag) if tag is not None else None
    if tagged is not None:
        async for signed in _within(source, registry, repository, tagged):
            yield signed
            given += 1
            if given >= SIGNATURES_LIMIT:
                return
    seen: set[Digest] = set()
    listing = await source.tagged(registry, repository, fallback_tag(subject))
    listed = [*source.referring(registry, repository, subject), *(listing.manifests if listing else ())]
    for one in [one for one in listed if one.artifact_type in (ARTIFACT_TYPE, BUNDLE)]:
        if one.digest in seen:
            continue
        seen.add(one.digest)
        if len(seen) > REFERRERS_LIMIT:
            return
        manifest = await source.manifest(registry, repository, one)
        if manifest is None:
            continue
        async for signed in _within(source, registry, repository, manifest):
            yield signed
            given += 1
            if given >= SIGNATURES_LIMIT:
                return


async def _within(
    source: Source, registry: str, repository: str, manifest: Manifest
) -> AsyncGenerator[Signed, None]:
    config = manifest.blobs[:1]
    if config and config[0].size <= PAYLOAD_LIMIT:  # nothing hangs on it but that others get the whole
        with trio.move_on_after(CONFIG_PATIENCE), suppress(MeshsatError):
            await source.blob(registry, repository, config[0])
    for layer in manifest.blobs:
        signature = layer.annotations.get(SIGNATURE_ANNOTATION)
        if layer.media_type == SIMPLE_SIGNING and signature is not None and layer.size <= PAYLOAD_LIMIT:
            pass
        elif layer.media_type == BUNDLE and layer.size <= BUNDLE_LIMIT:
            signature = None
        else:
            continue
        data = await source.blob(registry, repository, layer)
        if data is not None:
            yield Signed(data, signature)


class Held:
    """What is in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def tagged(self, registry: str, repository: str, tag: str) -> Manifest | None:
        record = self._store.tag(registry, repository, tag)
        return None if record is None else await self.manifest(registry, repository, record.descriptor)

    async def manifest(self, registry: str, repository: str, listed: Descriptor) -> Manifest | None:
        del registry, repository
        size = self._store.blob_size(listed.digest)
        if size is None or size > MANIFEST_LIMIT:
            return None
        try:
            raw = await self._store.read(listed.digest, 0, size)
            return parse_manifest_untrusted(raw, listed.media_type, algorithm=listed.digest.algorithm)
        except (InvalidInputError, NotFoundError, StorageError):
            return None

    async def blob(self, registry: str, repository: str, blob: Descriptor) -> bytes | None:
        del registry, repository
        size = self._store.blob_size(blob.digest)
        if size is None or size != blob.size:
            return None
        try:
            return await self._store.read(blob.digest, 0, size)
        except (NotFoundError, StorageError):
            return None

    def referring(self, registry: str, repository: str, subject: Digest) -> list[Descriptor]:
        return self._store.repositories.referrers(registry, repository, subject)


class Brought(Held):
    """What the site has, and what its uplinks can get."""

    def __init__(self, store: Store, mesh: Mesh, manifests: Manifests) -> None:
        super().__init__(store)
        self._mesh = mesh
        self._manifests = manifests

    async def tagged(self, registry: str, repository: str, tag: str) -> Manifest | None:
        known = self._store.tag(registry, repository, tag)
        descriptor = None if known is None else known.descriptor
        if registry != SITE:
            try:
                told = await self._mesh.resolve(registry, repository, tag, max_age=MAX_AGE, patience=PATIENCE)
            except NotFoundError:
                return None
            except (DeniedError, UnavailableError):
                if descriptor is None:
                    raise
            else:
                descriptor = Descriptor(told.media_type, told.digest, told.size)
        return None if descriptor is None else await self.manifest(registry, repository, descriptor)

    async def manifest(self, registry: str, repository: str, listed: Descriptor) -> Manifest | None:
        if listed.size > MANIFEST_LIMIT:
            return None
        sources = sources_of(registry, repository, manifest=True)
        part = Part(listed.size, sources, listed.media_type)
        try:
            return await self._manifests.bring(listed.digest, part, registry, repository)
        except InvalidInputError:
            return None

    async def blob(self, registry: str, repository: str, blob: Descriptor) -> bytes | None:
        sources = sources_of(registry, repository, manifest=False)
        async with aclosing(self._manifests.arrivals({blob.digest: Part(blob.size, sources)})) as arrivals:
            async for _held in arrivals:
                pass
        return await super().blob(registry, repository, blob)
