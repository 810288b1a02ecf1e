"""Pulling: manifests, blobs, and whether they are there (distribution-spec, "Pull"; end-1, end-2, end-3)."""

import pytest

from tests.conformance.registry import Registry, sha512
from tests.images import OCI_INDEX, OCI_MANIFEST, Image, build_artifact, build_image, digest_of, random_bytes

pytestmark = pytest.mark.slow

IMAGE = build_image([random_bytes(3000, seed=1), random_bytes(2000, seed=2)])
INDEX = build_image([random_bytes(1000, seed=3)], ["linux/amd64", "linux/arm64"])
DOCKER = build_image([random_bytes(1000, seed=4)], ["linux/amd64", "linux/arm64"], docker=True)
DATA = random_bytes(5000, seed=5)
MISSING = digest_of(b"never pushed")
MALFORMED = [
    "sha256:baddigeststring",
    "sha256:" + "a" * 63,
    "sha256:" + "A" * 64,
    "sha256:",
    "sha512:" + "a" * 64,
    "md5:" + "a" * 32,
]
NAMES = [
    "a",
    "0",
    "library/pos",
    "ab/c.d/c_d/e__f/g-h/i---j",
    "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p",
    "n" * 229,
    *("blobs", "manifests", "tags", "uploads", "referrers"),
    "a/blobs/uploads/b",
    "a/manifests/b",
    "tags/list",
    "a/tags/list/b",
    "blobs/uploads",
    "uploads/manifests/tags/blobs/referrers",
    "v2/v2",
]
BAD_NAMES = ["A", "a//b", "a/", ".a", "a-", "a_", "a___b", "a..b", "a._b", "-a", "é", "a b", "a/B/c", "a@b"]


# --- is it a registry? ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_it_says_that_it_implements_the_specification(registry: Registry, method: str) -> None:
    """end-1, "Determining Support": 200."""
    assert registry.ask(method, "/v2/").status == 200


# --- manifests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [IMAGE, INDEX, DOCKER], ids=["image", "index", "docker"])
@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_manifest_comes_as_it_was_pushed(
    registry: Registry, repository: str, image: Image, by: str
) -> None:
    """end-3, "Pulling manifests": MUST be the expected manifest, 200, with Docker-Content-Digest; Content-Type
    SHOULD be as pushed, and SHOULD NOT have parameters."""
    registry.push(repository, image, "v1")
    answer = registry.manifest(repository, "v1" if by == "tag" else image.root)
    assert answer.status == 200
    assert answer.body == image.raw
    assert answer["docker-content-digest"] == image.root
    assert answer["content-type"] == image.media_type
    assert answer["content-length"] == str(len(image.raw))


def test_every_manifest_of_an_index_comes_by_its_digest(registry: Registry, repository: str) -> None:
    """end-3."""
    registry.push(repository, INDEX, "v1")
    for digest, raw in INDEX.manifests.items():
        answer = registry.manifest(repository, digest)
        assert (answer.status, answer.body) == (200, raw)
        assert answer["content-type"] == INDEX.media_types[digest]


@pytest.mark.parametrize("reference", ["nothing-of-this-name", MISSING, sha512(b"never pushed")])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_manifest_that_is_not_there_is_404(
    registry: Registry, repository: str, reference: str, method: str
) -> None:
    """end-3, "Pulling manifests", "Checking if content exists": MUST be 404."""
    registry.push(repository, IMAGE, "v1")
    answer = registry.manifest(repository, reference, method=method)
    assert answer.status == 404
    if method == "GET":
        assert answer.codes == {"MANIFEST_UNKNOWN"}


@pytest.mark.parametrize("reference", ["v1", IMAGE.root])
def test_a_repository_that_is_not_there_is_404(registry: Registry, repository: str, reference: str) -> None:
    """ "Pushing Manifests": an attempt to pull a nonexistent repository MUST return 404."""
    registry.push(f"{repository}/other", IMAGE, "v1")
    answer = registry.manifest(repository, reference)
    assert answer.status == 404
    assert answer.codes <= {"NAME_UNKNOWN", "MANIFEST_UNKNOWN"}


@pytest.mark.parametrize("reference", ["v1", IMAGE.root])
def test_a_head_of_a_manifest_tells_digest_type_and_size(
    registry: Registry, repository: str, reference: str
) -> None:
    """end-3, "Checking if content exists": MUST be 200 with Docker-Content-Digest and Content-Length."""
    registry.push(repository, IMAGE, "v1")
    answer = registry.manifest(repository, reference, method="HEAD")
    assert answer.status == 200
    assert answer["docker-content-digest"] == IMAGE.root
    assert answer["content-length"] == str(len(IMAGE.raw))
    assert answer["content-type"] == OCI_MANIFEST


@pytest.mark.parametrize("digest", MALFORMED)
@pytest.mark.parametrize("kind", ["manifests", "blobs"])
def test_a_malformed_digest_is_400_or_404(
    registry: Registry, repository: str, digest: str, kind: str
) -> None:
    """end-2, end-3: `<tag-or-digest>` MUST NOT be in any other format."""
    answer = registry.ask("GET", f"/v2/{repository}/{kind}/{digest}", [("Accept", "*/*")])
    assert answer.status in {400, 404}
    assert answer.codes <= {"DIGEST_INVALID", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NAME_UNKNOWN"}


ACCEPTED = {
    "lines": [("Accept", OCI_INDEX), ("Accept", OCI_MANIFEST)],
    "lines, ours last": [("Accept", "application/json"), ("Accept", OCI_INDEX), ("Accept", OCI_MANIFEST)],
    "lines, ours first": [("Accept", OCI_MANIFEST), ("Accept", OCI_INDEX), ("Accept", "application/json")],
    "a list": [("Accept", f"{OCI_INDEX}, {OCI_MANIFEST}")],
    "weighted": [("Accept", f"{OCI_INDEX};q=0.9, {OCI_MANIFEST};q=0.1")],
    "any": [("Accept", "*/*")],
    "containerd": [("Accept", f"{OCI_MANIFEST}, {OCI_INDEX}, */*")],
}


@pytest.mark.parametrize("accept", ACCEPTED)
def test_a_manifest_of_an_accepted_type_is_given(registry: Registry, repository: str, accept: str) -> None:
    """ "Pulling manifests", content negotiation (RFC 9110 12.5.1), every form that clients send it in."""
    registry.push(repository, IMAGE, "v1")
    answer = registry.ask("GET", f"/v2/{repository}/manifests/v1", ACCEPTED[accept])
    assert (answer.status, answer.body) == (200, IMAGE.raw)


@pytest.mark.parametrize("headers", [[], [("Accept", OCI_INDEX)], [("Accept", "text/html")]])
def test_negotiation_is_lenient(registry: Registry, repository: str, headers: list[tuple[str, str]]) -> None:
    """RFC 9110 12.5.1: without a type that is accepted a server MAY send what it has. So does this one:
    a client that did not ask well still gets its image."""
    registry.push(repository, IMAGE, "v1")
    answer = registry.ask("GET", f"/v2/{repository}/manifests/v1", headers)
    assert (answer.status, answer.body) == (200, IMAGE.raw)
    assert answer["content-type"] == OCI_MANIFEST


@pytest.mark.parametrize("tag", ["a", "_", "0", "A.b-c_D", "tag-", "t" * 128, "latest", "list"])
def test_a_tag_may_be_all_that_the_grammar_allows(registry: Registry, repository: str, tag: str) -> None:
    """ "Pulling manifests": `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`."""
    registry.push(repository, IMAGE, tag)
    answer = registry.manifest(repository, tag)
    assert (answer.status, answer.body) == (200, IMAGE.raw)
    assert registry.tags(repository) == [tag]


@pytest.mark.parametrize("tag", ["t" * 129, ".a", "-a", "a%20b", "a%2Fb", "%00", "caf%C3%A9"])
def test_a_tag_beyond_the_grammar_is_refused(registry: Registry, repository: str, tag: str) -> None:
    """ "Pulling manifests": a tag MUST match the regular expression; nothing is found or stored under another."""
    registry.push(repository, IMAGE, "v1")
    assert registry.manifest(repository, tag).status in ({404} if "%" not in tag else {400, 404})
    assert registry.put(repository, tag, IMAGE.raw, OCI_MANIFEST).status in {400, 404}
    assert registry.tags(repository) == ["v1"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_may_be_all_that_the_grammar_allows(registry: Registry, repository: str, name: str) -> None:
    """ "Pulling manifests", `<name>`: also with elements that are endpoints' names, also as its whole."""
    mine = name if len(name) > 200 else f"{name}/{repository}" if name < "m" else f"{repository}/{name}"
    image = build_image([random_bytes(100, seed=len(name))])
    registry.push(mine, image, "v1")
    assert registry.manifest(mine, "v1").body == image.raw
    assert registry.blob(mine, next(iter(image.blobs))).status == 200
    assert registry.tags(mine) == ["v1"]
    referrers = registry.ask("GET", f"/v2/{mine}/referrers/{image.root}")
    assert referrers.status == 200


@pytest.mark.parametrize("name", ["blobs", "tags/list", "a/blobs/uploads", "manifests/v1"])
def test_a_whole_name_may_read_like_an_endpoint(registry: Registry, name: str) -> None:
    """ "Pulling manifests", `<name>`: a path is read from its right end."""
    registry.push(name, IMAGE, "v1")
    assert registry.manifest(name, "v1").body == IMAGE.raw
    assert registry.tags(name) == ["v1"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_beyond_the_grammar_is_refused(registry: Registry, name: str) -> None:
    """ "Pulling manifests", `<name>` MUST match; code-8 NAME_INVALID."""
    path = "".join(character if character.isascii() else "%C3%A9" for character in name).replace(" ", "%20")
    for method, end in (("GET", "manifests/v1"), ("GET", "tags/list"), ("POST", "blobs/uploads/")):
        answer = registry.ask(method, f"/v2/{path}/{end}", body=b"" if method == "POST" else None)
        assert answer.status in {400, 404}, (method, end)


# --- blobs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [0, 1, 2, 5000, 300_000])
def test_a_blob_comes_as_it_was_pushed(
    registry: Registry, repository: str, algorithm: str, size: int
) -> None:
    """end-2, "Pulling blobs": MUST be the expected blob, 200, with Docker-Content-Digest; and the HEAD MUST
    tell digest and length."""
    data = random_bytes(size, seed=6)
    digest = registry.push_blob(repository, data, algorithm)
    answer = registry.blob(repository, digest)
    assert (answer.status, answer.body) == (200, data)
    assert answer["docker-content-digest"] == digest
    head = registry.blob(repository, digest, method="HEAD")
    assert head.status == 200
    for seen in (answer, head):
        assert seen["content-length"] == str(size)
        assert seen["docker-content-digest"] == digest


@pytest.mark.parametrize("digest", [MISSING, sha512(b"never pushed")])
def test_a_blob_that_is_not_there_is_404(registry: Registry, repository: str, digest: str) -> None:
    """end-2, "Pulling blobs", "Checking if content exists": MUST be 404."""
    registry.push_blob(repository, DATA)
    answer = registry.blob(repository, digest)
    assert answer.status == 404
    assert answer.codes == {"BLOB_UNKNOWN"}
    assert registry.blob(repository, digest, method="HEAD").status == 404


def test_a_blob_of_another_repository_is_404(registry: Registry, repository: str) -> None:
    """end-2: "if the blob is not found in the repository, the response code MUST be 404"."""
    digest = registry.push_blob(f"{repository}/one", random_bytes(100, seed=7))
    registry.push_blob(f"{repository}/two", random_bytes(100, seed=8))
    assert registry.blob(f"{repository}/two", digest).status == 404
    assert registry.blob(f"{repository}/two", digest, method="HEAD").status == 404


def test_a_manifest_of_another_repository_is_404(registry: Registry, repository: str) -> None:
    """end-3: "if the manifest is not found in the repository, the response code MUST be 404"."""
    image = build_image([random_bytes(100, seed=9)])
    registry.push(f"{repository}/one", image, "v1")
    registry.push(f"{repository}/two", IMAGE, "v1")
    assert registry.manifest(f"{repository}/two", image.root).status == 404


def test_an_artifact_is_pulled_like_an_image(registry: Registry, repository: str) -> None:
    """ "Introduction": the specification is agnostic of content types."""
    artifact = build_artifact(b"a bill of materials", "application/vnd.example.sbom.v1")
    registry.push(repository, artifact, "sbom")
    assert registry.manifest(repository, "sbom").body == artifact.raw
    for digest, data in artifact.blobs.items():
        assert registry.blob(repository, digest).body == data
