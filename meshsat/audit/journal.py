"""The files of the audit log: appended to by any process of the node's user, rotated by size, verified.

  audit.jsonl       the lines of now, mode 0600
  audit.jsonl.1     those before, up to `keep` files; the chain of hashes goes on from one to the next
  audit.jsonl.head  number and hash of the last line; also what writers lock

A line is on the disk before the head tells of it. A line that a crash cut in half is taken away before the
next one is written, and that is told; lines that the head knows and the file does not have are told too.
Everything blocks: call it in a thread.
"""

import fcntl
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from meshsat.audit.event import FAILURE, NODE, Entry
from meshsat.audit.lines import (
    FIRST_PREV,
    LINE_LIMIT,
    Line,
    encode,
    hash_of,
    parse_line_untrusted,
)
from meshsat.errors import InvalidInputError, MeshsatError
from meshsat.private_files import sync_directory

LOCK_LIMIT = 5.0
"""Seconds for another process to finish its lines."""
FAULTS = 20
"""Faults that are told of at most."""
DAMAGE = "audit.damage"
_HEAD = re.compile(rb"([0-9]{20}) ([0-9a-f]{64})\n")


class JournalError(MeshsatError):
    """Not written. `written`: how many of the entries were, before that."""

    def __init__(self, message: str, written: int = 0) -> None:
        super().__init__(message)
        self.written = written


@dataclass(frozen=True, slots=True)
class Head:
    seq: int = 0
    hash: str = FIRST_PREV


@dataclass(slots=True)
class Verified:
    lines: int = 0
    first: int = 0
    """Number of the first line that is there."""
    head: Head = field(default_factory=Head)
    """The last line that is there."""
    faults: list[str] = field(default_factory=list)


class Journal:
    """`max_bytes` of a file, `keep` older files. `sink` gets each line that was written, and never fails."""

    def __init__(
        self, path: Path, max_bytes: int, keep: int, sink: Callable[[Entry, bytes], None] | None = None
    ) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._sink = sink
        self.damage: str | None = None
        """What was found changed behind our back, since this was made."""

    def append(self, entries: Sequence[Entry]) -> None:
        """Raises `JournalError`."""
        written = 0
        try:
            with (
                self._locked() as head_file,
                _Writer(self.path, head_file, self._max_bytes, self._keep) as writer,
            ):
                for entry in writer.news(entries[0].at if entries else 0.0):
                    if entry.event == DAMAGE:
                        self.damage = f"the audit log {self.path}: {entry.reason}"
                    self._give(entry, writer.write(entry))
                for entry in entries:
                    self._give(entry, writer.write(entry))
                    written += 1
        except OSError as fault:
            raise JournalError(
                f"the audit log {self.path} cannot be written: {fault.strerror}", written
            ) from None

    def _give(self, entry: Entry, line: bytes) -> None:
        if self._sink is not None:
            self._sink(entry, line)

    def lines(self, count: int) -> list[Line]:
        """The last `count`. Raises `JournalError`."""
        last: deque[Line] = deque(maxlen=count)
        for _, _, raw in self._read():
            try:
                last.append(parse_line_untrusted(raw))
            except InvalidInputError:
                continue  # `verify` tells
        return list(last)

    def verify(self) -> Verified:
        """Raises `JournalError` when it cannot be read."""
        found = Verified()
        told = self._told_head()
        at_told = told.seq == 0
        for file, number, raw in self._read():
            where = f"{file}:{number}"
            try:
                line = parse_line_untrusted(raw)
            except InvalidInputError as fault:
                _fault(found, f"{where}: {fault}")
                found.head = Head(found.head.seq + 1, hash_of(raw))
                continue
            if found.lines == 0:
                found.first = line.seq
                if line.seq == 1 and line.prev != FIRST_PREV:
                    _fault(found, f"{where}: the first line of all follows another one")
            elif line.seq != found.head.seq + 1:
                _fault(found, f"{where}: line {line.seq} follows line {found.head.seq}")
            elif line.prev != found.head.hash:
                _fault(found, f"{where}: the line before it was changed")
            found.lines += 1
            found.head = Head(line.seq, hash_of(raw))
            at_told = at_told or found.head == told
        if not at_told:
            _fault(found, f"line {told.seq}, which was written last, is not there as it was written")
        return found

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Raises `OSError`, `JournalError`."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        head = _open_private(self.path.with_name(self.path.name + ".head"))
        try:
            until = time.monotonic() + LOCK_LIMIT
            while True:
                try:
                    fcntl.flock(head, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise JournalError(f"the audit log {self.path} is held by another process") from None
                    time.sleep(0.02)
            yield head
        finally:
            os.close(head)

    def _told_head(self) -> Head:
        try:
            raw = self.path.with_name(self.path.name + ".head").read_bytes()[:256]
        except OSError:
            return Head()
        return _parse_head(raw)

    def _read(self) -> Iterator[tuple[str, int, bytes]]:
        """File, number in it, and bytes of each line, the oldest first, as it was at one moment."""
        if not self.path.parent.is_dir():
            return
        with ExitStack() as stack:
            files: list[tuple[Path, BinaryIO, int]] = []
            try:
                with self._locked():
                    for path in [*reversed(older(self.path)), self.path]:
                        if path.exists():
                            file: BinaryIO = stack.enter_context(path.open("rb"))
                            files.append((path, file, os.fstat(file.fileno()).st_size))
            except OSError as fault:
                raise JournalError(f"{self.path} cannot be read: {fault.strerror}") from None
            for path, source, size in files:
                number = 0
                while source.tell() < size:
                    raw = source.readline(LINE_LIMIT + 1)
                    number += 1
                    yield path.name, number, raw.removesuffix(b"\n")


class _Writer:
    """Of one turn at the lock."""

    def __init__(self, path: Path, head_file: int, max_bytes: int, keep: int) -> None:
        self._path = path
        self._head_file = head_file
        self._max_bytes = max_bytes
        self._keep = keep
        self._file = _open_private(path, os.O_APPEND)
        self._told = _parse_head(os.pread(head_file, 256, 0))
        self._size = os.fstat(self._file).st_size
        self._torn = 0
        self._damaged = False
        self._head = self._find_head()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._settle()
        finally:
            os.close(self._file)

    def _find_head(self) -> Head:
        start = max(0, self._size - 2 * LINE_LIMIT)
        tail = os.pread(self._file, self._size - start, start)
        whole = tail[: tail.rfind(b"\n") + 1]
        self._torn = len(tail) - len(whole)
        if self._torn:
            self._size -= self._torn
            os.ftruncate(self._file, self._size)
        raw = whole[:-1].rpartition(b"\n")[2] if whole else self._last_rotated()
        try:
            seq = parse_line_untrusted(raw).seq
        except InvalidInputError:
            seq = 0
        if seq > self._told.seq:  # written, and then the power went
            return Head(seq, hash_of(raw))
        self._damaged = self._told.seq > 0 and hash_of(raw) != self._told.hash
        return self._told

    def _last_rotated(self) -> bytes:
        """The last line of the file before this one."""
        for path in older(self._path)[:1]:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 2 * LINE_LIMIT))
                return file.read(2 * LINE_LIMIT)[:-1].rpartition(b"\n")[2]
        return b""

    def news(self, at: float) -> list[Entry]:
        """What has to be told first."""
        found = []
        if self._torn:
            text = f"{self._torn} bytes of a line that was not finished"
            found.append(Entry(at, "audit.repair", NODE, self._path.name, FAILURE, text))
        if self._damaged:
            text = f"line {self._told.seq}, which was written last, is not there as it was written"
            found.append(Entry(at, DAMAGE, NODE, self._path.name, FAILURE, text))
        return found

    def write(self, entry: Entry) -> bytes:
        """Raises `OSError`; what was begun of the line is taken away then."""
        line = encode(entry, self._head.seq + 1, self._head.hash)
        if self._size and self._size + len(line) + 1 > self._max_bytes:
            self._settle()
            self._rotate()
        try:
            rest = memoryview(line + b"\n")
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line) + 1
        self._head = Head(self._head.seq + 1, hash_of(line))
        return line

    def _settle(self) -> None:
        """Lines first, then the head that tells of them. Raises `OSError`."""
        if self._head != self._told:
            os.fdatasync(self._file)
            os.pwrite(self._head_file, b"%020d %s\n" % (self._head.seq, self._head.hash.encode()), 0)
            self._told = self._head

    def _rotate(self) -> None:
        for path in reversed(older(self._path)):
            number = int(path.suffix[1:])
            if number >= self._keep:
                path.unlink()
            else:
                path.replace(self._path.with_name(f"{self._path.name}.{number + 1}"))
        if self._keep:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        else:
            self._path.unlink()
        sync_directory(self._path.parent)
        os.close(self._file)
        self._file = _open_private(self._path, os.O_APPEND)
        self._size = 0


def older(path: Path) -> list[Path]:
    """The rotated files, the youngest first. Raises `OSError`."""
    form = re.compile(re.escape(path.name) + r"\.[1-9][0-9]{0,5}")
    found = [entry for entry in path.parent.iterdir() if form.fullmatch(entry.name)]
    return sorted(found, key=lambda entry: int(entry.suffix[1:]))


def _parse_head(raw: bytes) -> Head:
    match = _HEAD.fullmatch(raw)
    return Head(int(match[1]), match[2].decode("ascii")) if match else Head()


def _fault(found: Verified, text: str) -> None:
    if len(found.faults) < FAULTS:
        found.faults.append(text)


def _open_private(path: Path, flags: int = 0) -> int:
    """For its owner alone; what root makes in another user's directory is that user's. Raises `OSError`."""
    flags |= os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        opened = os.open(path, flags | os.O_CREAT, 0o600)
    if os.geteuid() == 0:
        try:
            owner = path.parent.stat()
            os.fchown(opened, owner.st_uid, owner.st_gid)
        except OSError:
            os.close(opened)
            raise
    return opened
