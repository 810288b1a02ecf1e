import gzip
import io
import os
import tempfile
from pathlib import Path

import pytest
import zstandard

from meshsat.bundle.place import read_whole
from meshsat.bundle.sources import Archive, Pipe, Source, open_pipe, open_source
from meshsat.errors import InvalidInputError, MeshsatError, NotFoundError
from tests.bundle_place import save_directory, tar

OURS = [("oci-layout", b"{}"), ("index.json", b"[1]"), ("blobs/sha256/a", b"x" * 70_000)]
OTHERS = OURS[::-1]


def files(source: Source) -> list[tuple[str, bytes]]:
    return [(member.name, read_whole(member.content, member.size)) for member in source.members()]


def test_an_archive_can_be_read_again(tmp_path: Path) -> None:
    source = open_source(tar(tmp_path / "a.tar", OTHERS))
    assert source.sizes() == {name: len(data) for name, data in OTHERS}
    assert files(source) == files(source) == OTHERS


@pytest.mark.parametrize("pack", [zstandard.compress, gzip.compress])
def test_so_can_a_packed_one_whatever_its_name(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    path = tmp_path / "a.tar"
    path.write_bytes(pack(tar(path, OTHERS).read_bytes()))
    source = open_source(path)
    assert source.sizes() is None
    assert files(source) == files(source) == OTHERS


def test_a_file_that_ends_in_the_middle_of_a_member_is_cut_short(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", OTHERS)
    os.truncate(path, 1000)
    source = open_source(path)
    assert source.sizes() is None
    with pytest.raises(InvalidInputError, match="cut short"):
        files(source)


def test_a_directory_tells_first_what_tells_about_the_rest(tmp_path: Path) -> None:
    save_directory(tmp_path, dict(OTHERS))
    source = open_source(tmp_path)
    assert files(source) == files(source) == OURS


def test_no_link_and_nothing_odd_is_opened(tmp_path: Path) -> None:
    save_directory(tmp_path / "stick", dict(OURS))
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "stick" / "index.json").unlink()
    (tmp_path / "stick" / "index.json").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "stick" / "manifest.json")
    assert [name for name, _ in files(open_source(tmp_path / "stick"))] == ["oci-layout", "blobs/sha256/a"]


def test_what_goes_away_meanwhile_is_passed_over(tmp_path: Path) -> None:
    source = open_source(save_directory(tmp_path, dict(OURS)))
    source.sizes()
    (tmp_path / "index.json").unlink()
    assert [name for name, _ in files(source)] == ["oci-layout", "blobs/sha256/a"]


def test_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match="there is no"):
        open_source(tmp_path / "nothing")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(io, "FileIO", refuse)
    with pytest.raises(MeshsatError, match="Permission denied"):
        open_source(tmp_path / "secret")


@pytest.mark.parametrize("packed", [False, True])
def test_a_pipe_is_read_once_where_that_is_enough(tmp_path: Path, packed: bool) -> None:
    raw = tar(tmp_path / "a.tar", OURS).read_bytes()
    source = open_pipe(io.BytesIO(zstandard.compress(raw) if packed else raw))
    assert isinstance(source, Pipe)
    assert not source.again
    assert files(source) == OURS


@pytest.mark.parametrize("packed", [False, True])
def test_and_kept_where_not(tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    raw = tar(tmp_path / "a.tar", OTHERS).read_bytes()
    source = open_pipe(io.BytesIO(zstandard.compress(raw) if packed else raw))
    assert isinstance(source, Archive)
    assert files(source) == files(source) == OTHERS
    assert list(tmp_path.iterdir()) == [tmp_path / "a.tar"]


def test_no_room_to_keep_a_pipe_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing"))
    with pytest.raises(MeshsatError, match="save it to a file"):
        open_pipe(io.BytesIO(tar(tmp_path / "a.tar", OTHERS).read_bytes()))


def test_an_empty_pipe_is_no_archive() -> None:
    with pytest.raises(InvalidInputError):
        files(open_pipe(io.BytesIO()))
