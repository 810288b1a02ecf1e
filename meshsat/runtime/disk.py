"""Files of a host, or of an image's tree, below a root: read, and replaced in one step.

Laws: a symbolic link is followed, as seen from the root, and the file that it means is replaced, not the
link; a file is the old one or the new one, also after a crash; mode, owner and extended attributes (SELinux)
stay.
"""

import os
import posixpath
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from meshsat.errors import StorageError
from meshsat.runtime.formats import SIZE_LIMIT

LINKS_LIMIT = 40
TEMPORARY = ".meshsat-new-"
ADVICE = {
    "PermissionError": "run this as root",
    "NotADirectoryError": "a directory is expected there",
    "IsADirectoryError": "a file is expected there",
}


class Disk:
    """Paths are absolute below `root`. Every method raises `StorageError` in words for the operator."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes | None:
        """The content; None where there is no file. See `View`."""
        with told("read", path):
            try:
                with self.real(path).open("rb") as file:
                    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                        raise StorageError(f"{path} is no plain file")
                    return file.read(SIZE_LIMIT + 1)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def names(self, directory: str) -> tuple[str, ...]:
        """See `View`."""
        with told("list", directory):
            try:
                there = (one.name for one in self.real(directory).iterdir())
                return tuple(sorted(name for name in there if not name.startswith(TEMPORARY)))
            except (FileNotFoundError, NotADirectoryError):
                return ()

    def exists(self, path: str) -> bool:
        with told("look at", path):
            return os.path.lexists(self.real(path))

    def real(self, path: str) -> Path:
        """The place of `path` on this machine, its links followed as if `root` were the root."""
        left = [part for part in path.split("/") if part]
        done: list[str] = []
        links = 0
        while left:
            part = left.pop(0)
            if part == "..":
                del done[-1:]
                continue
            here = self.root.joinpath(*done, part)
            if part == "." or not here.is_symlink():
                done += [part] if part != "." else []
                continue
            links += 1
            if links > LINKS_LIMIT:
                raise StorageError(f"{path}: too many symbolic links")
            target = str(here.readlink())
            if target.startswith("/"):
                done = []
            left = [*(step for step in target.split("/") if step), *left]
        return self.root.joinpath(*done)

    def missing_directories(self, path: str) -> list[str]:
        """Directories that writing `path` has to make, outermost first."""
        missing = []
        directory = posixpath.dirname(path)
        while directory not in ("", "/") and not self.exists(directory):
            missing.append(directory)
            directory = posixpath.dirname(directory)
        return missing[::-1]

    def make_directory(self, path: str, mode: int = 0o755) -> None:
        with told("make", path), suppress(FileExistsError):
            self.real(path).mkdir(mode)
            _sync(self.real(path).parent)

    def remove_directory(self, path: str) -> None:
        """Remove `path` if it is there and empty."""
        with suppress(OSError):
            self.real(path).rmdir()
            _sync(self.real(path).parent)

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Replace the content of `path`, or make it with `mode`."""
        with told("write", path):
            place = self.real(path)
            new = place.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    file.flush()
                    _take_after(place, file.fileno(), mode)
                    os.fsync(file.fileno())
                new.rename(place)
            except OSError:
                with suppress(OSError):
                    new.unlink()
                raise
            _sync(place.parent)

    def remove(self, path: str) -> None:
        with told("remove", path), suppress(FileNotFoundError):
            place = self.real(path)
            place.unlink()
            _sync(place.parent)

    def sweep(self, directory: str) -> None:
        """Remove what a killed run left half written. The caller holds the lock: nobody else writes."""
        for left in self.real(directory).glob(f"{TEMPORARY}*"):
            with suppress(OSError):
                left.unlink()


@contextmanager
def told(doing: str, path: str) -> Iterator[None]:
    """Turn what the system says into words for the operator."""
    try:
        yield
    except OSError as fault:
        advice = ADVICE.get(type(fault).__name__, "")
        said = fault.strerror or str(fault)
        raise StorageError(f"cannot {doing} {path}: {said}{'; ' + advice if advice else ''}") from None


def _take_after(old: Path, fd: int, mode: int) -> None:
    """Give `fd` the mode, owner and attributes that `old` has."""
    try:
        was = old.stat()
    except FileNotFoundError:
        os.fchmod(fd, mode)
        return
    if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(fd, was.st_uid, was.st_gid)
    os.fchmod(fd, stat.S_IMODE(was.st_mode))
    try:
        attributes = os.listxattr(old)
    except OSError:  # a file system without them
        return
    for name in attributes:
        with suppress(OSError):  # the system gives some by itself, and lets nobody set them
            os.setxattr(fd, name, os.getxattr(old, name))


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
