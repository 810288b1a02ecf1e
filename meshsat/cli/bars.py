"""How far a long verb is: a bar on a terminal, lines of JSON for programs, nothing elsewhere."""

import json
import time
from types import TracebackType
from typing import Any, Self

EVERY = 0.5
"""Seconds between two lines, and a tenth of it between two looks of the bar."""


class Bar:
    def __init__(self, what: str, *, as_json: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        console = Console(stderr=True, highlight=False)
        self._progress = Progress(*columns, console=console, disable=as_json or not console.is_terminal)
        self._task = self._progress.add_task(what, total=None)
        self._as_json = as_json
        self._due = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def move(self, have: int, total: int) -> None:
        now = time.monotonic()
        if now < self._due and have < total:
            return
        self._due = now + (EVERY if self._as_json else EVERY / 10)
        self._progress.update(self._task, completed=have, total=total)
        if self._as_json:
            self.line({"event": "progress", "have_bytes": have, "total_bytes": total})

    @staticmethod
    def line(event: dict[str, Any]) -> None:
        print(json.dumps(event), flush=True)
