"""Ledger: how much went over the WAN in each calendar period, whatever the clock does.

The ledger's time is the machine's, except that it never goes back: where the clock does, it goes on by the
seconds that pass, until the clock has caught up (a step of at most an hour is sat out). So each period's
quota is spent at most once, however often the clock is set. After a month of that, nothing that it counts is
within a period any more, and it takes the clock as it is. A clock that jumps ahead is believed: who can set
it so has the quota of the time that is skipped.

Pure: times are given, `wall` in Unix seconds, `passed` on a clock that only ever goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshsat.limits import Period
from meshsat.schedule import LATEST, span

GRAIN = 900
"""Seconds of one slot: what every time zone's hours are made of."""
KEPT = 32 * 86400
"""Seconds for which slots are kept: the longest month, and a day."""
STEP = 3600.0
"""Seconds by which a clock may go back and be waited for."""


@dataclass(slots=True)
class _Sum:
    start: float
    end: float
    spent: int


@dataclass(slots=True)
class Ledger:
    slots: dict[int, int] = field(default_factory=dict)
    """Number of the slot since 1970 -> bytes."""
    now: float = 0.0
    """Unix seconds, by the ledger."""
    total: int = 0
    """Bytes since this process began."""
    _behind: float = 0.0
    """Seconds that passed while the clock was behind."""
    _passed: float | None = None
    _sums: dict[tuple[Period, str], _Sum] = field(default_factory=dict)

    def tick(self, wall: float, passed: float) -> float:
        """The ledger's time now."""
        wall = min(max(wall, 0.0), LATEST)
        went = 0.0 if self._passed is None else max(0.0, passed - self._passed)
        self._passed = passed
        if wall >= self.now:
            self.now, self._behind = wall, 0.0
        elif self.now - wall > STEP:
            self.now = min(self.now + went, LATEST)
            self._behind += went
            if self._behind > KEPT:
                self.slots.clear()
                self._sums.clear()
                self.now, self._behind = wall, 0.0
        return self.now

    def add(self, size: int) -> None:
        """So many bytes went over the WAN, at the time of the last tick."""
        slot = int(self.now) // GRAIN
        if slot not in self.slots:
            self._forget(slot)
        self.slots[slot] = self.slots.get(slot, 0) + size
        self.total += size
        for sum_ in self._sums.values():
            if self.now < sum_.end:
                sum_.spent += size

    def spent(self, period: Period, timezone: str) -> int:
        """Bytes in the calendar period that the last tick lies in."""
        return self._sum(period, timezone).spent

    def ends(self, period: Period, timezone: str) -> float:
        """When that period ends, in the ledger's time."""
        return self._sum(period, timezone).end

    def _sum(self, period: Period, timezone: str) -> _Sum:
        known = self._sums.get((period, timezone))
        if known is None or not known.start <= self.now < known.end:
            start, end = span(period, self.now, timezone)
            first = int(start) // GRAIN
            spent = sum(size for slot, size in self.slots.items() if slot >= first)
            self._sums[period, timezone] = known = _Sum(start, end, spent)
        return known

    def _forget(self, slot: int) -> None:
        for old in [one for one in self.slots if one < slot - KEPT // GRAIN]:
            del self.slots[old]

    def as_json(self) -> dict[str, object]:
        return {"now": self.now, "slots": {str(slot): size for slot, size in self.slots.items()}}

    def restore(self, now: float, slots: Mapping[int, int]) -> None:
        """What an earlier run wrote down."""
        self.now, self.slots = now, dict(slots)
        self._sums.clear()
