"""Where a signed state goes besides the node: an upstream registry, a stick; and how it comes in from one."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshsat.config import Config
    from meshsat.fleet.state_file import StateFile
    from meshsat.oci.digest import Digest
    from meshsat.oci.manifest import Manifest

NAME = "meshsat.invalid/desired-state:latest"
"""What the artifact is called in a layout: it is no image, and nobody pulls it by this."""


def push(config: Config, file: StateFile, to: str) -> None:
    """Raises a `MeshsatError`."""
    import trio

    from meshsat.errors import InvalidInputError
    from meshsat.fleet.artifact import artifact_of
    from meshsat.oci.reference import SITE, Reference
    from meshsat.uplink.pushing import push as send
    from meshsat.vault.vault import Vault

    reference = Reference.parse_untrusted(to)
    if reference.tag is None or reference.digest is not None or reference.registry == SITE:
        raise InvalidInputError(f"--to {to}: name a tag of an upstream registry, REGISTRY/NAME:TAG")
    artifact = artifact_of(file)
    vault = Vault(config.data_dir)
    trio.run(partial(send, config.uplink, reference, artifact.manifest, artifact.blobs, vault=vault))


def write_bundle(file: StateFile, output: str) -> None:
    """Raises a `MeshsatError`."""
    from meshsat.bundle import sinks
    from meshsat.bundle.layout import Entry, Index, encode_index
    from meshsat.fleet.artifact import artifact_of
    from meshsat.oci.descriptor import Descriptor
    from meshsat.oci.media_types import OCI_EMPTY
    from meshsat.oci.reference import Reference

    artifact = artifact_of(file)
    parts = [(artifact.manifest.descriptor, artifact.manifest.raw)]
    parts += [(Descriptor(OCI_EMPTY, digest, len(raw)), raw) for digest, raw in artifact.blobs.items()]
    entry = Entry(artifact.manifest.descriptor, Reference.parse_untrusted(NAME))
    path = Path(output.removeprefix("oci:"))
    sink: sinks.Sink
    if output.endswith((".tar", ".tar.zst", ".tzst")) and not output.startswith("oci:"):
        sink = sinks.File(path, zstd=not output.endswith(".tar"))
    else:
        sink = sinks.Directory(path)
    with sink:
        needed = sum(len(raw) for _, raw in parts) + 2048 * (len(parts) + 4)
        sink.begin(encode_index(Index([entry])), needed)
        for blob, raw in parts:
            if not sink.has(blob):
                sink.put(blob, io.BytesIO(raw))
        sink.finish()


class StateIntake:
    """`meshsat.bundle.place.Intake`: a desired state on a stick is given to the node on `data_dir`."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def wants(self, manifest: Manifest) -> Collection[Digest] | None:
        from meshsat.fleet.artifact import STATE_ARTIFACT, layers_untrusted

        if manifest.artifact_type != STATE_ARTIFACT:
            return None
        return {layer.digest for layer in layers_untrusted(manifest).values()}

    def take(self, manifest: Manifest, blobs: Mapping[Digest, bytes]) -> str:
        from meshsat.cli.client import NodeClient
        from meshsat.fleet.artifact import file_of_untrusted, layers_untrusted
        from meshsat.fleet.state_file import encode_state_file

        layers = layers_untrusted(manifest)
        file = file_of_untrusted({kind: blobs[layer.digest] for kind, layer in layers.items()})
        told = NodeClient(self._data_dir).post_raw("/api/v1/state", encode_state_file(file))
        revision = told["revision"]
        return "roots alone" if revision is None else f"desired state: revision {revision} holds"
