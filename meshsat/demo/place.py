"""Where the demo lives: one temporary directory, and the processes in it.

Laws: every process dies with the demo (`tether`), and the directory goes with it (`sweep`), also when the
demo is killed. Ctrl-C on the terminal reaches the demo alone: it ends the others in order.
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from meshsat.demo import sweep, tether
from meshsat.errors import MeshsatError

FAREWELL = 4.0
"""Seconds that processes get to end after SIGTERM, all together."""
LOOK_EVERY = 0.05
"""Seconds between two looks whether a process has ended."""
TAIL = 15
"""Lines of a log that are shown."""
PARENT_LIMIT = 60
"""Bytes of a path. The nodes' Unix sockets lie below it, and unix(7) allows them 107."""
DROPPED = ("MESHSAT_", "REGISTRY_", "DOCKER_", "LIBP2P_")
"""The visitor's settings must not reach the demo's processes."""
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


class DemoError(MeshsatError):
    """The demo cannot go on."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log
        """The end of the log of the process at fault; "" where there is none."""


class Child:
    """A process of the demo. Its output goes to a file."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    async def wait(self) -> int:
        while (code := self.exit_code) is None:  # noqa: ASYNC110 - the kernel tells by waitpid alone
            await trio.sleep(LOOK_EVERY)
        return code

    def signal(self, number: int) -> None:
        if self.exit_code is None:
            self._process.send_signal(number)

    def tail(self) -> str:
        """The last lines that it logged."""
        with self.log.open(errors="replace") as file:
            return "".join(file.readlines()[-TAIL:])

    async def must_run(self) -> None:
        """Return never; raise `DemoError` when the process ends."""
        code = await self.wait()
        raise DemoError(f"{self.name} ended by itself, {_in_words(code)}", self.tail())


class Place:
    """Starts the demo's processes. Made by `open_place`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str], stdin: bytes = b"") -> Child:
        """Start `command`, `stdin` waiting for it in a file. Call it from the main thread only."""
        log = self.directory / f"{name}.log"
        asked = self.directory / f"{name}.stdin"
        asked.write_bytes(stdin)
        with log.open("wb") as output, asked.open("rb") as source:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *command],
                stdin=source,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=_environment(os.environ, self.directory),
                process_group=0,
            )
        asked.unlink()
        child = Child(name, process, log)
        self._children.append(child)
        return child

    async def run(self, name: str, command: Sequence[str], stdin: bytes = b"", limit: float = 30.0) -> str:
        """Run `command` to its end, `limit` seconds at most; what it printed. Raises `DemoError`."""
        child = self.start(name, command, stdin)
        with trio.move_on_after(limit):
            if await child.wait() == 0:
                return child.log.read_text(errors="replace")
        code = child.exit_code
        child.signal(signal.SIGKILL)
        how = f"did not end within {limit:.0f} s" if code is None else f"failed, {_in_words(code)}"
        raise DemoError(f"{name} {how}", child.tail())

    async def end(self) -> None:
        """End all processes: politely, then not. Takes `FAREWELL` seconds at most."""
        for child in self._children:
            child.signal(signal.SIGTERM)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + FAREWELL):
            for child in self._children:
                await child.wait()
        for child in self._children:
            child.signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):  # SIGKILL is certain
            for child in self._children:
                await child.wait()


@asynccontextmanager
async def open_place() -> AsyncIterator[Place]:
    """A `Place` in a new temporary directory. Nothing of it is left afterwards."""
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) > PARENT_LIMIT:
        parent = Path("/tmp")  # noqa: S108 - the directory made there is ours alone
    directory = parent / f"{sweep.PREFIX}{secrets.token_hex(4)}"
    sweeper = subprocess.Popen(  # noqa: ASYNC220 - takes a millisecond, once
        [sys.executable, "-I", "-S", sweep.__file__, str(directory)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    place = Place(directory)
    try:
        directory.mkdir(mode=0o700)  # the sweeper runs by now: there is no instant at which it could be left
        yield place
    finally:
        await place.end()
        sweeper.communicate()


def _environment(outer: Mapping[str, str], home: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in outer.items()
        if not name.startswith(DROPPED) and name.lower() not in PROXIES
    }
    return {**kept, "HOME": str(home), "PYTHONUNBUFFERED": "1"}


def _in_words(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
