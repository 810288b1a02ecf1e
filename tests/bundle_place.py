"""A place in memory that images are exported from and imported into, as strict as a node; and archives to import."""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meshsat.bundle import sinks
from meshsat.bundle.exporting import export
from meshsat.bundle.gather import Choice, gather
from meshsat.bundle.importing import Brought, Event, Failed, Import, Moved
from meshsat.bundle.naming import Renaming
from meshsat.bundle.place import Count, Found, Repository, Stream, read_whole
from meshsat.bundle.plan import Plan
from meshsat.bundle.sources import Source, open_source
from meshsat.errors import DigestMismatchError, InvalidInputError, NotFoundError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.oci.reference import Reference
from tests.images import Image

APP = "reg.test/pos/app:1"


class MemoryPlace:
    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.manifests: dict[tuple[Repository, Digest], Manifest] = {}
        self.named: dict[str, tuple[Digest, float | None]] = {}
        self.puts: list[Digest] = []
        """Blobs and manifests, in the order they came."""

    def hold(self, image: Image, reference: str, resolved_at: float | None = None) -> Digest:
        """Have an image there from the beginning."""
        parsed = Reference.parse_untrusted(reference)
        for text, data in image.blobs.items():
            self.blobs[Digest.parse_untrusted(text)] = data
        for text, raw in image.manifests.items():
            manifest = parse_manifest_untrusted(raw, image.media_types[text])
            self.manifests[Repository.of(parsed), manifest.digest] = manifest
        root = Digest.parse_untrusted(image.root)
        if parsed.tag is not None:
            self.named[str(parsed)] = (root, resolved_at)
        return root

    def manifest(self, repository: Repository, reference: str | Digest) -> Found | None:
        if isinstance(reference, Digest):
            held = self.manifests.get((repository, reference))
            return None if held is None else Found(held)
        digest, resolved_at = self.named.get(f"{repository}:{reference}", (None, None))
        return None if digest is None else Found(self.manifests[repository, digest], resolved_at)

    def tags(self, repository: Repository) -> list[str]:
        return [name.rpartition(":")[2] for name in self.named if name.startswith(f"{repository}:")]

    def referrers(self, repository: Repository, subject: Digest) -> list[Descriptor]:
        return [
            manifest.descriptor
            for (home, _), manifest in self.manifests.items()
            if home == repository and manifest.subject is not None and manifest.subject.digest == subject
        ]

    @contextmanager
    def open_blob(self, repository: Repository, blob: Descriptor) -> Iterator[Stream]:
        if blob.digest not in self.blobs:
            raise NotFoundError(f"{blob.digest} is not here")
        yield io.BytesIO(self.blobs[blob.digest])

    def lacking(self, repository: Repository, digests: Iterable[Digest]) -> set[Digest]:
        return set(digests) - self.blobs.keys()

    def put_blob(self, repository: Repository, blob: Descriptor, data: Stream, count: Count) -> None:
        raw = b""
        while part := read_whole(data, 1000):
            raw += part
            count(len(part))
        if not blob.digest.matches(raw):
            raise DigestMismatchError("not that")
        self.blobs[blob.digest] = raw
        self.puts.append(blob.digest)

    def put_manifest(self, repository: Repository, manifest: Manifest) -> None:
        lost = [blob.digest for blob in manifest.blobs if blob.digest not in self.blobs]
        if lost:
            raise InvalidInputError(f"not whole: {lost}")
        self.manifests[repository, manifest.digest] = manifest
        self.puts.append(manifest.digest)

    def tag(self, reference: Reference, manifest: Digest, resolved_at: float | None) -> bool:
        assert (Repository.of(reference), manifest) in self.manifests
        _, known = self.named.get(str(reference), (None, None))
        if known is not None and resolved_at is not None and known > resolved_at:
            return False
        self.named[str(reference)] = (manifest, resolved_at)
        return True


def write(place: MemoryPlace, path: Path, *references: str, zstd: bool = False, **choice: Any) -> Path:
    """Export: to a directory, or to an archive where `path` ends in `.tar`."""
    gathered = gather(place, map(Reference.parse_untrusted, references), Choice(**choice))
    sink = sinks.File(path, zstd=zstd) if path.suffix == ".tar" else sinks.Directory(path)
    export(place, gathered, sink, lambda have, total: None)
    return path


def read(place: MemoryPlace, source: Source | Path, name: str | None = None) -> list[Brought | Failed]:
    """Import; how each image ended, in that order."""
    events: list[Event] = []
    opened = open_source(source) if isinstance(source, Path) else source
    plan = Plan(None if name is None else Renaming.parse_untrusted(name))
    Import(place, opened, plan, events.append).run()
    moved = [event for event in events if isinstance(event, Moved)]
    assert [event.have for event in moved] == sorted(event.have for event in moved)
    return [event for event in events if not isinstance(event, Moved)]


def failures(ended: Iterable[Brought | Failed]) -> list[str]:
    return [event.reason for event in ended if isinstance(event, Failed)]


def tar(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def as_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    return tar(path, files.items())


def layout_files(image: Image, name: str | None = APP) -> dict[str, bytes]:
    """An image layout as another tool writes it: blobs first, in the order of their digests."""
    entry: dict[str, Any] = {
        "mediaType": image.media_type,
        "digest": image.root,
        "size": len(image.raw),
    }
    if name is not None:
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    files = {f"blobs/{digest.replace(':', '/')}": data for digest, data in sorted(image.contents.items())}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    return files


def save_directory(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def everything(place: MemoryPlace) -> tuple[Any, ...]:
    """What two places that hold the same have in common: all but the lists of referrers that an import makes."""
    made = {
        name: digest for name, (digest, _) in place.named.items() if re.search(":sha256-[0-9a-f]{64}$", name)
    }
    manifests = {key: one for key, one in place.manifests.items() if key[1] not in made.values()}
    named = {name: told for name, told in place.named.items() if name not in made}
    return place.blobs, manifests, named
