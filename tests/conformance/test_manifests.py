"""Pushing manifests (distribution-spec, "Pushing Manifests"; end-7a, end-7b)."""

import json
from typing import Any

import pytest

from tests.conformance.registry import Registry, located, sha512
from tests.conformance.wire import Answer
from tests.images import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    EMPTY,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    build_artifact,
    build_image,
    descriptor,
    digest_of,
    random_bytes,
)

pytestmark = pytest.mark.slow

IMAGE = build_image([random_bytes(1500, seed=30)])
INDEX = build_image([random_bytes(900, seed=31)], ["linux/amd64", "linux/arm64"])
MISSING = descriptor(OCI_MANIFEST, b"never pushed")
FOUR_MEGABYTES = 4 * 1024 * 1024


def as_json(document: Any) -> bytes:
    return json.dumps(document).encode()


def empty_manifest(**more: Any) -> dict[str, Any]:
    """Of the empty blob alone (image-spec, "Guidance for an Empty Descriptor")."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(EMPTY, b"{}"),
        "layers": [],
        **more,
    }


def assert_created(registry: Registry, answer: Answer, raw: bytes, media_type: str, digest: str) -> None:
    """201, its digest, and a Location from which the very bytes come."""
    assert answer.status == 201, answer
    assert answer["docker-content-digest"] == digest
    pulled = registry.ask("GET", located(answer), [("Accept", media_type)])
    assert (pulled.status, pulled.body) == (200, raw)
    assert pulled["content-type"] == media_type
    assert pulled["content-length"] == str(len(raw))


def push_parts(registry: Registry, repository: str) -> None:
    for data in (b"{}", *IMAGE.blobs.values()):
        registry.push_blob(repository, data)


# --- what is taken --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_manifest_is_pushed(registry: Registry, repository: str, by: str) -> None:
    """end-7a: MUST be 201 with a pullable Location; Docker-Content-Digest MUST be the client's digest."""
    push_parts(registry, repository)
    reference = "v1" if by == "tag" else IMAGE.root
    answer = registry.put(repository, reference, IMAGE.raw, OCI_MANIFEST)
    assert_created(registry, answer, IMAGE.raw, OCI_MANIFEST, IMAGE.root)


@pytest.mark.parametrize(
    "make",
    [
        lambda document: json.dumps(document, indent=7).encode(),
        lambda document: json.dumps(document, separators=(",", ":")).encode() + b"\n",
        lambda document: b" \r\n\t" + json.dumps(dict(reversed(document.items()))).encode() + b"  ",
        lambda document: json.dumps({**document, "own": "é\u2028\U0001f680"}, ensure_ascii=False).encode(),
        lambda document: json.dumps({**document, "own": "é\U0001f680", "real": 0.1}).encode(),
    ],
    ids=["indented", "compact", "spaced and reversed", "utf-8", "escaped"],
)
def test_the_very_bytes_are_kept(registry: Registry, repository: str, make: Any) -> None:
    """end-7a: "MUST store the manifest in the exact byte representation provided by the client"."""
    push_parts(registry, repository)
    raw = make(json.loads(IMAGE.raw))
    answer = registry.put(repository, "v1", raw, OCI_MANIFEST)
    assert_created(registry, answer, raw, OCI_MANIFEST, digest_of(raw))
    assert registry.manifest(repository, "v1").body == raw


def test_parameters_of_the_type_are_passed_over(registry: Registry, repository: str) -> None:
    """end-7a: "the registry SHOULD ignore parameters on the Content-Type header", and not give them out."""
    push_parts(registry, repository)
    answer = registry.put(repository, "v1", IMAGE.raw, f"{OCI_MANIFEST}; charset=utf-8")
    assert_created(registry, answer, IMAGE.raw, OCI_MANIFEST, IMAGE.root)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.example.artifact.v1+json",
        "application/vnd.oci.artifact.manifest.v1+json",
        "application/vnd.cncf.notary.thing+json",
    ],
)
def test_a_manifest_may_be_of_any_type(registry: Registry, repository: str, media_type: str) -> None:
    """ "Introduction": "designed to be agnostic of content types"."""
    raw = as_json({"mediaType": media_type, "blobs": []})
    answer = registry.put(repository, "v1", raw, media_type)
    assert_created(registry, answer, raw, media_type, digest_of(raw))


@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, DOCKER_LIST, OCI_INDEX])
def test_docker_types_and_indexes(registry: Registry, repository: str, media_type: str) -> None:
    """end-7a: the image specification's and Docker's."""
    docker = media_type != OCI_INDEX
    platforms = ["linux/amd64"] if media_type == DOCKER_MANIFEST else ["linux/amd64", "linux/arm64"]
    image = build_image([random_bytes(300, seed=32)], platforms, docker=docker)
    registry.push(repository, image, "v1")
    answer = registry.manifest(repository, "v1")
    assert (answer.body, answer["content-type"]) == (image.raw, media_type)


@pytest.mark.parametrize(
    "document",
    [
        empty_manifest(),
        empty_manifest(annotations={"own": "é" * 100}),
        empty_manifest(layers=[{**descriptor(OCI_LAYER, b"{}"), "data": "e30="}]),
        empty_manifest(unknown={"deep": [{"er": None}]}),
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []},
        {"schemaVersion": 2, "manifests": []},
    ],
    ids=["no layers", "annotations", "data field", "unknown fields", "empty index", "untyped index"],
)
def test_unusual_but_valid(registry: Registry, repository: str, document: dict[str, Any]) -> None:
    """end-7a: "the list of blobs MAY be empty"; image-spec: unknown fields MUST be passed over."""
    push_parts(registry, repository)
    raw = as_json(document)
    media_type = OCI_INDEX if "manifests" in document else OCI_MANIFEST
    answer = registry.put(repository, "v1", raw, media_type)
    assert_created(registry, answer, raw, media_type, digest_of(raw))


def test_layers_that_may_not_be_distributed_need_not_be_there(registry: Registry, repository: str) -> None:
    """image-spec, "Non-Distributable Layers": they are elsewhere, at their `urls`; clients do not push them."""
    push_parts(registry, repository)
    kinds = ["tar", "tar+gzip", "tar+zstd"]
    layers = [
        descriptor(
            f"application/vnd.oci.image.layer.nondistributable.v1.{kind}",
            kind.encode(),
            urls=["https://store.example/layer"],
        )
        for kind in kinds
    ]
    raw = as_json(empty_manifest(layers=layers))
    answer = registry.put(repository, "v1", raw, OCI_MANIFEST)
    assert_created(registry, answer, raw, OCI_MANIFEST, digest_of(raw))
    assert registry.manifest(repository, "v1").status == 200


def test_an_index_may_hold_indexes(registry: Registry, repository: str) -> None:
    """image-spec, "Image Index": nested."""
    registry.push(repository, INDEX)
    entry = {"mediaType": OCI_INDEX, "digest": INDEX.root, "size": len(INDEX.raw)}
    raw = as_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
    answer = registry.put(repository, "v1", raw, OCI_INDEX)
    assert_created(registry, answer, raw, OCI_INDEX, digest_of(raw))


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, OCI_INDEX])
def test_a_manifest_may_be_of_four_megabytes(registry: Registry, repository: str, media_type: str) -> None:
    """end-7a: "SHOULD expect to be able to support manifest pushes of at least 4 megabytes"."""
    push_parts(registry, repository)
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    if media_type == OCI_MANIFEST:
        document = empty_manifest()
    raw = as_json({**document, "annotations": {"org.example.filler": ""}})
    raw = raw.replace(b'filler": "', b'filler": "' + b"A" * (FOUR_MEGABYTES - len(raw)))
    assert len(raw) == FOUR_MEGABYTES
    answer = registry.put(repository, "v1", raw, media_type)
    assert_created(registry, answer, raw, media_type, digest_of(raw))
    assert registry.manifest(repository, "v1").body == raw


def test_a_tag_may_move(registry: Registry, repository: str) -> None:
    """ "Definitions": a tag is a pointer; what it pointed to stays under its digest."""
    registry.push(repository, IMAGE, "v1")
    registry.push(repository, INDEX, "v1")
    assert registry.manifest(repository, "v1").body == INDEX.raw
    assert registry.manifest(repository, IMAGE.root).body == IMAGE.raw
    assert registry.tags(repository) == ["v1"]


def test_a_manifest_may_be_pushed_again(registry: Registry, repository: str) -> None:
    """end-7a: the same answer."""
    registry.push(repository, IMAGE, "v1")
    answer = registry.put(repository, "v1", IMAGE.raw, OCI_MANIFEST)
    assert_created(registry, answer, IMAGE.raw, OCI_MANIFEST, IMAGE.root)


def test_a_manifest_of_sha512(registry: Registry, repository: str) -> None:
    """ "Definitions", digest; end-7a with a digest of another algorithm, and children of it."""
    layer = random_bytes(400, seed=33)
    for data in (b"{}", layer):
        registry.push_blob(repository, data, "sha512")
    config = {"mediaType": EMPTY, "digest": sha512(b"{}"), "size": 2}
    entry = {"mediaType": OCI_LAYER, "digest": sha512(layer), "size": len(layer)}
    raw = as_json(empty_manifest(config=config, layers=[entry]))
    answer = registry.put(repository, sha512(raw), raw, OCI_MANIFEST)
    assert_created(registry, answer, raw, OCI_MANIFEST, sha512(raw))
    index = {"mediaType": OCI_MANIFEST, "digest": sha512(raw), "size": len(raw)}
    top = as_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [index]})
    answer = registry.put(repository, sha512(top), top, OCI_INDEX)
    assert_created(registry, answer, top, OCI_INDEX, sha512(top))
    for digest, one in ((sha512(raw), raw), (sha512(top), top)):
        head = registry.manifest(repository, digest, method="HEAD")
        assert (head.status, head["docker-content-digest"]) == (200, digest)
        assert registry.manifest(repository, digest).body == one


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [digest_of(b"another"), sha512(b"another")])
def test_bytes_of_another_digest_are_refused(registry: Registry, repository: str, digest: str) -> None:
    """end-7a: 400; nothing is stored under either."""
    push_parts(registry, repository)
    answer = registry.put(repository, digest, IMAGE.raw, OCI_MANIFEST)
    assert answer.status == 400
    assert answer.codes <= {"DIGEST_INVALID", "MANIFEST_INVALID"}
    for reference in (digest, IMAGE.root):
        assert registry.manifest(repository, reference).status == 404


@pytest.mark.parametrize("digest", ["sha256:baddigeststring", "md5:" + "a" * 32, "sha256:" + "A" * 64])
def test_a_malformed_digest_is_refused(registry: Registry, repository: str, digest: str) -> None:
    """end-7a: 400."""
    push_parts(registry, repository)
    answer = registry.put(repository, digest, IMAGE.raw, OCI_MANIFEST)
    assert answer.status == 400
    assert answer.codes <= {"DIGEST_INVALID", "UNSUPPORTED"}


@pytest.mark.parametrize(
    ("raw", "media_type"),
    [
        (b"", OCI_MANIFEST),
        (b"no JSON", OCI_MANIFEST),
        (b"[]", OCI_MANIFEST),
        (b"null", OCI_INDEX),
        (b'{"schemaVersion": 2', OCI_MANIFEST),
        (b"\xff\xfe{}", OCI_MANIFEST),
        (b'{"schemaVersion": 2, "manifests": {}}', OCI_INDEX),
        (b'{"schemaVersion": 2, "manifests": [{"digest": "sha256:x", "size": 1}]}', OCI_INDEX),
        (
            as_json(empty_manifest(layers=[{"digest": "../../etc/passwd", "size": 1, "mediaType": "a"}])),
            OCI_MANIFEST,
        ),
        (as_json(empty_manifest(config=None)), OCI_MANIFEST),
        (b"[" * 100_000, OCI_MANIFEST),
        (b'{"a":' * 100_000, "application/vnd.example+json"),
    ],
)
def test_what_is_no_manifest_is_refused(
    registry: Registry, repository: str, raw: bytes, media_type: str
) -> None:
    """end-7a, code-6 MANIFEST_INVALID; the repository does not come to be by it."""
    answer = registry.put(repository, "v1", raw, media_type)
    assert answer.status == 400
    assert answer.codes <= {"MANIFEST_INVALID", "DIGEST_INVALID"}
    assert registry.manifest(repository, "v1").status == 404


def test_what_a_manifest_refers_to_must_be_there(registry: Registry, repository: str) -> None:
    """ "Push": MAY be rejected, and is: then it MUST be `MANIFEST_BLOB_UNKNOWN`. Once the blob is there, it goes."""
    registry.push_blob(repository, b"{}")
    layer = random_bytes(200, seed=34)
    raw = as_json(empty_manifest(layers=[descriptor(OCI_LAYER, layer)]))
    answer = registry.put(repository, "v1", raw, OCI_MANIFEST)
    assert answer.status in {400, 404}
    assert answer.codes == {"MANIFEST_BLOB_UNKNOWN"}
    assert registry.manifest(repository, "v1").status == 404
    registry.push_blob(repository, layer)
    assert registry.put(repository, "v1", raw, OCI_MANIFEST).status == 201


def test_what_an_index_refers_to_must_be_there(registry: Registry, repository: str) -> None:
    """ "Push": the same for manifests."""
    raw = as_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [MISSING]})
    answer = registry.put(repository, "v1", raw, OCI_INDEX)
    assert answer.status in {400, 404}
    assert answer.codes == {"MANIFEST_BLOB_UNKNOWN"}


# --- subjects -------------------------------------------------------------------------------------------------


def test_a_subject_is_acknowledged(registry: Registry, repository: str) -> None:
    """ "Pushing Manifests with Subject": MUST answer `OCI-Subject: DIGEST`."""
    registry.push(repository, IMAGE, "v1")
    subject = {"mediaType": OCI_MANIFEST, "digest": IMAGE.root, "size": len(IMAGE.raw)}
    artifact = build_artifact(b"signature", "application/vnd.example.signature", subject)
    for data in artifact.blobs.values():
        registry.push_blob(repository, data)
    for reference in (artifact.root, "signature"):
        answer = registry.put(repository, reference, artifact.raw, OCI_MANIFEST)
        assert (answer.status, answer["oci-subject"]) == (201, IMAGE.root)


def test_a_subject_of_an_index_is_acknowledged(registry: Registry, repository: str) -> None:
    """ "Pushing Manifests with Subject"; image-spec: an index may have one, too."""
    raw = as_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "subject": MISSING})
    answer = registry.put(repository, "v1", raw, OCI_INDEX)
    assert (answer.status, answer["oci-subject"]) == (201, MISSING["digest"])


def test_a_subject_need_not_be_there(registry: Registry, repository: str) -> None:
    """ "Push": "MUST initially accept an otherwise valid manifest with a subject field that references a manifest
    that does not exist"; and it is served."""
    registry.push_blob(repository, b"{}")
    raw = as_json(empty_manifest(subject=MISSING, artifactType="application/vnd.example"))
    answer = registry.put(repository, "v1", raw, OCI_MANIFEST)
    assert_created(registry, answer, raw, OCI_MANIFEST, digest_of(raw))
    assert answer["oci-subject"] == MISSING["digest"]
    assert registry.manifest(repository, "v1").body == raw


def test_without_a_subject_none_is_told(registry: Registry, repository: str) -> None:
    """ "Pushing Manifests with Subject": the header tells that the subject was processed."""
    push_parts(registry, repository)
    answer = registry.put(repository, "v1", IMAGE.raw, OCI_MANIFEST)
    assert answer.get("oci-subject") is None


# --- tags by parameter ----------------------------------------------------------------------------------------


def told_tags(answer: Answer) -> list[str]:
    """OCI-Tag: a list, in one line or several (RFC 9110 5.3)."""
    return [tag.strip() for line in answer.all("oci-tag") for tag in line.split(",")]


@pytest.mark.parametrize("digest", [IMAGE.root, sha512(IMAGE.raw)], ids=["sha256", "sha512"])
@pytest.mark.parametrize("count", [1, 10, 40])
def test_a_manifest_is_pushed_by_digest_under_tags(
    registry: Registry, repository: str, digest: str, count: int
) -> None:
    """end-7b: at least 10 tags SHOULD do; OCI-Tag MUST tell each; each then means the digest."""
    push_parts(registry, repository)
    tags = [f"1.2.{number}" for number in range(count)]
    query = "&".join(f"tag={tag}" for tag in tags)
    answer = registry.put(repository, f"{digest}?{query}", IMAGE.raw, OCI_MANIFEST)
    assert_created(registry, answer, IMAGE.raw, OCI_MANIFEST, digest)
    assert sorted(told_tags(answer)) == sorted(tags)
    for tag in tags:
        pulled = registry.manifest(repository, tag)
        assert (pulled.body, pulled["docker-content-digest"]) == (IMAGE.raw, digest)
    assert registry.tags(repository) == sorted(tags)


def test_too_many_tags_are_told_or_refused(registry: Registry, repository: str) -> None:
    """end-7b: "MAY return a 414", 431 may come too; what is accepted MUST be told."""
    push_parts(registry, repository)
    tags = [f"{number:0120}" for number in range(1000)]
    query = "&".join(f"tag={tag}" for tag in tags)
    with registry.connect() as connection:
        head = connection.head("PUT", f"/v2/{repository}/manifests/{IMAGE.root}?{query}", [
            ("Content-Type", OCI_MANIFEST), ("Content-Length", str(len(IMAGE.raw)))])  # fmt: skip
        connection.send(head)
        answer = connection.read("PUT")
    assert answer.status in {400, 413, 414, 431}


@pytest.mark.parametrize("bad", ["-a", "a%2Fb", "t" * 129, ""])
def test_a_malformed_tag_among_the_parameters_is_refused(
    registry: Registry, repository: str, bad: str
) -> None:
    """end-7b: a tag MUST match the grammar; then no tag is made."""
    push_parts(registry, repository)
    answer = registry.put(repository, f"{IMAGE.root}?tag=good&tag={bad}", IMAGE.raw, OCI_MANIFEST)
    assert answer.status == 400
    assert registry.manifest(repository, "good").status == 404
