"""What an archive holds, as it becomes known while its files come by, in whatever order.

Pure. It is told of files (`saw`), says which of them it wants to read (`keeps`), gets those (`keep`), and
knows in the end all images, manifests and blobs. Laws: memory is bounded; a damaged or absent manifest is a
fault of the images that need it and of no others; only what is referred to by digest is ever taken.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshsat.bundle.docker_archive import Saved, parse_saved_untrusted
from meshsat.bundle.layout import (
    INDEX_FILE,
    INDEX_LIMIT,
    MANIFEST_FILE,
    Entry,
    decode_index_untrusted,
    digest_of_name,
)
from meshsat.bundle.naming import Renaming, beside, named
from meshsat.errors import InvalidInputError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.fields import parse_object_untrusted
from meshsat.oci.manifest import MANIFEST_LIMIT, Manifest, parse_manifest_untrusted

MEMORY_LIMIT = 256 * 1024 * 1024
"""Bytes of all manifests and configs of an archive."""
_DIR_FILE = re.compile(r"([0-9a-f]{64})(?:\.manifest\.json)?")


@dataclass(slots=True)
class Closure:
    """All that belongs to an image."""

    manifests: list[Manifest] = field(default_factory=list)
    """Children before their parents."""
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    absent: set[Digest] = field(default_factory=set)
    """Images of an index that has others here."""


class Plan:
    def __init__(self, renaming: Renaming | None = None) -> None:
        self._renaming = renaming
        self.images: list[Entry] | None = None
        """None: not known yet."""
        self.beside: list[Entry] = []
        """What refers to the images."""
        self.since: tuple[str, ...] = ()
        self.left_out: frozenset[Digest] = frozenset()
        self.manifests: dict[Digest, Manifest] = {}
        self.damaged: dict[Digest, str] = {}
        """What is wrong with a manifest or a blob."""
        self._due: dict[Digest, Descriptor | None] = {}
        """Manifests to be read; None: the index of what refers to the images."""
        self._memory = 0
        self._layout = False
        self._unmade: dict[Digest, str] = {}
        """Stands for an image of a docker archive -> why there is no manifest of it."""
        self.referrers: Digest | None = None
        self._sizes: dict[str, int] = {}
        self._docker = Saved()

    @property
    def is_docker(self) -> bool:
        return bool(self._docker.images)

    @property
    def ready(self) -> bool:
        """Whether all manifests are known that are to be had."""
        return self.images is not None and not self._due and not self._docker.due

    @property
    def waiting(self) -> int:
        """How many files it would read, as far as it knows."""
        return len(self._due) + sum(config is None for config in self._docker.configs.values())

    def saw(self, name: str, size: int) -> None:
        self._sizes[name] = size
        if self._docker.due:
            self._docker.saw(name, size)
            self._make_manifests()

    def keeps(self, name: str, size: int) -> bool:
        """Whether `keep` is to be given this file. Raises `InvalidInputError` if it is too long."""
        if name == INDEX_FILE:
            wanted = self.images is None
        elif name == MANIFEST_FILE:
            wanted = self.images is None and not self.is_docker and INDEX_FILE not in self._sizes
        elif name in self._docker.configs:
            wanted = self._docker.configs[name] is None
        else:
            digest = self._digest(name)
            wanted = digest is not None and digest in self._due
            if digest is not None and wanted:
                told = self._due[digest]
                if told is not None and size != told.size:
                    self._spoil(digest, f"it has {size} bytes, not {told.size}")
                    return False
        if wanted and size > INDEX_LIMIT:
            raise InvalidInputError(f"{name} has {size} bytes: more than {INDEX_LIMIT} are not read")
        if wanted:
            self._memory += size
            if self._memory > MEMORY_LIMIT:
                raise InvalidInputError(f"its manifests have more than {MEMORY_LIMIT} bytes together")
        return wanted

    def keep(self, name: str, raw: bytes) -> None:
        """Raises `InvalidInputError` when the file that tells about all others makes no sense."""
        if name == INDEX_FILE:
            self._take_index(raw)
        elif name == MANIFEST_FILE:
            self._take_manifest_file(raw)
        elif name in self._docker.configs:
            self._docker.configs[name] = raw
            self._make_manifests()
        else:
            digest = self._digest(name)
            assert digest is not None  # noqa: S101 - `keeps` said so
            self._take_manifest(digest, raw)

    def blob(self, name: str) -> Digest | None:
        """The digest that a file's content must have."""
        return self._docker.names.get(name) if self._docker.images else self._digest(name)

    def stop_waiting(self, names: Mapping[str, int] | None = None) -> None:
        """What is not known yet is not in the archive: all of it, or what is none of `names`."""
        if names is not None:
            there = set(map(self._digest, names))
            self._due = {digest: told for digest, told in self._due.items() if digest in there}
            return
        self._due = {}
        self._make_manifests(at_last=True)

    def closure(self, root: Digest) -> Closure:
        """Raises `InvalidInputError` saying what of it is damaged, or is not there."""
        closure = Closure()
        done: set[Digest] = set()
        stack = [(root, False)]
        while stack:
            digest, ripe = stack.pop()
            if ripe:
                closure.manifests.append(self.manifests[digest])
                continue
            if digest in done:
                continue
            done.add(digest)
            manifest = self._sound(digest)
            closure.blobs.update((blob.digest, blob) for blob in manifest.blobs)
            stack.append((digest, True))
            for child in reversed(manifest.manifests):
                if child.digest in self.manifests or child.digest in self.damaged:
                    stack.append((child.digest, False))
                else:
                    closure.absent.add(child.digest)
            if manifest.manifests and all(child.digest in closure.absent for child in manifest.manifests):
                raise InvalidInputError(f"none of the images that {digest} lists is in it")
        return closure

    def _sound(self, digest: Digest) -> Manifest:
        if digest in self.damaged:
            raise InvalidInputError(f"{digest} is damaged: {self.damaged[digest]}")
        manifest = self.manifests.get(digest)
        if manifest is None:
            raise InvalidInputError(self._unmade.get(digest) or f"{digest} is not in it")
        return manifest

    # --- what the files say ---

    def _digest(self, name: str) -> Digest | None:
        if self._layout:
            return digest_of_name(name)
        match = _DIR_FILE.fullmatch(name)
        return None if match is None else Digest("sha256", match[1])

    def _take_index(self, raw: bytes) -> None:
        """An image layout's; where `docker save` writes both, this one counts."""
        index = decode_index_untrusted(raw)
        self._layout = True
        self._docker = Saved()
        self._due = {}
        self.left_out, self.since = index.left_out, tuple(index.since)
        self.images = named(index.entries, self._renaming)
        self._want(entry.root for entry in self.images)
        self.referrers = index.referrers
        if index.referrers is not None:
            self._due[index.referrers] = None

    def _want(self, roots: Iterable[Descriptor]) -> None:
        for root in roots:
            if root.digest not in self.manifests and root.digest not in self.left_out:
                self._due[root.digest] = root

    def _take_manifest_file(self, raw: bytes) -> None:
        if raw.lstrip()[:1] == b"[":
            self._docker = Saved(parse_saved_untrusted(raw))
            for name, size in self._sizes.items():
                self._docker.saw(name, size)
            if not self.is_docker:
                self.images = []
            return
        root = Descriptor("application/json", Digest.of(raw), len(raw))
        self.images = named([Entry(root, None)], self._renaming)
        self._due[root.digest] = root
        self._take_manifest(root.digest, raw)
        if root.digest in self.damaged:
            parse_object_untrusted(raw, MANIFEST_FILE)
            raise InvalidInputError(f"{MANIFEST_FILE}: {self.damaged[root.digest]}")

    def _take_manifest(self, digest: Digest, raw: bytes) -> None:
        told = self._due.pop(digest)
        if not digest.matches(raw):
            self.damaged[digest] = "its bytes do not have this digest"
            return
        try:
            if told is None:
                entries = decode_index_untrusted(raw).entries
                self.beside = [beside(entry, self._renaming) for entry in entries]
                self._want(entry.root for entry in self.beside)
                return
            manifest = parse_manifest_untrusted(raw, told.media_type, MANIFEST_LIMIT, digest.algorithm)
        except InvalidInputError as fault:
            self.damaged[digest] = str(fault)
            return
        self.manifests[digest] = manifest
        self._want(child for child in manifest.manifests if child.digest not in self.damaged)

    def _spoil(self, digest: Digest, reason: str) -> None:
        self._due.pop(digest, None)
        self.damaged[digest] = reason

    def _make_manifests(self, *, at_last: bool = False) -> None:
        if not self._docker.due or not self._docker.make(at_last=at_last):
            return
        entries = []
        for saved, made in self._docker.made:
            if isinstance(made, str):
                root = Descriptor("application/json", Digest.of(saved.config.encode()), 0)
                self._unmade[root.digest] = made
            else:
                root = made.descriptor
                self.manifests[root.digest] = made
            entries += [Entry(root, reference) for reference in saved.references or (None,)]
        self.images = named(entries, self._renaming)
