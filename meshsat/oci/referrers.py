"""Referrers: the tag at which what refers to a manifest is listed, where a registry has no API for it.

It is the specification's (distribution-spec, "Referrers Tag Schema"). A site's nodes tell each other tags,
and nothing of untagged manifests of other registries: by such a tag a neighbour of the node that imported a
signature finds it.
"""

import json
from collections.abc import Iterable

from meshsat.errors import InvalidInputError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.fields import parse_object_untrusted, take_objects
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.oci.media_types import OCI_INDEX


def fallback_tag(subject: Digest) -> str:
    return f"{subject.algorithm[:32]}-{subject.hex[:64]}"


def fallback_index(referrers: Iterable[Manifest]) -> Manifest:
    """What the tag means; the same for the same referrers."""
    listed = sorted((manifest.referrer for manifest in referrers), key=lambda one: one.digest)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor.as_json() for descriptor in listed],
    }
    return parse_manifest_untrusted(json.dumps(document).encode())


def listed_referrers_untrusted(raw: bytes) -> list[Descriptor]:
    """What the index under a fallback tag lists; nothing if it is no index."""
    try:
        body = parse_object_untrusted(raw, "referrers")
        return [Descriptor.parse_untrusted(item) for item in take_objects(body, "manifests")]
    except InvalidInputError:
        return []
