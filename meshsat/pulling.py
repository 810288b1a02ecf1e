"""Pulls: all that a reference or a digest stands for is brought here, from wherever it is.

Laws: manifests first, then everything that they name at once; nothing of an image that is not signed as it
must be, but its first manifest; whoever stops iterating withdraws the interest; a tag that the desired state
gives a meaning means that.
"""

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

import structlog
import trio

from meshsat.completion import Completion
from meshsat.errors import InvalidInputError, NotFoundError, UnavailableError
from meshsat.manifests import Manifests, sources_of
from meshsat.mesh.service import Mesh, error_of
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import MANIFEST_LIMIT, Manifest
from meshsat.oci.platform import of_platforms
from meshsat.oci.reference import DEFAULT_TAG, SITE, Reference
from meshsat.protocol.events import Fault, Priority
from meshsat.pull_through import PullThrough
from meshsat.reading import NO_SOURCE_LIMIT, Part
from meshsat.signatures import Judge
from meshsat.store.store import Store
from meshsat.web.view import PullEvent

log = structlog.get_logger(__name__)

PULL_MAX_AGE = 10.0
"""Seconds for which the answer that somebody else got for a tag is good enough for a pull."""
PULL_RESOLVE_PATIENCE = 30.0
PROGRESS_INTERVAL = 0.25
TREE_LIMIT = 1000
"""Manifests behind one reference."""


@dataclass(slots=True)
class Tree:
    """All that a reference stands for, as far as its manifests are known; the first part is its root."""

    platforms: Collection[str] = ()
    """Of an index, what is wanted (`OS/ARCHITECTURE[/VARIANT]`); none: all."""
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
        """Take in what a manifest refers to; returns the manifests among it that are new.

        Raises `NotFoundError` where an index has none of the platforms."""
        self.manifests.append(manifest)
        following: dict[Digest, Part] = {}
        chosen = of_platforms(manifest.manifests, self.platforms)
        if manifest.manifests and not chosen:
            there = sorted({str(one.platform) for one in manifest.manifests if one.platform is not None})
            raise NotFoundError(
                f"{source} has nothing for {', '.join(self.platforms)}; it has: {', '.join(there)[:200]}"
            )
        for child in chosen:
            if child.digest not in self.parts:
                part = Part(child.size, sources_of(source.registry, source.repository, manifest=True))
                following[child.digest] = self.parts[child.digest] = part
        for blob in manifest.blobs:
            sources = sources_of(source.registry, source.repository, manifest=False)
            self.parts.setdefault(blob.digest, Part(blob.size, sources))
        return following


@dataclass(frozen=True, slots=True)
class Closure:
    """A manifest and all behind it, as far as its manifests are held."""

    digests: frozenset[Digest]
    complete: bool
    """All of its manifests are."""


class Desired(Protocol):
    """What the desired state says of tags: reconcile.py."""

    def meaning(self, registry: str, repository: str, tag: str) -> Digest | None:
        """What the tag means at this site, whatever an upstream says; None: that is left open."""

    def tags(self, registry: str, repository: str) -> list[str]:
        """Those of a repository that have a meaning."""

    def registries(self, repository: str) -> set[str]:
        """In which there is such a tag."""


class NothingDesired:
    """Where there is no desired state."""

    def meaning(self, registry: str, repository: str, tag: str) -> Digest | None:
        del registry, repository, tag
        return None

    def tags(self, registry: str, repository: str) -> list[str]:
        del registry, repository
        return []

    def registries(self, repository: str) -> set[str]:
        del repository
        return set()


class Pulling:
    def __init__(
        self,
        store: Store,
        mesh: Mesh,
        manifests: Manifests,
        completion: Completion,
        policy: PullThrough,
        judge: Judge,
    ) -> None:
        self._judge = judge
        self._store = store
        self._mesh = mesh
        self._manifests = manifests
        self._completion = completion
        self._policy = policy
        self.desired: Desired = NothingDesired()

    async def pull(self, reference: str, *, pin: bool = False) -> AsyncGenerator[PullEvent, None]:
        """Bring all that a reference stands for, for all platforms, whatever the pull-through policy of this
        node says. Raises a `MeshsatError`."""
        wanted = Reference.parse_untrusted(reference)
        with self._policy.lifted(wanted.registry, wanted.repository):
            async with aclosing(self._pull(wanted, reference, pin=pin)) as events:
                async for event in events:
                    yield event

    async def _pull(self, wanted: Reference, reference: str, *, pin: bool) -> AsyncGenerator[PullEvent, None]:
        tree = Tree()
        async with aclosing(self._gather(tree, wanted, reference, Priority.PULL)) as gathering:
            async for event in gathering:
                yield event
        root = tree.manifests[0].digest
        await self._completion.show(wanted.registry, wanted.repository, wanted.tag, root)
        if pin:
            await self._store.pin(root, f"pull {wanted}")
        yield PullEvent("done", reference, tree.total, tree.total, tree.name)

    async def bring(self, wanted: Reference, platforms: Collection[str]) -> AsyncGenerator[PullEvent, None]:
        """Bring what a digest stands for, of an index what is for these platforms (none: all). No tag means
        it because of that. Raises a `MeshsatError`."""
        tree = Tree(platforms)
        async with aclosing(self._gather(tree, wanted, str(wanted), Priority.BACKGROUND)) as gathering:
            async for event in gathering:
                yield event

    async def _gather(
        self, tree: Tree, wanted: Reference, reference: str, priority: Priority
    ) -> AsyncGenerator[PullEvent, None]:
        async with aclosing(self._grow(tree, wanted, priority)) as growing:
            async for held in growing:
                yield PullEvent("progress", reference, held, digest=tree.name)
        last = float("-inf")
        async with aclosing(self._manifests.arrivals(tree.parts, priority)) as arrivals:
            async for held in arrivals:
                if trio.current_time() - last >= PROGRESS_INTERVAL:
                    last = trio.current_time()
                    yield PullEvent("progress", reference, held, tree.total, tree.name)
        for manifest in tree.manifests:
            await self._store.learn(manifest, wanted.registry, wanted.repository)

    async def survey(self, tree: Tree, wanted: Reference) -> AsyncGenerator[None, None]:
        """Bring the manifests alone, and list in `tree` all that they name; a sign of life each second.

        Raises a `MeshsatError`."""
        async with aclosing(self._grow(tree, wanted)) as growing:
            async for _ in growing:
                yield

    async def closure(self, root: Digest, platforms: Collection[str]) -> Closure:
        """What of an image is wanted for these platforms (none: all). Raises `StorageError`."""
        facts = self._store.facts(root)
        due = [Descriptor(facts.media_type if facts is not None else "", root, 0)]
        found: set[Digest] = set()
        complete = True
        while due:
            one = due.pop()
            found.add(one.digest)
            manifest = await self._manifests.held(one)
            if manifest is None:
                complete = False
                continue
            due += [
                child for child in of_platforms(manifest.manifests, platforms) if child.digest not in found
            ]
            found.update(blob.digest for blob in manifest.blobs)
        return Closure(frozenset(found), complete)

    async def require_signed(self, wanted: Reference, root: Digest) -> None:
        """Raises `DeniedError` where a manifest that is held is not signed as it must be under that name."""
        facts = self._store.facts(root)
        media_type = facts.media_type if facts is not None else ""
        manifest = await self._manifests.held(Descriptor(media_type, root, 0))
        if manifest is not None:
            async with aclosing(self._judge.judge(manifest, wanted)) as waiting:
                async for _ in waiting:
                    pass

    async def _grow(
        self, tree: Tree, wanted: Reference, priority: Priority = Priority.PULL
    ) -> AsyncGenerator[int, None]:
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
            async with aclosing(self._manifests.arrivals(level, priority)) as arrivals:
                async for held in arrivals:
                    yield before + held
            following: dict[Digest, Part] = {}
            for digest, part in level.items():
                manifest = await self._manifests.bring(
                    digest, part, wanted.registry, wanted.repository, priority
                )
                if not tree.manifests:
                    async with aclosing(self._judge.judge(manifest, wanted)) as waiting:
                        async for _ in waiting:
                            yield before
                following |= tree.add(manifest, wanted)
            if len(tree.manifests) > TREE_LIMIT:
                raise InvalidInputError(f"{wanted} refers to more than {TREE_LIMIT} manifests")
            level = following

    async def _plant(self, tree: Tree, wanted: Reference) -> AsyncGenerator[None, None]:
        """Find out what the reference means; a sign of life each second. Whoever can tell may still be
        meeting us: that nobody can is believed only after a while."""
        sources = sources_of(wanted.registry, wanted.repository, manifest=True)
        tag = wanted.tag or DEFAULT_TAG
        pinned = wanted.digest or self.desired.meaning(wanted.registry, wanted.repository, tag)
        key = (wanted.registry, wanted.repository, tag if pinned is None else str(pinned))
        began = trio.current_time()
        while True:
            if pinned is not None:
                size = self._store.blob_size(pinned) or self._mesh.machine.held_by_peers(pinned)
                if size is not None:
                    tree.parts[pinned] = Part(size, sources)
                    return
            if wanted.registry == SITE:
                record = self._store.record(*key)
                if record is None or record.is_gone:
                    raise NotFoundError(f"nobody pushed {wanted} to this site, as far as this node knows")
                tree.parts[record.descriptor.digest] = Part(record.descriptor.size, sources)
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
