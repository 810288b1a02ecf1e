"""For what outsiders can cause any number of times: the same is recorded once an hour, and all of it bounded.

What was left out is counted, and told with the next that is recorded.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from meshsat.audit.event import NODE, SUCCESS, Actor, Audit, Outcome

QUIET = 3600.0
"""Seconds for which what was recorded is not recorded again."""
MEMORY = 1024
LINES = 128
"""In `QUIET` seconds, of one kind of event and outcome."""


class Sparing:
    """An `Audit` before another one. `clock` gives monotonic seconds. `failures_only`: what succeeds is
    recorded in any case."""

    def __init__(
        self, audit: Audit, clock: Callable[[], float] = time.monotonic, *, failures_only: bool = False
    ) -> None:
        self._audit = audit
        self._failures_only = failures_only
        self._clock = clock
        self._told: OrderedDict[tuple[str, Actor, str, Outcome], float] = OrderedDict()
        self._windows: dict[tuple[str, Outcome], _Window] = {}

    def record(
        self,
        event: str,
        *,
        actor: Actor,
        object: str,  # noqa: A002 - the field's name in the log
        outcome: Outcome,
        reason: str = "",
    ) -> None:
        if self._failures_only and outcome == SUCCESS:
            self._audit.record(event, actor=actor, object=object, outcome=outcome, reason=reason)
            return
        now = self._clock()
        window = self._windows.setdefault((event, outcome), _Window(now))
        if now - window.began >= QUIET:
            window.began, window.lines = now, 0
        key = (event, actor, object, outcome)
        told = self._told.get(key)
        if (told is not None and now - told < QUIET) or window.lines >= LINES:
            window.left_out += 1
            return
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > MEMORY:
            self._told.popitem(last=False)
        window.lines += 1
        if window.left_out:
            text, window.left_out = f"{window.left_out} more like it were not recorded before this", 0
            self._audit.record("audit.spare", actor=NODE, object=event, outcome=SUCCESS, reason=text)
        self._audit.record(event, actor=actor, object=object, outcome=outcome, reason=reason)


class _Window:
    def __init__(self, began: float) -> None:
        self.began = began
        self.lines = 0
        self.left_out = 0
