import errno
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pytest
import zstandard

from meshsat.bundle import sinks
from meshsat.bundle.layout import Index, blob_name, encode_index
from meshsat.errors import DigestMismatchError, InvalidInputError, MeshsatError, StorageError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest

INDEX = encode_index(Index([]))
DATA = [b"one" * 1000, b"", b"two"]
Make = Callable[[Path], sinks.Sink]


def blob(data: bytes) -> Descriptor:
    return Descriptor("a/b", Digest.of(data), len(data))


def fill(sink: sinks.Sink, *parts: bytes) -> None:
    with sink:
        new = [data for data in parts if not sink.has(blob(data))]
        sink.begin(INDEX, 100)
        for data in new:
            sink.put(blob(data), io.BytesIO(data))
        sink.finish()


def break_off(sink: sinks.Sink) -> None:
    """An export that Ctrl-C ends after a blob."""
    with sink:
        sink.begin(INDEX, 100)
        sink.put(blob(b"x"), io.BytesIO(b"x"))
        raise KeyboardInterrupt


def fill_badly(sink: sinks.Sink, data: bytes, needed: int = 100) -> None:
    with sink:
        sink.begin(INDEX, needed)
        sink.put(blob(b"one"), io.BytesIO(data))


def names(path: Path) -> list[str]:
    return sorted(str(one.relative_to(path)) for one in path.rglob("*") if one.is_file())


def test_an_archive_is_the_same_for_the_same_content(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        fill(sinks.File(tmp_path / name, zstd=False), *DATA)
        fill(sinks.File(tmp_path / f"{name}.zst", zstd=True), *DATA)
    assert names(tmp_path) == ["a.tar", "a.tar.zst", "b.tar", "b.tar.zst"]
    raw = (tmp_path / "a.tar").read_bytes()
    assert raw == (tmp_path / "b.tar").read_bytes()
    packed = (tmp_path / "a.tar.zst").read_bytes()
    assert packed == (tmp_path / "b.tar.zst").read_bytes()
    assert zstandard.ZstdDecompressor().stream_reader(packed).read() == raw
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert [one.name for one in archive.getmembers() if one.isfile()][:2] == ["oci-layout", "index.json"]
        member = archive.extractfile(blob_name(Digest.of(DATA[0])))
        assert member is not None
        assert member.read() == DATA[0]


def test_a_directory_is_a_layout(tmp_path: Path) -> None:
    fill(sinks.Directory(tmp_path / "new" / "stick"), *DATA)
    path = tmp_path / "new" / "stick"
    assert names(path) == sorted(["index.json", "oci-layout", *(blob_name(Digest.of(data)) for data in DATA)])
    assert (path / "index.json").read_bytes() == INDEX


def test_a_directory_is_refreshed_in_place(tmp_path: Path) -> None:
    fill(sinks.Directory(tmp_path), *DATA)
    kept = tmp_path / blob_name(Digest.of(DATA[0]))
    before = kept.stat().st_ino
    (tmp_path / "blobs" / "sha256" / ".x.part").write_bytes(b"of an interrupted run")
    (tmp_path / "blobs" / "sha256" / "notes.txt").write_bytes(b"somebody's own")
    fill(sinks.Directory(tmp_path), DATA[0], b"three")
    assert kept.stat().st_ino == before
    there = names(tmp_path / "blobs")
    assert "sha256/notes.txt" in there
    assert sorted(there) == sorted(
        ["sha256/notes.txt", *(blob_name(Digest.of(data))[6:] for data in (DATA[0], b"three"))]
    )


def test_a_blob_of_the_wrong_size_is_written_anew(tmp_path: Path) -> None:
    fill(sinks.Directory(tmp_path), *DATA)
    path = tmp_path / blob_name(Digest.of(DATA[0]))
    path.write_bytes(b"cut")
    fill(sinks.Directory(tmp_path), *DATA)
    assert path.read_bytes() == DATA[0]


@pytest.mark.parametrize("make", [lambda path: sinks.File(path / "a.tar", zstd=False), sinks.Directory])
def test_what_is_not_finished_has_no_name(tmp_path: Path, make: Make) -> None:
    with pytest.raises(KeyboardInterrupt):
        break_off(make(tmp_path))
    assert not {"a.tar", "index.json", ".a.tar.part"} & set(names(tmp_path))
    fill(make(tmp_path), b"x")  # and what is left is in nobody's way


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    fill(sinks.File(path, zstd=False), b"old")
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        break_off(sinks.File(path, zstd=False))
    assert path.read_bytes() == before


@pytest.mark.parametrize("make", [lambda path: sinks.File(path / "a.tar", zstd=False), sinks.Directory])
@pytest.mark.parametrize("data", [b"", b"onf", b"on", b"ones"])
def test_bytes_that_are_not_the_blobs_end_it(tmp_path: Path, make: Make, data: bytes) -> None:
    with pytest.raises(DigestMismatchError, match="what the node gave"):
        fill_badly(make(tmp_path), data)
    assert not [name for name in names(tmp_path) if name != "oci-layout"]


def test_what_something_else_wrote_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(InvalidInputError, match="name a new directory"):
        fill(sinks.Directory(tmp_path))
    (tmp_path / "photo.jpg").unlink()
    for index in (b'{"manifests": []}', b"["):
        (tmp_path / "index.json").write_bytes(index)
        with pytest.raises(InvalidInputError, match="did not write"):
            fill(sinks.Directory(tmp_path))
    assert names(tmp_path) == ["index.json"]


def test_links_on_a_stick_lead_nowhere(tmp_path: Path) -> None:
    stick, elsewhere = tmp_path / "stick", tmp_path / "elsewhere"
    fill(sinks.Directory(stick), b"one")
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(b"mine")
    part = stick / "blobs" / "sha256" / f".{Digest.of(b'two').hex}.part"
    part.symlink_to(elsewhere / "file")
    (stick / ".index.json.part").symlink_to(elsewhere / "file")
    fill(sinks.Directory(stick), b"one", b"two")
    assert (elsewhere / "file").read_bytes() == b"mine"
    (stick / "blobs" / "sha512").rmdir()
    (stick / "blobs" / "sha512").symlink_to(elsewhere)
    with pytest.raises(InvalidInputError, match="a link to elsewhere"):
        fill(sinks.Directory(stick), b"one")


def test_too_little_room_is_told_before_a_byte_is_written(tmp_path: Path) -> None:
    for sink in (sinks.Directory(tmp_path / "stick"), sinks.File(tmp_path / "a", zstd=False)):
        with pytest.raises(StorageError, match="there is room for"):
            fill_badly(sink, b"one", 2**60)
    assert not names(tmp_path)


class Full:
    """A file that takes ten bytes, then says why not."""

    def __init__(self, fault: OSError) -> None:
        self.fault = fault
        self.left = 10

    def write(self, data: memoryview) -> int:
        if not self.left:
            raise self.fault
        taken, self.left = min(len(data), self.left), 0
        return taken


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "no room left"), (errno.EFBIG, "FAT"), (errno.EIO, "Input/output")]
)
@pytest.mark.parametrize("zstd", [False, True])
def test_a_disk_that_takes_no_more_is_told(number: int, words: str, zstd: bool) -> None:
    file = cast("BinaryIO", Full(OSError(number, os.strerror(number))))
    with pytest.raises(StorageError, match=words):
        fill(sinks.Archive(file, "the stick", zstd=zstd), os.urandom(3_000_000))


def test_a_reader_that_goes_away_is_told() -> None:
    with pytest.raises(MeshsatError, match="went away"):
        fill(sinks.Archive(cast("BinaryIO", Full(BrokenPipeError())), "stdout", zstd=False), b"x")
