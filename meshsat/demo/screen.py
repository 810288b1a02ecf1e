"""What the demo shows while it runs: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LINE_EVERY = 2.0
"""Seconds between two plain lines of progress."""


@dataclass(slots=True)
class Row:
    """One node's pull."""

    name: str
    uplinked: bool
    have: int = 0
    total: int = 0
    """Bytes; 0 as long as it is not known."""
    seconds: float | None = None
    """Until it was whole."""
    wan_in: int = 0
    lan_in: int = 0
    lan_out: int = 0

    @property
    def percent(self) -> int:
        return 100 * self.have // self.total if self.total else 0


class Screen:
    """Writes to `console`, with a live table where that is a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._live: Live | None = None
        self._last_line = 0.0

    def step(self, text: str) -> None:
        """A line about something that has come to pass."""
        seconds = time.monotonic() - self._start
        self._console.print(Text.assemble((f"{seconds:5.1f} s  ", "dim"), text), soft_wrap=True)

    def show(self, what: RenderableType) -> None:
        """A table, or text as it is."""
        self._console.print(what, soft_wrap=isinstance(what, str), markup=False)

    def progress(self, rows: Sequence[Row]) -> None:
        """How far the nodes are, each time it is called on a terminal, now and then elsewhere."""
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=False)
                self._live.start()
            self._live.update(_table(rows), refresh=True)
        elif time.monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = time.monotonic()
            self.step("  ".join(f"{row.name} {row.percent:3d} %" for row in rows))

    def progress_ends(self, rows: Sequence[Row]) -> None:
        """Show `rows` for the last time, and leave them there."""
        self._last_line = 0.0
        self.progress(rows)
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("node", "", "", "from WAN", "from LAN", "to LAN"):
        table.add_column(name, justify="left" if name in ("node", "") else "right", no_wrap=True)
    for row in rows:
        done = f"[green]whole after {row.seconds:.1f} s[/green]" if row.seconds is not None else ""
        table.add_row(
            row.name + (" [bold](uplink)[/bold]" if row.uplinked else ""),
            ProgressBar(max(1, row.total), row.have, width=30, complete_style="cyan", finished_style="green"),
            done or f"{row.percent} %",
            _megabytes(row.wan_in),
            _megabytes(row.lan_in),
            _megabytes(row.lan_out),
        )
    return table


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
