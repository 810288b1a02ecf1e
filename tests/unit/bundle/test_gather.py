import pytest

from meshsat.bundle.gather import ATTESTED, Choice, Gathered, gather, parse_platform_untrusted
from meshsat.errors import InvalidInputError, NotFoundError
from meshsat.oci.digest import Digest
from meshsat.oci.reference import Reference
from tests.bundle_place import APP, MemoryPlace
from tests.images import Image, build_artifact, build_image, descriptor, digest_of, tar_layer

LAYER = tar_layer({"shared": b"1" * 1000})
OWN = {"linux/amd64": [b"amd64"], "linux/arm/v7": [b"armv7"], "linux/arm/v6": [b"armv6"]}
MULTI = build_image([LAYER], tuple(OWN), own_layers=OWN)


def gathered(place: MemoryPlace, *names: str, **choice: object) -> Gathered:
    return gather(place, map(Reference.parse_untrusted, names), Choice(**choice))  # type: ignore[arg-type]


def digests(*images: Image) -> set[str]:
    return {digest for image in images for digest in image.blobs}


def test_all_that_belongs_to_an_image_parents_before_children_and_configs_before_layers() -> None:
    place = MemoryPlace()
    place.hold(MULTI, APP, 7.5)
    found = gathered(place, APP)
    assert [(str(entry.reference), entry.resolved_at) for entry in found.images] == [(APP, 7.5)]
    assert next(iter(found.manifests)) == Digest.parse_untrusted(MULTI.root)
    assert set(map(str, found.manifests)) == MULTI.manifests.keys()
    assert set(map(str, found.blobs)) == MULTI.blobs.keys()
    kinds = ["config" in blob.media_type for _, blob in found.blobs.values()]
    assert kinds[0]
    assert not found.left_out


def test_an_image_asked_for_twice_is_in_once_and_a_digest_counts_more_than_a_tag() -> None:
    place = MemoryPlace()
    root = place.hold(MULTI, APP)
    found = gathered(place, APP, APP, f"{APP}@{root}")
    assert [str(entry.reference) for entry in found.images] == [APP, f"reg.test/pos/app@{root}"]


def test_other_platforms_are_left_out_and_that_is_told() -> None:
    place = MemoryPlace()
    place.hold(MULTI, APP)
    found = gathered(place, APP, platforms=[parse_platform_untrusted("linux/arm/v7")])
    assert len(found.manifests) == 2
    assert digest_of(b"armv7") in set(map(str, found.blobs))
    assert not {digest_of(b"amd64"), digest_of(b"armv6")} & set(map(str, found.blobs))
    assert set(map(str, found.left_out)) == MULTI.manifests.keys() - set(map(str, found.manifests))
    both = gathered(place, APP, platforms=[parse_platform_untrusted("linux/arm")])
    assert len(both.manifests) == 3
    with pytest.raises(NotFoundError, match="it has: linux/amd64, linux/arm/v6, linux/arm/v7"):
        gathered(place, APP, platforms=[parse_platform_untrusted("linux/s390x")])


def test_what_attests_a_platform_goes_with_it() -> None:
    place = MemoryPlace()
    place.hold(MULTI, APP)
    index = place.manifest(next(iter(place.manifests))[0], "1")
    assert index is not None
    amd64 = next(
        child
        for child in index.manifest.manifests
        if child.platform and child.platform.architecture == "amd64"
    )
    attest = build_artifact(b"{}", "a/attestation")
    entry = descriptor(
        attest.media_type, attest.raw,
        platform={"os": "unknown", "architecture": "unknown"}, annotations={ATTESTED: str(amd64.digest)},
    )  # fmt: skip
    import json

    document = json.loads(MULTI.raw)
    document["manifests"].append(entry)
    raw = json.dumps(document).encode()
    both = Image(
        digest_of(raw),
        {**MULTI.manifests, **attest.manifests, digest_of(raw): raw},
        {**MULTI.blobs, **attest.blobs},
        {**MULTI.media_types, **attest.media_types, digest_of(raw): MULTI.media_type},
    )
    place.hold(both, APP)
    with_it = gathered(place, APP, platforms=[parse_platform_untrusted("linux/amd64")])
    assert attest.root in set(map(str, with_it.manifests))
    without = gathered(place, APP, platforms=[parse_platform_untrusted("linux/arm")])
    assert attest.root not in set(map(str, without.manifests))


def test_signatures_and_sboms_come_along_and_their_own_too() -> None:
    place = MemoryPlace()
    place.hold(MULTI, APP)
    child = next(text for text in MULTI.manifests if text != MULTI.root)
    sbom = build_artifact(b"sbom", "a/sbom", descriptor(MULTI.media_types[child], MULTI.manifests[child]))
    of_sbom = build_artifact(b"signed", "a/signature", descriptor(sbom.media_type, sbom.raw))
    cosign = build_image([b"signature"])
    place.hold(sbom, f"reg.test/pos/app@{sbom.root}")
    place.hold(of_sbom, f"reg.test/pos/app@{of_sbom.root}")
    place.hold(cosign, f"reg.test/pos/app:sha256-{MULTI.root[7:]}.sig")
    place.hold(build_image([b"other"]), "reg.test/pos/app:2")
    found = gathered(place, APP)
    assert {str(entry.reference) for entry in found.beside} == {
        f"reg.test/pos/app@{sbom.root}",
        f"reg.test/pos/app@{of_sbom.root}",
        f"reg.test/pos/app:sha256-{MULTI.root[7:]}.sig",
    }
    assert set(map(str, found.blobs)) == digests(MULTI, sbom, of_sbom, cosign)
    assert len(found.images) == 1
    assert not gathered(place, APP, referrers=False).beside


def test_since_leaves_out_blobs_and_says_what_the_receiver_must_have() -> None:
    place = MemoryPlace()
    old = build_image([LAYER, b"old"])
    new = build_image([LAYER, b"new"])
    root = place.hold(old, "reg.test/pos/app:0")
    place.hold(new, APP)
    found = gathered(place, APP, since=[Reference.parse_untrusted("reg.test/pos/app:0")])
    assert found.since == [f"reg.test/pos/app:0@{root}"]
    assert set(map(str, found.left_out)) == {digest_of(LAYER)}
    assert set(map(str, found.blobs)) == new.blobs.keys() - {digest_of(LAYER)}
    assert set(map(str, found.manifests)) == new.manifests.keys()


def test_what_is_not_here_is_an_error_with_a_way_on() -> None:
    place = MemoryPlace()
    place.hold(MULTI, APP)
    with pytest.raises(NotFoundError, match=r"meshsat pull reg\.test/other:1 says why"):
        gathered(place, "reg.test/other:1")
    child = next(key for key in place.manifests if str(key[1]) != MULTI.root)
    del place.manifests[child]
    with pytest.raises(NotFoundError, match="--platform leaves out the others"):
        gathered(place, APP)


@pytest.mark.parametrize("text", ["linux", "linux/", "/amd64", "a/b/c/d", "", "a/" + "b" * 300])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_platform_untrusted(text)
