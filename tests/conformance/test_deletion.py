"""Content management: what is deleted is gone at once, and nothing else is (distribution-spec; end-9, end-10)."""

import pytest

from tests.conformance.registry import Registry, sha512
from tests.images import OCI_MANIFEST, Image, build_image, digest_of, random_bytes

pytestmark = pytest.mark.slow

IMAGE = build_image([random_bytes(800, seed=60)])
OTHER = build_image([random_bytes(800, seed=61)])
INDEX = build_image([random_bytes(300, seed=62)], ["linux/amd64", "linux/arm64"])
DATA = random_bytes(1000, seed=63)


def test_a_deleted_tag_takes_nothing_with_it(registry: Registry, repository: str) -> None:
    """end-9, "Deleting tags": MUST be 202; then a GET by the tag is 404; the manifest and its other tags stay."""
    registry.push(repository, IMAGE, "v1", "v2")
    assert registry.delete(repository, "v1").status == 202
    for method in ("GET", "HEAD"):
        assert registry.manifest(repository, "v1", method=method).status == 404
    assert registry.manifest(repository, "v2").body == IMAGE.raw
    assert registry.manifest(repository, IMAGE.root).body == IMAGE.raw
    assert registry.tags(repository) == ["v2"]


def test_the_last_tag_may_be_deleted(registry: Registry, repository: str) -> None:
    """end-9, end-8a: the repository is empty of tags, or gone."""
    registry.push(repository, IMAGE, "v1")
    assert registry.delete(repository, "v1").status == 202
    answer = registry.ask("GET", f"/v2/{repository}/tags/list")
    assert answer.status == 404 or (answer.status == 200 and not answer.json["tags"])


@pytest.mark.parametrize("image", [IMAGE, INDEX], ids=["image", "index"])
def test_a_deleted_manifest_takes_its_tags_with_it(registry: Registry, repository: str, image: Image) -> None:
    """end-9, "Deleting Manifests": MUST be 202; then a GET by digest "and any tag pointing to that digest" is 404."""
    registry.push(repository, image, "v1", "v2")
    registry.push(repository, OTHER, "v3")
    assert registry.delete(repository, image.root).status == 202
    for reference in (image.root, "v1", "v2"):
        for method in ("GET", "HEAD"):
            assert registry.manifest(repository, reference, method=method).status == 404
    assert registry.manifest(repository, "v3").body == OTHER.raw
    assert registry.tags(repository) == ["v3"]


def test_a_manifest_is_deleted_from_one_repository(registry: Registry, repository: str) -> None:
    """end-9: `<name>` is the repository of the manifest."""
    for name in ("one", "two"):
        registry.push(f"{repository}/{name}", IMAGE, "v1")
    assert registry.delete(f"{repository}/one", IMAGE.root).status == 202
    assert registry.manifest(f"{repository}/one", "v1").status == 404
    assert registry.manifest(f"{repository}/two", "v1").body == IMAGE.raw
    for digest, data in IMAGE.blobs.items():
        assert registry.blob(f"{repository}/two", digest).body == data


@pytest.mark.parametrize("reference", ["nothing-of-this-name", digest_of(b"never pushed"), sha512(b"never")])
def test_what_is_not_there_cannot_be_deleted(registry: Registry, repository: str, reference: str) -> None:
    """end-9: 404; of a repository that does not exist, MUST be 404."""
    assert registry.delete(repository, reference).status == 404
    registry.push(repository, IMAGE, "v1")
    answer = registry.delete(repository, reference)
    assert answer.status == 404
    assert answer.codes == {"MANIFEST_UNKNOWN"}


def test_twice_is_404(registry: Registry, repository: str) -> None:
    """end-9, end-10."""
    registry.push(repository, IMAGE, "v1")
    digest = registry.push_blob(repository, DATA)
    assert registry.delete(repository, "v1").status == 202
    assert registry.delete(repository, "v1").status == 404
    assert registry.delete(repository, IMAGE.root).status == 202
    assert registry.delete(repository, IMAGE.root).status == 404
    assert registry.ask("DELETE", f"/v2/{repository}/blobs/{digest}").status == 202
    assert registry.ask("DELETE", f"/v2/{repository}/blobs/{digest}").status == 404


@pytest.mark.parametrize("reference", ["sha256:abc", "md5:" + "a" * 32, "-a", "t" * 129])
def test_a_malformed_reference_is_refused(registry: Registry, repository: str, reference: str) -> None:
    """end-9: fails with 400 or 404."""
    assert registry.delete(repository, reference).status in {400, 404}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_is_deleted(registry: Registry, repository: str, algorithm: str) -> None:
    """end-10, "Deleting Blobs": MUST be 202; then it is 404; only of this repository."""
    for name in ("one", "two"):
        registry.push_blob(f"{repository}/{name}", DATA, algorithm)
    digest = digest_of(DATA, algorithm)
    assert registry.ask("DELETE", f"/v2/{repository}/one/blobs/{digest}").status == 202
    for method in ("GET", "HEAD"):
        assert registry.blob(f"{repository}/one", digest, method=method).status == 404
    assert registry.blob(f"{repository}/two", digest).body == DATA


@pytest.mark.parametrize("digest", [digest_of(b"never pushed"), sha512(b"never pushed")])
def test_a_blob_that_is_not_there_cannot_be_deleted(registry: Registry, repository: str, digest: str) -> None:
    """end-10: "if the blob is not found, a 404 Not Found code MUST be returned"."""
    answer = registry.ask("DELETE", f"/v2/{repository}/blobs/{digest}")
    assert answer.status == 404
    registry.push_blob(repository, DATA)
    answer = registry.ask("DELETE", f"/v2/{repository}/blobs/{digest}")
    assert (answer.status, answer.codes) == (404, {"BLOB_UNKNOWN"})


def test_what_was_deleted_may_be_pushed_again(registry: Registry, repository: str) -> None:
    """end-6, end-7a after end-9, end-10."""
    registry.push(repository, IMAGE, "v1")
    assert registry.delete(repository, IMAGE.root).status == 202
    for digest in IMAGE.blobs:
        assert registry.ask("DELETE", f"/v2/{repository}/blobs/{digest}").status == 202
    assert registry.put(repository, "v1", IMAGE.raw, OCI_MANIFEST).codes == {"MANIFEST_BLOB_UNKNOWN"}
    registry.push(repository, IMAGE, "v1")
    assert registry.manifest(repository, "v1").body == IMAGE.raw
    for digest, data in IMAGE.blobs.items():
        assert registry.blob(repository, digest).body == data


def test_a_blob_is_no_manifest(registry: Registry, repository: str) -> None:
    """end-3, end-9: under `manifests` a blob is neither found nor deleted."""
    registry.push(repository, IMAGE, "v1")
    digest = registry.push_blob(repository, DATA)
    (part, *_) = IMAGE.blobs
    for blob in (digest, part):
        assert registry.manifest(repository, blob).status == 404
        answer = registry.delete(repository, blob)
        assert (answer.status, answer.codes) == (404, {"MANIFEST_UNKNOWN"})
        assert registry.blob(repository, blob).status == 200
    assert registry.manifest(repository, "v1").body == IMAGE.raw


def test_a_manifest_is_pushed_again_after_its_deletion(registry: Registry, repository: str) -> None:
    """end-7a after end-9: nothing remembers a deletion longer than the client does."""
    registry.push(repository, INDEX, "v1")
    for digest in INDEX.manifests:
        assert registry.delete(repository, digest).status == 202
        assert registry.manifest(repository, digest).status == 404
    registry.push(repository, INDEX, "v1", "v2")
    for digest, raw in INDEX.manifests.items():
        assert registry.manifest(repository, digest).body == raw
    assert registry.tags(repository) == ["v1", "v2"]
