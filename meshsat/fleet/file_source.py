"""A file on this machine as a source of the desired state: looked at again whenever it changes."""

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

from meshsat.errors import InvalidInputError
from meshsat.fleet.state_file import FILE_LIMIT, StateFile, parse_state_file_untrusted
from meshsat.store.disk import Threads

log = structlog.get_logger(__name__)

LOOK = 5.0
"""Seconds between two looks at whether it changed."""


class FileSource:
    """`offer` is `States.offer`."""

    def __init__(
        self, path: Path, offer: Callable[[StateFile, str], Awaitable[int | None]], threads: Threads
    ) -> None:
        self._path = path
        self._offer = offer
        self._threads = threads
        self._seen: tuple[int, int, int] | None = None
        self.problem: str | None = None

    @property
    def name(self) -> str:
        return f"file {self._path}"

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK)

    async def look(self) -> None:
        """Offer what is in the file, if that is news."""
        try:
            found = await self._threads.run(self._read)
        except OSError as fault:
            self._seen = None
            self.problem = f"{self._path}: {fault.strerror or fault}"
            return
        if found is None:
            return
        self.problem = None
        try:
            await self._offer(parse_state_file_untrusted(found), self.name)
        except InvalidInputError as refused:
            self.problem = f"{self._path}: {refused}"
            log.warning("the file's desired state is not taken", path=str(self._path), why=str(refused))

    def _read(self) -> bytes | None:
        """None: it is as it was."""
        number = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would never open
        with os.fdopen(number, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
            if mark == self._seen:
                return None
            raw = file.read(FILE_LIMIT + 1)
        self._seen = mark
        return raw
