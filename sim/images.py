"""Images to fill a registry with, as OCI image layouts on disk (image-spec, image-layout.md).

Laws: the same arguments give the same bytes. Random layers are what a compressed layer looks like to the
mesh: bytes that nothing can shrink.
"""

import hashlib
import json
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshsat.demo.image import make_image

CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SLICE = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """An image on disk."""

    directory: Path
    manifest: str
    """Digest of the manifest or index that the layout's index.json names."""
    blobs: tuple[str, ...]
    """Digests of what is no manifest, layers first."""
    size: int
    """Bytes of everything that a pull fetches: manifest, config, layers."""


def random_image(directory: Path, layer_bytes: int, *, layers: int = 1, seed: int = 1) -> Layout:
    """An image of `layers` layers of `layer_bytes` random bytes each. Nothing can unpack it."""
    rng = random.Random(seed)  # noqa: S311 - noise, the same for the same seed
    return _image(directory, [_noise(rng, layer_bytes) for _ in range(layers)])


def compressed_image(directory: Path, sizes: Sequence[int], *, seed: int = 1) -> Layout:
    """An image of layers of about `sizes` bytes that are gzip as they say, of noise: clients that look for
    what could be compressed (skopeo) let them be."""
    rng = random.Random(seed)  # noqa: S311 - as above
    return _image(directory, [_stored(_noise(rng, size)) for size in sizes])


def _image(directory: Path, layers: Sequence[Iterator[bytes]]) -> Layout:
    store = _store(directory)
    descriptors = [_write(store, layer, LAYER) for layer in layers]
    root = {"type": "layers", "diff_ids": [layer["digest"] for layer in descriptors]}
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": root}
    described = _write(store, _json(config), CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": descriptors}
    top = _finish(directory, _write(store, _json(manifest), MANIFEST))
    size = top["size"] + described["size"] + sum(layer["size"] for layer in descriptors)
    blobs = (*descriptors, described)
    return Layout(directory, top["digest"], tuple(one["digest"] for one in blobs), size)


def demo_image(directory: Path, size: int) -> Layout:
    """The image of `meshsat demo`, about `size` bytes: two architectures, layers that can be unpacked."""
    image = make_image(size)
    store = _store(directory)
    for blob in image.blobs.values():
        _write(store, iter((blob,)), LAYER)
    for media_type, raw in image.manifests.values():
        written = _write(store, iter((raw,)), media_type)
        if written["digest"] == str(image.index):
            _finish(directory, written)
    return Layout(directory, str(image.index), tuple(map(str, image.blobs)), image.size)


def _store(directory: Path) -> Path:
    store = directory / "blobs" / "sha256"
    store.mkdir(parents=True)
    return store


def _finish(directory: Path, top: dict[str, Any]) -> dict[str, Any]:
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', encoding="utf-8")
    (directory / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [top]}), encoding="utf-8"
    )
    return top


def _write(store: Path, content: Iterator[bytes], media_type: str) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    unnamed = store / "unnamed"
    with unnamed.open("wb") as file:
        for data in content:
            file.write(data)
            digest.update(data)
            size += len(data)
    unnamed.rename(store / digest.hexdigest())
    return {"mediaType": media_type, "digest": f"sha256:{digest.hexdigest()}", "size": size}


def _noise(rng: random.Random, size: int) -> Iterator[bytes]:
    for start in range(0, size, SLICE):
        yield rng.randbytes(min(SLICE, size - start))


def _stored(content: Iterator[bytes]) -> Iterator[bytes]:
    """gzip that compresses nothing (RFC 1951 3.2.4)."""
    packer = zlib.compressobj(0, wbits=31)
    for data in content:
        yield packer.compress(data)
    yield packer.flush()


def _json(value: dict[str, Any]) -> Iterator[bytes]:
    yield json.dumps(value).encode()
