import json
from typing import Any

import pytest

from meshsat.errors import InvalidInputError
from meshsat.oci import media_types
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from tests.images import build_artifact, build_image

CONFIG = {"mediaType": media_types.OCI_CONFIG, "digest": str(Digest.of(b"{}")), "size": 2}
LAYER = {"mediaType": media_types.OCI_LAYER, "digest": str(Digest.of(b"layer")), "size": 5}
IMAGE: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": media_types.OCI_MANIFEST,
    "config": CONFIG,
    "layers": [LAYER],
}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": media_types.OCI_INDEX,
    "manifests": [LAYER | {"mediaType": media_types.OCI_MANIFEST}],
}


def parse(body: dict[str, Any], media_type: str | None = None, **options: Any) -> Manifest:
    return parse_manifest_untrusted(json.dumps(body).encode(), media_type, **options)


@pytest.mark.parametrize("docker", [False, True])
def test_image_manifest(docker: bool) -> None:
    image = build_image([b"one", b"two"], docker=docker)
    manifest = parse_manifest_untrusted(image.raw, image.media_type)
    assert manifest.raw == image.raw
    assert str(manifest.digest) == image.root
    assert manifest.media_type == image.media_type
    assert not manifest.is_index
    assert [str(blob.digest) for blob in manifest.blobs] == list(image.blobs)
    assert manifest.manifests == ()
    assert manifest.descriptor.size == len(image.raw)


@pytest.mark.parametrize("docker", [False, True])
def test_index(docker: bool) -> None:
    image = build_image([b"one"], ("linux/amd64", "linux/arm/v7"), docker=docker)
    manifest = parse_manifest_untrusted(image.raw, image.media_type)
    assert manifest.is_index
    assert [str(child.platform) for child in manifest.manifests] == ["linux/amd64", "linux/arm/v7"]
    assert {str(child.digest) for child in manifest.manifests} == image.manifests.keys() - {image.root}
    assert manifest.blobs == ()


def test_the_digest_is_that_of_the_bytes_however_they_are_spelt() -> None:
    spelt = json.dumps(IMAGE, indent=3).encode() + b"\n\n"
    manifest = parse_manifest_untrusted(spelt)
    assert manifest.raw == spelt
    assert manifest.digest == Digest.of(spelt)
    assert parse_manifest_untrusted(spelt, algorithm="sha512").digest == Digest.of(spelt, "sha512")


def test_unknown_fields_are_kept() -> None:
    manifest = parse(IMAGE | {"later": [1, {"a": None}], "annotations": {"x": "y"}})
    assert manifest.extra == {"later": [1, {"a": None}]}
    assert manifest.annotations == {"x": "y"}


def test_artifact_with_subject() -> None:
    subject = {"mediaType": media_types.OCI_MANIFEST, "digest": str(Digest.of(b"s")), "size": 1}
    image = build_artifact(b"sbom", "application/spdx+json", subject)
    manifest = parse_manifest_untrusted(image.raw)
    assert manifest.subject is not None
    assert manifest.subject.digest == Digest.of(b"s")
    assert manifest.artifact_type == "application/spdx+json"
    assert manifest.subject.digest not in {child.digest for child in manifest.children}


def test_withdrawn_artifact_manifest() -> None:
    body = {"mediaType": media_types.OCI_ARTIFACT_MANIFEST, "artifactType": "a/b", "blobs": [LAYER]}
    manifest = parse(body)
    assert [str(blob.digest) for blob in manifest.blobs] == [LAYER["digest"]]


def test_foreign_layers_need_not_be_held() -> None:
    foreign = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": str(Digest.of(b"windows")),
        "size": 7,
        "urls": ["https://example.test/windows"],
    }
    manifest = parse(IMAGE | {"layers": [foreign, LAYER]})
    assert [blob.size for blob in manifest.blobs] == [2, 5]
    assert [layer.size for layer in manifest.foreign] == [7]


def test_an_index_may_list_layers_as_build_caches_do() -> None:
    manifest = parse(INDEX | {"manifests": [LAYER]})
    assert manifest.manifests == ()
    assert len(manifest.blobs) == 1


def test_children_come_once_in_order() -> None:
    manifest = parse(IMAGE | {"layers": [LAYER, CONFIG, LAYER]})
    assert [child.size for child in manifest.children] == [2, 5]


def test_nulls_as_go_writes_them() -> None:
    assert len(parse(IMAGE | {"layers": None, "annotations": None, "subject": None}).blobs) == 1
    assert parse(INDEX | {"manifests": None}, media_types.OCI_INDEX).is_index


def test_without_a_media_type_of_its_own_the_sender_or_the_shape_tells() -> None:
    bare = {key: value for key, value in IMAGE.items() if key != "mediaType"}
    assert parse(bare).media_type == media_types.OCI_MANIFEST
    assert parse(bare, media_types.OCI_MANIFEST + "; charset=utf-8").media_type == media_types.OCI_MANIFEST
    assert parse(bare, media_types.DOCKER_MANIFEST).media_type == media_types.DOCKER_MANIFEST
    assert parse(IMAGE, "application/json").media_type == media_types.OCI_MANIFEST
    listing = {key: value for key, value in INDEX.items() if key != "mediaType"}
    assert parse(listing).media_type == media_types.OCI_INDEX


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        ({}, None),
        (IMAGE | {"manifests": []}, None),
        (INDEX | {"layers": []}, None),
        (IMAGE | {"mediaType": media_types.OCI_INDEX}, None),
        (INDEX | {"mediaType": media_types.OCI_MANIFEST}, None),
        (IMAGE, media_types.OCI_INDEX),
        (IMAGE, media_types.DOCKER_MANIFEST),
        (IMAGE, "text/html"),
        (IMAGE | {"mediaType": ["a/b"]}, None),
        (IMAGE | {"schemaVersion": 3}, None),
        (IMAGE | {"schemaVersion": "2"}, None),
        (IMAGE | {"schemaVersion": None}, None),
        (IMAGE | {"config": None}, None),
        (IMAGE | {"config": [CONFIG]}, None),
        (IMAGE | {"layers": {"0": LAYER}}, None),
        (IMAGE | {"layers": [None]}, None),
        (IMAGE | {"layers": [LAYER, LAYER | {"size": 6}]}, None),
        (IMAGE | {"layers": [LAYER | {"size": -5}]}, None),
        (IMAGE | {"layers": [LAYER | {"digest": "sha1:" + "0" * 40}]}, None),
        (IMAGE | {"subject": "sha256:x"}, None),
        (IMAGE | {"annotations": {"a": ["b"]}}, None),
        (INDEX | {"manifests": "none"}, None),
    ],
)
def test_contradictions_and_wrong_types_are_refused(body: dict[str, Any], media_type: str | None) -> None:
    with pytest.raises(InvalidInputError, match=r"^manifest: "):
        parse(body, media_type)


def test_of_a_type_that_is_not_known_only_the_common_fields_are_read() -> None:
    subject = {"mediaType": media_types.OCI_MANIFEST, "digest": LAYER["digest"], "size": 5}
    body = {"layers": "anything", "subject": subject, "artifactType": "a/b", "annotations": {"k": "v"}}
    manifest = parse(body, "application/vnd.example.thing+json")
    assert manifest.media_type == "application/vnd.example.thing+json"
    assert (manifest.children, manifest.foreign) == ((), ())
    assert manifest.subject is not None
    assert str(manifest.subject.digest) == subject["digest"]
    assert (manifest.artifact_type, manifest.annotations) == ("a/b", {"k": "v"})
    assert parse({"mediaType": "text/html"}).children == ()
    with pytest.raises(InvalidInputError, match="says of itself"):
        parse({"mediaType": "text/html"}, "application/vnd.example.thing+json")


def test_a_referrer_is_listed_by_its_artifact_type_or_its_configs() -> None:
    assert parse(IMAGE).referrer.artifact_type == media_types.OCI_CONFIG
    assert parse(IMAGE | {"artifactType": "a/b"}).referrer.artifact_type == "a/b"
    assert parse(INDEX).referrer.artifact_type is None
    listed = parse(IMAGE | {"annotations": {"k": "v"}}).referrer
    assert listed.as_json()["annotations"] == {"k": "v"}
    assert type(listed).parse_untrusted(listed.as_json()) == listed


@pytest.mark.parametrize("media_type", sorted(media_types.DOCKER_SCHEMA1))
def test_docker_schema_1_is_named_in_the_refusal(media_type: str) -> None:
    for body, sent in (
        ({"schemaVersion": 1, "fsLayers": []}, None),
        ({"mediaType": media_type}, None),
        ({}, media_type),
    ):
        with pytest.raises(InvalidInputError, match="schema 1"):
            parse(body, sent)


def test_size_is_bounded_before_anything_is_parsed() -> None:
    with pytest.raises(InvalidInputError, match="more than"):
        parse_manifest_untrusted(b"{" * 101, limit=100)
    with pytest.raises(InvalidInputError, match="more than"):
        parse_manifest_untrusted(b" " * (4 * 1024 * 1024 + 1))
