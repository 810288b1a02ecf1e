"""One order of tasks for one seed: trio otherwise runs tasks that are due together in a random order.

Uses the two switches that trio has for property-based tests (`trio/_core/_run.py`, "deterministic scheduling").
"""

from collections.abc import Iterator
from contextlib import contextmanager

import trio._core._run as run


@contextmanager
def deterministic_order(seed: int) -> Iterator[None]:
    """Inside, `trio.run` schedules the same program in the same way every time."""
    switch = "_ALLOW_DETERMINISTIC_SCHEDULING"  # declared Final, hence by name
    before = getattr(run, switch)
    setattr(run, switch, True)
    run._r.seed(seed)
    try:
        yield
    finally:
        setattr(run, switch, before)
