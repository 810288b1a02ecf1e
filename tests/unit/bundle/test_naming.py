import pytest

from meshsat.bundle.layout import Entry
from meshsat.bundle.naming import Renaming, beside, named
from meshsat.errors import InvalidInputError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.media_types import OCI_MANIFEST
from meshsat.oci.reference import Reference


def entry(reference: str | None = None, tag: str | None = None) -> Entry:
    root = Descriptor(OCI_MANIFEST, Digest.of(f"{reference}{tag}".encode()), 4)
    return Entry(root, None if reference is None else Reference.parse_untrusted(reference), tag)


def names(renaming: str | None, *entries: Entry) -> list[str]:
    parsed = None if renaming is None else Renaming.parse_untrusted(renaming)
    return [str(one.reference) for one in named(entries, parsed)]


def test_without_a_word_images_are_called_as_they_say() -> None:
    assert names(None, entry("reg.test/a:1"), entry(None, "v1")) == ["reg.test/a:1", "None"]


def test_a_full_reference_is_for_one_image() -> None:
    assert names("site.internal/b:2", entry("reg.test/a:1")) == ["site.internal/b:2"]
    one = entry("reg.test/a:1")
    assert names("site.internal/b:2", one, one) == ["site.internal/b:2"]
    with pytest.raises(InvalidInputError, match="there are 2 images"):
        names("site.internal/b:2", entry("reg.test/a:1"), entry("reg.test/a:2"))


def test_a_name_alone_leaves_each_its_tag() -> None:
    entries = [entry("reg.test/a:1"), entry(None, "v2"), entry(), entry("busybox")]
    assert names("reg.test:5000/b", *entries) == [
        "reg.test:5000/b:1", "reg.test:5000/b:v2", "reg.test:5000/b:latest", "reg.test:5000/b:latest",
    ]  # fmt: skip


def test_what_has_a_digest_for_a_name_keeps_it() -> None:
    digest = Digest.of(b"x")
    assert names("reg.test/b", entry(f"reg.test/a@{digest}")) == [f"reg.test/b@{digest}"]


def test_what_refers_to_an_image_goes_where_that_goes() -> None:
    renaming = Renaming.parse_untrusted("reg.test/b:2")
    signature = entry("reg.test/a:sha256-00.sig")
    assert str(beside(signature, renaming).reference) == "reg.test/b:sha256-00.sig"
    assert beside(signature, None) == signature
