from typing import Any

import pytest

from meshsat.errors import InvalidInputError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.media_types import OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST

LAYER: dict[str, Any] = {"mediaType": OCI_LAYER_GZIP, "digest": str(Digest.of(b"x")), "size": 1}
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def test_the_least() -> None:
    descriptor = Descriptor.parse_untrusted(LAYER)
    assert descriptor == Descriptor(OCI_LAYER_GZIP, Digest.of(b"x"), 1)
    assert not descriptor.is_manifest
    assert len({descriptor, descriptor}) == 1


def test_everything_and_the_unknown_fields() -> None:
    descriptor = Descriptor.parse_untrusted(
        LAYER
        | {
            "mediaType": OCI_MANIFEST,
            "platform": {"os": "linux", "architecture": "arm", "variant": "v7"},
            "annotations": {"a": "b"},
            "artifactType": "application/spdx+json",
            "urls": ["https://example.test/x"],
            "data": "eA==",
            "later": {"deep": [1, 2]},
        }
    )
    assert descriptor.is_manifest
    assert str(descriptor.platform) == "linux/arm/v7"
    assert descriptor.annotations == {"a": "b"}
    assert descriptor.artifact_type == "application/spdx+json"
    assert descriptor.extra == {"data": "eA==", "later": {"deep": [1, 2]}}


def test_foreign_layers_are_those_with_a_type_and_an_address_of_their_own() -> None:
    address = {"urls": ["https://example.test/x"]}
    assert Descriptor.parse_untrusted(LAYER | {"mediaType": FOREIGN} | address).is_foreign
    assert not Descriptor.parse_untrusted(LAYER | {"mediaType": FOREIGN}).is_foreign
    assert not Descriptor.parse_untrusted(LAYER | address).is_foreign


@pytest.mark.parametrize(
    "change",
    [
        {"mediaType": None},
        {"mediaType": OCI_INDEX + "\r\nX: y"},
        {"digest": None},
        {"digest": "md5:" + "0" * 32},
        {"size": None},
        {"size": -1},
        {"size": 1.0},
        {"size": 1e300},
        {"size": True},
        {"size": "1"},
        {"size": 2**63},
        {"size": 10**400},
        {"platform": "linux"},
        {"annotations": []},
        {"annotations": {"a": 1}},
        {"urls": "https://example.test"},
        {"urls": [None]},
        {"artifactType": 7},
    ],
)
def test_wrong_fields_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        Descriptor.parse_untrusted(LAYER | change)


@pytest.mark.parametrize("value", [None, [], "x", 7])
def test_only_objects(value: object) -> None:
    with pytest.raises(InvalidInputError):
        Descriptor.parse_untrusted(value)
