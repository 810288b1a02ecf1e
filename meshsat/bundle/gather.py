"""What a bundle is to hold: all that belongs to the images asked for, found by walking down from each.

Law: what a bundle holds can be imported whole, but for what the receiver has (`since`) and for the platforms
that were not asked for; what can't be had is an error before a byte is written.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from meshsat.bundle.layout import Entry
from meshsat.bundle.place import Found, Origin, Repository
from meshsat.errors import InvalidInputError, NotFoundError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest
from meshsat.oci.platform import Platform
from meshsat.oci.reference import Reference
from meshsat.oci.referrers import fallback_tag

REFERRERS_LIMIT = 10_000
ATTESTED = "vnd.docker.reference.digest"
"""An annotation of BuildKit: the image that an attestation beside it is about."""
SUFFIXES = ("", ".sig", ".att", ".sbom")
"""Of the tags `sha256-HEX`: the specification's for lists of referrers, and cosign's."""


@dataclass(slots=True)
class Gathered:
    images: list[Entry] = field(default_factory=list)
    beside: list[Entry] = field(default_factory=list)
    """What refers to the images: signatures, SBOMs."""
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    """Parents first."""
    blobs: dict[Digest, tuple[Repository, Descriptor]] = field(default_factory=dict)
    """Each with a repository that has it, configs before layers."""
    left_out: set[Digest] = field(default_factory=set)
    since: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Choice:
    platforms: Sequence[Platform] = ()
    """None: all."""
    referrers: bool = True
    since: Sequence[Reference] = ()


def parse_platform_untrusted(text: str) -> Platform:
    """`OS/ARCHITECTURE[/VARIANT]`. Raises `InvalidInputError`."""
    parts = text.split("/")
    if len(text) > 255 or not 2 <= len(parts) <= 3 or not all(parts):
        raise InvalidInputError(f"platform {text[:64]!r}: write it like linux/amd64 or linux/arm/v7")
    return Platform(parts[0], parts[1], parts[2] if len(parts) == 3 else None)


def gather(origin: Origin, references: Iterable[Reference], choice: Choice) -> Gathered:
    """Raises `NotFoundError` and whatever `origin` raises."""
    return _Gathering(origin, choice).gather(references)


class _Gathering:
    def __init__(self, origin: Origin, choice: Choice) -> None:
        self._origin = origin
        self._choice = choice
        self._found = Gathered()
        self._tags: dict[Repository, frozenset[str]] = {}

    def gather(self, references: Iterable[Reference]) -> Gathered:
        found = self._found
        for reference in dict.fromkeys(map(_one_name, references)):
            repository = Repository.of(reference)
            known = self._find(reference)
            found.images.append(Entry(known.manifest.descriptor, reference, None, known.resolved_at))
            self._walk(repository, known.manifest)
        if self._choice.referrers:
            homes = [
                (Repository.of(entry.reference), entry.root) for entry in found.images if entry.reference
            ]
            self._find_beside(homes)
        for reference in self._choice.since:
            self._leave_out(reference)
        return found

    def _find(self, reference: Reference) -> Found:
        word = reference.digest or reference.tag or ""
        found = self._origin.manifest(Repository.of(reference), word)
        if found is None:
            raise NotFoundError(
                f"{reference} is not here, and can't be had now: meshsat pull {reference} says why"
            )
        return found

    def _walk(self, repository: Repository, root: Manifest) -> None:
        due = [root]
        while due:
            manifest = due.pop(0)
            self._found.manifests[manifest.digest] = manifest
            for blob in manifest.blobs:
                self._found.blobs.setdefault(blob.digest, (repository, blob))
            chosen = list(_chosen(manifest, self._choice.platforms))
            left_out = {child.digest for child in manifest.manifests} - {child.digest for child in chosen}
            self._found.left_out |= left_out - self._found.manifests.keys()
            for child in chosen:
                self._found.left_out.discard(child.digest)
                if child.digest not in self._found.manifests:
                    due.append(self._child(repository, child))

    def _child(self, repository: Repository, child: Descriptor) -> Manifest:
        found = self._origin.manifest(repository, child.digest)
        if found is None:
            what = str(child.platform or child.digest)
            raise NotFoundError(
                f"{what} of {repository} is not here, and can't be had now; --platform leaves out the others"
            )
        return found.manifest

    # --- what refers to the images ---

    def _find_beside(self, homes: Iterable[tuple[Repository, Descriptor]]) -> None:
        """Breadth first, for an SBOM may be signed, too."""
        asked: set[tuple[Repository, Digest]] = set()
        due = [(repository, digest) for repository, root in homes for digest in self._inside(root.digest)]
        while due:
            repository, subject = due.pop(0)
            if (repository, subject) in asked:
                continue
            asked.add((repository, subject))
            for reference, found in self._beside(repository, subject):
                if found.manifest.digest in self._found.manifests and reference.tag is None:
                    continue
                self._found.beside.append(
                    Entry(found.manifest.descriptor, reference, None, found.resolved_at)
                )
                if len(self._found.beside) > REFERRERS_LIMIT:
                    raise InvalidInputError(
                        f"{repository}: more than {REFERRERS_LIMIT} things refer to it; see --no-referrers"
                    )
                self._walk(repository, found.manifest)
                due += [(repository, digest) for digest in self._inside(found.manifest.digest)]

    def _inside(self, root: Digest) -> list[Digest]:
        """A manifest and those that it lists, as far as they are taken."""
        inside: dict[Digest, None] = {}
        due = [root]
        while due:
            manifest = self._found.manifests.get(due.pop())
            if manifest is not None and manifest.digest not in inside:
                inside[manifest.digest] = None
                due += [child.digest for child in reversed(manifest.manifests)]
        return list(inside)

    def _beside(self, repository: Repository, subject: Digest) -> Iterator[tuple[Reference, Found]]:
        """By the referrers API, and by the tags that clients use where there is none."""
        for listed in sorted(self._origin.referrers(repository, subject), key=lambda one: one.digest):
            found = self._origin.manifest(repository, listed.digest)
            if found is not None:
                yield Reference(repository.registry, repository.name, None, listed.digest), found
        if repository not in self._tags:
            self._tags[repository] = frozenset(self._origin.tags(repository))
        for suffix in SUFFIXES:
            tag = fallback_tag(subject) + suffix
            found = self._origin.manifest(repository, tag) if tag in self._tags[repository] else None
            if found is not None:
                yield Reference(repository.registry, repository.name, tag), found

    # --- what the receiver has ---

    def _leave_out(self, reference: Reference) -> None:
        """The blobs of an image that the receiver has. Manifests stay: by them it can tell what it needs."""
        known = self._find(reference)
        name = Reference(reference.registry, reference.repository, reference.tag, known.manifest.digest)
        self._found.since.append(str(name))
        due = [known.manifest]
        while due:
            manifest = due.pop()
            for blob in manifest.blobs:
                if self._found.blobs.pop(blob.digest, None) is not None:
                    self._found.left_out.add(blob.digest)
            for child in _chosen(manifest, self._choice.platforms, strict=False):
                found = self._origin.manifest(Repository.of(reference), child.digest)
                if found is not None:
                    due.append(found.manifest)


def _one_name(reference: Reference) -> Reference:
    """With a digest a tag says nothing: nobody asked whether it means that."""
    if reference.digest is None or reference.tag is None:
        return reference
    return Reference(reference.registry, reference.repository, None, reference.digest)


def _chosen(
    manifest: Manifest, platforms: Sequence[Platform], *, strict: bool = True
) -> Iterator[Descriptor]:
    """What an index lists for these platforms, what is for none, and what attests something of that.

    `strict`: raises `NotFoundError` when it has nothing for any of them.
    """
    if not platforms:
        yield from manifest.manifests
        return
    images = [child for child in manifest.manifests if _fits(child.platform, platforms)]
    if strict and manifest.manifests and not images:
        there = ", ".join(sorted({str(child.platform) for child in manifest.manifests if child.platform}))
        raise NotFoundError(f"{manifest.digest} has nothing for that platform; it has: {there}")
    taken = {child.digest for child in images}
    names = set(map(str, taken))
    for child in manifest.manifests:
        if child.digest in taken or child.annotations.get(ATTESTED) in names:
            yield child


def _fits(platform: Platform | None, platforms: Sequence[Platform]) -> bool:
    if platform is None or not platform.architecture:
        return True
    return any(
        (platform.os, platform.architecture) == (one.os, one.architecture)
        and one.variant in (None, platform.variant)
        for one in platforms
    )
