"""A state as an OCI artifact: it comes back as it was, and what is none or too large is not fetched."""

import json
from dataclasses import replace

import pytest

from meshsat.errors import InvalidInputError
from meshsat.fleet.artifact import (
    BODY_LAYER,
    EMPTY,
    HEAD_LAYER,
    LIMITS,
    STATE_ARTIFACT,
    artifact_of,
    file_of_untrusted,
    layers_untrusted,
)
from meshsat.fleet.state_file import StateFile
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from tests.authors import Signers
from tests.states import state_file

FILE = state_file(Signers(), 3)


def changed(**fields: object) -> Manifest:
    manifest = json.loads(artifact_of(FILE).manifest.raw)
    return parse_manifest_untrusted(json.dumps({**manifest, **fields}).encode())


@pytest.mark.parametrize(
    "file", [FILE, StateFile(FILE.roots), StateFile((), FILE.head), StateFile((), FILE.head, FILE.body)]
)
def test_it_comes_back_as_it_was(file: StateFile) -> None:
    artifact = artifact_of(file)
    layers = layers_untrusted(artifact.manifest)
    assert file_of_untrusted({kind: artifact.blobs[one.digest] for kind, one in layers.items()}) == file
    assert artifact_of(file) == artifact


def test_it_is_as_the_image_specification_says() -> None:
    manifest = artifact_of(FILE).manifest
    assert manifest.artifact_type == STATE_ARTIFACT
    assert manifest.blobs[0].digest == Digest.of(EMPTY)
    assert set(artifact_of(FILE).blobs) == {blob.digest for blob in manifest.blobs}


def test_a_layer_of_a_later_version_is_passed_over() -> None:
    layers = json.loads(artifact_of(FILE).manifest.raw)["layers"]
    more = {**layers[0], "mediaType": "application/vnd.meshsat.state.more.v1+json"}
    assert set(layers_untrusted(changed(layers=[*layers, more]))) == set(LIMITS)


@pytest.mark.parametrize("kind", LIMITS)
def test_endless_data(kind: str) -> None:
    """A layer that says to be too large is not even asked for."""
    layers = json.loads(artifact_of(FILE).manifest.raw)["layers"]
    for layer in layers:
        if layer["mediaType"] == kind:
            layer["size"] = LIMITS[kind] + 1
    with pytest.raises(InvalidInputError, match="of over"):
        layers_untrusted(changed(layers=layers))


def test_what_is_no_state_is_refused() -> None:
    layers = json.loads(artifact_of(FILE).manifest.raw)["layers"]
    twice = [layers[1], layers[1]]
    for manifest in (
        changed(artifactType="application/vnd.example.sbom"),
        changed(artifactType=None),
        changed(layers=twice),
        replace(artifact_of(FILE).manifest, media_type="application/vnd.oci.image.index.v1+json"),
    ):
        with pytest.raises(InvalidInputError):
            layers_untrusted(manifest)
    with pytest.raises(InvalidInputError):
        file_of_untrusted({"application/vnd.meshsat.state.roots.v1+json": b"x"})
    assert file_of_untrusted({HEAD_LAYER: b"x", BODY_LAYER: b"y"}) == StateFile((), b"x", b"y")
