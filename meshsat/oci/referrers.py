"""Referrers: the tag at which what refers to a manifest is listed, where a registry has no API for it.

It is the specification's (distribution-spec, "Referrers Tag Schema"). A site's nodes tell each other tags,
and nothing of untagged manifests of other registries: by such a tag a neighbour of the node that imported a
signature finds it.
"""

import json
import re
from collections.abc import Iterable

from meshsat.errors import InvalidInputError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import SHA256, Digest
from meshsat.oci.fields import parse_object_untrusted, take_objects
from meshsat.oci.manifest import MANIFEST_LIMIT, Manifest, parse_manifest_untrusted
from meshsat.oci.media_types import OCI_INDEX

_SUBJECT = re.compile(r"sha256-([0-9a-f]{64})")
_DERIVED = re.compile(r"sha256-([0-9a-f]{64})(?:\..{1,56})?")
_ABOUT = re.compile(r"sha256-[0-9a-f]{64}(?:\.(?:sig|att|sbom))?")


def fallback_tag(subject: Digest) -> str:
    return f"{subject.algorithm[:32]}-{subject.hex[:64]}"


def subject_of(tag: str) -> Digest | None:
    """Whose referrers the tag lists. None: it is no such tag, or of a digest that it does not tell whole."""
    match = _SUBJECT.fullmatch(tag)
    return None if match is None else Digest(SHA256, match[1])


def is_about_digest(tag: str) -> bool:
    """Whether the tag is of what refers to a manifest: this one, or cosign's for a signature, an attestation,
    an SBOM."""
    return _ABOUT.fullmatch(tag) is not None


def subject_of_tag(tag: str | None) -> Digest | None:
    """What a manifest is about, by its tag alone: that of referrers, or one of cosign's, whatever is behind
    the digest. A digest of SHA-512 does not fit into a tag."""
    match = _DERIVED.fullmatch(tag or "")
    return None if match is None else Digest(SHA256, match[1])


def fallback_index(referrers: Iterable[Manifest]) -> Manifest:
    """What the tag means; the same for the same referrers."""
    return index_of(manifest.referrer for manifest in referrers)


def index_of(referrers: Iterable[Descriptor]) -> Manifest:
    """The index of these, as many of them as it may have bytes; the same for the same referrers."""
    listed: list[str] = []
    size = 256
    for descriptor in sorted(referrers, key=lambda one: one.digest):
        entry = json.dumps(descriptor.as_json())
        size += len(entry) + 2
        if size > MANIFEST_LIMIT:
            break
        listed.append(entry)
    head = f'{{"schemaVersion": 2, "mediaType": "{OCI_INDEX}", "manifests": ['
    return parse_manifest_untrusted(f"{head}{', '.join(listed)}]}}".encode())


def listed_referrers_untrusted(raw: bytes) -> list[Descriptor]:
    """What the index under a fallback tag lists; nothing if it is no index."""
    try:
        body = parse_object_untrusted(raw, "referrers")
        return [Descriptor.parse_untrusted(item) for item in take_objects(body, "manifests")]
    except InvalidInputError:
        return []
