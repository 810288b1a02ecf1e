"""Manifests, wherever they are: brought here, parsed once, judged by whether what they refer to can be had.

Laws: a manifest counts as deliverable only while all blobs behind it are held or can be had now. Site content
is had from the site's nodes alone.
"""

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

import trio

from meshsat.errors import DeniedError, InvalidInputError, MeshsatError
from meshsat.mesh.demand import Signal
from meshsat.mesh.service import Mesh
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import MANIFEST_LIMIT, Manifest, parse_manifest_untrusted
from meshsat.oci.reference import SITE
from meshsat.protocol.events import Priority
from meshsat.protocol.wire import Source
from meshsat.pull_through import PullThrough
from meshsat.reading import Part, Patience
from meshsat.store.store import Store

KEPT = 512
"""Parsed manifests in memory."""
DIGEST_AGE = 60.0
"""Seconds for which an upstream's word that it has a digest is believed."""
PLACES = 16
"""Repositories remembered of one of them."""
LOOK = 0.1
"""Seconds between two looks at what has come, unless that is all."""


def sources_of(registry: str, repository: str, *, manifest: bool) -> tuple[Source, ...]:
    """Where upstream has what belongs to that repository."""
    return () if registry == SITE else ((registry, repository, manifest),)


class Manifests:
    def __init__(self, store: Store, mesh: Mesh, policy: PullThrough, resolve_timeout: float) -> None:
        self._store = store
        self._mesh = mesh
        self._policy = policy
        self._resolve_timeout = resolve_timeout
        self._parsed: dict[Digest, Manifest] = {}
        self._learned: dict[Digest, set[tuple[str, str]]] = {}
        """Of those parsed, the repositories of which the store was told."""

    async def part(self, registry: str, repository: str, digest: Digest) -> Part | None:
        """How large the manifest of this digest is, by whoever knows, and where a client's miss may fetch it.

        Raises `DeniedError` where nobody may be asked, or who was asked refuses."""
        size = None
        if self._store.belongs(registry, repository, digest) or registry == SITE:
            facts = self._store.facts(digest)
            size = self._store.blob_size(digest) or (facts.size if facts is not None else None)
            size = size or self._mesh.machine.held_by_peers(digest)
        if size is None and registry != SITE:  # that it is of this repository, an upstream must say
            self._policy.may_fetch(registry, repository, None)
            try:
                record = await self._mesh.resolve(
                    registry, repository, str(digest), max_age=DIGEST_AGE, patience=self._resolve_timeout
                )
            except DeniedError:
                raise
            except MeshsatError:
                return None
            size = record.size
        if size is None:
            return None
        return Part(size, self.sources_for_client(registry, repository, digest, manifest=True))

    def sources_for_client(
        self, registry: str, repository: str, digest: Digest, *, manifest: bool
    ) -> tuple[Source, ...]:
        """Where upstream a client's miss may fetch what it asks for by that name.

        Raises `DeniedError` where it may not, and no node of the site holds it.
        """
        if not self._policy.allows(registry, repository):
            if self._store.blob_size(digest) is None and not self._mesh.obtainable(digest, elsewhere=False):
                self._policy.may_fetch(registry, repository, None)
            return ()
        return sources_of(registry, repository, manifest=manifest)

    async def bring(
        self,
        digest: Digest,
        part: Part,
        registry: str,
        repository: str,
        priority: Priority = Priority.PULL,
    ) -> Manifest:
        """The manifest, from wherever it is. Raises a `MeshsatError`."""
        manifest = self._parsed.get(digest)
        if manifest is None or self._store.blob_size(digest) is None:
            if part.size > MANIFEST_LIMIT:
                raise InvalidInputError(f"{digest} has {part.size} bytes: too long for a manifest")
            if self._store.blob_size(digest) is None:
                async with aclosing(self.arrivals({digest: part}, priority)) as arrivals:
                    async for _held in arrivals:
                        pass
            raw = await self._store.read(digest, 0, MANIFEST_LIMIT)
            facts = self._store.facts(digest)
            media_type = part.media_type or (facts.media_type if facts else None)
            manifest = parse_manifest_untrusted(raw, media_type, algorithm=digest.algorithm)
            while len(self._parsed) >= KEPT:
                forgotten = next(iter(self._parsed))
                del self._parsed[forgotten]
                self._learned.pop(forgotten, None)
            self._parsed[digest] = manifest
        await self._store.learn(manifest, registry, repository)
        places = self._learned.setdefault(digest, set())
        if len(places) >= PLACES:
            places.clear()
        places.add((registry, repository))
        return manifest

    def at_hand(self, digest: Digest, registry: str, repository: str) -> Manifest | None:
        """The manifest, if `bring` would find nothing to do, and all that it refers to is held; of an index,
        all of one image."""
        if (registry, repository) not in self._learned.get(digest, ()):
            return None
        manifest = self._held_and_parsed(digest)
        if manifest is None or not self._store.belongs(registry, repository, digest):
            return None
        images = [manifest]
        if manifest.is_index:
            images = [one for child in manifest.manifests if (one := self._held_and_parsed(child.digest))]
        size = self._store.blob_size
        whole = (
            not one.is_index and all(size(blob.digest) is not None for blob in one.blobs) for one in images
        )
        return manifest if any(whole) else None

    def _held_and_parsed(self, digest: Digest) -> Manifest | None:
        return self._parsed.get(digest) if self._store.blob_size(digest) is not None else None

    def parsed(self, digest: Digest) -> Manifest | None:
        """One that was brought lately."""
        return self._parsed.get(digest)

    async def deliverable(self, manifest: Manifest) -> bool:
        """Whether all blobs of an image can be given out now; of an index, whether one image can be."""
        if not manifest.is_index:
            return all(self.gettable(blob.digest) for blob in manifest.blobs)
        for child in manifest.manifests:
            if self._store.blob_size(child.digest) is None:
                if self.gettable(child.digest):
                    return True
                continue
            held = await self.held(child)
            if held is not None and await self.deliverable(held):
                return True
        return not manifest.manifests

    async def held(self, child: Descriptor) -> Manifest | None:
        """A manifest that another refers to, if it is held and is one."""
        size = self._store.blob_size(child.digest)
        if size is None or size > MANIFEST_LIMIT:
            return None
        try:
            raw = await self._store.read(child.digest, 0, size)
            return parse_manifest_untrusted(raw, child.media_type, algorithm=child.digest.algorithm)
        except InvalidInputError:
            return None

    def gettable(self, digest: Digest) -> bool:
        """Whether a manifest or blob is held, or can be had now as far as we know."""
        if self._store.blob_size(digest) is not None or self._mesh.machine.held_by_peers(digest) is not None:
            return True
        facts = self._store.facts(digest)
        may_be_fetched = facts is None or any(self._policy.allows(*source) for source in facts.sources)
        return may_be_fetched and self._mesh.machine.site_has_uplink()

    async def lacking(self, manifest: Manifest) -> set[Digest]:
        """What is still to come before we can tell whether the image is whole."""
        lacking = {one.digest for one in (*manifest.manifests, *manifest.blobs)}
        for child in manifest.manifests:
            held = await self.held(child)
            if held is not None:
                lacking |= await self.lacking(held)
        return {digest for digest in lacking if self._store.blob_size(digest) is None}

    async def arrivals(
        self, parts: dict[Digest, Part], priority: Priority = Priority.PULL
    ) -> AsyncGenerator[int, None]:
        """Want all parts; gives the bytes held of them at each step, until all are held."""
        missing = {digest: part for digest, part in parts.items() if self._store.blob_size(digest) is None}
        held = sum(part.size for digest, part in parts.items() if digest not in missing)
        signal = Signal()
        patience = Patience(lambda: any(self._obtainable(digest, part) for digest, part in missing.items()))
        with ExitStack() as stack:
            demands = [
                stack.enter_context(self._mesh.demand(digest, part.size, part.sources, priority, signal))
                for digest, part in missing.items()
            ]
            while missing:
                for digest in [one for one in missing if self._store.blob_size(one) is not None]:
                    held += missing.pop(digest).size
                on_the_way = sum(
                    transfer.have_bytes
                    for digest in missing
                    if (transfer := self._mesh.machine.transfers.get(digest)) is not None
                )
                yield held + on_the_way
                if missing:
                    patience.check(held + on_the_way, ((one.fault, one.message) for one in demands))
                    all_published = signal.published + len(missing)
                    with trio.move_on_after(1.0):
                        await signal.wait()
                    with trio.move_on_after(LOOK):  # much may come at once
                        while signal.published < all_published:
                            await signal.wait()

    def _obtainable(self, digest: Digest, part: Part) -> bool:
        return self._mesh.obtainable(digest, elsewhere=bool(part.sources))
