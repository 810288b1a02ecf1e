"""What is seen while it runs: on a terminal a table that fills and a bar, elsewhere a line a run."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sim.benchmark import table
from sim.benchmark.figures import Result, ordered, summarise


class Screen:
    def __init__(self, total_seconds: float, runs: int, systems: Sequence[str]) -> None:
        """`total_seconds`: about how long it will take. `systems`: in their order."""
        self._systems = systems
        self._results: list[Result] = []
        self._runs = runs
        self._live: Live | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(None),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            TextColumn(f"of about {total_seconds / 60:.0f} min"),
        )
        self._task = self._bar.add_task("starting", total=total_seconds)
        console = Console()
        if console.is_terminal:
            self._live = Live(self._picture(), console=console, refresh_per_second=4)
        else:
            print(f"{runs} runs, about {total_seconds / 60:.0f} min", flush=True)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.update(self._table() if self._results else "")
            self._live.stop()
        elif self._results:
            print(table.text(summarise(self._results)), flush=True)

    def told(self, result: Result, seconds: float) -> None:
        """One run more is done; it was expected to take so many seconds of the whole."""
        self._results = ordered((*self._results, result), self._systems)
        count = f"{len(self._results)} of {self._runs} runs"
        self._bar.update(self._task, advance=seconds, description=count)
        if self._live:
            self._live.update(self._picture())
        else:
            print(f"[{count}] {describe(result)}", flush=True)

    def _picture(self) -> Group:
        return Group(self._table(), self._bar) if self._results else Group(self._bar)

    def _table(self) -> Table:
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for place, column in enumerate(table.COLUMNS):
            shown.add_column(column, justify="left" if place < table.LEFT else "right")
        for row in table.rows(summarise(self._results)):
            shown.add_row(*row, style="bold" if row[2] == "meshsat" else None)
        return shown


def describe(result: Result) -> str:
    """One run on one line."""
    head = f"{result.world}, {result.case.value}, {result.system}, run {result.number}:"
    if result.figures is None:
        return f"{head} failed: {result.failure}"
    figures = result.figures
    cpu: Sequence[float] = figures.cpu_seconds
    return (
        f"{head} last / limit {figures.last_ratio:.3f} ({figures.seconds_last:.1f} s),"
        f" WAN / size {figures.wan_ratio:.3f}, CPU {sum(cpu) / len(cpu):.2f} s a node"
    )


def complain(text: str) -> None:
    print(f"python -m sim.bench: {text}", file=sys.stderr, flush=True)
