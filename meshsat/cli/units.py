"""Quantities as people write and read them: bytes, durations, ages."""

import re
import time

from meshsat.errors import InvalidInputError

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = 10 * 365 * 86400
"""Seconds. Nothing that takes a duration here means more than ten years."""


def parse_duration_untrusted(text: str) -> float:
    """Seconds of `24h`, `90s`, `1h30m`, `7d`. Raises `InvalidInputError`."""
    if len(text) > 32 or not re.fullmatch(r"([0-9]{1,9}[smhd])+", text):
        raise InvalidInputError(f"{text[:32]!r} is no duration; write it like 30m, 24h, 7d or 1h30m")
    seconds = sum(int(number) * SECONDS[unit] for number, unit in re.findall(r"([0-9]+)([smhd])", text))
    if not 0 < seconds <= LONGEST:
        raise InvalidInputError(f"{text!r} is out of range: more than nothing, at most ten years")
    return float(seconds)


def duration(seconds: float) -> str:
    """`4.2 s`, `12 min`, `3 h 20 min`, `5 d 1 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: float) -> str:
    """Bytes in decimal units, as lines and disks are sold: `999 B`, `40.1 MB`."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def moment(unix: float) -> str:
    """Unix seconds as people here read them: `2026-12-01 02:00:00`, in the machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix))
