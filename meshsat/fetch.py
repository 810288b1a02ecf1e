"""Where content comes from, in one place: the store, then the mesh, then the uplink.

The mesh decides between peers and uplinks by itself (`protocol/`); what is told here is what is enough: how
fresh a tag must be, what a client's miss may fetch, when a manifest may be given out, how long is too long.
Laws: a manifest is given only when all that it refers to is held or can be had now; what is read is verified,
chunk by chunk; whoever stops reading withdraws its interest.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import structlog
import trio

from meshsat.completion import Completion
from meshsat.errors import DeniedError, InvalidInputError, MeshsatError, NotFoundError, UnavailableError
from meshsat.evidence import Brought
from meshsat.manifests import Manifests, sources_of
from meshsat.mesh.service import Mesh
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import MANIFEST_LIMIT
from meshsat.oci.reference import SITE
from meshsat.oci.referrers import fallback_tag, listed_referrers_untrusted
from meshsat.pull_through import PullThrough
from meshsat.pulling import Desired, Pulling
from meshsat.reading import ArrivingBlob, Part, RefusedBlob, StoredBlob
from meshsat.registry.content import BlobReader, Name, Served
from meshsat.signatures import Judge, Verifier
from meshsat.store.records import TagRecord
from meshsat.store.store import Store
from meshsat.web.view import PullEvent

log = structlog.get_logger(__name__)

SOURCES_ASKED = 16
"""Places where upstreams have a blob, of those that are known, that are named to the site."""
UNREACHABLE_MEMORY = 5.0
"""Seconds for which a failed question about a tag is not asked again for a client."""


class Fetcher:
    """What the registry serves and `pull` brings. `upstream`: the registry meant by a name without one."""

    def __init__(
        self,
        store: Store,
        mesh: Mesh,
        unix: Callable[[], float],
        *,
        upstream: str | None,
        policy: PullThrough,
        resolve_timeout: float,
        verifier: Verifier,
    ) -> None:
        self._store = store
        self._mesh = mesh
        self._unix = unix
        self._upstream = upstream
        self._policy = policy
        self._resolve_timeout = resolve_timeout
        self._unreachable: dict[tuple[str, str, str], float] = {}
        self._manifests = Manifests(store, mesh, policy, resolve_timeout)
        self._verifier = verifier
        self._signatures = Brought(store, mesh, self._manifests)
        self._judge = Judge(verifier, self._signatures)
        self.completion = Completion(store, self._manifests, verifier)
        self._mesh.driver.on_published = self.completion.blob_published
        self.pulling = Pulling(store, mesh, self._manifests, self.completion, policy, self._judge)

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.completion.run)
            nursery.start_soon(self._judge.run)

    # --- what the registry asks (registry/content.py) ---

    async def manifest(self, name: Name, reference: str | Digest, *, unsigned: bool = False) -> Served | None:
        registry = self._registry_of(name, reference)
        if registry is None:
            return None
        with trio.move_on_after(self._resolve_timeout):
            try:
                return await self._manifest(registry, name.repository, reference, unsigned=unsigned)
            except InvalidInputError as wrong:
                log.info("not a manifest", name=str(name), reference=str(reference), problem=str(wrong))
        return None

    async def _manifest(
        self, registry: str, repository: str, reference: str | Digest, *, unsigned: bool
    ) -> Served | None:
        resolved_at, fresh, part_of_another = None, True, False
        tag = None if isinstance(reference, Digest) else reference
        if tag is not None:
            reference = self.desired.meaning(registry, repository, tag) or tag
        if isinstance(reference, Digest):
            if registry == SITE and not self._is_site_manifest(repository, reference):
                return None
            part_of_another = (
                tag is None and self._store.facts(reference) is not None
            )  # as a rule, of an index
            part = await self._manifests.part(registry, repository, reference)
            digest = reference
        else:
            found = await self._tag(registry, repository, reference)
            if found is None:
                return None
            descriptor, resolved_at, fresh = found
            digest = descriptor.digest
            sources = self._manifests.sources_for_client(registry, repository, digest, manifest=True)
            part = Part(descriptor.size, sources, descriptor.media_type)
        if part is None or part.size > MANIFEST_LIMIT:
            return None
        manifest = await self._manifests.bring(digest, part, registry, repository)
        try:
            await self._verifier.require(
                registry, repository, tag or digest, manifest, self._signatures, self._resolve_timeout * 0.6
            )
        except DeniedError:
            if not unsigned or registry != SITE:
                raise
        if not await self._manifests.deliverable(manifest):
            return None
        if not part_of_another:
            await self.completion.remember(registry, repository, tag, manifest)
        self._served(digest)
        return Served(manifest.raw, manifest.media_type, manifest.digest, resolved_at, fresh)

    def manifest_at_hand(self, name: Name, reference: str | Digest) -> Served | None:
        """As `manifest`, where that would ask nobody, wait for nothing and have nothing to remember: all of
        it is held, the tag fresh. It looks at what is so now: no answer is kept that could become wrong."""
        registry = self._registry_of(name, reference)
        if registry is None:
            return None
        resolved_at = None
        desired = None
        if not isinstance(reference, Digest):
            desired = self.desired.meaning(registry, name.repository, reference)
        if isinstance(reference, Digest):
            if registry == SITE and not self._is_site_manifest(name.repository, reference):
                return None
            digest = reference
        elif desired is not None:
            digest = desired
        else:
            found = self._fresh_tag(registry, name.repository, reference)
            if found is None:
                return None
            descriptor, resolved_at = found
            digest = descriptor.digest
        if isinstance(reference, str) and not self.completion.knows(
            registry, name.repository, reference, digest
        ):
            return None
        manifest = self._manifests.at_hand(digest, registry, name.repository)
        if manifest is None:
            return None
        verdict = self._verifier.known(registry, name.repository, reference, manifest)
        if verdict is None or not verdict.allowed:
            return None
        self._served(digest)
        return Served(manifest.raw, manifest.media_type, manifest.digest, resolved_at)

    def _served(self, manifest: Digest) -> None:
        """Whoever was given it comes for its blobs next."""
        self._store.ages.use(manifest)
        self._store.ages.claim(manifest)

    async def bring_site_manifest(self, record: TagRecord) -> None:
        """Have a manifest of site content here. Raises a `MeshsatError`."""
        target = record.descriptor
        part = Part(target.size, (), target.media_type)
        await self._manifests.bring(target.digest, part, SITE, record.repository)

    async def open_blob(self, name: Name, digest: Digest) -> BlobReader | None:
        reader = self._open_blob(name, digest)
        refused = self._verifier.why_not(digest)
        if reader is None or refused is None:
            return reader
        return RefusedBlob(reader.size, f"{digest} is not given: {refused}")

    def _open_blob(self, name: Name, digest: Digest) -> BlobReader | None:
        registry = self._registry_of(name, digest)
        if registry is None:
            return None
        size = self._store.blob_size(digest)
        if registry == SITE or size is not None:
            if not self._store.belongs(registry, name.repository, digest):
                return None
            if size is not None:
                self._store.ages.claim(digest)
                return StoredBlob(self._store, digest, size)
        facts = self._store.facts(digest)
        elsewhere = facts is not None and not self._store.belongs(registry, name.repository, digest)
        if name.registry is None and elsewhere:
            return None  # who pushes asks first whether it is there, and would leave it out
        known = facts.sources if facts is not None else ()
        open_ = [source for source in known if self._policy.allows(*source)]
        sources = tuple((*source, False) for source in open_[:SOURCES_ASKED])
        if not sources:
            sources = self._manifests.sources_for_client(registry, name.repository, digest, manifest=False)
        elif self._policy.allows(registry, name.repository):
            sources += sources_of(registry, name.repository, manifest=False)
        if not self._mesh.obtainable(digest, elsewhere=bool(sources)):
            return None
        size = facts.size if facts is not None else self._mesh.machine.held_by_peers(digest)
        return None if size is None else ArrivingBlob(self._store, self._mesh, digest, Part(size, sources))

    async def belongs(self, name: Name, blob: Digest) -> bool:
        registry = self._registry_of(name, blob)
        return registry is not None and self._store.belongs(registry, name.repository, blob)

    async def tags(self, name: Name) -> list[str] | None:
        if name.registry is not None:
            return self._tags_of(name.registry, name.repository) or None
        found = {record.tag for record in self._store.tags(SITE, name.repository)}
        other = self._upstream or self._only_registry_of(name.repository)
        if other is not None:
            found |= set(self._tags_of(other, name.repository))
        if not found and name.repository not in self._store.repositories.names():
            return None
        return list(found)

    def _tags_of(self, registry: str, repository: str) -> list[str]:
        known = {record.tag for record in self._store.tags(registry, repository)}
        return sorted(known.union(self.desired.tags(registry, repository)))

    async def referrers(self, name: Name, subject: Digest) -> list[Descriptor]:
        """Those that are held, and those that the fallback tag lists (distribution-spec, "Referrers Tag
        Schema"): whoever pushed to a registry without this API has left them there. Of site content every
        manifest is known, and what such a tag lists without a subject of its own is no referrer."""
        registry = self._registry_of(name, subject) or SITE
        found = self._store.repositories.referrers(registry, name.repository, subject)
        if registry == SITE:
            return found
        listed = await self.manifest(Name(registry, name.repository), fallback_tag(subject))
        if listed is not None:
            known = {one.digest for one in found}
            found += [one for one in listed_referrers_untrusted(listed.raw) if one.digest not in known]
        return found

    async def repositories(self) -> list[str]:
        names = {f"{tag.registry}/{tag.repository}" for tag in self._store.all_tags() if tag.registry != SITE}
        site = {tag.repository for tag in self._store.all_tags() if tag.registry == SITE}
        return [*names, *site, *(name for name in self._store.repositories.names() if name not in site)]

    def _registry_of(self, name: Name, reference: str | Digest) -> str | None:
        """Which registry a client means by a name without one: the site's own content comes first."""
        if name.registry is not None:
            return name.registry
        if self._is_site_content(name.repository, reference):
            return SITE
        return self._upstream or self._only_registry_of(name.repository)

    def _is_site_content(self, repository: str, reference: str | Digest) -> bool:
        record = self._store.record(SITE, repository, str(reference))
        if record is not None:
            return not record.is_gone
        return isinstance(reference, Digest) and self._store.repositories.holds(repository, reference)

    def _is_site_manifest(self, repository: str, digest: Digest) -> bool:
        """Each has a record of its own; a config or layer is no manifest, whatever it may look like."""
        record = self._store.record(SITE, repository, str(digest))
        return record is not None and not record.is_gone

    def _only_registry_of(self, repository: str) -> str | None:
        known = {record.registry for record in self._store.all_tags() if record.repository == repository}
        known |= self.desired.registries(repository)
        return known.pop() if len(known) == 1 else None

    # --- tags ---

    @property
    def desired(self) -> Desired:
        return self.pulling.desired

    @desired.setter
    def desired(self, desired: Desired) -> None:
        self.pulling.desired = desired

    async def _tag(
        self, registry: str, repository: str, tag: str
    ) -> tuple[Descriptor, float | None, bool] | None:
        """What the tag means, since when that is known, and whether that is fresh enough."""
        fresh = self._fresh_tag(registry, repository, tag)
        if fresh is not None:
            return *fresh, True
        if registry == SITE:
            return None
        known = self._store.tag(registry, repository, tag)
        key = (registry, repository, tag)
        max_age = self._policy.tag_ttl(*key)
        try:
            self._policy.may_fetch(*key)
        except DeniedError:
            if known is None:
                raise
            return known.descriptor, known.resolved_at, False
        if trio.current_time() >= self._unreachable.get(key, 0.0):
            try:
                record = await self._mesh.resolve(*key, max_age=max_age, patience=self._resolve_timeout * 0.8)
            except NotFoundError:
                return None
            except DeniedError:
                if known is None:
                    raise
                self._remember_failure(key)
            except MeshsatError as failed:
                log.info("cannot refresh a tag", name=f"{registry}/{repository}:{tag}", problem=str(failed))
                self._remember_failure(key)
            else:
                descriptor = Descriptor(record.media_type, record.digest, record.size)
                return descriptor, record.resolved_at, True
        if known is None:
            return None
        if not self._policy.serves_stale(*key):
            raise UnavailableError(
                f"what {registry}/{repository}:{tag} means is older than it may be, and nobody can be asked"
            )
        return known.descriptor, known.resolved_at, False

    def _remember_failure(self, key: tuple[str, str, str]) -> None:
        now = trio.current_time()
        self._unreachable = {one: until for one, until in self._unreachable.items() if until > now}
        self._unreachable[key] = now + UNREACHABLE_MEMORY

    def _fresh_tag(self, registry: str, repository: str, tag: str) -> tuple[Descriptor, float | None] | None:
        """What the tag means, and since when that is known, if nobody need be asked."""
        known = self._store.tag(registry, repository, tag)
        if known is None:
            return None
        if registry == SITE:  # nobody outside knows better
            return known.descriptor, None
        if abs(self._unix() - known.resolved_at) <= self._policy.tag_ttl(registry, repository, tag):
            return known.descriptor, known.resolved_at
        return None

    # --- pulls ---

    async def pull(self, reference: str, *, pin: bool = False) -> AsyncGenerator[PullEvent, None]:
        """See `Pulling.pull`."""
        async with aclosing(self.pulling.pull(reference, pin=pin)) as events:
            async for event in events:
                yield event
