"""What is imported: a directory, an archive, a pipe; each gives its files in order, and again if it can.

Laws: a name in an archive is never a path of this machine; in a directory nothing but regular files is
opened, and no link is followed; a pipe is read once where that is enough, and kept in a temporary file where
not.
"""

import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from meshsat.bundle import compression
from meshsat.bundle.layout import INDEX_FILE, LAYOUT_FILE, MANIFEST_FILE
from meshsat.bundle.place import PART
from meshsat.bundle.tar import MEMBER_LIMIT, Content, Member, members_untrusted
from meshsat.errors import InvalidInputError, MeshsatError, NotFoundError

FIRST = (LAYOUT_FILE, INDEX_FILE, MANIFEST_FILE)
"""What tells about the rest."""
PEEK = 128 * 1024
"""Bytes of a pipe that are looked at, to tell whether it can be read in one go."""


class Source(Protocol):
    name: str
    """For people."""
    again: bool
    """Whether `members` can be had more than once."""

    def sizes(self) -> Mapping[str, int] | None:
        """All files and their sizes, where that costs little."""

    def members(self) -> Iterator[Member]:
        """Raises `InvalidInputError` where it is damaged."""


class Directory:
    """An image layout on disk, or skopeo's `dir:`."""

    again = True

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._sizes: dict[str, int] | None = None

    def sizes(self) -> Mapping[str, int]:
        """Raises `InvalidInputError` when there are more files than any bundle has."""
        if self._sizes is not None:
            return self._sizes
        found: dict[str, int] = {}
        for name in self._names():
            with suppress(OSError):
                status = (self._path / name).lstat()
                if stat.S_ISREG(status.st_mode):
                    found[name] = status.st_size
            if len(found) > MEMBER_LIMIT:
                raise InvalidInputError(
                    f"{self.name} holds more than {MEMBER_LIMIT} files: this is no bundle"
                )
        self._sizes = found
        return found

    def _names(self) -> Iterator[str]:
        yield from FIRST
        blobs = self._path / "blobs"
        for directory in (self._path, *(blobs / algorithm for algorithm in ("sha256", "sha512"))):
            with suppress(FileNotFoundError, NotADirectoryError):
                for path in sorted(directory.iterdir()):
                    if path.name not in FIRST:
                        yield str(path.relative_to(self._path))

    def members(self) -> Iterator[Member]:
        for name in self.sizes():
            try:
                number = os.open(self._path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                continue
            with io.FileIO(number) as file:
                size = os.fstat(number).st_size
                yield Member(name, size, Content(file, size))


class Archive:
    """A tar archive in a file, compressed or not."""

    again = True

    def __init__(self, file: io.FileIO, name: str) -> None:
        self.name = name
        self._file = file
        file.seek(0)
        self._head = file.read(len(compression.ZSTD_MAGIC))
        self._sizes: dict[str, int] | None = None
        self._listed = False
        self._told_twice = False

    def sizes(self) -> Mapping[str, int] | None:
        """Raises `InvalidInputError` where it is told twice what is in it: tools differ in which counts."""
        if not self._listed and not compression.is_compressed(self._head):
            self._listed = True
            # What comes before damage may be of use; whoever reads on meets it.
            with suppress(InvalidInputError):
                names = [(member.name, member.size) for member in self.members()]
                self._sizes = dict(names)
                self._told_twice = any(sum(name == first for name, _ in names) > 1 for first in FIRST)
        if self._told_twice:
            raise InvalidInputError(f"{self.name} tells twice what is in it ({', '.join(FIRST)})")
        return self._sizes

    def members(self) -> Iterator[Member]:
        self._file.seek(0)
        if compression.is_compressed(self._head):
            stream = compression.expanded_untrusted(self._file, self._head)
            yield from members_untrusted(stream, lambda count: compression.skip(stream, count))
            return
        end = os.fstat(self._file.fileno()).st_size

        def skip(count: int) -> None:
            if self._file.seek(count, os.SEEK_CUR) > end:
                raise InvalidInputError("the archive is cut short: copy it anew from where it was made")

        yield from members_untrusted(self._file, skip)


class Pipe:
    """A tar archive in the order that meshsat writes, as it comes."""

    again = False
    name = "the archive on stdin"

    def __init__(self, source: compression.Source, head: bytes) -> None:
        self._source = source
        self._head = head

    def sizes(self) -> None:
        return None

    def members(self) -> Iterator[Member]:
        stream = _opened(self._source, self._head)
        yield from members_untrusted(stream, lambda count: compression.skip(stream, count))


class _Joined(io.RawIOBase):
    """What was read of a pipe already, then the rest."""

    def __init__(self, head: bytes, rest: compression.Source) -> None:
        super().__init__()
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            size = len(self._head) if size < 0 else size
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._rest.read(size)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # of Buffer, which has no length
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _opened(source: compression.Source, head: bytes) -> compression.Expanded | _Joined:
    return (
        compression.expanded_untrusted(source, head)
        if compression.is_compressed(head)
        else _Joined(b"", source)
    )


def open_source(path: Path) -> Source:
    """Raises `NotFoundError`, `MeshsatError`."""
    try:
        if path.is_dir():
            return Directory(path)
        return Archive(io.FileIO(path), str(path))
    except FileNotFoundError:
        raise NotFoundError(f"there is no {path}") from None
    except OSError as fault:
        raise MeshsatError(f"{path} can't be read: {fault.strerror}") from None


def open_pipe(pipe: compression.Source) -> Source:
    """Raises `MeshsatError` where there is no room to keep what can't be read in one go."""
    head = b""
    while len(head) < PEEK and (data := pipe.read(PEEK - len(head))):
        head += data
    joined = _Joined(head, pipe)
    if _tells_first(head):
        return Pipe(joined, head)
    try:
        number, path = tempfile.mkstemp(prefix="meshsat-")
        file = io.FileIO(number, "r+")
        Path(path).unlink()
        shutil.copyfileobj(joined, file, PART)
    except OSError as fault:
        raise MeshsatError(
            f"the archive on stdin has to be read twice, and can't be kept in {tempfile.gettempdir()}:"
            f" {fault.strerror}; save it to a file, and import that"
        ) from None
    return Archive(file, Pipe.name)


def _tells_first(head: bytes) -> bool:
    """Whether an archive begins with the files that tell about the others."""
    stream = _opened(io.BytesIO(head), head)
    members = members_untrusted(stream, lambda count: compression.skip(stream, count))
    with suppress(InvalidInputError, StopIteration):
        return next(members).name in (LAYOUT_FILE, INDEX_FILE)
    return False
