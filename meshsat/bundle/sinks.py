"""Where a bundle is written: a tar archive in a file or on a pipe, or a directory.

Laws: under its final name a file is whole, and on the disk; a directory's `index.json` comes last, and what
it referred to before is there until then; the same content gives the same archive. A directory that something
else wrote is left alone.
"""

import errno
import io
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol, Self, cast

import zstandard

from meshsat.bundle import compression, tar
from meshsat.bundle.layout import (
    INDEX_FILE,
    INDEX_LIMIT,
    LAYOUT_FILE,
    OCI_LAYOUT,
    blob_name,
    decode_index_untrusted,
    digest_of_name,
)
from meshsat.bundle.place import PART, Stream
from meshsat.errors import DigestMismatchError, InvalidInputError, MeshsatError, StorageError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import ALGORITHMS, Digest

ADVICE = {
    errno.ENOSPC: "there is no room left",
    errno.EDQUOT: "there is no room left within its quota",
    errno.EFBIG: "no file can be so large there (FAT: 4 GiB); export to a directory, or format it anew",
    errno.EROFS: "it is read-only",
}


class Sink(Protocol):
    """Use as a context: what is left with an exception is not finished."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: object, fault: object, trace: object) -> None: ...

    def begin(self, index: bytes, needed: int) -> None:
        """Before all else: what tells about the rest, and how many bytes that has."""

    def has(self, blob: Descriptor) -> bool:
        """Whether it is there from the last time, and stays."""

    def put(self, blob: Descriptor, data: Stream) -> None:
        """Raises `DigestMismatchError`, and whatever `data` raises."""

    def finish(self) -> None: ...


class Writer(Protocol):
    def write(self, data: bytes | memoryview, /) -> int | None: ...


class Archive:
    """A tar archive on `file`, a raw one. `zstd`: whether it is compressed."""

    def __init__(self, file: BinaryIO, name: str, *, zstd: bool) -> None:
        self._file = file
        self._name = name
        self._out: Writer = file
        self._frame: zstandard.ZstdCompressionWriter | None = None
        if zstd:
            packer = zstandard.ZstdCompressor(level=compression.LEVEL, write_checksum=True)
            self._out = self._frame = packer.stream_writer(
                cast("BinaryIO", _Raw(file)), write_size=PART, closefd=False
            )
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, fault: object, trace: object) -> None:
        return

    def begin(self, index: bytes, needed: int) -> None:
        del needed
        for name, raw in ((LAYOUT_FILE, OCI_LAYOUT), (INDEX_FILE, index)):
            self._write(tar.header(name, len(raw)))
            self._write(raw)
            self._write(tar.padding(len(raw)))
        self._write(tar.header("blobs/", 0))

    def has(self, blob: Descriptor) -> bool:
        del blob
        return False

    def put(self, blob: Descriptor, data: Stream) -> None:
        if blob.digest.algorithm not in self._seen:
            self._seen.add(blob.digest.algorithm)
            self._write(tar.header(f"blobs/{blob.digest.algorithm}/", 0))
        self._write(tar.header(blob_name(blob.digest), blob.size))
        _copy(blob, data, self._write)
        self._write(tar.padding(blob.size))

    def finish(self) -> None:
        self._write(tar.END)
        with told(self._name):
            if self._frame is not None:
                self._frame.flush(zstandard.FLUSH_FRAME)

    def _write(self, data: bytes | memoryview) -> None:
        with told(self._name):
            if self._frame is not None:
                self._frame.write(data)
            else:
                _write_all(self._file, data)


class File(Archive):
    """One that has its name when it is finished."""

    def __init__(self, path: Path, *, zstd: bool) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._bound = not zstd
        with told(str(path)):
            file = _create(self._part)
        super().__init__(file, str(path), zstd=zstd)

    def __exit__(self, kind: object, fault: object, trace: object) -> None:
        self._file.close()
        with suppress(FileNotFoundError):
            self._part.unlink()

    def begin(self, index: bytes, needed: int) -> None:
        if self._bound:
            _check_room(self._path.absolute().parent, needed)
        super().begin(index, needed)

    def finish(self) -> None:
        super().finish()
        with told(str(self._path)):
            os.fsync(self._file.fileno())
            self._part.replace(self._path)
            _sync(self._path.absolute().parent)


class Directory:
    """An image layout in `path`, which holds these images and nothing else when it is finished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index = b""
        self._kept: set[Digest] = set()

    def __enter__(self) -> Self:
        with told(str(self._path)):
            self._check()
            for directory in self._directories:
                directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: object, fault: object, trace: object) -> None:
        return

    @property
    def _directories(self) -> list[Path]:
        blobs = self._path / "blobs"
        return [self._path, blobs, *(blobs / algorithm for algorithm in ALGORITHMS)]

    def _check(self) -> None:
        """Raises `InvalidInputError` where writing could harm what is there."""
        if any(directory.is_symlink() for directory in self._directories[1:]):
            raise InvalidInputError(
                f"{self._path}: its blobs are a link to elsewhere; export to another directory"
            )
        names = {path.name for path in self._path.iterdir()} if self._path.exists() else set()
        try:
            if INDEX_FILE in names:
                with (self._path / INDEX_FILE).open("rb") as file:
                    ours = decode_index_untrusted(file.read(INDEX_LIMIT)).ours
            else:
                # Without one: new, or left by an export that was interrupted.
                ours = names <= {
                    LAYOUT_FILE,
                    "blobs",
                    "lost+found",
                    f".{INDEX_FILE}.part",
                    f".{LAYOUT_FILE}.part",
                }
        except InvalidInputError:
            ours = False
        if not ours:
            raise InvalidInputError(
                f"{self._path} holds what meshsat export did not write; name a new directory"
            )

    def begin(self, index: bytes, needed: int) -> None:
        self._index = index
        _check_room(self._path, needed)
        self._put_file(LAYOUT_FILE, OCI_LAYOUT)

    def has(self, blob: Descriptor) -> bool:
        path = self._path / blob_name(blob.digest)
        with suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size == blob.size:
                self._kept.add(blob.digest)
                return True
        return False

    def put(self, blob: Descriptor, data: Stream) -> None:
        path = self._path / blob_name(blob.digest)
        part = path.with_name(f".{path.name}.part")

        def write(data: bytes | memoryview) -> None:
            with told(str(self._path)):
                _write_all(file, data)

        with told(str(self._path)):
            file = _create(part)
        try:
            with file:
                _copy(blob, data, write)
                with told(str(self._path)):
                    os.fsync(file.fileno())
            with told(str(self._path)):
                part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        self._kept.add(blob.digest)

    def finish(self) -> None:
        with told(str(self._path)):
            for directory in self._directories:
                _sync(directory)
        self._put_file(INDEX_FILE, self._index)
        with told(str(self._path)):
            _sync(self._path)
            self._sweep()

    def _put_file(self, name: str, raw: bytes) -> None:
        part = self._path / f".{name}.part"
        with told(str(self._path)):
            with _create(part) as file:
                _write_all(file, raw)
                os.fsync(file.fileno())
            part.replace(self._path / name)

    def _sweep(self) -> None:
        """Away with what nothing refers to now: a stick that is refreshed each month would fill up."""
        for algorithm in ALGORITHMS:
            for path in (self._path / "blobs" / algorithm).iterdir():
                digest = digest_of_name(f"blobs/{algorithm}/{path.name}")
                part = path.name.startswith(".") and path.name.endswith(".part")
                if part or (digest is not None and digest not in self._kept):
                    path.unlink()


class _Raw:
    """What a compressor writes to: all of it, or an error."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes, /) -> int:
        _write_all(self._file, data)
        return len(data)


@contextmanager
def told(name: str) -> Iterator[None]:
    """Turn the system's faults into words."""
    try:
        yield
    except BrokenPipeError:
        raise MeshsatError(f"{name}: whoever should read it went away") from None
    except OSError as fault:
        raise StorageError(
            f"{name} can't be written: {ADVICE.get(fault.errno or 0, fault.strerror)}"
        ) from None


def _create(path: Path) -> BinaryIO:
    """A new file. What is under its name, left by an interrupted run or a link, goes and is not followed."""
    with suppress(FileNotFoundError):
        path.unlink()
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    return cast("BinaryIO", io.FileIO(number, "w"))


def _copy(blob: Descriptor, data: Stream, write: Callable[[memoryview], None]) -> None:
    """All of the blob. Raises `DigestMismatchError`."""
    room = memoryview(bytearray(min(PART, blob.size + 1)))
    hasher = blob.digest.hasher()
    size = 0
    while count := data.readinto(room):
        size += count
        if size > blob.size:
            break
        hasher.update(room[:count])
        write(room[:count])
    if size != blob.size or hasher.hexdigest() != blob.digest.hex:
        raise DigestMismatchError(
            f"{blob.digest}: what the node gave is not that: its store is damaged (its log says more)"
        )


def _write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _check_room(path: Path, needed: int) -> None:
    with told(str(path)):
        free = shutil.disk_usage(path).free
    if free < needed:
        raise StorageError(
            f"{path}: {needed / 1e6:.1f} MB are to be written, and there is room for {free / 1e6:.1f} MB"
        )


def _sync(directory: Path) -> None:
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError as fault:
        if fault.errno != errno.EINVAL:  # some file systems of sticks know no such thing
            raise
    finally:
        os.close(number)
