import errno
import os
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from meshsat.errors import StorageError
from meshsat.store import disk


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "raise the quota"),
        (errno.EROFS, "remount"),
        (errno.EACCES, "another data directory"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_errors_say_what_to_do(code: int, hint: str) -> None:
    with pytest.raises(StorageError, match=hint) as caught, disk.storage_errors("write", Path("/data/x")):
        raise OSError(code, os.strerror(code))
    assert str(caught.value).startswith("cannot write /data/x: ")


def test_spans(tmp_path: Path) -> None:
    path = tmp_path / "x"
    disk.create_sparse(path, 1000)
    disk.write_span(path, 10, memoryview(b"abc"))
    assert disk.read_span(path, 9, 5) == b"\0abc\0"
    assert disk.read_span(path, 0, 0) == b""
    assert disk.has_size(path, 1000)
    assert not disk.has_size(path, 999)
    with pytest.raises(StorageError, match="ends 1 bytes too early"):
        disk.read_span(path, 998, 3)


def test_a_disk_that_writes_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    disk.create_sparse(path, 10)
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[:3], offset))
    disk.write_span(path, 1, b"abcdefgh")
    assert path.read_bytes() == b"\0abcdefgh\0"


def test_a_missing_file_is_not_made_by_a_write(tmp_path: Path) -> None:
    for work in (
        lambda: disk.write_span(tmp_path / "x", 0, b"a"),
        lambda: disk.read_span(tmp_path / "x", 0, 1),
        lambda: disk.publish(tmp_path / "x", tmp_path / "y", 0o444),
        lambda: disk.sync_directory(tmp_path / "x"),
    ):
        with pytest.raises(StorageError):
            work()
    assert not disk.has_size(tmp_path / "x", 0)
    disk.remove(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_durable_before_the_name_and_the_name_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def spy_fsync(fd: int) -> None:
        done.append(f"fsync {Path(f'/proc/self/fd/{fd}').readlink().name}")
        fsync(fd)

    def spy_rename(self: Path, target: Path) -> Path:
        done.append(f"rename {self.name} {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "rename", spy_rename)
    (tmp_path / "final").mkdir()
    disk.write_file(tmp_path / "draft", b"data")
    disk.publish(tmp_path / "draft", tmp_path / "final" / "name", 0o444)
    assert done == ["fsync draft", "fsync draft", "rename draft name", "fsync final"]
    assert (tmp_path / "final" / "name").stat().st_mode & 0o777 == 0o444


def test_directories_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot make directory"):
        disk.make_directories((tmp_path / "file" / "store",))


async def test_threads_are_bounded() -> None:
    threads = disk.Threads(2)
    running = peak = 0
    lock, full = threading.Lock(), threading.Barrier(2, timeout=10)

    def work() -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        full.wait()
        with lock:
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(threads.run, work)
    assert peak == 2


async def test_without_threads_the_work_is_done_here() -> None:
    assert await disk.Threads(0).run(threading.get_ident) == threading.get_ident()
    assert await disk.Threads(1).run(threading.get_ident) != threading.get_ident()


async def test_a_fault_in_a_thread_comes_out() -> None:
    def work() -> NoReturn:
        raise StorageError("no")

    for count in (0, 1):
        with pytest.raises(StorageError, match="no"):
            await disk.Threads(count).run(work)


def test_the_newest_are_kept_within_bounds(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}").write_bytes(bytes(10))
        os.utime(tmp_path / f"{number}")
        time.sleep(0.002)  # the order is that of the kernel's clock, which ticks
    assert disk.keep_newest(tmp_path, 10, 1000) == (5, 50)
    assert disk.keep_newest(tmp_path, 3, 1000) == (3, 30)
    assert disk.keep_newest(tmp_path, 10, 25) == (2, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]
    assert disk.keep_newest(tmp_path, 10, 0) == (0, 0)


def test_what_is_told_of_files(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    assert (disk.allocated(path), disk.modified_at(path)) == (0, 0.0)
    disk.create_sparse(path, 1 << 30)
    (tmp_path / "directory").mkdir()
    assert disk.sizes_in([tmp_path]) == {path: 1 << 30}
    assert disk.allocated(path) < 1 << 20
    assert disk.modified_at(path) > 1e9
    assert disk.available(tmp_path) > 0
    with pytest.raises(StorageError):
        disk.sizes_in([tmp_path / "nowhere"])


def test_a_file_that_is_open_outlives_its_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fd = disk.open_read(path)
    path.unlink()
    assert disk.read_open(fd, path, 2, 3) == b"234"
    assert disk.read_cached_open(fd, 2, 3) in (b"234", None)
    assert disk.read_cached_open(fd, 0, disk.CACHED + 1) is None
    with pytest.raises(StorageError, match="ends 5 bytes too early"):
        disk.read_open(fd, path, 5, 10)
    os.close(fd)


def test_a_file_is_replaced_whole_and_only_when_it_must(tmp_path: Path) -> None:
    source, target = tmp_path / "new", tmp_path / "file"
    disk.keep_file(source, target, b"one")
    before = target.stat().st_ino
    disk.keep_file(source, target, b"one")
    assert target.stat().st_ino == before
    disk.keep_file(source, target, b"two")
    assert target.read_bytes() == b"two"
    assert not source.exists()
