from dataclasses import replace

from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.media_types import OCI_MANIFEST
from meshsat.oci.reference import Reference
from meshsat.store.records import ImageRow


def test_names_of_images_parse_as_references() -> None:
    tagged = ImageRow("reg.test", "a/b", "v1", Descriptor(OCI_MANIFEST, Digest.of(b"x"), 1), 5, 0.0)
    assert tagged.name == "reg.test/a/b:v1"
    untagged = replace(tagged, tag=None)
    assert Reference.parse_untrusted(untagged.name) == Reference("reg.test", "a/b", None, Digest.of(b"x"))
