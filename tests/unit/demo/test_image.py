import gzip
import hashlib
import io
import json
import tarfile

import pytest

from meshsat.demo.image import Image, make_image
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.oci.media_types import OCI_INDEX

SIZE = 1_000_000


@pytest.fixture(scope="module")
def image() -> Image:
    return make_image(SIZE)


def manifests(image: Image) -> list[Manifest]:
    index = parse_manifest_untrusted(image.manifests[image.index][1], OCI_INDEX)
    return [parse_manifest_untrusted(image.manifests[child.digest][1]) for child in index.manifests]


def test_the_size_is_the_one_asked_for(image: Image) -> None:
    assert abs(image.size - SIZE) < 0.03 * SIZE


def test_the_same_size_gives_the_same_image(image: Image) -> None:
    assert make_image(SIZE).digests == image.digests
    assert make_image(SIZE + 1000).digests != image.digests


def test_every_digest_is_that_of_its_bytes(image: Image) -> None:
    held = {**image.blobs, **{digest: raw for digest, (_, raw) in image.manifests.items()}}
    assert all(Digest.of(data) == digest for digest, data in held.items())


def test_two_platforms_share_layers_and_refer_to_nothing_else(image: Image) -> None:
    amd64, arm64 = ({blob.digest for blob in manifest.blobs} for manifest in manifests(image))
    assert len(amd64 & arm64) == 2
    assert amd64 | arm64 == set(image.blobs)


def test_the_index_is_pushed_last(image: Image) -> None:
    assert list(image.manifests)[-1] == image.index


def test_layers_are_tars_under_the_diff_ids_that_the_config_names(image: Image) -> None:
    for manifest in manifests(image):
        config, *layers = (image.blobs[blob.digest] for blob in manifest.blobs)
        plain = [gzip.decompress(layer) for layer in layers]
        told = json.loads(config)["rootfs"]["diff_ids"]
        assert told == [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in plain]
        for data in plain:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                assert len(tar.getnames()) == 2


def test_some_of_it_compresses_and_some_does_not(image: Image) -> None:
    growth = sorted(
        len(gzip.decompress(image.blobs[blob.digest])) / blob.size
        for blob in {layer for manifest in manifests(image) for layer in manifest.blobs[1:]}
    )
    assert growth[0] < 1.05
    assert growth[-1] > 2
