"""A site for any program: its network, its counters, and workers inside that begin in the same instant.

Laws: a worker is a Python module run in a namespace; it reads what it is to do as one line of JSON, answers
with one line when it is ready, begins at the next line it reads, and ends with one line of results. Its
clock is the machine's monotonic one, like ours. What a worker does not say in time is a `StageError`.
Knows no system that is measured.
"""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sim.benchmark.figures import Figures
from sim.benchmark.world import Case, World
from sim.namespaces import Namespace, Run
from sim.network import Network, Plan
from sim.nodes import cpu_seconds, peak_bytes

PATIENCE = 3.0
"""A run is given up after so many times what it should take, and 30 s."""
READY_SECONDS = 60.0
LOG_LINES = 3
FAST_MBIT = 10_000.0
"""Of an uplink while what is to be there beforehand is brought."""


class StageError(RuntimeError):
    """A run did not do what it had to."""


def patience(world: World, case: Case, rounds: float = 1.0) -> float:
    """Seconds until a run that should take `rounds` times the limit is given up."""
    return PATIENCE * rounds * world.limit_seconds(case) + 30


class Stage:
    """A network and a directory of its own. The context manager is the way in; nothing stays behind."""

    def __init__(self, plan: Plan) -> None:
        self._run = Run()
        try:
            self.directory = self._run.directory
            self.network = Network(self._run, plan)
        except BaseException:
            self._run.close()
            raise

    def worker(self, namespace: Namespace, module: str, task: Mapping[str, Any]) -> "Worker":
        return Worker(namespace, module, task, self.directory / f"{namespace.name}-{module}.log")

    def close(self) -> None:
        self._run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Worker:
    """One process in one namespace. The owner of the namespace ends it at the latest."""

    def __init__(self, namespace: Namespace, module: str, task: Mapping[str, Any], log: Path) -> None:
        self.name = f"{module.rpartition('.')[2]} in {namespace.name.rpartition('-')[2]}"
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                namespace.inside(sys.executable, "-m", module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._ready = False
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self._say(json.dumps(dict(task)))

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Idempotent. Raises `StageError`."""
        if not self._ready:
            self._answer(seconds)
            self._ready = True

    def go(self) -> None:
        self._say("go")

    def result(self, deadline: float) -> dict[str, Any]:
        """What it said at its end; `deadline` of the monotonic clock. Raises `StageError`."""
        return self._answer(deadline - time.monotonic())

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _say(self, line: str) -> None:
        if self._process.stdin is None:
            raise StageError(f"{self.name}: no way to talk to it")
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError:
            raise StageError(f"{self.name} ended early: {self._last_words()}") from None

    def _read(self) -> None:
        try:
            for line in self._process.stdout or ():
                self._lines.put(line)
        except ValueError:
            pass  # closed beneath us: it was ended
        self._lines.put("")

    def _answer(self, seconds: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise StageError(f"{self.name} not done in time") from None
        if not line:
            raise StageError(f"{self.name} ended early: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "failure" in answer:
            raise StageError(f"{self.name}: {answer['failure']}")
        return answer

    def _last_words(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return " | ".join(text.splitlines()[-LOG_LINES:]) or "without a word"


@dataclass(frozen=True, slots=True)
class Counters:
    """Bytes that went into the site's links since they were made."""

    wan: int
    wan_wire: int
    lan: int

    @classmethod
    def read(cls, network: Network) -> Self:
        lan = sum(host.lan.received().bytes for host in network.hosts)
        return cls(network.wan_bytes(), network.wan_wire_bytes(), lan)


@dataclass(frozen=True, slots=True)
class Finish:
    """How it went, worker by worker; CPU and memory also of the bystanders, who come last."""

    seconds: tuple[float, ...]
    told: tuple[dict[str, Any], ...]
    cpu_seconds: tuple[float, ...]
    peak_bytes: tuple[int, ...]


def race(workers: Sequence[Worker], seconds: float, bystanders: Sequence[int] = ()) -> Finish:
    """Let all begin at once, and wait for the last. `bystanders`: pids. Raises `StageError`."""
    for worker in workers:
        worker.wait_until_ready()
    pids = (*(worker.pid for worker in workers), *bystanders)
    before = [cpu_seconds(pid) for pid in pids]
    begin = time.monotonic()
    for worker in workers:
        worker.go()
    told = tuple(worker.result(begin + seconds) for worker in workers)
    return Finish(
        tuple(each["finished"] - begin for each in told),
        told,
        tuple(cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True)),
        tuple(map(peak_bytes, pids)),
    )


def figures(
    world: World,
    case: Case,
    counted: tuple[Counters, Counters],
    finish: Finish,
    duplicate_bytes: int | None = None,
) -> Figures:
    """`counted` before and after; `finish` of the nodes that asked."""
    before, after = counted
    last, asked = max(finish.seconds), len(finish.seconds)
    from_lan = asked if case is Case.WARM else max(1, asked - 1)
    return Figures(
        seconds_first=min(finish.seconds),
        seconds_last=last,
        last_ratio=last / world.limit_seconds(case),
        wan_ratio=(after.wan - before.wan) / world.size,
        wan_wire_ratio=(after.wan_wire - before.wan_wire) / world.size,
        lan_ratio=(after.lan - before.lan) / world.size / from_lan,
        cpu_seconds=finish.cpu_seconds,
        peak_mib=max(finish.peak_bytes) / 2**20,
        duplicate_share=None if duplicate_bytes is None else duplicate_bytes / world.size / asked,
    )
