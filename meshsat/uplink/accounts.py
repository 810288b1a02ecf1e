"""Accounts: what each WAN byte was for: an image, by its repository, and a purpose.

Laws: bounded: `ROWS` rows, and when there are more the smallest are summed up under `OTHER`; the sum of all
rows is the sum of all bytes. Counted are packets with their headers, both directions.
"""

import math
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from meshsat.errors import InvalidInputError
from meshsat.limits import Period
from meshsat.schedule import span

ROWS = 256
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Purpose:
    """`image` is `REGISTRY/REPOSITORY`; `kind` one of a few words of the code's."""

    image: str = OTHER
    kind: str = OTHER


UNKNOWN = Purpose()
PURPOSE: ContextVar[Purpose] = ContextVar("purpose", default=UNKNOWN)
"""What the task that reads or writes does it for: httpcore alone knows which connection serves it."""


@dataclass(slots=True)
class Tally:
    """Bytes."""

    in_: int = 0
    out: int = 0
    day: int = 0
    """Both directions, this calendar day; so `month`."""
    month: int = 0

    def add(self, in_: int, out: int) -> None:
        self.in_ += in_
        self.out += out
        self.day += in_ + out
        self.month += in_ + out

    def take(self, other: "Tally") -> None:
        self.in_ += other.in_
        self.out += other.out
        self.day += other.day
        self.month += other.month


class Accounts:
    """Days and months are those of `timezone`."""

    def __init__(self, timezone: str = "UTC") -> None:
        self.timezone = timezone
        self.since: float | None = None
        """Unix seconds of the first byte."""
        self.rows: dict[Purpose, Tally] = {}
        self._ends: dict[Period, float] = {}

    def add(self, purpose: Purpose, in_: int, out: int, now: float) -> None:
        """`now` in Unix seconds that never go back."""
        self.roll(now)
        if self.since is None:
            self.since = now
        row = self.rows.get(purpose)
        if row is None:
            if len(self.rows) >= ROWS:
                self._sum_up()
            row = self.rows[purpose] = Tally()
        row.add(in_, out)

    def _sum_up(self) -> None:
        """The smaller half of the rows becomes one for each purpose."""
        named = sorted(
            (one for one in self.rows if one.image != OTHER),
            key=lambda one: self.rows[one].in_ + self.rows[one].out,
        )
        for purpose in named[: max(1, len(named) // 2)]:
            tally = self.rows.pop(purpose)
            self.rows.setdefault(replace(purpose, image=OTHER), Tally()).take(tally)

    def roll(self, now: float) -> None:
        """Begin days and months anew when their time has come."""
        for period in (Period.DAY, Period.MONTH):
            end = self._ends.get(period)
            if end is not None and now >= end:
                for row in self.rows.values():
                    row.day = 0
                    if period is Period.MONTH:
                        row.month = 0
            if end is None or now >= end:
                self._ends[period] = span(period, now, self.timezone)[1]

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Bytes in and out for each purpose."""
        sums: dict[str, tuple[int, int]] = {}
        for purpose, tally in self.rows.items():
            in_, out = sums.get(purpose.kind, (0, 0))
            sums[purpose.kind] = in_ + tally.in_, out + tally.out
        return sums

    def as_json(self) -> dict[str, Any]:
        rows = [[p.image, p.kind, t.in_, t.out, t.day, t.month] for p, t in self.rows.items()]
        ends = {period.value: end for period, end in self._ends.items()}
        return {"since": self.since, "ends": ends, "rows": rows}

    def restore_untrusted(self, kept: dict[str, Any]) -> None:
        """What `as_json` gave. Raises `InvalidInputError`, and keeps what it had."""
        try:
            rows = {
                Purpose(image, kind): Tally(*_counts(counts)) for image, kind, *counts in kept["rows"][:ROWS]
            }
            ends = {Period(name): float(end) for name, end in kept["ends"].items()}
            since = None if kept["since"] is None else float(kept["since"])
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as fault:
            raise InvalidInputError(f"accounts of the WAN can not be read: {fault}") from None
        if not all(math.isfinite(at) for at in (*ends.values(), since or 0.0)):
            raise InvalidInputError("accounts of the WAN name a time that is none")
        if not all(isinstance(text, str) for one in rows for text in (one.image, one.kind)):
            raise InvalidInputError("accounts of the WAN name what is none")
        self.rows, self._ends, self.since = rows, ends, since


def _counts(values: Iterable[Any]) -> tuple[int, int, int, int]:
    in_, out, day, month = values
    counts = (in_, out, day, month)
    if not all(type(one) is int and 0 <= one < 1 << 63 for one in counts):
        raise ValueError("a count is none")
    return counts
