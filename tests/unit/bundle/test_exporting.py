import json
from pathlib import Path

from meshsat.bundle import sinks
from meshsat.bundle.exporting import export
from meshsat.bundle.gather import Choice, gather
from meshsat.bundle.place import Repository
from meshsat.bundle.sources import open_source
from meshsat.oci.reference import Reference
from tests.bundle_place import APP, MemoryPlace, write
from tests.images import build_artifact, build_image, descriptor

IMAGE = build_image([b"layer one", b"layer two"], ("linux/amd64", "linux/arm64"))


def names(path: Path) -> list[str]:
    return [member.name for member in open_source(path).members()]


def test_an_importer_can_read_it_in_one_go(tmp_path: Path) -> None:
    place = MemoryPlace()
    place.hold(IMAGE, APP)
    order = names(write(place, tmp_path / "a.tar", APP))
    assert order[:2] == ["oci-layout", "index.json"]
    places = {name: at for at, name in enumerate(order)}
    manifests = [places[f"blobs/{text.replace(':', '/')}"] for text in IMAGE.manifests]
    blobs = [places[f"blobs/{text.replace(':', '/')}"] for text in IMAGE.blobs]
    assert max(manifests) < min(blobs)
    assert min(manifests) == places[f"blobs/{IMAGE.root.replace(':', '/')}"]


def test_index_json_lists_images_alone_so_that_podman_finds_one(tmp_path: Path) -> None:
    place = MemoryPlace()
    place.hold(IMAGE, APP)
    sbom = build_artifact(b"sbom", "a/sbom", descriptor(IMAGE.media_type, IMAGE.raw))
    place.hold(sbom, f"reg.test/pos/app@{sbom.root}")
    index = json.loads((write(place, tmp_path / "stick", APP) / "index.json").read_bytes())
    assert [one["digest"] for one in index["manifests"]] == [IMAGE.root]
    referrers = index["annotations"]["io.meshsat.referrers"].replace(":", "/")
    listed = json.loads((tmp_path / "stick" / "blobs" / referrers).read_bytes())
    assert [one["digest"] for one in listed["manifests"]] == [sbom.root]


def test_how_far_it_is_ends_at_the_total_also_when_all_was_there(tmp_path: Path) -> None:
    place = MemoryPlace()
    place.hold(IMAGE, APP)
    for _ in range(2):
        seen: list[tuple[int, int]] = []

        def tell(have: int, total: int, told: list[tuple[int, int]] = seen) -> None:
            told.append((have, total))

        gathered = gather(place, [Reference.parse_untrusted(APP)], Choice())
        sink = sinks.Directory(tmp_path / "stick")
        total = export(place, gathered, sink, tell)
        assert total == IMAGE.size
        assert seen[-1] == (IMAGE.size, IMAGE.size)
        assert seen == sorted(seen)
        place.blobs.clear()  # the second time nothing is asked for


def test_an_image_that_two_repositories_have_is_written_once(tmp_path: Path) -> None:
    place = MemoryPlace()
    place.hold(IMAGE, APP)
    place.hold(IMAGE, "reg.test/other:1")
    order = names(write(place, tmp_path / "a.tar", APP, "reg.test/other:1"))
    assert len(order) == len(set(order)) == 2 + len(IMAGE.contents)
    assert len({Repository.of(Reference.parse_untrusted(name)) for name in (APP, "reg.test/other:1")}) == 2
