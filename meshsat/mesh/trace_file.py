"""The file that a node records its trace in: buffered, bounded, for its owner's eyes only.

Law: recording never takes the node down. A full disk, or a full trace, ends the recording, and is logged.
"""

import os
from pathlib import Path

import structlog

from meshsat.errors import ConfigError
from meshsat.protocol.trace import Ended, Entry, encode

log = structlog.get_logger(__name__)

BUFFER = 256 * 1024
"""Bytes that wait in memory; what is not flushed is lost with a killed process."""
STOPPED = Ended("the node was stopped")


class TraceFile:
    """A new file at `path`, of at most `limit` bytes. Raises `ConfigError` when it cannot be made."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._full = Ended(f"the trace has reached its limit of {limit} bytes (record.limit)")
        self._room = limit - max(len(encode(STOPPED)), len(encode(self._full)))
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ConfigError(
                f"record.file: {path} is there already; give another name, or move it"
            ) from None
        except OSError as failed:
            raise ConfigError(f"record.file: cannot write {path}: {failed.strerror}") from None
        self._handle = handle
        self._waiting = bytearray()
        self._open = True
        log.info("recording", file=str(path), limit=limit)

    def tell(self, entry: Entry) -> bool:
        """Take the entry in; whether more is taken."""
        if not self._open:
            return False
        data = encode(entry)
        if len(data) > self._room:
            log.warning("recording ends: the trace is full", file=str(self._path))
            self._end(self._full)
            return False
        self._room -= len(data)
        self._waiting += data
        if len(self._waiting) >= BUFFER:
            self._flush()
        return self._open

    def close(self) -> None:
        """Flush what waits, and say that the trace ends here."""
        if self._open:
            self._end(STOPPED)

    def _end(self, last: Ended) -> None:
        self._waiting += encode(last)
        self._flush()
        if self._open:
            self._open = False
            os.close(self._handle)

    def _flush(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: os.write(self._handle, self._waiting)]
        except OSError as failed:
            log.warning("recording ends: cannot write", file=str(self._path), problem=failed.strerror)
            self._open = False
            self._waiting.clear()
            os.close(self._handle)
