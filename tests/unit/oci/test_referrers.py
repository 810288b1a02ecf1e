from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import MANIFEST_LIMIT, parse_manifest_untrusted
from meshsat.oci.referrers import fallback_index, fallback_tag, index_of, subject_of
from tests.images import build_artifact, build_image, descriptor

IMAGE = build_image([b"layer"])


def test_the_tag_is_the_specifications() -> None:
    digest = Digest.of(b"x")
    assert fallback_tag(digest) == f"sha256-{digest.hex}"
    assert fallback_tag(Digest.of(b"x", "sha512")) == f"sha512-{Digest.of(b'x', 'sha512').hex[:64]}"


def test_it_lists_referrers_with_their_types_in_any_order_the_same() -> None:
    subject = descriptor(IMAGE.media_type, IMAGE.raw)
    both = [
        parse_manifest_untrusted(build_artifact(kind.encode(), kind, subject).raw)
        for kind in ("a/sbom", "a/sig")
    ]
    index = fallback_index(both)
    assert fallback_index(both[::-1]).raw == index.raw
    assert {(one.digest, one.artifact_type) for one in index.manifests} == {
        (both[0].digest, "a/sbom"),
        (both[1].digest, "a/sig"),
    }


def test_the_tag_tells_its_subject_where_it_holds_it_whole() -> None:
    digest = Digest.of(b"x")
    assert subject_of(fallback_tag(digest)) == digest
    for tag in (f"{fallback_tag(digest)}.sig", fallback_tag(Digest.of(b"x", "sha512")), "42", "sha256-AB"):
        assert subject_of(tag) is None


def test_an_index_holds_no_more_than_a_manifest_may() -> None:
    many = [
        Descriptor(IMAGE.media_type, Digest.of(bytes([n])), 1, annotations={"x": "y" * 500_000})
        for n in range(12)
    ]
    index = index_of(many)
    assert len(index.raw) <= MANIFEST_LIMIT
    assert len(index.manifests) == 8
