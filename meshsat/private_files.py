"""Files for their owner's eyes only: written whole or not at all, mode 0600 from the first byte on."""

import glob
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from meshsat.errors import ConfigError

_UNFINISHED = ".unfinished"
LEFT_AFTER = 3600.0
"""Seconds after which a file that was begun and not put in its place is left over from a crash."""


def write_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`, mode 0600, whole or not at all. Raises `ConfigError`."""
    try:
        path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _remove_leftovers(path)
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=_UNFINISHED, dir=path.parent
        )  # 0600 from the start
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as fault:
        raise ConfigError(f"{path} cannot be written: {fault.strerror}; who owns the directory?") from None


def _remove_leftovers(path: Path) -> None:
    """What was being written when a process was killed, long enough ago to be nobody's any more."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_UNFINISHED}"):
        with suppress(OSError):  # another process may be about it too
            if time.time() - left.stat().st_mtime > LEFT_AFTER:
                left.unlink()


def sync_directory(path: Path) -> None:
    """Make what was renamed or removed in it last. Raises `OSError`."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
