"""The order of an import: what tells about the rest, then blobs, manifests, tags, image by image.

An archive's files come in any order, so it is gone through until nothing new comes of it: once where its
manifests come first, as meshsat writes them. An image is published as soon as it is whole. Laws: one image's
fault stops no other; a manifest is put only when all that it refers to is there, a tag only after its
manifest; nothing of an image is put when the receiver lacks what the archive was told to leave out; what is
there already is not put again.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, field

from meshsat.bundle.layout import Entry
from meshsat.bundle.place import Intake, NoIntake, Receiver, Repository, Stream, read_whole
from meshsat.bundle.plan import Closure, Plan
from meshsat.bundle.sources import Source
from meshsat.bundle.tar import Member
from meshsat.errors import DigestMismatchError, InvalidInputError, MeshsatError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest
from meshsat.oci.reference import SITE, Reference
from meshsat.oci.referrers import fallback_index, fallback_tag

PASSES = 40
"""Times that an archive is gone through at most; each must bring something new."""
NOWHERE = Repository("", "")
"""Where what is no image goes."""
SHOWN = 5
"""Digests that an error names."""


@dataclass(frozen=True, slots=True)
class Brought:
    """An image that is there now."""

    entry: Entry
    size: int
    """Bytes of everything in it."""
    note: str | None = None
    """What whoever reads this should know."""


@dataclass(frozen=True, slots=True)
class Failed:
    entry: Entry
    reason: str


@dataclass(frozen=True, slots=True)
class Moved:
    have: int
    """Bytes of blobs that are there, of `total`."""
    total: int


Event = Brought | Failed | Moved
Tell = Callable[[Event], None]


@dataclass(slots=True)
class _Image:
    entry: Entry
    repository: Repository
    closure: Closure
    pending: set[Digest] = field(default_factory=set)
    kept: dict[Digest, bytes] | None = None
    """Of what is no image: its blobs, as far as they came."""


class Import:
    """`run` once."""

    def __init__(
        self, receiver: Receiver, source: Source, plan: Plan, tell: Tell, intake: Intake | None = None
    ) -> None:
        """`intake`: who gets what is no image."""
        self._intake = intake or NoIntake()
        self._receiver = receiver
        self._source = source
        self._plan = plan
        self._tell = tell
        self._open: list[_Image] = []
        """Images that are not there yet, in order."""
        self._wanted: dict[Digest, Descriptor] = {}
        self._moved = Moved(0, 0)
        self._prepared = False
        self._listed: set[tuple[Repository, str]] = set()
        """Tags that came with the archive."""
        self._referring: dict[tuple[Repository, Digest], list[Manifest]] = {}
        """Untagged manifests, by what they refer to."""

    def run(self) -> None:
        """Everything that happens is told. Raises a `MeshsatError` when nothing can be made of the archive,
        or the receiver can take no more."""
        damage: InvalidInputError | None = None
        try:
            sizes = self._source.sizes()
            for name, size in (sizes or {}).items():
                self._plan.saw(name, size)
            self._go_through()
        except InvalidInputError as fault:
            damage = fault
        except OSError as fault:  # of the source: a receiver has words for its own
            damage = InvalidInputError(f"{self._source.name} can't be read: {fault.strerror}")
        if not self._prepared:
            self._plan.stop_waiting()
            if self._plan.images is None:
                raise damage or InvalidInputError(
                    f"{self._source.name} is no bundle: there is neither index.json nor manifest.json in it"
                )
            self._prepare(str(damage) if damage else None)
        for image in list(self._open):
            lost = ", ".join(sorted(map(str, image.pending))[:SHOWN])
            self._fail(image, f"{damage}" if damage else self._absent(lost))
        self._list_referrers()
        if self._plan.referrers in self._plan.damaged:
            raise InvalidInputError("the list of what refers to the images (signatures, SBOMs) is damaged")

    def _absent(self, lost: str) -> str:
        if self._source.again:
            return f"not in it: {lost}"
        return f"not in it, or before what refers to it: {lost}; save it to a file, and import that"

    def _go_through(self) -> None:
        for _ in range(PASSES):
            before = self._known()
            self._pass()
            if self._prepared and not self._wanted:
                return
            if not self._source.again:
                break
            if self._known() == before:
                if self._prepared:
                    break
                self._plan.stop_waiting()
                self._prepare_if_ready()
        if not self._prepared:
            self._plan.stop_waiting()
            self._prepare_if_ready()

    def _known(self) -> tuple[object, ...]:
        """Changes with whatever came of a pass."""
        plan = self._plan
        known = len(plan.manifests), len(plan.damaged), len(plan.beside)
        return *known, plan.images is None, plan.waiting, len(self._wanted), self._prepared

    def _pass(self) -> None:
        for member in self._source.members():
            name, size = member.name, member.size
            self._plan.saw(name, size)
            if self._plan.keeps(name, size):
                self._plan.keep(name, read_whole(member.content, size))
                self._prepare_if_ready()
            else:
                self._prepare_if_ready()
                if self._prepared:
                    self._take(member)
            if self._prepared and not self._wanted:
                return

    # --- what there is to do ---

    def _prepare_if_ready(self) -> None:
        if not self._prepared and self._plan.images is not None:
            sizes = self._source.sizes()
            if sizes is not None:
                self._plan.stop_waiting(sizes)
            if self._plan.ready:
                self._prepare(None)

    def _prepare(self, damage: str | None) -> None:
        self._prepared = True
        plan = self._plan
        images = [
            image for entry in (*(plan.images or ()), *plan.beside) if (image := self._look(entry, damage))
        ]
        lacking = self._lacking(images)
        absent = self._out_of_reach()
        for image in images:
            if image.kept is None:
                image.pending = image.closure.blobs.keys() & lacking[image.repository]
            lost = sorted(map(str, filter(absent, image.pending)))
            if lost:
                self._tell(Failed(image.entry, self._lost(lost)))
                continue
            self._open.append(image)
            for digest in image.pending:
                self._wanted[digest] = image.closure.blobs[digest]
        self._moved = Moved(0, sum(blob.size for blob in self._wanted.values()))
        self._tell(self._moved)
        for image in list(self._open):
            self._publish_if_whole(image)

    def _look(self, entry: Entry, damage: str | None) -> _Image | None:
        try:
            closure = self._plan.closure(entry.root.digest)
            wanted = self._intake.wants(closure.manifests[-1])
        except InvalidInputError as fault:
            self._tell(Failed(entry, damage or str(fault)))
            return None
        if wanted is not None:
            return _Image(entry, NOWHERE, closure, set(wanted), {})
        if entry.reference is None:
            reason = "the archive does not say what it is called: give it a name with --as REGISTRY/NAME:TAG"
            self._tell(Failed(entry, reason))
            return None
        return _Image(entry, Repository.of(entry.reference), closure)

    def _lacking(self, images: list[_Image]) -> dict[Repository, set[Digest]]:
        needs: dict[Repository, set[Digest]] = {}
        for image in images:
            if image.kept is None:
                needs.setdefault(image.repository, set()).update(image.closure.blobs)
        return {
            repository: self._receiver.lacking(repository, sorted(digests))
            for repository, digests in needs.items()
        }

    def _out_of_reach(self) -> Callable[[Digest], bool]:
        """Whether a blob is known not to be in the archive."""
        sizes = self._source.sizes()
        if sizes is None:
            return self._plan.left_out.__contains__
        there = set(map(self._plan.blob, sizes))
        return lambda digest: digest not in there

    def _lost(self, lost: list[str]) -> str:
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        digests = ", ".join(lost[:SHOWN]) + more
        if not self._plan.since:
            return f"not in the archive, and this node has not got it: {digests}"
        pulls = "; ".join(f"meshsat pull {reference}" for reference in self._plan.since)
        return (
            f"the bundle leaves out what this node should have and has not: {digests}; bring that first"
            f" ({pulls}), or export without --since"
        )

    # --- doing it ---

    def _take(self, member: Member) -> None:
        digest = self._plan.blob(member.name)
        blob = self._wanted.get(digest) if digest is not None else None
        if digest is None or blob is None:
            return
        if member.size != blob.size:
            self._spoil(digest, f"it has {member.size} bytes in the archive, not {blob.size}")
            return
        waiting = [image for image in self._open if digest in image.pending]
        homes = sorted({image.repository for image in waiting if image.kept is None})
        content: Stream = member.content
        have = self._moved.have
        if any(image.kept is not None for image in waiting):
            raw = read_whole(content, blob.size)
            if not digest.matches(raw):
                self._spoil(digest, "its bytes do not have this digest")
                return
            for image in waiting:
                if image.kept is not None:
                    image.kept[digest] = raw
            content = io.BytesIO(raw)

        def count(moved: int) -> None:
            self._moved = Moved(self._moved.have + moved, self._moved.total)
            self._tell(self._moved)

        try:
            if homes:
                self._receiver.put_blob(homes[0], blob, content, count)
            else:
                count(blob.size)
        except DigestMismatchError:
            compressed = (
                " (or a compressed layer: see docs/guides/usb-stick.md)" if self._plan.is_docker else ""
            )
            self._moved = Moved(have, self._moved.total - blob.size)
            self._spoil(digest, f"its bytes do not have this digest{compressed}")
            return
        for home in homes[1:]:
            if self._receiver.lacking(home, [digest]):
                raise MeshsatError(f"the node took {digest} for {homes[0]}, and has it not for {home}")
        del self._wanted[digest]
        for image in list(self._open):
            if digest in image.pending:
                image.pending.discard(digest)
                self._publish_if_whole(image)

    def _spoil(self, digest: Digest, reason: str) -> None:
        del self._wanted[digest]
        for image in list(self._open):
            if digest in image.pending:
                self._fail(image, f"{digest} is damaged: {reason}; the rest of the image is left as it is")

    def _fail(self, image: _Image, reason: str) -> None:
        self._open.remove(image)
        self._tell(Failed(image.entry, reason))
        needed = {digest for other in self._open for digest in other.pending}
        self._wanted = {digest: blob for digest, blob in self._wanted.items() if digest in needed}

    def _publish_if_whole(self, image: _Image) -> None:
        if image.pending:
            return
        if image.kept is not None:
            self._give_away(image, image.kept)
            return
        reference = image.entry.reference
        assert reference is not None  # noqa: S101 - `_look` lets no others pass
        note = None
        try:
            for manifest in image.closure.manifests:
                self._receiver.put_manifest(image.repository, manifest)
            if reference.tag is not None and not self._receiver.tag(
                reference, image.entry.root.digest, image.entry.resolved_at
            ):
                note = "what this node knows of the tag is younger, and stays"
        except InvalidInputError as refused:
            self._fail(image, str(refused))
            return
        self._open.remove(image)
        self._note_referrer(image)
        if image.closure.absent:
            note = "; ".join(
                filter(None, [note, f"{len(image.closure.absent)} of its platforms are left out"])
            )
        blobs = sum(blob.size for blob in image.closure.blobs.values())
        size = blobs + sum(len(manifest.raw) for manifest in image.closure.manifests)
        self._tell(Brought(image.entry, size, note))

    def _give_away(self, image: _Image, blobs: dict[Digest, bytes]) -> None:
        try:
            note = self._intake.take(image.closure.manifests[-1], blobs)
        except MeshsatError as refused:
            self._fail(image, str(refused))
            return
        self._open.remove(image)
        self._tell(Brought(image.entry, sum(map(len, blobs.values())), note))

    # --- what refers to the images ---

    def _note_referrer(self, image: _Image) -> None:
        reference, manifest = image.entry.reference, image.closure.manifests[-1]
        if reference is not None and reference.tag is not None:
            self._listed.add((image.repository, reference.tag))
        elif manifest.subject is not None and image.repository.registry != SITE:
            self._referring.setdefault((image.repository, manifest.subject.digest), []).append(manifest)

    def _list_referrers(self) -> None:
        """Of other registries than the site's own, peers hear by tags alone: untagged referrers get one."""
        moments = [entry.resolved_at for entry in self._plan.images or () if entry.resolved_at is not None]
        for (repository, subject), referrers in sorted(self._referring.items(), key=lambda item: item[0]):
            tag = fallback_tag(subject)
            if (repository, tag) in self._listed:
                continue
            index = fallback_index(referrers)
            self._receiver.put_manifest(repository, index)
            named = Reference(repository.registry, repository.name, tag)
            self._receiver.tag(named, index.digest, max(moments, default=None))
