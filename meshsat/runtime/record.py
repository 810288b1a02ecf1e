"""What was installed, kept beside what was there before: the journal of `apply`.

    DIR/lock                     held while files are changed
    DIR/PLACE/record.json        which files, what they were and what they are to be, how far it came
    DIR/PLACE/content/SHA256     the bytes of both

Laws: a record is written before the first file that it speaks of is touched, so that whatever a crash leaves
is known; what it names is in content/ before. The directory is this user's own and nobody else may write
there: its bytes go back into files that make root run programs.
"""

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from meshsat.errors import InvalidInputError, StorageError
from meshsat.runtime.disk import Disk, told
from meshsat.runtime.plans import Mirror, Origin

FORMAT = 1
INSTALLING, INSTALLED, UNINSTALLING = "installing", "installed", "uninstalling"
PHASES = (INSTALLING, INSTALLED, UNINSTALLING)
RECORD_LIMIT = 1024 * 1024
FILES_LIMIT = 10_000
Sum = str | None
"""SHA-256 of a content, in hex; None: no such file."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file."""

    path: str
    without: Sum
    """As it is without meshsat."""
    ours: Sum
    """As we made it, or are about to."""
    earlier: tuple[tuple[Sum, Sum], ...] = ()
    """Further pairs of the two, of what came before, while it is under way."""

    @property
    def pairs(self) -> tuple[tuple[Sum, Sum], ...]:
        return ((self.without, self.ours), *self.earlier)


@dataclass(frozen=True, slots=True)
class Record:
    phase: str
    runtimes: tuple[str, ...]
    """For which runtimes this was installed."""
    mirror: Mirror
    entries: tuple[Entry, ...]
    directories: tuple[str, ...]
    """Those that were made for it, outermost first."""
    waking: tuple[str, ...] = ()
    """Runtimes that have to look at their files again, and were not made to."""
    read_at_start: tuple[str, ...] = ()
    """Files that a running daemon does not look at again by itself."""
    since: float = 0.0
    """Unix time of the last change to a file."""


def sum_of(data: bytes | None) -> Sum:
    return None if data is None else hashlib.sha256(data).hexdigest()


def encode_record(record: Record) -> bytes:
    return (json.dumps({"format": FORMAT, **asdict(record)}, indent=1) + "\n").encode()


def decode_record_untrusted(data: bytes) -> Record:
    """Raises `InvalidInputError`."""
    if len(data) > RECORD_LIMIT:
        raise InvalidInputError("record of runtime install: too long")
    try:
        found = json.loads(data)
        if found["format"] != FORMAT:
            raise InvalidInputError(
                f"record of runtime install: of format {str(found['format'])[:20]}; only {FORMAT} is"
                " known here"
            )
        entries = tuple(_entry(one) for one in _list(found["entries"]))
        phase, since = found["phase"], found["since"]
        if phase not in PHASES or not isinstance(since, int | float) or isinstance(since, bool):
            raise InvalidInputError("record of runtime install: unknown phase or time")
        return Record(
            phase,
            tuple(map(_text, _list(found["runtimes"]))),
            _mirror(found["mirror"]),
            entries,
            tuple(map(_path, _list(found["directories"]))),
            tuple(map(_text, _list(found["waking"]))),
            tuple(map(_path, _list(found["read_at_start"]))),
            float(since),
        )
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError):
        raise InvalidInputError("record of runtime install: damaged") from None


def _entry(one: Any) -> Entry:
    earlier = tuple((_sum(pair[0]), _sum(pair[1])) for pair in _list(one["earlier"]))
    return Entry(_path(one["path"]), _sum(one["without"]), _sum(one["ours"]), earlier)


def _mirror(one: Any) -> Mirror:
    origins = tuple(Origin(_text(each["host"]), each["plain_http"] is True) for each in _list(one["origins"]))
    ca_file = None if one["ca_file"] is None else _path(one["ca_file"])
    unnamed = None if one["unnamed"] is None else _text(one["unnamed"])
    return Mirror(_text(one["url"]), origins, one["every"] is True, ca_file, unnamed)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > FILES_LIMIT:
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _path(value: Any) -> str:
    if not _text(value).startswith("/") or ".." in value.split("/") or "\0" in value:
        raise ValueError
    return str(value)


def _sum(value: Any) -> Sum:
    if value is not None and (len(_text(value)) != 64 or set(value) - set("0123456789abcdef")):
        raise ValueError
    return None if value is None else str(value)


class Records:
    """The records below `directory` of a disk."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self.directory = directory

    @contextmanager
    def locked(self) -> Iterator[None]:
        """For whoever is about to change something. Raises `StorageError` if another is at it."""
        self._own_directory()
        place = self._disk.real(f"{self.directory}/lock")
        with told("open", f"{self.directory}/lock"):
            fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StorageError("another meshsat runtime is at work; wait until it is done") from None
            yield
        finally:
            os.close(fd)

    def load(self, place: str) -> Record | None:
        """Raises `StorageError`: the record is damaged, and what was there before is in content/."""
        path = f"{self.directory}/{place}/record.json"
        data = self._disk.read(path)
        if data is None:
            return None
        try:
            return decode_record_untrusted(data)
        except InvalidInputError as fault:
            raise StorageError(
                f"{path}: {fault}; what was there before the install is in content/ beside it: put it"
                " back by hand,"
                f" then remove {self.directory}/{place}"
            ) from None

    def save(self, place: str, record: Record) -> None:
        self._disk.write(f"{self.directory}/{place}/record.json", encode_record(record), 0o600)

    def keep(self, place: str, data: bytes | None) -> Sum:
        """Keep content, for `content`."""
        name = sum_of(data)
        if data is None or name is None:
            return None
        for directory in (self.directory, f"{self.directory}/{place}", f"{self.directory}/{place}/content"):
            self._disk.make_directory(directory, 0o700)
        path = f"{self.directory}/{place}/content/{name}"
        if sum_of(self._disk.read(path)) != name:
            self._disk.write(path, data, 0o600)
        return name

    def content(self, place: str, name: Sum) -> bytes | None:
        """Raises `StorageError` where what was kept is not there as it was."""
        if name is None:
            return None
        path = f"{self.directory}/{place}/content/{name}"
        data = self._disk.read(path)
        if sum_of(data) != name:
            raise StorageError(f"{path} is missing or damaged: the file as it was before the install is lost")
        return data

    def forget_content(self, place: str, record: Record | None) -> None:
        """Remove what the record does not name; without one, everything of the place."""
        named = (
            {name for entry in record.entries for pair in entry.pairs for name in pair} if record else set()
        )
        directory = f"{self.directory}/{place}/content"
        self._disk.sweep(directory)
        for name in self._disk.names(directory):
            if name not in named:
                self._disk.remove(f"{directory}/{name}")
        if record is None:
            self._disk.sweep(f"{self.directory}/{place}")
            self._disk.remove_directory(directory)
            self._disk.remove_directory(f"{self.directory}/{place}")

    def drop(self, place: str) -> None:
        """The place is as it was: forget it."""
        self._disk.remove(f"{self.directory}/{place}/record.json")
        self.forget_content(place, None)

    def _own_directory(self) -> None:
        path = f"{self.directory}/record"
        for directory in self._disk.missing_directories(path):
            self._disk.make_directory(directory, 0o700 if directory == self.directory else 0o755)
        with told("look at", self.directory):
            parent, _, name = self.directory.rpartition("/")
            found = os.lstat(self._disk.real(parent) / name)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise StorageError(
                f"{self.directory} must be a directory of the user who runs this, that nobody else can"
                " write to:"
                " what is kept there goes back into the runtimes' configuration"
            )
