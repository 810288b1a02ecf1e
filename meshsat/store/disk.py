"""The few things that the store does to files, each bounded, each blocking; and the threads they are done in.

Law: every error of the operating system leaves as `StorageError`, in words for the person who owns the disk.
A file gets its final name only after its bytes are durable (`publish`).
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from meshsat.errors import StorageError, StorageFullError

Buffer = bytes | bytearray | memoryview

CACHED = 512 * 1024
"""Bytes that may be copied from the page cache on the event loop: a tenth of a millisecond's work."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Threads:
    """Where blocking work is done: at most `count` at once. With 0 it is done on the event loop itself, which
    tests under a mock clock need: that clock would run ahead while a thread works."""

    def __init__(self, count: int) -> None:
        self._limiter = trio.CapacityLimiter(count) if count else None

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Never given up half-way: a cancelled caller waits for the end of this bounded piece of work."""
        if self._limiter is None:
            await trio.lowlevel.checkpoint()
            return work(*args)
        return await trio.to_thread.run_sync(work, *args, limiter=self._limiter)

    async def read(
        self, path: Path, offset: int, length: int, otherwise: Callable[[int, int], bytes] | None = None
    ) -> bytes:
        """As `read_span` (or `otherwise`, given offset and length); a little that is in memory already is
        read at once, which costs less than to hand it to a thread."""
        if length <= CACHED:
            found = read_cached(path, offset, length)
            if found is not None:
                await trio.lowlevel.checkpoint()
                return found
        if otherwise is not None:
            return await self.run(otherwise, offset, length)
        return await self.run(read_span, path, offset, length)


@contextmanager
def storage_errors(doing: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        hint = {
            errno.ENOSPC: "; free some space on that disk, what is there stays intact",
            errno.EDQUOT: "; raise the quota or free some space",
            errno.EROFS: "; remount that file system for writing",
            errno.EACCES: "; give this user the right to, or choose another data directory",
        }.get(fault.errno or 0, "")
        reason = fault.strerror or str(fault)
        kind = StorageFullError if fault.errno in {errno.ENOSPC, errno.EDQUOT} else StorageError
        raise kind(f"cannot {doing} {path}: {reason}{hint}") from fault


def make_directories(paths: tuple[Path, ...]) -> None:
    for path in paths:
        with storage_errors("make directory", path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)


def create_sparse(path: Path, size: int) -> None:
    """A file of `size` bytes that takes no space yet."""
    with storage_errors("create", path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)


def has_size(path: Path, size: int) -> bool:
    """True for a file that exists and is `size` bytes long."""
    with storage_errors("look at", path):
        return path.exists() and path.stat().st_size == size


def truncate(path: Path, size: int) -> None:
    """Cut what lies behind `size` bytes off a file that exists."""
    with storage_errors("shorten", path):
        os.truncate(path, size)


def write_span(path: Path, offset: int, data: Buffer) -> None:
    """Into a file that exists; its writing out to the disk begins, and is not waited for."""
    with storage_errors("write", path):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            rest, at = memoryview(data), offset
            while rest:
                written = os.pwrite(fd, rest, at)
                rest, at = rest[written:], at + written
            # Linux starts to write dirty pages out on this advice, and keeps them while it does. Otherwise a
            # whole layer would be dirty when it is published, and its fsync take seconds.
            os.posix_fadvise(fd, offset, len(data), os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def read_span(path: Path, offset: int, length: int) -> bytes:
    """Exactly `length` bytes; a file that ends before raises `StorageError`."""
    with storage_errors("read", path):
        fd = open_read(path)
        try:
            return read_open(fd, path, offset, length)
        finally:
            os.close(fd)


def open_read(path: Path) -> int:
    """A descriptor of the file, which outlives its name."""
    with storage_errors("open", path):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def read_open(fd: int, path: Path, offset: int, length: int) -> bytes:
    """As `read_span`, from a file that is open."""
    with storage_errors("read", path):
        data = os.pread(fd, length, offset)
        while len(data) < length:
            more = os.pread(fd, length - len(data), offset + len(data))
            if not more:
                lacking = length - len(data)
                raise StorageError(f"{path} ends {lacking} bytes too early: something cut it short")
            data += more
    return data


def read_cached(path: Path, offset: int, length: int) -> bytes | None:
    """`length` bytes, if the kernel has them in memory: this never waits for the disk. None: use `read_span`,
    which tells why. preadv2(2), RWF_NOWAIT."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return read_cached_open(fd, offset, length)
    finally:
        os.close(fd)


def read_cached_open(fd: int, offset: int, length: int) -> bytes | None:
    """As `read_cached`, from a file that is open; None also for more than is read at once."""
    if length > CACHED:
        return None
    buffer = bytearray(length)
    try:
        return bytes(buffer) if os.preadv(fd, [buffer], offset, os.RWF_NOWAIT) == length else None
    except OSError:
        return None


def read_spans(spans: Sequence[tuple[Path, int, int]]) -> list[bytes | StorageError]:
    """Of each (path, offset, length) what `read_span` gives, or why it can't."""
    found: list[bytes | StorageError] = []
    for path, offset, length in spans:
        try:
            found.append(read_span(path, offset, length))
        except StorageError as fault:
            found.append(fault)
    return found


def write_file(path: Path, data: Buffer, mode: int = 0o600) -> None:
    """A new file with durable bytes. Its name is not durable yet."""
    with storage_errors("write", path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fchmod(fd, mode)
            os.fsync(fd)
        finally:
            os.close(fd)


def publish(source: Path, target: Path, mode: int) -> None:
    """Give a file its final name: bytes durable first, then the name."""
    with storage_errors("publish", target):
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(fd, mode)
            os.fsync(fd)
        finally:
            os.close(fd)
    rename(source, target)
    sync_directory(target.parent)


def replace_file(source: Path, target: Path, data: Buffer) -> None:
    """Have these durable bytes under that name, by way of the new file `source`."""
    try:
        write_file(source, data)
        publish(source, target, 0o600)
    except StorageError:
        remove(source)
        raise


def keep_file(source: Path, target: Path, data: bytes) -> None:
    """As `replace_file`, where it is not so already."""
    with storage_errors("read", target):
        same = target.exists() and target.read_bytes() == data
    if not same:
        replace_file(source, target, data)


def rename(source: Path, target: Path) -> None:
    """Give a file of durable bytes its final name; `sync_directory` makes that durable."""
    with storage_errors("publish", target):
        source.rename(target)


def sync_directory(path: Path) -> None:
    with storage_errors("sync", path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    with storage_errors("remove", path):
        path.unlink(missing_ok=True)


def files(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files in a directory."""
    with storage_errors("list", directory), os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # removed meanwhile
                continue
            if stat.S_ISREG(status.st_mode):
                yield Path(entry.path), status


def sizes_in(directories: Iterable[Path]) -> dict[Path, int]:
    """The sizes in bytes of all regular files there."""
    return {path: status.st_size for directory in directories for path, status in files(directory)}


def allocated(path: Path) -> int:
    """Bytes that a sparse file takes on the disk; 0 where there is none."""
    with storage_errors("look at", path):
        try:
            return path.stat().st_blocks * 512
        except FileNotFoundError:
            return 0


def modified_at(path: Path) -> float:
    """Unix seconds of its last change; 0 where there is none."""
    with storage_errors("look at", path):
        try:
            return path.stat().st_mtime
        except FileNotFoundError:
            return 0.0


def keep_newest(directory: Path, count: int, size: int) -> tuple[int, int]:
    """Remove what came first there until at most `count` files with `size` bytes are left; gives how many are
    left, and their bytes."""
    number = left = 0
    newest_first = sorted(files(directory), key=lambda found: found[1].st_ctime_ns, reverse=True)
    for path, status in newest_first:
        if number >= count or left + status.st_size > size:
            remove(path)
        else:
            number, left = number + 1, left + status.st_size
    return number, left


def available(path: Path) -> int:
    """Bytes that this user may still write to that file system."""
    with storage_errors("look at", path):
        seen = os.statvfs(path)
    return seen.f_bavail * seen.f_frsize
