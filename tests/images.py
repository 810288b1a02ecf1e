"""Builds the images that tests pull: OCI or Docker types, one platform or an index, real tar layers or any bytes.

Law: deterministic; the same arguments give the same digests. Nothing of meshsat is used, so that a fault
in its parsers cannot hide in the input of its tests.
"""

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zstandard

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
EMPTY = "application/vnd.oci.empty.v1+json"
EPOCH = "2024-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Image:
    root: str
    """Digest of the manifest, or of the index over them."""
    manifests: Mapping[str, bytes]
    """Digest -> bytes; the root comes last, as a client must push them."""
    blobs: Mapping[str, bytes]
    """Digest -> bytes of configs and layers."""
    media_types: Mapping[str, str]
    """Digest -> media type, of all of them."""

    @property
    def raw(self) -> bytes:
        return self.manifests[self.root]

    @property
    def media_type(self) -> str:
        return self.media_types[self.root]

    @property
    def contents(self) -> dict[str, bytes]:
        return {**self.blobs, **self.manifests}

    @property
    def size(self) -> int:
        """Bytes of everything in it."""
        return sum(map(len, self.contents.values()))


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def random_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress, the same for a seed."""
    return random.Random(seed).randbytes(size)


def tar_layer(files: Mapping[str, bytes], *, compress: bool = True, zstd: bool = False) -> bytes:
    """A layer that a real client can unpack: gzip, or zstd, or plain."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o755
            tar.addfile(entry, io.BytesIO(data))
    if zstd:
        return zstandard.ZstdCompressor(write_checksum=True).compress(plain.getvalue())
    return gzip.compress(plain.getvalue(), 1, mtime=0) if compress else plain.getvalue()


def descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def build_image(
    layers: Sequence[bytes],
    platforms: Sequence[str] = ("linux/amd64",),
    *,
    index: bool | None = None,
    docker: bool = False,
    own_layers: Mapping[str, Sequence[bytes]] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Image:
    """An image of `layers` (gzip, zstd or neither: looked at), the same for every platform, plus `own_layers[platform]`.

    `index` None: an index over the manifests if there is more than one platform. A platform is `os/arch[/variant]`.
    """
    built = _Builder(docker)
    entries = []
    for platform in platforms:
        mine = [*layers, *(own_layers or {}).get(platform, ())]
        raw = built.manifest(mine, platform, annotations or {})
        os, architecture, *variant = platform.split("/")
        told = {"architecture": architecture, "os": os, **({"variant": variant[0]} if variant else {})}
        entries.append(descriptor(built.type_of_manifest, raw, platform=told))
    if index or (index is None and len(platforms) > 1):
        media_type = DOCKER_LIST if docker else OCI_INDEX
        root = built.keep_manifest(
            {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}, media_type
        )
    else:
        root = built.manifests[entries[-1]["digest"]]
    return Image(digest_of(root), built.manifests, built.blobs, built.media_types)


def build_artifact(
    payload: bytes, artifact_type: str, subject: dict[str, Any] | None = None, blob_type: str = OCI_LAYER
) -> Image:
    """An artifact in an OCI image manifest (SBOM, signature, ...), referring to `subject` (a descriptor)."""
    built = _Builder(docker=False)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": built.keep_blob(b"{}", EMPTY),
        "layers": [built.keep_blob(payload, blob_type)],
    }
    if subject is not None:
        manifest["subject"] = subject
    root = built.keep_manifest(manifest, OCI_MANIFEST)
    return Image(digest_of(root), built.manifests, built.blobs, built.media_types)


class _Builder:
    def __init__(self, docker: bool) -> None:
        self.docker = docker
        self.type_of_manifest = DOCKER_MANIFEST if docker else OCI_MANIFEST
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.media_types: dict[str, str] = {}

    def keep_blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        self.blobs[digest_of(data)] = data
        self.media_types[digest_of(data)] = media_type
        return descriptor(media_type, data)

    def keep_manifest(self, manifest: dict[str, Any], media_type: str) -> bytes:
        raw = json.dumps(manifest, indent=2).encode()
        self.manifests[digest_of(raw)] = raw
        self.media_types[digest_of(raw)] = media_type
        return raw

    def manifest(self, layers: Sequence[bytes], platform: str, annotations: Mapping[str, str]) -> bytes:
        os, architecture, *variant = platform.split("/")
        config = {
            "created": EPOCH,
            "architecture": architecture,
            "os": os,
            **({"variant": variant[0]} if variant else {}),
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(_uncompressed(data)) for data in layers]},
            "history": [{"created": EPOCH, "created_by": f"layer {n}"} for n, _ in enumerate(layers)],
        }
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.type_of_manifest,
            "config": self.keep_blob(
                json.dumps(config).encode(), DOCKER_CONFIG if self.docker else OCI_CONFIG
            ),
            "layers": [self.keep_blob(data, self.layer_type(data)) for data in layers],
        }
        if annotations:
            manifest["annotations"] = dict(annotations)
        return self.keep_manifest(manifest, self.type_of_manifest)

    def layer_type(self, data: bytes) -> str:
        if self.docker:
            return DOCKER_LAYER + (".gzip" if _is_gzip(data) else "")
        return OCI_LAYER + ("+gzip" if _is_gzip(data) else "+zstd" if _is_zstd(data) else "")


def _is_gzip(data: bytes) -> bool:
    return data[:2] == b"\x1f\x8b"


def _is_zstd(data: bytes) -> bool:
    return data[:4] == b"\x28\xb5\x2f\xfd"


def _uncompressed(data: bytes) -> bytes:
    if _is_zstd(data):
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=256 * 1024 * 1024)
    return gzip.decompress(data) if _is_gzip(data) else data
