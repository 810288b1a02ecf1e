import json

import pytest

from meshsat.errors import InvalidInputError, NotFoundError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.oci.media_types import OCI_INDEX, OCI_MANIFEST
from meshsat.oci.reference import Reference
from meshsat.store.images import Closure, closure, decode_index_untrusted, encode_index, facts_of
from meshsat.store.records import ImageRow
from tests.images import Image, build_image

INDEX = build_image([b"layer"], ("linux/amd64", "linux/arm64"), own_layers={"linux/arm64": [b"more"]})


def walk(image: Image, root: str | None = None, leave_out: str | None = None) -> Closure:
    contents = {
        Digest.parse_untrusted(text): data for text, data in image.contents.items() if text != leave_out
    }
    sizes = {digest: len(data) for digest, data in contents.items()}
    return closure(Digest.parse_untrusted(root or image.root), sizes, contents.__getitem__)


def test_all_of_an_index_each_thing_once() -> None:
    whole = walk(INDEX)
    assert str(whole.root.digest) == INDEX.root
    assert len(whole.manifests) == 3
    assert whole.size == INDEX.size


@pytest.mark.parametrize("number", range(len(INDEX.contents)))
def test_whatever_is_missing_is_named(number: int) -> None:
    missing = list(INDEX.contents)[number]
    with pytest.raises(NotFoundError, match=missing):
        walk(INDEX, leave_out=missing)


def test_a_blob_is_no_manifest() -> None:
    with pytest.raises(InvalidInputError):
        walk(INDEX, root=next(iter(INDEX.blobs)))


def test_a_giant_is_not_read_to_find_out() -> None:
    root = Digest.of(b"x")
    with pytest.raises(InvalidInputError, match="too long"):
        closure(root, {root: 2**33}, dict[Digest, bytes]().__getitem__)


def test_facts_tell_of_the_manifest_and_all_below_it() -> None:
    manifest = parse_manifest_untrusted(INDEX.raw)
    facts = facts_of(manifest, "reg.test", "a")
    assert [fact.digest for fact in facts] == [
        manifest.digest,
        *(child.digest for child in manifest.manifests),
    ]
    assert all(fact.sources == (("reg.test", "a"),) for fact in facts)


def test_index_json_comes_back_and_is_the_same_for_the_same_images() -> None:
    one, two = Descriptor(OCI_MANIFEST, Digest.of(b"1"), 1), Descriptor(OCI_INDEX, Digest.of(b"2"), 2)
    rows = [ImageRow("reg.test", "a", "v1", one, 10, 1.0), ImageRow("reg.test", "b", None, two, 20, 2.0)]
    raw = encode_index(rows)
    assert raw == encode_index(reversed(rows))
    named = decode_index_untrusted(raw)
    assert [(reference.name, reference.tag) for reference, _ in named] == [
        ("reg.test/a", "v1"),
        ("reg.test/b", None),
    ]
    assert [(found.media_type, found.digest, found.size) for _, found in named] == [
        (OCI_MANIFEST, one.digest, 1),
        (OCI_INDEX, two.digest, 2),
    ]


def test_entries_without_a_name_are_passed_over_and_bad_ones_refused() -> None:
    entry = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"1")), "size": 1}
    assert decode_index_untrusted(json.dumps({"manifests": [entry]}).encode()) == []
    named = entry | {"annotations": {"org.opencontainers.image.ref.name": "reg.test/a:1"}}
    found = decode_index_untrusted(json.dumps({"manifests": [named]}).encode())
    assert found[0][0] == Reference("reg.test", "a", "1")
    for wrong in (
        named | {"size": -1},
        named | {"annotations": {"org.opencontainers.image.ref.name": "A B"}},
    ):
        with pytest.raises(InvalidInputError):
            decode_index_untrusted(json.dumps({"manifests": [wrong]}).encode())
