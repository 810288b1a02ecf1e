"""The image of the demo: two platforms that share layers, of random and of compressible bytes.

Law: the same size gives the same image, byte for byte, with the same zlib. It is a real image: each layer is
a gzipped tar that a container runtime can unpack.
"""

import gzip
import hashlib
import io
import json
import random
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshsat.oci.digest import Digest
from meshsat.oci.media_types import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST

REPOSITORY = "demo/pos"
TAG = "1"
ARCHITECTURES = ("amd64", "arm64")
BASE, MODEL, DATA = 0.20, 0.45, 0.15
"""Shares of the image's size: a base for each architecture, and two layers that both have."""
LEVEL = 1
"""Of gzip: most of it does not compress anyway."""


@dataclass(frozen=True, slots=True)
class Image:
    index: Digest
    manifests: Mapping[Digest, tuple[str, bytes]]
    """Media type and bytes; the index comes last, as it must be pushed."""
    blobs: Mapping[Digest, bytes]

    @property
    def size(self) -> int:
        """Bytes of all manifests and blobs: what one node has to get."""
        return sum(map(len, self.blobs.values())) + sum(len(raw) for _, raw in self.manifests.values())

    @property
    def digests(self) -> frozenset[Digest]:
        return frozenset(self.manifests) | frozenset(self.blobs)


def make_image(size: int) -> Image:
    """An image of about `size` bytes (>= 100,000) in all."""
    blobs: dict[Digest, bytes] = {}
    manifests: dict[Digest, tuple[str, bytes]] = {}
    shared = [_layer("opt/model", int(MODEL * size), 0.0), _layer("srv/data", int(DATA * size), 0.5)]
    entries = []
    for architecture in ARCHITECTURES:
        layers = [_layer(f"usr/lib/{architecture}", int(BASE * size), 0.3), *shared]
        config = _json(
            {
                "architecture": architecture,
                "os": "linux",
                "created": "2026-01-01T00:00:00Z",
                "config": {"Cmd": ["/bin/true"]},
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
                "history": [{"created_by": f"meshsat demo: {layer.path}"} for layer in layers],
            }
        )
        blobs.update({Digest.of(data): data for data in (config, *(layer.data for layer in layers))})
        raw = _json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor(OCI_CONFIG, config),
                "layers": [_descriptor(OCI_LAYER_GZIP, layer.data) for layer in layers],
            }
        )
        manifests[Digest.of(raw)] = (OCI_MANIFEST, raw)
        platform = {"os": "linux", "architecture": architecture}
        entries.append({**_descriptor(OCI_MANIFEST, raw), "platform": platform})
    index = _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    manifests[Digest.of(index)] = (OCI_INDEX, index)
    return Image(Digest.of(index), manifests, blobs)


@dataclass(frozen=True, slots=True)
class _Layer:
    path: str
    data: bytes
    diff_id: str
    """Digest of the tar before compression (image-spec, config: rootfs.diff_ids)."""


def _layer(path: str, size: int, text_share: float) -> _Layer:
    """A layer of about `size` bytes, `text_share` of which are text once compressed."""
    source = random.Random(path)  # noqa: S311 - only has to look like data
    text = _text(source, int(text_share * size))
    noise = source.randbytes(max(0, size - len(zlib.compress(text, LEVEL))))
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in ((f"{path}/readings.txt", text), (f"{path}/weights.bin", noise)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    tarred = plain.getvalue()
    diff_id = f"sha256:{hashlib.sha256(tarred).hexdigest()}"
    return _Layer(path, gzip.compress(tarred, LEVEL, mtime=0), diff_id)


def _text(source: random.Random, compressed: int) -> bytes:
    """Lines of readings that come to roughly `compressed` bytes under gzip."""
    line_compressed = 12
    lines = (
        f"sensor={number % 17:02d} reading={source.randrange(10**6):06d} unit=celsius state=ok\n"
        for number in range(compressed // line_compressed)
    )
    return "".join(lines).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode()
