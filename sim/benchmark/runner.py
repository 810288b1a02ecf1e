"""Runs one after the other, or several at once where that disturbs nothing; every end leaves nothing behind.

Order: first the systems that need the cores, in turn in each world, so that what disturbs a minute disturbs
all of them alike; then those that only wait for the line, `AT_ONCE` at a time, the longest first.
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from meshsat.errors import MeshsatError
from sim.benchmark.figures import Result
from sim.benchmark.stage import StageError
from sim.benchmark.system import System
from sim.benchmark.world import Case, World
from sim.namespaces import RUN, CommandError, end_own_processes
from sim.nodes import NodeError

AT_ONCE = 12
REASON_LENGTH = 160
FAULTS = (
    StageError,
    NodeError,
    CommandError,
    MeshsatError,
    OSError,
    ValueError,
    LookupError,
    subprocess.SubprocessError,
)
"""What makes a failed run: one that breaks does not cost the others. Anything else is a defect."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run to do."""

    system: System
    case: Case
    world: World
    number: int

    @property
    def seconds(self) -> float:
        """About."""
        return self.system.seconds(self.world, self.case)

    def run(self) -> Result:
        try:
            figures = self.system.measure(self.world, self.case)
        except FAULTS as fault:
            return Result(self.system.name, self.case, self.world, self.number, None, reason(fault))
        return Result(self.system.name, self.case, self.world, self.number, figures)


def plan(
    systems: Sequence[System], cases: Sequence[Case], worlds: Sequence[World], runs: int
) -> tuple[list[Job], list[Job]]:
    """What runs alone, what runs together; each in its order."""
    jobs = [
        Job(system, case, world, number)
        for number in range(1, runs + 1)
        for world in worlds
        for case in cases
        for system in systems
        if case in system.cases
    ]
    alone = [job for job in jobs if not job.system.line_bound]
    together = sorted((job for job in jobs if job.system.line_bound), key=lambda job: -job.seconds)
    return alone, together


def seconds(alone: Sequence[Job], together: Sequence[Job]) -> float:
    """About how long it all takes."""
    bound = max((job.seconds for job in together), default=0.0)
    return sum(job.seconds for job in alone) + max(bound, sum(job.seconds for job in together) / AT_ONCE)


def run(alone: Sequence[Job], together: Sequence[Job]) -> Iterator[Result | None]:
    """Results as they come; None at least each second meanwhile, once the runs go on together."""
    for job in alone:
        yield job.run()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        going = {pool.submit(job.run) for job in together}
        try:
            while going:
                done, going = wait(going, timeout=1.0, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
                yield None
        except BaseException:
            _break_off(pool, going)
            raise


def _break_off(pool: ThreadPoolExecutor, going: set[Future[Result]]) -> None:
    """A run whose processes are ended fails, and cleans up."""
    pool.shutdown(wait=False, cancel_futures=True)
    while not all(future.done() for future in going):
        end_own_processes()
        wait(going, timeout=0.2)


def reason(fault: Exception) -> str:
    """The first line of what `fault` says, without paths and names that mean nothing elsewhere."""
    line = (str(fault) or type(fault).__name__).splitlines()[0]
    line = re.sub(RUN.pattern.replace("(?:-.*)?", "-?"), "", line)
    line = re.sub(r"(?<!\w)/[^\s:,']+", "...", line)
    return line if len(line) <= REASON_LENGTH else line[: REASON_LENGTH - 3] + "..."
