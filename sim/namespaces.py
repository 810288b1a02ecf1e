"""Network namespaces with an owner: made, run in, and removed whatever happens.

Laws: every namespace of a run carries the run's prefix, which names the process that owns it; `remove` ends
what runs under a prefix, then the namespaces, then the run's directory. A run is removed by its owner, or by
its janitor (a process that waits for the owner's end), or, when both were killed, by the next run's `sweep`.
Nothing outside the namespaces is touched: no address, route, sysctl or rule of the host.

Root only. Does not lay out a network (network.py) and does not shape links (links.py).
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

RUN = re.compile(r"(meshsat-(\d+)\.(\d+)-\d+)(?:-.*)?")
"""`meshsat-<pid>.<start time of the pid>-<number>`: the prefix of one run."""
REMOVAL_SECONDS = 10.0
_numbers = itertools.count()


class CommandError(RuntimeError):
    """A command that had to work did not; the message holds what it said."""


def run(argv: tuple[str, ...], *, stdin: str | None = None, timeout: float = 60.0) -> str:
    """Run `argv` to its end and return what it printed. Raises `CommandError`."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise CommandError(f"{' '.join(argv)}: not done after {timeout:g} s") from None
    if done.returncode:
        raise CommandError(
            f"{' '.join(argv)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}"
        )
    return done.stdout


class Namespace:
    """One network namespace, by name. Its loopback is up."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create(self) -> Self:
        run(("ip", "netns", "add", self.name))
        self.ip("link set lo up")
        return self

    def ip(self, *lines: str) -> None:
        """Configure: each line is one `ip` command without the word `ip`."""
        run(("ip", "-n", self.name, "-batch", "-"), stdin="\n".join(lines) + "\n")

    def inside(self, *argv: str) -> tuple[str, ...]:
        """The command that runs `argv` in here. The process keeps the id of the one that was started."""
        return ("ip", "netns", "exec", self.name, *argv)

    def run(self, *argv: str, stdin: str | None = None, timeout: float = 60.0) -> str:
        return run(self.inside(*argv), stdin=stdin, timeout=timeout)

    def start(
        self, *argv: str, output: IO[bytes] | int = subprocess.DEVNULL, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `argv` in here, out of reach of the terminal's Ctrl-C; whoever owns the run ends it.

        `env` None: that of this process.
        """
        return subprocess.Popen(
            self.inside(*argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )


class Run:
    """Owns a prefix and a directory; on leaving, whatever bears the prefix is gone.

    The context manager is the way in; `janitor` covers the end that no context manager sees (SIGKILL).
    """

    def __init__(self, parent: Path | None = None) -> None:
        sweep()
        pid = os.getpid()
        self.prefix = f"meshsat-{pid}.{_start_time(pid)}-{next(_numbers)}"
        self.directory = Path(tempfile.mkdtemp(prefix=self.prefix + "-", dir=parent))
        self._janitor = subprocess.Popen(
            (sys.executable, "-m", "sim.janitor", self.prefix, str(self.directory)),
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd=Path(__file__).parent.parent,
        )

    def namespace(self, role: str) -> Namespace:
        return Namespace(f"{self.prefix}-{role}").create()

    def close(self) -> None:
        """Remove everything. Idempotent."""
        remove(self.prefix, self.directory)
        if self._janitor.stdin:
            self._janitor.stdin.close()  # its word to look once more, and go
        self._janitor.wait(REMOVAL_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def namespaces(prefix: str) -> list[str]:
    """The names of the namespaces of one run."""
    names = (line.split()[0] for line in run(("ip", "netns", "list")).splitlines() if line.strip())
    return [name for name in names if name.startswith(prefix + "-")]


def processes(namespace: str) -> list[int]:
    return [int(pid) for pid in run(("ip", "netns", "pids", namespace)).split()]


def remove(prefix: str, directory: Path | None) -> None:
    """End the processes in the run's namespaces, delete those, delete the directory. Idempotent.

    Raises `CommandError` when something still lives after `REMOVAL_SECONDS`.
    """
    deadline = time.monotonic() + REMOVAL_SECONDS
    for name in namespaces(prefix):
        while pids := _processes_if_there(name):
            for pid in pids:
                _kill(pid)
            if time.monotonic() > deadline:
                raise CommandError(f"namespace {name}: processes {pids} do not die")
            time.sleep(0.02)
        # Owner and janitor may both be at it: a namespace that is gone already is what was wanted.
        subprocess.run(
            ("ip", "netns", "delete", name), capture_output=True, check=False, timeout=REMOVAL_SECONDS
        )
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)


def end_own_processes() -> None:
    """Kill whatever runs in the namespaces of this process's runs. They stay, for their owners to remove."""
    for name in namespaces(f"meshsat-{os.getpid()}.{_start_time(os.getpid())}"):
        for pid in _processes_if_there(name):
            _kill(pid)


def sweep() -> None:
    """Remove the runs whose owners are dead: their namespaces and their directories."""
    names = [line.split()[0] for line in run(("ip", "netns", "list")).splitlines() if line.strip()]
    left = {prefix: None for name in names if (prefix := _dead_run(name))}
    for prefix in left:
        remove(prefix, None)
    for directory in Path(tempfile.gettempdir()).glob("meshsat-*"):
        if _dead_run(directory.name):
            shutil.rmtree(directory, ignore_errors=True)


def _dead_run(name: str) -> str | None:
    """The prefix in `name` if its owner is dead, else None."""
    match = RUN.fullmatch(name)
    if match is None or _start_time(int(match[2])) == match[3]:
        return None
    return match[1]


def _start_time(pid: int) -> str | None:
    """Clock ticks since boot (proc(5), stat field 22): with the pid it names a process for good."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def _processes_if_there(name: str) -> list[int]:
    try:
        return processes(name)
    except CommandError:
        return []


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
