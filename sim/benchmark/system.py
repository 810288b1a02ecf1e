"""What a system must offer to be measured. The file of this package that is about one has it as `SYSTEM`."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sim.benchmark.figures import Figures
from sim.benchmark.world import Case, World

DEBIAN_PACKAGES = {"ip": "iproute2", "tc": "iproute2", "ss": "iproute2"}
"""Tool -> the Debian package that brings it, where that has another name."""


@dataclass(frozen=True, slots=True)
class System:
    name: str
    cases: tuple[Case, ...]
    measure: Callable[[World, Case], Figures]
    """One run, from nothing to nothing. Raises what runner.py takes for a failed run."""
    expected: Callable[[World, Case], float]
    """About how many times the limit a run takes; for the order of runs and the progress bar."""
    setup_seconds: float = 5.0
    line_bound: bool = False
    """The line is busy all the time and the cores hardly: several runs at once disturb each other little."""
    tools: tuple[str, ...] = ("docker-registry",)
    installed: Callable[[], bool] = lambda: True
    remedy: str = ""
    """What to do when it is not installed."""
    settings: dict[str, Any] = field(default_factory=dict)

    def seconds(self, world: World, case: Case) -> float:
        """About how long a run takes."""
        return self.setup_seconds + self.expected(world, case) * world.limit_seconds(case)

    def missing(self) -> str | None:
        """What this machine lacks to measure it, and the remedy."""
        if lacking := [tool for tool in ("ip", "tc", "ss", *self.tools) if shutil.which(tool) is None]:
            packages = " ".join(sorted({DEBIAN_PACKAGES.get(tool, tool) for tool in lacking}))
            return f"{self.name} needs {', '.join(lacking)} on PATH; on Debian: apt-get install {packages}"
        if not self.installed():
            return f"{self.name} is not installed here: {self.remedy}"
        return None
