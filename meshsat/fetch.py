"""Where content comes from, in one place: the store, then the mesh, then the uplink.

The mesh decides between peers and uplinks by itself (`protocol/`); what is told here is what is enough: how
fresh a tag must be, when a manifest may be given out, how long is too long. Laws: a manifest is given only
when all that it refers to is held or can be had now; what is read is verified, chunk by chunk; whoever stops
reading withdraws its interest.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field

import structlog
import trio

from meshsat.errors import (
    InvalidInputError,
    MeshsatError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from meshsat.mesh.demand import Signal
from meshsat.mesh.service import Mesh, error_of
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.oci.reference import Reference
from meshsat.protocol.events import Fault, Priority
from meshsat.protocol.wire import Source
from meshsat.reading import NO_SOURCE_LIMIT, ArrivingBlob, Part, Patience, StoredBlob
from meshsat.registry.content import BlobReader, Name, Served
from meshsat.store.store import Store
from meshsat.web.view import PullEvent

log = structlog.get_logger(__name__)

PULL_MAX_AGE = 10.0
"""Seconds for which the answer that somebody else got for a tag is good enough for a pull."""
PULL_RESOLVE_PATIENCE = 30.0
PROGRESS_INTERVAL = 0.25
LOOK = 0.1
"""Seconds between two looks at what has come, unless that is all."""
UNREACHABLE_MEMORY = 5.0
"""Seconds for which a failed question about a tag is not asked again for a client."""
MANIFESTS_KEPT = 512
MANIFEST_LIMIT = 4 << 20
"""Bytes; as in oci/manifest.py."""
TREE_LIMIT = 1000
"""Manifests behind one reference."""


@dataclass(slots=True)
class Tree:
    """All that a reference stands for, as far as its manifests are known; the first part is its root."""

    parts: dict[Digest, Part] = field(default_factory=dict)
    manifests: list[Manifest] = field(default_factory=list)

    @property
    def name(self) -> str | None:
        """The root's digest, once it is known."""
        return next((str(digest) for digest in self.parts), None)

    @property
    def total(self) -> int:
        return sum(part.size for part in self.parts.values())

    def add(self, manifest: Manifest, source: Reference) -> dict[Digest, Part]:
        """Take in what a manifest refers to; returns the manifests among it that are new."""
        self.manifests.append(manifest)
        following: dict[Digest, Part] = {}
        for child in manifest.manifests:
            if child.digest not in self.parts:
                part = Part(child.size, ((source.registry, source.repository, True),))
                following[child.digest] = self.parts[child.digest] = part
        for blob in manifest.blobs:
            self.parts.setdefault(
                blob.digest, Part(blob.size, ((source.registry, source.repository, False),))
            )
        return following


class Fetcher:
    """What the registry serves and `pull` brings. `upstream`: the registry meant by a name without one."""

    def __init__(
        self,
        store: Store,
        mesh: Mesh,
        unix: Callable[[], float],
        *,
        upstream: str | None,
        tag_ttl: float,
        resolve_timeout: float,
    ) -> None:
        self._store = store
        self._mesh = mesh
        self._unix = unix
        self._upstream = upstream
        self._tag_ttl = tag_ttl
        self._resolve_timeout = resolve_timeout
        self._manifests: dict[Digest, Manifest] = {}
        self._unreachable: dict[tuple[str, str, str], float] = {}
        self._published, self._to_check = trio.open_memory_channel[Digest](1024)
        self._incomplete: dict[tuple[str, str, str | None, Digest], set[Digest]] = {}
        self._shown: dict[tuple[str, str, str | None], Digest] = {}
        """What the layout's index was last told under a name: clients ask for it again and again."""
        self._mesh.driver.on_published = self._blob_published

    # --- what the registry asks (registry/content.py) ---

    async def manifest(self, name: Name, reference: str | Digest) -> Served | None:
        registry = self._registry_of(name)
        if registry is None:
            return None
        with trio.move_on_after(self._resolve_timeout):
            try:
                return await self._manifest(registry, name.repository, reference)
            except InvalidInputError as wrong:
                log.info("not a manifest", name=str(name), reference=str(reference), problem=str(wrong))
        return None

    async def _manifest(self, registry: str, repository: str, reference: str | Digest) -> Served | None:
        resolved_at, fresh, part_of_another = None, True, False
        if isinstance(reference, Digest):
            part_of_another = self._store.facts(reference) is not None  # as a rule, of an index
            part = await self._part(registry, repository, reference)
            digest, tag = reference, None
        else:
            tag = reference
            found = await self._tag(registry, repository, reference)
            if found is None:
                return None
            descriptor, resolved_at, fresh = found
            digest = descriptor.digest
            part = Part(descriptor.size, ((registry, repository, True),))
        if part is None or part.size > MANIFEST_LIMIT:
            return None
        manifest = await self._bring_manifest(digest, part, registry, repository)
        if not await self._deliverable(manifest):
            return None
        if not part_of_another:
            await self._remember(registry, repository, tag, manifest)
        return Served(manifest.raw, manifest.media_type, manifest.digest, resolved_at, fresh)

    async def open_blob(self, name: Name, digest: Digest) -> BlobReader | None:
        size = self._store.blob_size(digest)
        if size is not None:
            return StoredBlob(self._store, digest, size)
        registry = self._registry_of(name)
        if registry is None or not self._mesh.obtainable(digest):
            return None
        facts = self._store.facts(digest)
        size = facts.size if facts is not None else self._mesh.machine.held_by_peers(digest)
        if size is None:
            return None
        sources = tuple((*source, False) for source in facts.sources) if facts is not None else ()
        return ArrivingBlob(
            self._store, self._mesh, digest, Part(size, (*sources, (registry, name.repository, False)))
        )

    async def tags(self, name: Name) -> list[str] | None:
        registry = self._registry_of(name)
        if registry is None:
            return None
        return [record.tag for record in self._store.tags(registry, name.repository)] or None

    def _registry_of(self, name: Name) -> str | None:
        """Which registry a client means by a name without one."""
        if name.registry is not None or self._upstream is not None:
            return name.registry or self._upstream
        known = {record.registry for record in self._store.all_tags() if record.repository == name.repository}
        return known.pop() if len(known) == 1 else None

    # --- tags ---

    async def _tag(
        self, registry: str, repository: str, tag: str
    ) -> tuple[Descriptor, float | None, bool] | None:
        """What the tag means, since when that is known, and whether that is fresh enough."""
        known = self._store.tag(registry, repository, tag)
        if known is not None and abs(self._unix() - known.resolved_at) <= self._tag_ttl:
            return known.descriptor, known.resolved_at, True
        key = (registry, repository, tag)
        if trio.current_time() >= self._unreachable.get(key, 0.0):
            try:
                record = await self._mesh.resolve(
                    *key, max_age=self._tag_ttl, patience=self._resolve_timeout * 0.8
                )
            except NotFoundError:
                return None
            except MeshsatError as failed:
                log.info("cannot refresh a tag", name=f"{registry}/{repository}:{tag}", problem=str(failed))
                self._unreachable = {
                    one: until for one, until in self._unreachable.items() if until > trio.current_time()
                }
                self._unreachable[key] = trio.current_time() + UNREACHABLE_MEMORY
            else:
                descriptor = Descriptor(record.media_type, record.digest, record.size)
                return descriptor, record.resolved_at, True
        if known is None:
            return None
        return known.descriptor, known.resolved_at, False

    # --- manifests ---

    async def _part(self, registry: str, repository: str, digest: Digest) -> Part | None:
        """How large the manifest of this digest is, by whoever knows."""
        facts = self._store.facts(digest)
        sources: tuple[Source, ...] = ((registry, repository, True),)
        size = self._store.blob_size(digest)
        if size is None and facts is not None:
            size = facts.size
        if size is None:
            size = self._mesh.machine.held_by_peers(digest)
        if size is None:
            try:
                record = await self._mesh.resolve(
                    registry, repository, str(digest), max_age=self._tag_ttl, patience=self._resolve_timeout
                )
            except MeshsatError:
                return None
            size = record.size
        return Part(size, sources)

    async def _bring_manifest(self, digest: Digest, part: Part, registry: str, repository: str) -> Manifest:
        """The manifest, from wherever it is. Raises a `MeshsatError`."""
        manifest = self._manifests.get(digest)
        if manifest is None or self._store.blob_size(digest) is None:
            if part.size > MANIFEST_LIMIT:
                raise InvalidInputError(f"{digest} has {part.size} bytes: too long for a manifest")
            if self._store.blob_size(digest) is None:
                await self._bring({digest: part})
            raw = await self._store.read(digest, 0, MANIFEST_LIMIT)
            facts = self._store.facts(digest)
            media_type = facts.media_type if facts else None
            manifest = parse_manifest_untrusted(raw, media_type, algorithm=digest.algorithm)
            while len(self._manifests) >= MANIFESTS_KEPT:
                del self._manifests[next(iter(self._manifests))]
            self._manifests[digest] = manifest
        await self._store.learn(manifest, registry, repository)
        return manifest

    async def _bring(self, parts: dict[Digest, Part]) -> None:
        """Bring small things (manifests) here. Raises a `MeshsatError`."""
        async with aclosing(self._arrivals(parts)) as arrivals:
            async for _held in arrivals:
                pass

    async def _deliverable(self, manifest: Manifest) -> bool:
        """Whether all blobs of an image can be given out now; of an index, whether one image can be."""
        if not manifest.is_index:
            return all(self._gettable(blob.digest) for blob in manifest.blobs)
        for child in manifest.manifests:
            if self._store.blob_size(child.digest) is None:
                if self._mesh.obtainable(child.digest):
                    return True
                continue
            held = await self._held_manifest(child)
            if held is not None and await self._deliverable(held):
                return True
        return not manifest.manifests

    async def _held_manifest(self, child: Descriptor) -> Manifest | None:
        """A manifest that another refers to, if it is held and is one."""
        size = self._store.blob_size(child.digest)
        if size is None or size > MANIFEST_LIMIT:
            return None
        try:
            raw = await self._store.read(child.digest, 0, size)
            return parse_manifest_untrusted(raw, child.media_type, algorithm=child.digest.algorithm)
        except InvalidInputError:
            return None

    def _gettable(self, digest: Digest) -> bool:
        return self._store.blob_size(digest) is not None or self._mesh.obtainable(digest)

    # --- pulls ---

    async def pull(self, reference: str, *, pin: bool = False) -> AsyncGenerator[PullEvent, None]:
        """Bring all that a reference stands for, for all platforms. Raises a `MeshsatError`."""
        wanted = Reference.parse_untrusted(reference)
        tree = Tree()
        async with aclosing(self._grow(tree, wanted)) as growing:
            async for held in growing:
                yield PullEvent("progress", reference, held, digest=tree.name)
        last = float("-inf")
        async with aclosing(self._arrivals(tree.parts)) as arrivals:
            async for held in arrivals:
                if trio.current_time() - last >= PROGRESS_INTERVAL:
                    last = trio.current_time()
                    yield PullEvent("progress", reference, held, tree.total, tree.name)
        for manifest in tree.manifests:
            await self._store.learn(manifest, wanted.registry, wanted.repository)
        root = tree.manifests[0].digest
        await self._show(wanted.registry, wanted.repository, wanted.tag, root)
        if pin:
            await self._store.pin(root, f"pull {wanted}")
        yield PullEvent("done", reference, tree.total, tree.total, tree.name)

    async def _grow(self, tree: Tree, wanted: Reference) -> AsyncGenerator[int, None]:
        """Bring all manifests, and list all that they refer to. Gives the bytes of them held so far, at least
        once a second."""
        async with aclosing(self._plant(tree, wanted)) as waiting:
            async for _ in waiting:
                yield 0
        level = dict(tree.parts)
        while level:
            if max(part.size for part in level.values()) > MANIFEST_LIMIT:
                raise InvalidInputError(f"{wanted} calls more than {MANIFEST_LIMIT} bytes a manifest")
            before = sum(len(manifest.raw) for manifest in tree.manifests)
            async with aclosing(self._arrivals(level)) as arrivals:
                async for held in arrivals:
                    yield before + held
            following: dict[Digest, Part] = {}
            for digest, part in level.items():
                manifest = await self._bring_manifest(digest, part, wanted.registry, wanted.repository)
                following |= tree.add(manifest, wanted)
            if len(tree.manifests) > TREE_LIMIT:
                raise InvalidInputError(f"{wanted} refers to more than {TREE_LIMIT} manifests")
            level = following

    async def _plant(self, tree: Tree, wanted: Reference) -> AsyncGenerator[None, None]:
        """Find out what the reference means; a sign of life each second. Whoever can tell may still be
        meeting us: that nobody can is believed only after a while."""
        sources: tuple[Source, ...] = ((wanted.registry, wanted.repository, True),)
        text = str(wanted.digest) if wanted.digest is not None else wanted.tag or "latest"
        key = (wanted.registry, wanted.repository, text)
        began = trio.current_time()
        while True:
            if wanted.digest is not None:
                size = self._store.blob_size(wanted.digest) or self._mesh.machine.held_by_peers(wanted.digest)
                if size is not None:
                    tree.parts[wanted.digest] = Part(size, sources)
                    return
            with self._mesh.question(*key, max_age=PULL_MAX_AGE) as question:
                while not question.done and trio.current_time() < began + PULL_RESOLVE_PATIENCE:
                    yield
                    with trio.move_on_after(1.0):
                        await question.wait()
            if question.record is not None:
                tree.parts[question.record.digest] = Part(question.record.size, sources)
                return
            failed = error_of(question.fault, question.message or f"nobody told what {wanted} means")
            known = self._store.tag(*key)
            if known is not None and isinstance(failed, UnavailableError):
                log.warning("the upstream can't be asked: the tag is as old as it is", name=str(wanted))
                tree.parts[known.descriptor.digest] = Part(known.descriptor.size, sources)
                return
            if question.fault is not Fault.UNAVAILABLE or trio.current_time() >= began + NO_SOURCE_LIMIT:
                raise failed
            yield
            await trio.sleep(1.0)

    async def _arrivals(self, parts: dict[Digest, Part]) -> AsyncGenerator[int, None]:
        """Want all parts; gives the bytes held of them at each step, until all are held."""
        missing = {digest: part for digest, part in parts.items() if self._store.blob_size(digest) is None}
        held = sum(part.size for digest, part in parts.items() if digest not in missing)
        signal = Signal()
        patience = Patience(lambda: any(self._mesh.obtainable(digest) for digest in missing))
        with ExitStack() as stack:
            demands = [
                stack.enter_context(self._mesh.demand(digest, part.size, part.sources, Priority.PULL, signal))
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

    # --- images that become whole while clients pull them ---

    async def _remember(self, registry: str, repository: str, tag: str | None, manifest: Manifest) -> None:
        """Show the image in the layout's index as soon as it is whole."""
        key = (registry, repository, tag, manifest.digest)
        if key in self._incomplete or self._shown.get(key[:3]) == manifest.digest:
            return
        lacking = await self._lacking(manifest)
        while len(self._incomplete) >= MANIFESTS_KEPT:  # one of which a client wants a part only
            del self._incomplete[next(iter(self._incomplete))]
        self._incomplete[key] = lacking
        self._blob_published(manifest.digest)

    async def _show(self, registry: str, repository: str, tag: str | None, root: Digest) -> None:
        """Put it into the layout's index. Raises `NotFoundError`, `InvalidInputError`, `StorageError`."""
        await self._store.publish_image(registry, repository, tag, root)
        while len(self._shown) >= MANIFESTS_KEPT:
            del self._shown[next(iter(self._shown))]
        self._shown[registry, repository, tag] = root

    async def _lacking(self, manifest: Manifest) -> set[Digest]:
        """What is still to come before we can tell whether the image is whole."""
        lacking = {one.digest for one in (*manifest.manifests, *manifest.blobs)}
        for child in manifest.manifests:
            held = await self._held_manifest(child)
            if held is not None:
                lacking |= await self._lacking(held)
        return {digest for digest in lacking if self._store.blob_size(digest) is None}

    def _blob_published(self, blob: Digest) -> None:
        try:
            self._published.send_nowait(blob)
        except (trio.WouldBlock, trio.BrokenResourceError):
            log.debug("not looked at: too many blobs at once", blob=str(blob))

    async def run(self) -> None:
        """Run until cancelled."""
        async for _blob in self._to_check:
            for key, lacking in list(self._incomplete.items()):
                if all(self._store.blob_size(digest) is not None for digest in lacking):
                    await self._check_whole(key)

    async def _check_whole(self, key: tuple[str, str, str | None, Digest]) -> None:
        self._incomplete.pop(key, None)
        try:
            await self._show(*key)
        except (NotFoundError, InvalidInputError) as incomplete:
            log.debug("an image is not whole yet", digest=str(key[3]), problem=str(incomplete))
            manifest = self._manifests.get(key[3])
            lacking = await self._lacking(manifest) if manifest is not None else set()
            if lacking:
                self._incomplete[key] = lacking
        except StorageError as full:
            log.warning("an image is not in the index", digest=str(key[3]), problem=str(full))
