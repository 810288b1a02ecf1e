"""Other tools read a node's disk as the OCI image layout that it is, while the node runs and without it."""

import json
import subprocess
from pathlib import Path

import pytest

from meshsat.oci.digest import Digest
from meshsat.store.store import Store
from tests.images import build_image, digest_of, random_bytes, tar_layer
from tests.tools import require_tool

pytestmark = pytest.mark.clients
IMAGE = build_image(
    [tar_layer({"bin/app": random_bytes(3_000_000)}), tar_layer({"etc/app.conf": b"x"})],
    ("linux/amd64", "linux/arm64"),
)
NAME = "reg.example.test:5000/library/pos:1.2_x"


def skopeo(*arguments: str) -> bytes:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


async def test_skopeo_reads_a_published_image(tmp_path: Path) -> None:
    require_tool("skopeo")
    data_dir = tmp_path / "data"
    source = f"oci:{data_dir / 'store'}:{NAME}"
    async with await Store.open(data_dir) as store:
        for text, data in IMAGE.blobs.items():
            partial = await store.partial(Digest.parse_untrusted(text), len(data))
            for index in range(partial.cut.count):
                offset, length = partial.cut.span(index)
                await partial.write(index, data[offset : offset + length])
            await partial.publish()
        for text, data in IMAGE.manifests.items():
            await store.put(data, Digest.parse_untrusted(text))
        await store.publish_image(
            "reg.example.test:5000", "library/pos", "1.2_x", Digest.parse_untrusted(IMAGE.root)
        )
        assert skopeo("inspect", "--raw", source) == IMAGE.raw
        arm = json.loads(skopeo("inspect", "--override-arch", "arm64", source))
        assert (arm["Architecture"], arm["Layers"]) == (
            "arm64",
            [d for d in IMAGE.blobs if d in arm["Layers"]],
        )
    skopeo("copy", "--all", source, f"dir:{tmp_path / 'copy'}")
    assert digest_of((tmp_path / "copy" / "manifest.json").read_bytes()) == IMAGE.root
    for text, data in IMAGE.blobs.items():
        assert (tmp_path / "copy" / text.partition(":")[2]).read_bytes() == data
