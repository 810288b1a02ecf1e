"""The image layout that a bundle is, and what meshsat adds to it in annotations.

`index.json` lists the images by full reference. What refers to them (signatures, SBOMs) stands in an index of
its own, named by an annotation: podman and skopeo ask for a name as soon as `index.json` lists more than one
thing. Laws: the same content gives the same bytes; what meshsat adds may be missing in what is read.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from meshsat.errors import InvalidInputError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.fields import parse_object_untrusted, take_annotations, take_objects
from meshsat.oci.manifest import MANIFEST_LIMIT
from meshsat.oci.media_types import OCI_INDEX
from meshsat.oci.reference import Reference, parse_tag_untrusted

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
MANIFEST_FILE = "manifest.json"
"""Not of a layout: docker's archives and skopeo's `dir:` begin with it."""
OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_LIMIT = MANIFEST_LIMIT

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
"""Where containerd and docker look for a full reference; they take the other for a tag."""
BUNDLE = "io.meshsat.bundle"
"""The version of all this: `1`. Also the mark of a directory that meshsat wrote."""
RESOLVED_AT = "io.meshsat.resolved-at"
"""Of an image: Unix time at which its registry last said what the tag means."""
SINCE = "io.meshsat.since"
"""The images that the receiver was believed to have, apart by spaces."""
LEFT_OUT = "io.meshsat.left-out"
"""Digests of what is referred to and not in the bundle, apart by spaces."""
REFERRERS = "io.meshsat.referrers"
"""Digest of the index of what refers to the images."""

_BLOB = re.compile(r"blobs/(sha256/[0-9a-f]{64}|sha512/[0-9a-f]{128})")


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of a bundle."""

    root: Descriptor
    reference: Reference | None
    """None: the bundle does not say."""
    tag: str | None = None
    """What skopeo and umoci write in place of a reference, when they are given no more."""
    resolved_at: float | None = None


@dataclass(frozen=True, slots=True)
class Index:
    entries: Sequence[Entry]
    left_out: frozenset[Digest] = frozenset()
    since: Sequence[str] = ()
    referrers: Digest | None = None
    ours: bool = True
    """Whether meshsat wrote it."""


def blob_name(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def digest_of_name(name: str) -> Digest | None:
    """Of the blob that a file of a layout holds; None for any other file."""
    match = _BLOB.fullmatch(name)
    return None if match is None else Digest(*match[1].split("/"))


def encode_index(index: Index) -> bytes:
    notes = {BUNDLE: "1"}
    if index.since:
        notes[SINCE] = " ".join(index.since)
    if index.left_out:
        notes[LEFT_OUT] = " ".join(sorted(map(str, index.left_out)))
    if index.referrers is not None:
        notes[REFERRERS] = str(index.referrers)
    return _document(index.entries, notes)


def encode_referrers(entries: Iterable[Entry]) -> bytes:
    """The index that `REFERRERS` names."""
    return _document(entries, {})


def _document(entries: Iterable[Entry], notes: dict[str, str]) -> bytes:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [_entry(entry) for entry in entries],
    }
    if notes:
        document["annotations"] = notes
    return json.dumps(document, indent=1).encode()


def _entry(entry: Entry) -> dict[str, Any]:
    notes = {}
    if entry.reference is not None:
        notes = {REF_NAME: str(entry.reference), CONTAINERD_NAME: str(entry.reference)}
    if entry.resolved_at is not None:
        notes[RESOLVED_AT] = f"{entry.resolved_at:.3f}"
    root = entry.root
    return {
        "mediaType": root.media_type,
        "digest": str(root.digest),
        "size": root.size,
        "annotations": notes,
    }


def decode_index_untrusted(raw: bytes) -> Index:
    """`index.json` of any tool. Raises `InvalidInputError`."""
    body = parse_object_untrusted(raw, INDEX_FILE)
    try:
        notes = take_annotations(body)
        referrers = notes.get(REFERRERS)
        return Index(
            entries=[_parse_entry_untrusted(item) for item in take_objects(body, "manifests")],
            left_out=frozenset(map(Digest.parse_untrusted, notes.get(LEFT_OUT, "").split())),
            since=tuple(str(Reference.parse_untrusted(text)) for text in notes.get(SINCE, "").split()),
            referrers=None if referrers is None else Digest.parse_untrusted(referrers),
            ours=BUNDLE in notes,
        )
    except InvalidInputError as fault:
        raise InvalidInputError(f"{INDEX_FILE}: {fault}") from None


def _parse_entry_untrusted(item: object) -> Entry:
    root = Descriptor.parse_untrusted(item)
    if root.size > MANIFEST_LIMIT:
        raise InvalidInputError(f"{root.digest}: {root.size} bytes are too many for a manifest")
    notes = root.annotations
    reference, tag = _parse_name_untrusted(notes.get(CONTAINERD_NAME) or notes.get(REF_NAME))
    if reference is not None and reference.digest not in (None, root.digest):
        raise InvalidInputError(f"{reference} is said to be {root.digest}")
    moment = notes.get(RESOLVED_AT)
    return Entry(root, reference, tag, None if moment is None else _parse_moment_untrusted(moment))


def _parse_name_untrusted(text: str | None) -> tuple[Reference | None, str | None]:
    """A full reference; or a word alone, which is a tag: `latest` is no image of Docker Hub's."""
    if not text:
        return None, None
    if "/" not in text and ":" not in text and "@" not in text:
        return None, parse_tag_untrusted(text)
    return Reference.parse_untrusted(text), None


def _parse_moment_untrusted(text: str) -> float:
    try:
        moment = float(text) if len(text) <= 32 else math.nan
    except ValueError:
        moment = math.nan
    if not 0 <= moment < 2**40:  # which a NaN is not either
        raise InvalidInputError(f"{RESOLVED_AT}: {text[:32]!r} are no Unix seconds")
    return moment
