"""The media types that decide how bytes are read (OCI image-spec 1.1 media-types.md; Docker manifest v2)."""

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT_MANIFEST = "application/vnd.oci.artifact.manifest.v1+json"
"""Of image-spec 1.1.0-rc2; withdrawn, but registries hold such."""
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_SCHEMA1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
"""Manifests that list other manifests."""
IMAGE_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
"""Manifests with one config and layers."""
MANIFEST_TYPES = frozenset({*IMAGE_TYPES, *INDEX_TYPES, OCI_ARTIFACT_MANIFEST})
"""Everything that a registry serves at `/manifests/`."""

NONDISTRIBUTABLE_TYPES = frozenset(
    {
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    }
)
"""Layers that clients fetch from their own `urls`; a registry need not hold them."""

GENERIC_TYPES = frozenset({"", "application/json", "application/octet-stream", "text/plain"})
"""What servers say when they do not know: the body's own `mediaType` decides then."""
