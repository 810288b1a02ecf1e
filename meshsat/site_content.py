"""Site content: what is pushed to this node or to its peers, with no upstream behind it.

Laws: whatever is pushed to one node can be pulled from every node, and is deleted on every node; the youngest
word about a tag wins, and a deletion is a word like any other; what an upstream says is never overwritten by
a push. Manifests are brought to every node as soon as they are heard of, blobs when somebody wants them.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from meshsat.errors import DeniedError, InvalidInputError, MeshsatError, NotFoundError
from meshsat.fetch import Fetcher
from meshsat.mesh.service import Mesh
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import MANIFEST_LIMIT, Manifest, parse_manifest_untrusted
from meshsat.oci.reference import SITE, Reference
from meshsat.protocol import events
from meshsat.protocol.gossip import CLOCK_SKEW, ImageRecord, Key, seal
from meshsat.records import row_of
from meshsat.registry.content import MissingContentError, Name, Upload
from meshsat.store import uploads
from meshsat.store.records import TagRecord
from meshsat.store.store import Store
from meshsat.trust.keys import NodeKey

log = structlog.get_logger(__name__)

RETRY_EVERY = 10.0
"""Seconds until manifests that nobody could give are asked for again."""
GIVE_UP = 3600.0
"""Seconds for which one is looked for. Later it comes when a client asks for it, or after a restart."""
DUE_LIMIT = 4096
"""Records of one author that wait to be acted on."""
BROUGHT_LIMIT = 256 << 20
"""Bytes of manifests that one author can make this node fetch unasked, until it is started again."""
BRING_LIMIT = 15.0
"""Seconds for one manifest to come from a peer."""
TICK = 1e-3
"""Seconds by which a word about a tag is younger than the one that it replaces, whatever the clocks say."""


@dataclass(frozen=True, slots=True)
class _Due:
    """A record to act on."""

    record: TagRecord
    until: float
    """When to give up."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """What became of a tag that was told."""

    taken: bool
    """False: what is known of it is younger."""
    resolved_at: float


class SiteContent:
    """`unix` gives Unix time. `pin`: what is pushed here is pinned."""

    def __init__(
        self,
        store: Store,
        mesh: Mesh,
        fetcher: Fetcher,
        key: NodeKey,
        unix: Callable[[], float],
        *,
        pin: bool,
    ) -> None:
        self._store = store
        self._mesh = mesh
        self._fetcher = fetcher
        self._key = key
        self._unix = unix
        self._pin = pin
        self.due: dict[Key, _Due] = {}
        """Heard, and not acted on yet."""
        self._owed: Counter[str] = Counter()
        """How much of that by each author."""
        self._brought: Counter[str] = Counter()
        """Bytes of manifests that came because an author told of them."""
        self._waits: dict[str, float] = {}
        """Until when what an author tells of is not asked for: his last word was not true."""
        self._news = trio.Event()

    # --- blobs (registry/content.py) ---

    async def begin_upload(self, name: Name, algorithm: str) -> Upload:
        return await self._store.uploads.begin(_place(name), algorithm)

    def find_upload(self, name: Name, upload_id: str) -> Upload | None:
        return self._store.uploads.find(_place(name), upload_id)

    async def finish_upload(self, name: Name, upload: Upload, digest: Digest) -> None:
        assert isinstance(upload, uploads.Upload)  # noqa: S101 - there are no others
        held = self._store.blob_size(digest) is not None
        size = await self._store.uploads.finish(upload, digest)
        await self._belongs(name, digest)
        if not held:
            self._mesh.driver.stored(digest, size)

    async def cancel_upload(self, upload: Upload) -> None:
        assert isinstance(upload, uploads.Upload)  # noqa: S101 - there are no others
        await self._store.uploads.cancel(upload)

    async def mount(self, name: Name, digest: Digest, source: Name | None) -> bool:
        if not self._has(source, digest):
            return False
        await self._belongs(name, digest)
        return True

    def _has(self, name: Name | None, digest: Digest) -> bool:
        """Whether the repository has it, and this node holds it."""
        if self._store.blob_size(digest) is None:
            return False
        self._store.ages.claim(digest)
        if name is None:
            return self._store.repositories.holding(digest) is not None
        return self._store.belongs(_registry(name), name.repository, digest)

    async def _belongs(self, name: Name, digest: Digest) -> None:
        if _registry(name) == SITE:
            await self._store.repositories.add(name.repository, [digest])

    async def delete_blob(self, name: Name, digest: Digest) -> bool:
        return await self._store.repositories.drop(name.repository, digest)

    # --- manifests ---

    async def put_manifest(
        self, name: Name, manifest: Manifest, tags: Sequence[str], *, sparse: bool
    ) -> None:
        self._check_whole(name, manifest, sparse=sparse)
        await self._keep(manifest)
        registry = _registry(name)
        if registry == SITE:
            await self._say(registry, name.repository, str(manifest.digest), manifest.descriptor)
        await self._store.learn(manifest, registry, name.repository)
        for tag in tags:
            await self._say(registry, name.repository, tag, manifest.descriptor)
            await self._show(registry, name.repository, tag, manifest)
        if self._pin and registry == SITE:
            await self._store.pin(manifest.digest, _reason(name.repository))

    def _check_whole(self, name: Name, manifest: Manifest, *, sparse: bool) -> None:
        """Raises `MissingContentError`, `InvalidInputError`."""
        children = manifest.blobs if sparse else manifest.children
        missing = [str(child.digest) for child in children if not self._can_give(name, child.digest)]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise MissingContentError(
                f"{name} has not what the manifest refers to: {', '.join(missing[:3])}{more}; push that first"
            )
        for child in manifest.children:
            self._store.ages.claim(child.digest)
            size = self._store.blob_size(child.digest)
            if size is not None and size != child.size:
                raise InvalidInputError(f"{child.digest} has {size} bytes, not {child.size}")

    def _can_give(self, name: Name, digest: Digest) -> bool:
        """A blob of the repository need not be on this node: it may be pushed to another."""
        held = self._store.blob_size(digest) is not None
        if _registry(name) != SITE:
            return held
        belongs = self._store.repositories.holds(name.repository, digest)
        return belongs and (held or self._mesh.machine.held_by_peers(digest) is not None)

    async def _keep(self, manifest: Manifest) -> None:
        if self._store.blob_size(manifest.digest) is None:
            await self._store.put(manifest.raw, manifest.digest)
            self._mesh.driver.stored(manifest.digest, len(manifest.raw))

    async def _show(self, registry: str, repository: str, tag: str, manifest: Manifest) -> None:
        try:
            await self._fetcher.completion.show(registry, repository, tag, manifest.digest)
        except (NotFoundError, InvalidInputError, DeniedError):  # not all of it is here, or its signature
            await self._fetcher.completion.remember(registry, repository, tag, manifest)

    async def delete_manifest(self, name: Name, reference: str | Digest) -> bool:
        repository = name.repository
        if isinstance(reference, str):
            known = self._store.tag(SITE, repository, reference)
            if known is None:
                return False
            await self._say_gone(repository, reference, known.descriptor)
            return True
        record = self._store.record(SITE, repository, str(reference))
        if record is None or record.is_gone:
            return False
        target = record.descriptor
        for tag in self._store.tags(SITE, repository):
            if tag.descriptor.digest == reference:
                await self._say_gone(repository, tag.tag, target)
        await self._say_gone(repository, str(reference), target)
        return True

    # --- what tags mean ---

    async def tag(self, reference: Reference, digest: Digest, resolved_at: float | None) -> Tagged:
        """Have a tag mean a manifest that is held, as of `resolved_at` (Unix seconds; None: now).

        Raises `NotFoundError`, `InvalidInputError`.
        """
        if reference.tag is None:
            raise InvalidInputError(f"{reference} has no tag")
        if resolved_at is not None and resolved_at > self._unix() + CLOCK_SKEW:
            raise InvalidInputError("resolved_at lies in the future: check the clocks")
        manifest = await self._held(digest, reference)
        if reference.registry == SITE:
            await self._say(SITE, reference.repository, str(digest), manifest.descriptor)
        await self._store.learn(manifest, reference.registry, reference.repository)
        known = self._store.record(reference.registry, reference.repository, reference.tag)
        if known is not None and resolved_at is not None and known.resolved_at >= resolved_at:
            return Tagged(known.descriptor.digest == digest and not known.is_gone, known.resolved_at)
        told = await self._say(
            reference.registry, reference.repository, reference.tag, manifest.descriptor, resolved_at
        )
        await self._show(reference.registry, reference.repository, reference.tag, manifest)
        return Tagged(taken=True, resolved_at=told)

    async def _held(self, digest: Digest, reference: Reference) -> Manifest:
        size = self._store.blob_size(digest)
        if size is None or size > MANIFEST_LIMIT:
            raise NotFoundError(f"no manifest {digest} is here; push it to {reference.name} first")
        facts = self._store.facts(digest)
        raw = await self._store.read(digest, 0, size)
        media_type = facts.media_type if facts is not None else None
        return parse_manifest_untrusted(raw, media_type, algorithm=digest.algorithm)

    async def _say(
        self, registry: str, repository: str, reference: str, target: Descriptor, at: float | None = None
    ) -> float:
        """Tell the site what a tag means from now on; the time under which it is told."""
        known = self._store.record(registry, repository, reference)
        if known is not None and at is None:
            same = (known.descriptor.digest, known.descriptor.size) == (target.digest, target.size)
            if same and registry == SITE:
                return known.resolved_at
        moment = self._unix() if at is None else at
        if known is not None and at is None:
            moment = max(moment, known.resolved_at + TICK)
        record = seal(
            self._key,
            registry=registry,
            repository=repository,
            reference=reference,
            media_type=target.media_type,
            digest=target.digest,
            size=target.size,
            resolved_at=moment,
        )
        await self._store.put_tag(row_of(record))
        self._mesh.driver.feed(events.RecordMade(record))
        return moment

    async def _say_gone(self, repository: str, reference: str, target: Descriptor) -> None:
        await self._say(SITE, repository, reference, Descriptor(target.media_type, target.digest, 0))
        await self._forget(repository, reference)

    async def _forget(self, repository: str, reference: str) -> None:
        await self._fetcher.completion.hide(SITE, repository, reference)
        if ":" in reference:
            digest = Digest.parse_untrusted(reference)
            await self._store.repositories.drop(repository, digest)
            await self._store.unpin(digest, _reason(repository))

    # --- what other nodes say ---

    def heard(self, record: ImageRecord) -> None:
        """A record of site content came by gossip, or is ours."""
        self._remember(row_of(record))
        self._news.set()

    def _remember(self, record: TagRecord) -> None:
        self._done(record.key)
        if self._owed[record.author] >= DUE_LIMIT:
            log.warning("a member tells of too much site content at once", peer=record.author)
            return
        self.due[record.key] = _Due(record, trio.current_time() + GIVE_UP)
        self._owed[record.author] += 1

    def _done(self, key: Key) -> None:
        known = self.due.pop(key, None)
        if known is not None:
            self._owed[known.record.author] -= 1
            self._owed += Counter()  # forgets those that are owed nothing

    async def run(self) -> None:
        """Run until cancelled: keep what is heard, and act on it."""
        for record in self._store.records():
            news = record.registry == SITE and record.names_digest and not record.is_gone
            if news and record.key not in self.due:
                self._remember(record)
        while True:
            self._news = trio.Event()
            for key, due in list(self.due.items()):
                if self.due.get(key) is due and await self._look(due) and self.due.get(key) is due:
                    self._done(key)
            with trio.move_on_after(RETRY_EVERY):
                await self._news.wait()

    async def _look(self, due: "_Due") -> bool:
        """Whether there is nothing more to do for it."""
        record = due.record
        try:
            done = await self._follow(record)
        except MeshsatError as failed:
            log.info("site content is not here yet", name=record.repository, problem=str(failed))
            self._waits[record.author] = trio.current_time() + RETRY_EVERY
            done = isinstance(failed, InvalidInputError)
        return done or trio.current_time() >= due.until

    async def _follow(self, record: TagRecord) -> bool:
        """False: to be tried again."""
        known = self._store.record(*record.key)
        if known is not None and known.resolved_at > record.resolved_at:
            return True
        if known is None or known.sealed != record.sealed:
            await self._store.put_tag(record)
        if record.is_gone:
            await self._forget(record.repository, record.tag)
            return True
        digest = record.descriptor.digest
        if not record.names_digest or self._store.repositories.holds(record.repository, digest):
            return True
        author, size = record.author, record.descriptor.size
        if self._store.blob_size(digest) is None:
            if self._brought[author] + size > BROUGHT_LIMIT:
                return True  # it comes when somebody asks for it
            now = trio.current_time()
            if self._mesh.machine.held_by_peers(digest) is None or now < self._waits.get(author, now):
                return False
            self._waits.pop(author, None)
        with trio.move_on_after(BRING_LIMIT) as patience:
            await self._fetcher.bring_site_manifest(record)
            self._brought[author] += size
        if patience.cancelled_caught:
            self._waits[author] = trio.current_time() + RETRY_EVERY
        return not patience.cancelled_caught


def _registry(name: Name) -> str:
    return name.registry or SITE


def _place(name: Name) -> str:
    """What an upload is for, in one word."""
    return f"{_registry(name)}/{name.repository}"


def _reason(repository: str) -> str:
    """Of a pin."""
    return f"pushed {repository}"
