"""Schedule: when windows are open, and where calendar periods begin and end. Times are Unix seconds.

Laws: a window lasts its duration in seconds that pass, whatever clocks are put forward or back meanwhile; a
moment that a clock skips comes right after the gap, one that it shows twice comes once, as cron(8) of Debian
has it. Windows that overlap or meet are one. Nothing here reads a clock.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from meshsat.errors import InvalidInputError
from meshsat.limits import Period, Window

CRON_LIMIT = 128
"""Characters."""
DURATION_LIMIT = 31 * 86400.0
HORIZON = 366 * 86400.0
"""Seconds: nobody looks further ahead. What does not open by then counts as never."""
LATEST = 7_258_118_400.0
"""Unix seconds of the year 2200: clocks beyond are taken to stand there."""
_STEPS = 4096
"""Windows that are followed in a row."""
_SHIFT = timedelta(hours=3)
"""More than any zone's clock is put forward or back."""
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,2}")


def parse_zone_untrusted(name: str) -> ZoneInfo:
    """Raises `InvalidInputError`."""
    if not _ZONE.fullmatch(name):
        raise InvalidInputError(f"{name[:64]!r} is no time zone; write it like Europe/Berlin or UTC")
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InvalidInputError(f"time zone {name!r} is not known; write it like Europe/Berlin") from None


def parse_window_untrusted(cron: str, duration: float, timezone: str) -> Window:
    """Raises `InvalidInputError`, also for an expression that never comes true."""
    if len(cron) > CRON_LIMIT or len(cron.split()) != 5:
        raise InvalidInputError(f"cron {cron[:64]!r} must have five fields, like '0 2 * * *'")
    if not 0 < duration <= DURATION_LIMIT:
        raise InvalidInputError(f"duration {duration:g}: must be above 0 and at most {DURATION_LIMIT:g} s")
    zone = parse_zone_untrusted(timezone)
    try:
        next(CronSim(cron, datetime(2026, 1, 1, tzinfo=zone)))
    except (CronSimError, RuntimeError, OverflowError, ValueError):
        raise InvalidInputError(f"cron {cron[:64]!r} is no cron expression, or names no moment") from None
    except StopIteration:
        raise InvalidInputError(f"cron {cron[:64]!r} names no moment that ever comes") from None
    return Window(cron, float(duration), timezone)


@lru_cache(64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether windows are open, and until when that stays so; None: beyond the horizon."""

    open: bool
    until: float | None


def opening(sets: Sequence[Sequence[Window]], now: float) -> Opening:
    """Of several sets: open when of each set any window is. A set without windows is always open."""
    asked = [windows for windows in sets if windows]
    now = min(max(now, 0.0), LATEST)
    if not asked:
        return Opening(open=True, until=None)
    ends = [_closes(windows, now) for windows in asked]
    if all(end is not None for end in ends):
        until = min(end for end in ends if end is not None)
        return Opening(open=True, until=until if until - now <= HORIZON else None)
    at = now
    for _ in range(_STEPS):
        shut = [windows for windows in asked if _closes(windows, at) is None]
        if not shut:
            return Opening(open=False, until=at)
        at = max(_opens(windows, at) for windows in shut)
        if at - now > HORIZON:
            break
    return Opening(open=False, until=None)


def _closes(windows: Sequence[Window], now: float) -> float | None:
    """When windows that are open now close; None where none is open."""
    end = now
    for _ in range(_STEPS):
        reached = max((_last(one, end) + one.duration for one in windows), default=end)
        if reached <= end:
            return None if end == now else end
        end = reached
        if end - now > HORIZON:
            break
    return end


def _opens(windows: Sequence[Window], now: float) -> float:
    """When the first of them opens next; infinite for never."""
    return min(next(_fires(one, now), float("inf")) for one in windows)


def _fires(window: Window, after: float) -> Iterator[float]:
    """The moments of a window after that one. Where clocks change the expression is looked at from before:
    the same time of day may have come already."""
    start = datetime.fromtimestamp(after, _zone(window.timezone))
    if _changes(start):
        start -= _SHIFT
    return (at for fire in CronSim(window.cron, start) if (at := fire.timestamp()) > after)


def _last(window: Window, now: float) -> float:
    """The last moment of a window until then; minus infinity for none."""
    start = datetime.fromtimestamp(now, _zone(window.timezone)).replace(microsecond=0)
    start += _SHIFT if _changes(start) else timedelta(seconds=1)
    fires = (fire.timestamp() for fire in CronSim(window.cron, start, reverse=True))
    return next((at for at in fires if at <= now), float("-inf"))


def _changes(moment: datetime) -> bool:
    before, after = moment.astimezone(UTC) - _SHIFT, moment.astimezone(UTC) + _SHIFT
    zone = moment.tzinfo
    return before.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset()


def span(period: Period, now: float, timezone: str) -> tuple[float, float]:
    """The calendar period that `now` lies in: its first moment, and the next one's."""
    zone = _zone(timezone)
    local = datetime.fromtimestamp(min(max(now, 0.0), LATEST), zone)
    if period is Period.HOUR:
        # By what passes, not by what the clock shows: an hour that is shown twice is two.
        offset = local.utcoffset() or timedelta()
        start = now - (now + offset.total_seconds()) % 3600
        return start, start + 3600
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period is Period.DAY:
        following = (day + timedelta(days=1)).replace(fold=0)
    else:
        day = day.replace(day=1)
        following = (day + timedelta(days=32)).replace(day=1, fold=0)
    return day.timestamp(), following.timestamp()
