import os
from pathlib import Path

import pytest

from meshsat.errors import StorageError
from meshsat.runtime.disk import LINKS_LIMIT, TEMPORARY, Disk


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "etc/sub").mkdir(parents=True)
    (tmp_path / "etc/f").write_bytes(b"old")
    (tmp_path / "etc/f").chmod(0o640)
    return Disk(tmp_path)


def test_reading_and_listing(disk: Disk) -> None:
    assert disk.read("/etc/f") == b"old"
    assert [disk.read(path) for path in ("/etc/none", "/none/f", "/etc/f/below", "/etc/sub")] == [None] * 4
    assert disk.names("/etc") == ("f", "sub")
    assert disk.names("/none") == disk.names("/etc/f") == ()
    assert (disk.exists("/etc/f"), disk.exists("/etc/none")) == (True, False)


def test_links_are_followed_below_the_root(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "etc/absolute").symlink_to("/etc/f")
    (tmp_path / "etc/relative").symlink_to("sub/../f")
    (tmp_path / "etc/out").symlink_to("../../../../etc/f")
    (tmp_path / "dir").symlink_to("/etc")
    for path in ("/etc/absolute", "/etc/relative", "/etc/out", "/dir/f", "/dir/../etc/./f"):
        assert disk.real(path) == tmp_path / "etc/f"
        assert disk.read(path) == b"old"
    disk.write("/etc/absolute", b"new")
    assert (tmp_path / "etc/absolute").is_symlink()
    assert disk.read("/etc/f") == b"new"
    (tmp_path / "etc/loop").symlink_to("loop")
    with pytest.raises(StorageError, match="too many symbolic links"):
        disk.read("/etc/loop")
    assert LINKS_LIMIT < 100


def test_mode_owner_and_attributes_stay(disk: Disk, tmp_path: Path) -> None:
    file = tmp_path / "etc/f"
    if os.geteuid() == 0:
        os.chown(file, 12345, 54321)
    try:
        os.setxattr(file, "user.site", b"17")
        attributes = {"user.site": b"17"}
    except OSError:  # this file system has none
        attributes = {}
    before = file.stat()
    disk.write("/etc/f", b"new")
    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert before.st_ino != after.st_ino
    assert {name: os.getxattr(file, name) for name in attributes} == attributes
    disk.write("/etc/g", b"", 0o600)
    assert (tmp_path / "etc/g").stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_nothing(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"cannot write /etc/f: No space left"):
            disk.write("/etc/f", b"new")
    assert disk.read("/etc/f") == b"old"
    assert sorted(path.name for path in (tmp_path / "etc").iterdir()) == ["f", "sub"]


def test_what_a_killed_run_left_is_not_seen_and_swept(disk: Disk, tmp_path: Path) -> None:
    left = tmp_path / f"etc/{TEMPORARY}1"
    left.write_bytes(b"half")
    assert disk.names("/etc") == ("f", "sub")
    disk.sweep("/etc")
    assert not left.exists()


def test_directories(disk: Disk, tmp_path: Path) -> None:
    assert disk.missing_directories("/etc/a/b/f") == ["/etc/a", "/etc/a/b"]
    for directory in disk.missing_directories("/etc/a/b/f"):
        disk.make_directory(directory)
    disk.make_directory("/etc/a")
    assert disk.missing_directories("/etc/a/b/f") == []
    disk.remove_directory("/etc/a")  # not empty
    assert disk.exists("/etc/a/b")
    disk.remove_directory("/etc/a/b")
    disk.remove_directory("/etc/a/b")
    assert not disk.exists("/etc/a/b")
    disk.remove("/etc/none")


def test_what_is_no_plain_file_is_not_read(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "etc/null").symlink_to("/dev/null")
    assert disk.read("/etc/null") is None  # there is no /dev below this root
    assert Disk(Path("/")).exists("/dev/null")
    with pytest.raises(StorageError, match="no plain file"):
        Disk(Path("/")).read("/dev/null")
