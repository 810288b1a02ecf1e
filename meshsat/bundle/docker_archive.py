"""What `docker save` and `podman save` write: `manifest.json`, configs, and layers as plain tars.

Such an archive holds no manifest, so one is made: an OCI image manifest over the config as it is and the
layers as they are, uncompressed. Law: the same archive gives the same digest, which is not that of the
registry that the image once came from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.oci.fields import MAX_CONTAINERS, parse_object_untrusted, take_objects, take_text, take_texts
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.oci.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from meshsat.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class SavedImage:
    config: str
    """Name of a file in the archive, as those of the layers."""
    layers: Sequence[str]
    references: Sequence[Reference]
    """None where it was saved by its id."""


def parse_saved_untrusted(raw: bytes) -> list[SavedImage]:
    """`manifest.json`, a list. Raises `InvalidInputError`."""
    # An object around it: one parser, with its bounds, for all JSON from outside.
    body = parse_object_untrusted(b'{"images":' + raw + b"}", "manifest.json")
    try:
        return [_parse_image_untrusted(item) for item in take_objects(body, "images")]
    except InvalidInputError as fault:
        raise InvalidInputError(f"manifest.json: {fault}") from None


def _parse_image_untrusted(item: Any) -> SavedImage:
    if not isinstance(item, dict):
        raise InvalidInputError("not a list of images")
    config = take_text(item, "Config")
    if not config:
        raise InvalidInputError("Config: is missing")
    return SavedImage(
        config=config,
        layers=take_texts(item, "Layers"),
        references=[Reference.parse_untrusted(text) for text in take_texts(item, "RepoTags")],
    )


def parse_layers_untrusted(config: bytes, count: int) -> list[Digest]:
    """The digests of an image's `count` layers, as its config has them. Raises `InvalidInputError`."""
    body = parse_object_untrusted(config, "config")
    rootfs = body.get("rootfs")
    if not isinstance(rootfs, dict):
        raise InvalidInputError("config: rootfs: is missing")
    layers = [Digest.parse_untrusted(text) for text in take_texts(rootfs, "diff_ids")]
    if len(layers) != count or count > MAX_CONTAINERS:
        raise InvalidInputError(f"config: has {len(layers)} layers, and the archive {count}")
    return layers


def make_manifest(config: bytes, layers: Sequence[Digest], sizes: Mapping[Digest, int]) -> Manifest:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [{"mediaType": OCI_LAYER, "digest": str(layer), "size": sizes[layer]} for layer in layers],
    }
    return parse_manifest_untrusted(json.dumps(document, separators=(",", ":")).encode())


class Saved:
    """What is known of the images of such an archive, while its files come by."""

    def __init__(self, images: Sequence[SavedImage] = ()) -> None:
        self.images = images
        self.configs: dict[str, bytes | None] = {image.config: None for image in images}
        self.names: dict[str, Digest] = {}
        """File -> what its bytes must have as their digest."""
        self._layers = {name for image in images for name in image.layers}
        self._sizes: dict[str, int] = {}
        self._pending = list(images)
        self.made: list[tuple[SavedImage, Manifest | str]] = []
        """Each image with its manifest, or with what is wrong with it."""

    @property
    def due(self) -> bool:
        return bool(self._pending)

    def saw(self, name: str, size: int) -> None:
        if name in self._layers:
            self._sizes[name] = size

    def make(self, *, at_last: bool = False) -> bool:
        """Make the manifests of which all is known; True when nothing is left to be made. `at_last`: nothing
        more will be known."""
        for image in list(self._pending):
            try:
                made: Manifest | str | None = self._make(image)
            except InvalidInputError as fault:
                made = str(fault)
            if made is None and at_last:
                there = self._sizes.keys() | {name for name, raw in self.configs.items() if raw is not None}
                lost = sorted({image.config, *image.layers} - there)
                made = f"not in the archive: {', '.join(lost[:3])}"
            if made is not None:
                self.made.append((image, made))
                self._pending.remove(image)
        return not self._pending

    def _make(self, image: SavedImage) -> Manifest | None:
        """None while not all of it is known. A layer that is there twice is a link the second time."""
        config = self.configs[image.config]
        if config is None:
            return None
        layers = parse_layers_untrusted(config, len(image.layers))
        sizes = {
            layer: self._sizes[name]
            for layer, name in zip(layers, image.layers, strict=True)
            if name in self._sizes
        }
        if not sizes.keys() >= set(layers):
            return None
        self.names[image.config] = Digest.of(config)
        self.names.update(
            (name, layer) for layer, name in zip(layers, image.layers, strict=True) if name in self._sizes
        )
        return make_manifest(config, layers, sizes)
