"""Images that are whole: what belongs to one, and `index.json`, by which other tools find them.

Blocking, and free of state: the store calls it in a worker thread.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meshsat.errors import InvalidInputError, NotFoundError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.fields import parse_object_untrusted, take_objects
from meshsat.oci.manifest import MANIFEST_LIMIT, Manifest, parse_manifest_untrusted
from meshsat.oci.media_types import OCI_INDEX
from meshsat.oci.reference import SITE, Reference
from meshsat.store.records import BlobFacts, ImageRow

OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
NAME_ANNOTATION = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Closure:
    """A manifest with everything that it refers to, all of it published here."""

    root: Manifest
    manifests: tuple[Manifest, ...]
    """The root among them, parents first."""
    size: int
    """Bytes of all manifests and blobs, each once."""


def closure(root: Digest, blobs: Mapping[Digest, int], read: Callable[[Digest], bytes]) -> Closure:
    """Walk down from `root`. `blobs` tells what is published; `read` gives one such whole.

    Raises `NotFoundError` naming the first thing that is missing, `InvalidInputError` when what is called a
    manifest is none.
    """
    manifests: dict[Digest, Manifest] = {}
    seen: dict[Digest, int] = {}
    due: list[tuple[Digest, str | None]] = [(root, None)]
    while due:
        digest, media_type = due.pop(0)
        if digest in manifests:
            continue
        manifest = _read_manifest(digest, media_type, blobs, read)
        manifests[digest] = manifest
        seen[digest] = len(manifest.raw)
        for blob in manifest.blobs:
            seen[blob.digest] = _present(blob.digest, blobs)
        due.extend((child.digest, child.media_type) for child in manifest.manifests)
    return Closure(manifests[root], tuple(manifests.values()), sum(seen.values()))


def _present(digest: Digest, blobs: Mapping[Digest, int]) -> int:
    size = blobs.get(digest)
    if size is None:
        raise NotFoundError(f"{digest} is not in the store")
    return size


def _read_manifest(
    digest: Digest, media_type: str | None, blobs: Mapping[Digest, int], read: Callable[[Digest], bytes]
) -> Manifest:
    if _present(digest, blobs) > MANIFEST_LIMIT:
        raise InvalidInputError(f"{digest} is too long for a manifest")
    return parse_manifest_untrusted(read(digest), media_type, algorithm=digest.algorithm)


def facts_of(manifest: Manifest, registry: str, repository: str) -> list[BlobFacts]:
    """What a manifest tells about itself and about what it refers to. No upstream has what is the site's."""
    sources = () if registry == SITE else ((registry, repository),)
    return [
        BlobFacts(thing.digest, thing.size, thing.media_type, sources)
        for thing in (manifest.descriptor, *manifest.children)
    ]


def belonging_to(manifest: Manifest) -> list[Digest]:
    """What belongs to a repository because this manifest does."""
    return [manifest.digest, *(child.digest for child in manifest.children)]


def encode_index(images: Iterable[ImageRow]) -> bytes:
    """`index.json` (image-spec 1.1, image-layout.md), the same bytes for the same images."""
    entries: list[dict[str, Any]] = [
        {
            "mediaType": image.descriptor.media_type,
            "digest": str(image.descriptor.digest),
            "size": image.descriptor.size,
            "annotations": {NAME_ANNOTATION: image.name},
        }
        for image in sorted(images, key=lambda image: image.name)
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return json.dumps(document, indent=1).encode()


def decode_index_untrusted(raw: bytes) -> list[tuple[Reference, Descriptor]]:
    """The named images of an `index.json`; entries without a name of our kind are passed over.

    Raises `InvalidInputError`.
    """
    named: list[tuple[Reference, Descriptor]] = []
    for item in take_objects(parse_object_untrusted(raw, "index.json"), "manifests"):
        descriptor = Descriptor.parse_untrusted(item)
        name = descriptor.annotations.get(NAME_ANNOTATION)
        if name is not None:
            named.append((Reference.parse_untrusted(name), descriptor))
    return named
