"""Limits of the uplink as values: how fast, how much a calendar period, and when.

They come from a node's configuration and from a signed desired state; where both say something, both hold:
the lower rate, each quota, and only what is open by both. `schedule` does the arithmetic of their times.
"""

from dataclasses import dataclass, field
from enum import Enum, IntEnum


class Period(Enum):
    """A calendar period that a quota is for."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class Gate(IntEnum):
    """What may pass over the uplink now."""

    SHUT = 0
    URGENT = 1
    """What a client reads now, and manifests."""
    OPEN = 2


@dataclass(frozen=True, slots=True)
class Quota:
    """Bytes a calendar period in a time zone, both directions, headers included; 0 is no cap."""

    hour: int = 0
    day: int = 0
    month: int = 0
    timezone: str = "UTC"
    """An IANA name."""

    def caps(self) -> dict[Period, int]:
        """The periods that have a cap, in bytes."""
        caps = {Period.HOUR: self.hour, Period.DAY: self.day, Period.MONTH: self.month}
        return {period: cap for period, cap in caps.items() if cap}


_MARGIN = 8 * 1024 * 1024


def margin(cap: int) -> int:
    """Bytes of a quota that are kept for what is under way when the rest is spent."""
    return min(cap // 50, _MARGIN)


@dataclass(frozen=True, slots=True)
class Window:
    """Open from each moment that `cron` names, for `duration` seconds."""

    cron: str
    """Five fields, as cron(8) reads them in the time zone."""
    duration: float
    timezone: str = "UTC"
    """An IANA name."""


@dataclass(frozen=True, slots=True)
class WanLimits:
    rate: int = 0
    """Bytes per second; 0 is no cap."""
    quota: Quota = field(default_factory=Quota)
    windows: tuple[Window, ...] = ()
    """Open when any is; none of them: always."""


def lowest_rate(limits: tuple[WanLimits, ...]) -> int:
    """The rate at which all of them are kept, in bytes per second; 0 is no cap."""
    return min((one.rate for one in limits if one.rate), default=0)
