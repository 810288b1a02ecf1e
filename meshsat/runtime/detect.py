"""Which runtimes are on this host, or in an image's tree: by their binaries, sockets and files, not by asking
them.

A version is what the binary says of itself, where that can be trusted: on this host, root's own file, within
a deadline. Nothing else is run.
"""

import os
import re
import stat
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meshsat.runtime.catalog import BINARIES, RUNTIMES, Runtime
from meshsat.runtime.disk import Disk

VERSION_TIMEOUT = 5.0
"""Seconds. A binary says its version in a tenth of one."""
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Found:
    name: str
    where: tuple[str, ...]
    """What gave it away: paths below the root."""
    version: str | None = None
    running: bool = False


def detect(disk: Disk, runtimes: Sequence[Runtime] = RUNTIMES) -> tuple[Found, ...]:
    """Those that are there, in the order of the catalog. Raises `StorageError`."""
    return tuple(found for runtime in runtimes if (found := _detect(disk, runtime)) is not None)


def _detect(disk: Disk, runtime: Runtime) -> Found | None:
    binaries = [
        path for name in runtime.binaries for place in BINARIES if _is_file(disk, path := f"{place}/{name}")
    ]
    sockets = [path for path in runtime.sockets if _is_socket(disk, path)]
    where = (*binaries, *sockets, *(path for path in runtime.traces if disk.exists(path)))
    if not where:
        return None
    own = disk.root == Path("/")
    version = _version(disk.real(binaries[0])) if own and binaries else None
    return Found(runtime.name, where, version, own and bool(sockets or _is_running(runtime)))


def started_at(processes: Sequence[str], proc: Path = PROC) -> float | None:
    """Unix time at which the eldest process with one of these names began; None: there is none."""
    ticks = [start for pid in _pids(processes, proc) if (start := _start_ticks(proc / pid)) is not None]
    if not ticks:
        return None
    with suppress(OSError, StopIteration, ValueError):
        lines = (proc / "stat").read_text().splitlines()
        booted = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
        return booted + min(ticks) / os.sysconf("SC_CLK_TCK")
    return None


def _is_running(runtime: Runtime) -> bool:
    return runtime.wake is not None and bool(_pids(runtime.wake.processes, PROC))


def _pids(processes: Sequence[str], proc: Path) -> list[str]:
    pids, names = [], [name[:15] for name in processes]
    for one in proc.iterdir():
        with suppress(OSError):
            if one.name.isdigit() and (one / "comm").read_text().strip() in names:
                pids.append(one.name)
    return pids


def _start_ticks(process: Path) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        return int((process / "stat").read_text().rpartition(")")[2].split()[19])
    return None


def _version(binary: Path) -> str | None:
    try:
        found = binary.stat()
        if found.st_uid != 0 or found.st_mode & 0o022:
            return None  # whoever may write to it would have us run it
        said = subprocess.run(  # noqa: S603 - a fixed list of names, owned by root
            (binary, "--version"),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=VERSION_TIMEOUT,
            check=False,
            env={"PATH": os.defpath, "HOME": "/nonexistent"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version_untrusted(said.stdout)


def parse_version_untrusted(said: bytes) -> str | None:
    """The first thing that looks like a version in what a binary said; None where nothing does."""
    number = re.search(rb"\bv?(\d{1,4}\.\d{1,4}(\.\d{1,4})?[A-Za-z0-9.+~-]{0,40})", said[:4096])
    return number[1].decode("ascii").rstrip(".,") if number else None


def _is_file(disk: Disk, path: str) -> bool:
    try:
        return stat.S_ISREG(disk.real(path).stat().st_mode)
    except OSError:
        return False


def _is_socket(disk: Disk, path: str) -> bool:
    try:
        return stat.S_ISSOCK(disk.real(path).stat().st_mode)
    except OSError:
        return False
