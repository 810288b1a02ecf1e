from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.oci.referrers import fallback_index, fallback_tag
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
