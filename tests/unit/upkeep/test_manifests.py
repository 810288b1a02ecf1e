"""Manifests are read once, whole, and by their digest."""

from trio.abc import Clock

from meshsat.oci.digest import Digest
from meshsat.upkeep.manifests import Graph
from tests.images import build_artifact, build_image, descriptor
from tests.unit.upkeep.conftest import Disk

INDEX = build_image([b"layer"], ("linux/amd64", "linux/arm64"))
ROOT = Digest.parse_untrusted(INDEX.root)


async def test_it_goes_down_from_what_it_is_given(autojump_clock: Clock, disk: Disk) -> None:
    for text, data in INDEX.contents.items():
        await disk.store.put(data, Digest.parse_untrusted(text))
    graph = Graph(disk.store)
    await graph.load([ROOT], [ROOT])
    assert {str(digest) for digest in graph.links} == set(INDEX.manifests)
    assert {str(child) for child in graph.links[ROOT].manifests} == set(INDEX.manifests) - {INDEX.root}
    assert graph.links[ROOT].blobs == ()


async def test_it_finds_what_is_known_to_be_a_manifest(autojump_clock: Clock, disk: Disk) -> None:
    sbom = build_artifact(b"sbom", "application/x.sbom", descriptor(INDEX.media_type, INDEX.raw))
    root = await disk.hold(sbom, "pos", None, whole=False)
    graph = Graph(disk.store)
    await graph.load([], [])
    assert graph.links[root].subject == ROOT


async def test_a_layer_is_no_manifest_whatever_calls_it_one(autojump_clock: Clock, disk: Disk) -> None:
    layer = Digest.of(b"layer")
    await disk.store.put(b"layer", layer)
    graph = Graph(disk.store)
    await graph.load([layer], [])
    assert graph.links == {}


async def test_each_is_read_once_and_forgotten_when_it_is_gone(autojump_clock: Clock, disk: Disk) -> None:
    await disk.hold(INDEX, "pos")
    graph = Graph(disk.store)
    await graph.load([ROOT], [])
    disk.store.blob_path(ROOT).unlink()
    await graph.load([ROOT], [])
    graph.forget([])
    assert graph.links == {}
