import json
from typing import Any

import pytest

from meshsat.bundle.docker_archive import Saved, parse_layers_untrusted, parse_saved_untrusted
from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest

LAYERS = [b"one", b"two"]
CONFIG = json.dumps({"rootfs": {"diff_ids": [str(Digest.of(layer)) for layer in LAYERS]}}).encode()
TOLD = [{"Config": "c.json", "RepoTags": ["busybox:1", "reg.test/b:2"], "Layers": ["1.tar", "2/layer.tar"]}]


def saved(told: Any = None) -> Saved:
    return Saved(parse_saved_untrusted(json.dumps(TOLD if told is None else told).encode()))


def test_a_manifest_is_made_of_the_config_and_the_layers_as_they_are() -> None:
    archive = saved()
    assert archive.due
    archive.saw("1.tar", 3)
    assert not archive.make()
    archive.configs["c.json"] = CONFIG
    assert not archive.make()
    archive.saw("2/layer.tar", 3)
    assert archive.make()
    ((image, manifest),) = archive.made
    assert isinstance(manifest, Manifest)
    assert [str(name) for name in image.references] == ["docker.io/library/busybox:1", "reg.test/b:2"]
    assert [blob.digest for blob in manifest.blobs] == [Digest.of(CONFIG), *map(Digest.of, LAYERS)]
    assert [blob.size for blob in manifest.blobs] == [len(CONFIG), 3, 3]
    # Whoever imports the same archive elsewhere gets the same digest.
    assert str(manifest.digest) == "sha256:" + Digest.of(manifest.raw).hex
    assert archive.names == {
        "c.json": Digest.of(CONFIG), "1.tar": Digest.of(b"one"), "2/layer.tar": Digest.of(b"two"),
    }  # fmt: skip


def test_a_layer_that_is_there_twice_is_a_link_the_second_time() -> None:
    config = json.dumps({"rootfs": {"diff_ids": [str(Digest.of(b"one"))] * 2}}).encode()
    archive = saved([{"Config": "c", "Layers": ["1", "2"], "RepoTags": None}])
    archive.configs["c"] = config
    archive.saw("1", 3)
    assert archive.make()
    assert archive.names.keys() == {"c", "1"}
    assert archive.made[0][0].references == []


def test_what_is_not_there_is_named_at_last() -> None:
    archive = saved()
    archive.configs["c.json"] = CONFIG
    archive.saw("1.tar", 3)
    assert archive.make(at_last=True)
    assert archive.made[0][1] == "not in the archive: 2/layer.tar"


def test_one_images_fault_is_its_own() -> None:
    archive = saved([*TOLD, {"Config": "d", "Layers": []}])
    archive.configs["c.json"] = b"{}"
    archive.configs["d"] = b'{"rootfs": {}}'
    assert archive.make()
    (_, first), (_, second) = archive.made
    assert isinstance(first, str)
    assert isinstance(second, Manifest)


@pytest.mark.parametrize(
    "raw", [b"[1]", b"[{}]", b'[{"Config": 1}]', b'[{"Config": "c", "RepoTags": ["A"]}]', b"[", b"[]}", b"1"]
)
def test_what_makes_no_sense_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_saved_untrusted(raw)


@pytest.mark.parametrize(
    "config",
    [b"", b"{}", b'{"rootfs": 1}', b'{"rootfs": {"diff_ids": ["x"]}}', b'{"rootfs": {"diff_ids": []}}'],
)
def test_so_is_a_config_that_does_not_fit(config: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_layers_untrusted(config, 1)
