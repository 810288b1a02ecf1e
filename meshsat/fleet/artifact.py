"""A state file as an OCI artifact, which any registry keeps and any tool of the field copies.

The artifact's type is `STATE_ARTIFACT`, its config empty (image-spec 1.1, "Guidelines for Artifact Usage").
Its layers, each of its own type: the roots, the head's envelope, and the body, each at most once.
"""

import json
from dataclasses import dataclass

from meshsat.errors import InvalidInputError
from meshsat.fleet.state_file import FILE_LIMIT, StateFile, encode_state_file, parse_state_file_untrusted
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.oci.media_types import OCI_EMPTY, OCI_MANIFEST
from meshsat.trust.dsse import ENVELOPE_LIMIT
from meshsat.trust.state_documents import BODY_LIMIT

STATE_ARTIFACT = "application/vnd.meshsat.state.v1"
ROOTS_LAYER = "application/vnd.meshsat.state.roots.v1+json"
HEAD_LAYER = "application/vnd.meshsat.state.head.v1.dsse+json"
BODY_LAYER = "application/vnd.meshsat.state.body.v1+json"
LIMITS = {ROOTS_LAYER: FILE_LIMIT // 2, HEAD_LAYER: ENVELOPE_LIMIT, BODY_LAYER: BODY_LIMIT}
"""Bytes of each."""
EMPTY = b"{}"
MANIFEST_LIMIT = 64 * 1024
"""Bytes; ours have about 1000."""


@dataclass(frozen=True, slots=True)
class StateArtifact:
    manifest: Manifest
    blobs: dict[Digest, bytes]
    """Config and layers."""


def artifact_of(file: StateFile) -> StateArtifact:
    """Always the same for the same file."""
    parts = [
        (ROOTS_LAYER, encode_state_file(StateFile(file.roots)) if file.roots else None),
        (HEAD_LAYER, file.head),
        (BODY_LAYER, file.body),
    ]
    layers = [(kind, raw) for kind, raw in parts if raw is not None]
    fields = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": STATE_ARTIFACT,
        "config": _descriptor(OCI_EMPTY, EMPTY),
        "layers": [_descriptor(kind, raw) for kind, raw in layers],
    }
    manifest = parse_manifest_untrusted(json.dumps(fields, separators=(",", ":")).encode())
    return StateArtifact(manifest, {Digest.of(raw): raw for raw in (EMPTY, *(raw for _, raw in layers))})


def layers_untrusted(manifest: Manifest) -> dict[str, Descriptor]:
    """By their types, none of them too large. Raises `InvalidInputError` where it is no such artifact."""
    if manifest.artifact_type != STATE_ARTIFACT or manifest.media_type != OCI_MANIFEST:
        kind = manifest.artifact_type or manifest.media_type
        raise InvalidInputError(f"{manifest.digest} is no desired state: its type is {kind!r}")
    found: dict[str, Descriptor] = {}
    for layer in manifest.blobs[1:]:
        limit = LIMITS.get(layer.media_type)
        if limit is None:
            continue  # a later version may bring more along
        if layer.media_type in found or layer.size > limit:
            raise InvalidInputError(f"{manifest.digest}: {layer.media_type} twice, or of over {limit} bytes")
        found[layer.media_type] = layer
    return found


def file_of_untrusted(layers: dict[str, bytes]) -> StateFile:
    """What the layers hold, by their types. Raises `InvalidInputError`."""
    roots: tuple[bytes, ...] = ()
    if ROOTS_LAYER in layers:
        roots = parse_state_file_untrusted(layers[ROOTS_LAYER]).roots
    return StateFile(roots, layers.get(HEAD_LAYER), layers.get(BODY_LAYER))


def _descriptor(media_type: str, raw: bytes) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": str(Digest.of(raw)), "size": len(raw)}
