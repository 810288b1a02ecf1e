import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import zstandard

from meshsat.bundle.importing import Brought, Event, Failed, Import
from meshsat.bundle.layout import blob_name
from meshsat.bundle.place import Repository
from meshsat.bundle.plan import Plan
from meshsat.bundle.sources import open_pipe, open_source
from meshsat.errors import InvalidInputError, MeshsatError, StorageFullError
from meshsat.fleet.artifact import STATE_ARTIFACT, artifact_of
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest
from meshsat.oci.reference import Reference
from tests.authors import Signers
from tests.bundle_place import (
    APP,
    MemoryPlace,
    as_tar,
    everything,
    failures,
    layout_files,
    read,
    save_directory,
    tar,
    write,
)
from tests.images import Image, build_artifact, build_image, descriptor, digest_of, tar_layer
from tests.states import state_file

SHARED = tar_layer({"shared": b"1" * 100_000}, compress=False)
IMAGE = build_image(
    [SHARED, b"app one"], ("linux/amd64", "linux/arm64"), own_layers={"linux/arm64": [b"arm"]}
)
OLD = build_image([SHARED, b"app zero"])
Form = Callable[[Path, Mapping[str, bytes]], Path]


def full_place() -> MemoryPlace:
    place = MemoryPlace()
    place.hold(IMAGE, APP, 1000.5)
    place.hold(OLD, "reg.test/pos/app:0", 900.0)
    sbom = build_artifact(b"sbom", "a/sbom", descriptor(IMAGE.media_type, IMAGE.raw))
    place.hold(sbom, f"reg.test/pos/app@{sbom.root}")
    place.hold(build_image([b"signature"]), f"reg.test/pos/app:sha256-{IMAGE.root[7:]}.sig", 1001.0)
    return place


@pytest.mark.parametrize("name", ["a.tar", "stick"])
@pytest.mark.parametrize("zstd", [False, True])
def test_what_was_exported_is_there_again(tmp_path: Path, name: str, zstd: bool) -> None:
    here, there = full_place(), MemoryPlace()
    path = write(here, tmp_path / name, APP, "reg.test/pos/app:0", zstd=zstd)
    ended = read(there, path)
    assert everything(there) == everything(here)
    assert not failures(ended)
    assert {str(event.entry.reference) for event in ended} >= {APP, "reg.test/pos/app:0"}
    there.puts.clear()
    read(there, path)
    assert not there.puts or not set(there.puts) & there.blobs.keys()


def test_through_a_pipe_in_one_go(tmp_path: Path) -> None:
    here, there = full_place(), MemoryPlace()
    raw = write(here, tmp_path / "a.tar", APP, "reg.test/pos/app:0", zstd=True).read_bytes()
    assert not failures(read(there, open_pipe(io.BytesIO(raw))))
    assert everything(there) == everything(here)


def test_untagged_referrers_are_listed_under_a_tag_that_peers_hear_of(tmp_path: Path) -> None:
    there, tag = MemoryPlace(), f"sha256-{IMAGE.root[7:]}"
    path = write(full_place(), tmp_path / "a.tar", APP)
    read(there, path)
    digest, moment = there.named[f"reg.test/pos/app:{tag}"]
    found = there.manifest(Repository("reg.test", "pos/app"), digest)
    assert found is not None
    assert [one.artifact_type for one in found.manifest.manifests] == ["a/sbom"]
    assert moment == 1000.5
    # One that comes with the archive is as it was; and site content has records of its own.
    there.named[f"reg.test/pos/app:{tag}"] = (digest, 900.0)
    again = MemoryPlace()
    read(again, write(there, tmp_path / "b.tar", APP))
    assert again.named[f"reg.test/pos/app:{tag}"] == (digest, 900.0)
    site = MemoryPlace()
    read(site, path, "site.internal/app:1")
    assert not [name for name in site.named if name.endswith(tag)]


def test_blobs_come_before_manifests_and_children_before_their_index(tmp_path: Path) -> None:
    there = MemoryPlace()
    read(there, write(full_place(), tmp_path / "a.tar", APP, referrers=False))
    order = [str(digest) for digest in there.puts]
    assert order[-1] == IMAGE.root
    assert set(order[: len(IMAGE.blobs)]) == IMAGE.blobs.keys()


def packed(path: Path, files: Mapping[str, bytes]) -> Path:
    path.write_bytes(zstandard.compress(tar(path, files.items()).read_bytes()))
    return path


FORMS = [save_directory, as_tar, packed]


@pytest.mark.parametrize("form", FORMS)
def test_archives_of_other_tools_in_any_order(tmp_path: Path, form: Form) -> None:
    there = MemoryPlace()
    (event,) = read(there, form(tmp_path / "x", layout_files(IMAGE)))
    assert isinstance(event, Brought)
    assert event.size == IMAGE.size
    assert there.named == {APP: (Digest.parse_untrusted(IMAGE.root), None)}
    assert {str(digest): data for digest, data in there.blobs.items()} == IMAGE.blobs


def test_a_name_that_is_only_a_tag_needs_a_repository(tmp_path: Path) -> None:
    path = as_tar(tmp_path / "x", layout_files(IMAGE, "v1"))
    assert "--as REGISTRY/NAME:TAG" in failures(read(MemoryPlace(), path))[0]
    there = MemoryPlace()
    read(there, path, "reg.test/b")
    assert list(there.named) == ["reg.test/b:v1"]


def docker_files(*images: Image, tags: bool = True) -> dict[str, bytes]:
    """As `podman save` orders them: layers, configs, and last what tells about them."""
    files: dict[str, bytes] = {}
    told = []
    for number, image in enumerate(images):
        manifest = json.loads(image.raw)
        names = [f"{layer['digest'][7:]}.tar" for layer in manifest["layers"]]
        files.update(zip(names, (image.blobs[layer["digest"]] for layer in manifest["layers"]), strict=True))
        config = f"{manifest['config']['digest'][7:]}.json"
        files[config] = image.blobs[manifest["config"]["digest"]]
        told.append({"Config": config, "RepoTags": [f"busybox:{number}"] if tags else None, "Layers": names})
    return {**files, "manifest.json": json.dumps(told).encode(), "repositories": b"{}"}


@pytest.mark.parametrize("form", [as_tar, packed])
def test_what_docker_and_podman_save(tmp_path: Path, form: Form) -> None:
    other = build_image([SHARED, b"other"])
    there = MemoryPlace()
    path = form(tmp_path / "x", docker_files(OLD, other))
    assert not failures(read(there, path))
    assert list(there.named) == ["docker.io/library/busybox:0", "docker.io/library/busybox:1"]
    assert {str(digest): data for digest, data in there.blobs.items()} == {**OLD.blobs, **other.blobs}
    again = MemoryPlace()
    read(again, open_pipe(io.BytesIO(path.read_bytes())))
    assert everything(again) == everything(there)


def test_one_that_was_saved_by_its_id_needs_a_name(tmp_path: Path) -> None:
    path = as_tar(tmp_path / "x", docker_files(OLD, tags=False))
    assert "--as" in failures(read(MemoryPlace(), path))[0]
    there = MemoryPlace()
    read(there, path, "reg.test/b:3")
    assert list(there.named) == ["reg.test/b:3"]


def test_a_saved_image_that_lacks_a_layer_stops_no_other(tmp_path: Path) -> None:
    files = docker_files(OLD, build_image([b"other"]))
    del files[f"{digest_of(b'other')[7:]}.tar"]
    there = MemoryPlace()
    (reason,) = failures(read(there, as_tar(tmp_path / "x", files)))
    assert reason.startswith("not in the archive: ")
    assert list(there.named) == ["docker.io/library/busybox:0"]


def dir_files(image: Image) -> dict[str, bytes]:
    """As `skopeo copy --all ... dir:` leaves them."""
    files = {text[7:]: data for text, data in image.blobs.items()}
    files |= {f"{text[7:]}.manifest.json": raw for text, raw in image.manifests.items() if text != image.root}
    return {**files, "manifest.json": image.raw, "version": b"Directory Transport Version: 1.1\n"}


def test_skopeos_dir(tmp_path: Path) -> None:
    path = save_directory(tmp_path / "x", dir_files(IMAGE))
    assert "--as" in failures(read(MemoryPlace(), path))[0]
    there = MemoryPlace()
    assert not failures(read(there, path, APP))
    assert there.named == {APP: (Digest.parse_untrusted(IMAGE.root), None)}
    assert {str(digest) for _, digest in there.manifests} == IMAGE.manifests.keys()


@pytest.mark.parametrize("form", FORMS)
def test_one_images_damage_stops_no_other(tmp_path: Path, form: Form) -> None:
    other = build_image([b"other layer"])
    files = {**layout_files(OLD), **layout_files(other)}
    first, second = (json.loads(layout_files(image, name)["index.json"])["manifests"][0]
                     for image, name in ((OLD, "reg.test/a:1"), (other, "reg.test/b:1")))  # fmt: skip
    files["index.json"] = json.dumps({"manifests": [first, second]}).encode()
    files[f"blobs/{digest_of(b'app zero').replace(':', '/')}"] = b"app zerp"
    there = MemoryPlace()
    (reason,) = failures(read(there, form(tmp_path / "x", files)))
    assert digest_of(b"app zero") in reason
    assert "is damaged" in reason
    assert list(there.named) == ["reg.test/b:1"]
    assert {str(digest) for _, digest in there.manifests} == other.manifests.keys()


@pytest.mark.parametrize("form", FORMS)
def test_a_blob_of_another_size_is_not_taken(tmp_path: Path, form: Form) -> None:
    files = layout_files(OLD)
    files[f"blobs/{digest_of(b'app zero').replace(':', '/')}"] = b"longer than told"
    there = MemoryPlace()
    (reason,) = failures(read(there, form(tmp_path / "x", files)))
    assert "it has 16 bytes in the archive, not 8" in reason
    assert not there.manifests


@pytest.mark.parametrize("form", FORMS)
def test_a_blob_that_is_not_there_fails_the_image_and_puts_nothing(tmp_path: Path, form: Form) -> None:
    files = layout_files(OLD)
    del files[f"blobs/{digest_of(b'app zero').replace(':', '/')}"]
    there = MemoryPlace()
    (reason,) = failures(read(there, form(tmp_path / "x", files)))
    assert digest_of(b"app zero") in reason
    assert not there.manifests
    assert form is packed or not there.puts
    there.blobs[Digest.of(b"app zero")] = b"app zero"
    assert not failures(read(there, tmp_path / "x"))  # where the receiver has it, all is well


@pytest.mark.parametrize("name", ["a.tar", "stick"])
@pytest.mark.parametrize("pipe", [False, True])
def test_since(tmp_path: Path, name: str, pipe: bool) -> None:
    here = full_place()
    since = [Reference.parse_untrusted("reg.test/pos/app:0")]
    path = write(here, tmp_path / name, APP, since=since, referrers=False)
    if pipe and name == "stick":
        return

    def bring(there: MemoryPlace) -> list[str]:
        return failures(read(there, open_pipe(io.BytesIO(path.read_bytes())) if pipe else path))

    empty = MemoryPlace()
    (reason,) = bring(empty)
    assert digest_of(SHARED) in reason
    assert "meshsat pull reg.test/pos/app:0@sha256:" in reason
    assert not empty.puts
    there = MemoryPlace()
    there.hold(OLD, "reg.test/pos/app:0")
    assert not bring(there)
    assert there.named[APP] == (Digest.parse_untrusted(IMAGE.root), 1000.5)
    assert Digest.of(SHARED) not in there.puts


def test_an_index_of_which_platforms_are_left_out(tmp_path: Path) -> None:
    from meshsat.bundle.gather import parse_platform_untrusted

    arm = [parse_platform_untrusted("linux/arm64")]
    raw = write(full_place(), tmp_path / "a.tar", APP, platforms=arm, referrers=False).read_bytes()
    for source in (tmp_path / "a.tar", open_pipe(io.BytesIO(raw))):
        there = MemoryPlace()
        (event,) = read(there, source)
        assert isinstance(event, Brought)
        assert event.note == "1 of its platforms are left out"
        assert len(there.manifests) == 2


def test_a_younger_word_about_a_tag_stays(tmp_path: Path) -> None:
    there = MemoryPlace()
    there.named[APP] = (Digest.of(b"x"), 2000.0)
    (event,) = read(there, write(full_place(), tmp_path / "a.tar", APP, referrers=False))
    assert isinstance(event, Brought)
    assert event.note == "what this node knows of the tag is younger, and stays"
    assert there.named[APP] == (Digest.of(b"x"), 2000.0)


def test_what_is_cut_short_brings_what_came_before(tmp_path: Path) -> None:
    raw = write(full_place(), tmp_path / "a.tar", "reg.test/pos/app:0", APP, referrers=False).read_bytes()
    there = MemoryPlace()
    (tmp_path / "b.tar").write_bytes(raw[: raw.rindex(b"app one") + 3])
    for source in (open_pipe(io.BytesIO(raw[: raw.rindex(b"app one") + 3])), tmp_path / "b.tar"):
        assert all("cut short" in reason for reason in failures(read(there, source)))
        assert list(there.named) == ["reg.test/pos/app:0"]


@pytest.mark.parametrize("raw", [b"", b"x" * 2000, zstandard.compress(b"x" * 2000)])
def test_what_is_no_bundle_says_so(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(InvalidInputError):
        read(MemoryPlace(), tmp_path / "x")
    with pytest.raises(InvalidInputError, match="is no bundle"):
        read(MemoryPlace(), as_tar(tmp_path / "y", {"a": b"1"}))


def test_two_that_tell_about_the_rest_are_one_too_many(tmp_path: Path) -> None:
    files = [*layout_files(OLD).items(), ("index.json", b'{"manifests": []}')]
    with pytest.raises(InvalidInputError, match="twice"):
        read(MemoryPlace(), tar(tmp_path / "x", files))


def test_a_receiver_that_takes_no_more_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageFullError("no room")

    there = MemoryPlace()
    monkeypatch.setattr(there, "put_blob", full)
    with pytest.raises(StorageFullError):
        read(there, as_tar(tmp_path / "x", layout_files(OLD)))


def test_a_stick_that_breaks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from meshsat.bundle import sources

    path = save_directory(tmp_path / "x", layout_files(OLD))
    opened = sources.open_source(path)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(opened, "members", broken)
    with pytest.raises(InvalidInputError, match="Input/output error"):
        read(MemoryPlace(), opened)


class Keeper:
    """Takes what says to be of one artifact type."""

    def __init__(self, fault: MeshsatError | None = None) -> None:
        self.taken: list[dict[Digest, bytes]] = []
        self.fault = fault

    def wants(self, manifest: Manifest) -> set[Digest] | None:
        if manifest.artifact_type != STATE_ARTIFACT:
            return None
        return {blob.digest for blob in manifest.blobs[1:]}

    def take(self, manifest: Manifest, blobs: Mapping[Digest, bytes]) -> str:
        if self.fault is not None:
            raise self.fault
        self.taken.append(dict(blobs))
        return "thank you"


def _with_a_state(path: Path, damage: bytes | None = None) -> Path:
    """An archive with an image and a desired state, which share the empty config."""
    artifact = artifact_of(state_file(Signers()))
    files = layout_files(IMAGE)
    index = json.loads(files["index.json"])
    manifest = artifact.manifest
    index["manifests"].append(
        {"mediaType": manifest.media_type, "digest": str(manifest.digest), "size": len(manifest.raw)}
    )
    files["index.json"] = json.dumps(index).encode()
    for digest, raw in {**artifact.blobs, manifest.digest: manifest.raw}.items():
        files[blob_name(digest)] = raw
    if damage is not None:
        body = state_file(Signers()).body or b""
        files[blob_name(Digest.of(body))] = (damage + body)[: len(body)]
    return as_tar(path, files)


def _import(path: Path, keeper: Keeper) -> tuple[MemoryPlace, list[Brought | Failed]]:
    place = MemoryPlace()
    ended: list[Brought | Failed] = []

    def tell(event: Event) -> None:
        if isinstance(event, Brought | Failed):
            ended.append(event)

    Import(place, open_source(path), Plan(), tell, keeper).run()
    return place, ended


def test_what_is_no_image_goes_to_who_takes_it(tmp_path: Path) -> None:
    keeper = Keeper()
    place, ended = _import(_with_a_state(tmp_path / "a.tar"), keeper)
    file = state_file(Signers())
    (taken,) = keeper.taken
    assert file.head in taken.values()
    assert file.body in taken.values()
    assert not any(digest in place.blobs for digest in taken)
    assert [one.note for one in ended if isinstance(one, Brought)] == ["thank you", None]
    assert list(place.named) == [APP]


def test_a_refusal_or_damage_of_it_stops_no_image(tmp_path: Path) -> None:
    for keeper, damage in ((Keeper(MeshsatError("it is older")), None), (Keeper(), b"x")):
        place, ended = _import(_with_a_state(tmp_path / "a.tar", damage), keeper)
        assert keeper.taken == []
        assert len([one for one in ended if isinstance(one, Failed)]) == 1
        assert list(place.named) == [APP]
