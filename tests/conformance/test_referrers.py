"""What refers to a manifest (distribution-spec, "Listing Referrers", "Enabling the Referrers API"; end-12a, end-12b)."""

import json
from typing import Any

import pytest

from tests.conformance.registry import Registry, sha512, with_query
from tests.conformance.wire import Answer
from tests.images import EMPTY, OCI_INDEX, OCI_MANIFEST, build_image, descriptor, digest_of, random_bytes

pytestmark = pytest.mark.slow

IMAGE = build_image([random_bytes(600, seed=50)])
SUBJECT = {"mediaType": OCI_MANIFEST, "digest": IMAGE.root, "size": len(IMAGE.raw)}
SBOM, SIGNATURE = "application/vnd.example.sbom.v1", "application/vnd.example.signature.v1"
CLIENTS_LIMIT = 4 * 1024 * 1024
"""Bytes of a manifest that clients take."""


def artifact(number: int, subject: dict[str, Any] | None = SUBJECT, **more: Any) -> bytes:
    """A manifest of the empty blob, with `number` in it so that no two are the same."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(EMPTY, b"{}"),
        "layers": [descriptor(EMPTY, b"{}")],
        "annotations": {"org.example.number": str(number)},
        **({"subject": subject} if subject else {}),
        **more,
    }
    return json.dumps(document).encode()


def index(number: int, subject: dict[str, Any] | None = SUBJECT, **more: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [],
        "annotations": {"org.example.number": str(number)},
        **({"subject": subject} if subject else {}),
        **more,
    }
    return json.dumps(document).encode()


def attach(registry: Registry, repository: str, raw: bytes, reference: str | None = None) -> str:
    registry.push_blob(repository, b"{}")
    media_type = json.loads(raw)["mediaType"]
    answer = registry.put(repository, reference or digest_of(raw), raw, media_type)
    assert answer.status == 201, answer
    return digest_of(raw)


def ask(registry: Registry, repository: str, digest: str = IMAGE.root, **options: str) -> Answer:
    """An answer that MUST be an image index, whatever is in it."""
    target = f"/v2/{repository}/referrers/{digest}"
    answer = registry.ask("GET", with_query(target, **options) if options else target)
    assert answer.status == 200, answer
    assert answer["content-type"] == OCI_INDEX
    assert answer.json["schemaVersion"] == 2
    assert answer.json["mediaType"] == OCI_INDEX
    assert isinstance(answer.json["manifests"], list)
    return answer


def listed(registry: Registry, repository: str, digest: str = IMAGE.root, **options: str) -> dict[str, Any]:
    """Digest -> descriptor, of all pages."""
    target = f"/v2/{repository}/referrers/{digest}"
    pages = registry.pages(with_query(target, **options) if options else target)
    entries = [entry for page in pages for entry in page.json["manifests"]]
    assert len({entry["digest"] for entry in entries}) == len(entries), "one is listed twice"
    return {entry["digest"]: entry for entry in entries}


# --- nothing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [IMAGE.root, digest_of(b"never pushed"), sha512(b"never pushed")])
def test_nothing_refers_to_it(registry: Registry, repository: str, digest: str) -> None:
    """end-12a: "if a query results in no matching referrers, an empty manifest list MUST be returned"."""
    registry.push(repository, IMAGE, "v1")
    assert ask(registry, repository, digest).json["manifests"] == []


def test_a_repository_that_is_not_there_has_none(registry: Registry, repository: str) -> None:
    """end-12a: "MUST NOT return a 404 Not Found to a referrers API request"."""
    assert ask(registry, repository).json["manifests"] == []


@pytest.mark.parametrize("digest", ["sha256:abc", "nonsense", "v1", "md5:" + "a" * 32, "sha256:" + "A" * 64])
def test_a_malformed_digest_is_400(registry: Registry, repository: str, digest: str) -> None:
    """end-12a: "an invalid syntax": MUST be 400."""
    answer = registry.ask("GET", f"/v2/{repository}/referrers/{digest}")
    assert answer.status == 400
    assert answer.codes <= {"DIGEST_INVALID", "UNSUPPORTED"}


# --- what is listed, and how ------------------------------------------------------------------------------------


def test_each_is_described(registry: Registry, repository: str) -> None:
    """end-12a: descriptors of the manifests, with media type, digest, size; the annotations MUST be included."""
    registry.push(repository, IMAGE, "v1")
    raw = artifact(1, artifactType=SBOM, annotations={"a": "1", "org.example.é": "ü" * 100})
    digest = attach(registry, repository, raw)
    (entry,) = listed(registry, repository).values()
    assert entry == {
        "mediaType": OCI_MANIFEST,
        "digest": digest,
        "size": len(raw),
        "artifactType": SBOM,
        "annotations": {"a": "1", "org.example.é": "ü" * 100},
    }


CONFIG_TYPE = "application/vnd.example.config.v1+json"
TYPES = [
    (artifact(2, artifactType=SBOM), SBOM),
    (artifact(3), EMPTY),
    (artifact(4, config=descriptor(CONFIG_TYPE, b"{}")), CONFIG_TYPE),
    (artifact(5, artifactType="", config=descriptor(CONFIG_TYPE, b"{}")), CONFIG_TYPE),
    (artifact(6, artifactType=SBOM, config=descriptor(CONFIG_TYPE, b"{}")), SBOM),
    (index(7, artifactType=SBOM), SBOM),
    (index(8), None),
    (index(9, artifactType=""), None),
]


@pytest.mark.parametrize(("raw", "expected"), TYPES, ids=range(len(TYPES)))
def test_each_has_its_artifact_type(
    registry: Registry, repository: str, raw: bytes, expected: str | None
) -> None:
    """end-12a: the manifest's `artifactType`; where empty or missing, of an image manifest its config's media
    type, and of an index MUST be omitted."""
    digest = attach(registry, repository, raw)
    entry = listed(registry, repository)[digest]
    assert entry.get("artifactType") == expected
    assert "artifactType" in entry or expected is None
    assert entry["mediaType"] == json.loads(raw)["mediaType"]


def test_only_those_of_the_digest_and_the_repository(registry: Registry, repository: str) -> None:
    """end-12a: "in the same <name> namespace with a subject field that specifies the value of <digest>"."""
    one = attach(registry, f"{repository}/one", artifact(10))
    two = attach(registry, f"{repository}/two", artifact(11))
    of_one = {"mediaType": OCI_MANIFEST, "digest": one, "size": len(artifact(10))}
    chained = attach(registry, f"{repository}/one", artifact(12, subject=of_one))
    attach(registry, f"{repository}/one", artifact(13, subject=None))
    assert set(listed(registry, f"{repository}/one")) == {one}
    assert set(listed(registry, f"{repository}/two")) == {two}
    assert set(listed(registry, f"{repository}/one", one)) == {chained}


def test_a_referrer_may_come_before_its_subject(registry: Registry, repository: str) -> None:
    """ "Push": "in either order"."""
    digest = attach(registry, repository, artifact(14))
    assert set(listed(registry, repository)) == {digest}
    registry.push(repository, IMAGE, "v1")
    assert set(listed(registry, repository)) == {digest}


def test_a_referrer_under_a_tag_is_listed_and_stays_when_the_tag_moves(
    registry: Registry, repository: str
) -> None:
    """end-12a: "all newly pushed image manifests with a valid subject field", however they were pushed."""
    first = attach(registry, repository, artifact(15), "signature")
    second = attach(registry, repository, artifact(16), "signature")
    assert set(listed(registry, repository)) == {first, second}


def test_a_deleted_referrer_is_not_listed(registry: Registry, repository: str) -> None:
    """end-9, end-12a: what is not in the repository is not listed."""
    gone, stays = (attach(registry, repository, artifact(number)) for number in (17, 18))
    assert registry.delete(repository, gone).status == 202
    assert set(listed(registry, repository)) == {stays}


def test_subjects_of_sha512(registry: Registry, repository: str) -> None:
    """end-12a, with a digest of another algorithm."""
    digest = sha512(IMAGE.raw)
    raw = artifact(19, subject={**SUBJECT, "digest": digest})
    attached = attach(registry, repository, raw)
    assert set(listed(registry, repository, digest)) == {attached}
    assert listed(registry, repository) == {}


# --- filters --------------------------------------------------------------------------------------------------


def test_by_artifact_type(registry: Registry, repository: str) -> None:
    """end-12b: "SHOULD support filtering"; then `OCI-Filters-Applied: artifactType` MUST be told."""
    sboms = {attach(registry, repository, artifact(number, artifactType=SBOM)) for number in (20, 21)}
    sboms.add(attach(registry, repository, index(22, artifactType=SBOM)))
    signature = attach(registry, repository, artifact(23, config=descriptor(SIGNATURE, b"{}")))
    attach(registry, repository, index(24))
    assert len(listed(registry, repository)) == 5
    answer = ask(registry, repository, artifactType=SBOM)
    assert answer["oci-filters-applied"] == "artifactType"
    assert {entry["digest"] for entry in answer.json["manifests"]} == sboms
    assert set(listed(registry, repository, artifactType=SIGNATURE)) == {signature}
    nothing = ask(registry, repository, artifactType="application/vnd.example.nothing+json")
    assert (nothing.json["manifests"], nothing["oci-filters-applied"]) == ([], "artifactType")


def test_a_plus_in_the_type_means_itself(registry: Registry, repository: str) -> None:
    """end-12b: `+` is an unreserved character of a query (RFC 3986 3.4), and no type has a space."""
    kind = "application/spdx+json"
    digest = attach(registry, repository, artifact(26, artifactType=kind))
    attach(registry, repository, artifact(27, artifactType=SBOM))
    for told in ("application/spdx+json", "application%2Fspdx%2Bjson"):
        answer = registry.ask("GET", f"/v2/{repository}/referrers/{IMAGE.root}?artifactType={told}")
        assert {entry["digest"] for entry in answer.json["manifests"]} == {digest}


def test_without_a_filter_none_is_told(registry: Registry, repository: str) -> None:
    """end-12b: the header tells that a filter was applied."""
    attach(registry, repository, artifact(25))
    assert ask(registry, repository).get("oci-filters-applied") is None


# --- more than fits one answer --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, SBOM])
def test_more_than_clients_take_comes_page_by_page(
    registry: Registry, repository: str, kind: str | None
) -> None:
    """end-12a: "a Link header MUST be included when the descriptor list cannot be returned in a single manifest";
    with a filter, each page tells it."""
    filler = {"org.example.filler": "x" * 400_000}
    every = set()
    for number in range(14):
        annotations = {"org.example.number": str(number), **filler}
        artifact_type = SBOM if number % 7 else SIGNATURE
        raw = artifact(number, artifactType=artifact_type, annotations=annotations)
        digest = attach(registry, repository, raw)
        if kind in {None, artifact_type}:
            every.add(digest)
    target = f"/v2/{repository}/referrers/{IMAGE.root}"
    pages = list(registry.pages(with_query(target, artifactType=kind) if kind else target))
    digests = [entry["digest"] for page in pages for entry in page.json["manifests"]]
    assert sorted(digests) == sorted(every)
    for page in pages:
        assert page["content-type"] == OCI_INDEX
        assert page.json["mediaType"] == OCI_INDEX
        assert len(page.body) <= CLIENTS_LIMIT
        assert page.get("oci-filters-applied") == ("artifactType" if kind else None)


# --- the tag of older clients ---------------------------------------------------------------------------------


def fallback_tag(digest: str) -> str:
    """ "Referrers Tag Schema"."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


def fallback_index(*manifests: bytes) -> bytes:
    entries = [{"mediaType": OCI_MANIFEST, "digest": digest_of(raw), "size": len(raw)} for raw in manifests]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


@pytest.mark.parametrize("digest", [IMAGE.root, sha512(IMAGE.raw)], ids=["sha256", "sha512"])
def test_what_an_older_client_listed_under_the_tag_is_listed(
    registry: Registry, repository: str, digest: str
) -> None:
    """ "Enabling the Referrers API": what such a tag lists, with a valid `subject`, MUST be included; once."""
    raw = artifact(30, subject={**SUBJECT, "digest": digest}, artifactType=SBOM)
    other = artifact(31, subject=None, artifactType=SBOM)
    attached = attach(registry, repository, raw)
    attach(registry, repository, other)
    tag = fallback_tag(digest)
    attach(registry, repository, fallback_index(raw, other), tag)
    entries = listed(registry, repository, digest)
    assert set(entries) == {attached}
    assert entries[attached]["artifactType"] == SBOM
    assert registry.manifest(repository, tag).body == fallback_index(raw, other)


def test_an_older_client_may_keep_its_tag(registry: Registry, repository: str) -> None:
    """ "Referrers Tag Schema": an older client pulls, adds, and pushes the tag's index; nobody interferes."""
    tag = fallback_tag(IMAGE.root)
    manifests: list[bytes] = []
    for number in (32, 33):
        manifests.append(artifact(number))
        attach(registry, repository, manifests[-1])
        attach(registry, repository, fallback_index(*manifests), tag)
        assert registry.manifest(repository, tag).body == fallback_index(*manifests)
    assert set(listed(registry, repository)) == {digest_of(raw) for raw in manifests}
