"""What a scenario's figures were when somebody was content with them, and what is worse now.

A baseline is JSON, one file a scenario: the figures as `run --json` prints them. `TOLERANCES` says which of
them count, and how far each may go in the wrong direction: all of them are better when they are less.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshsat.errors import InvalidInputError
from sim.simulator.figures import NAMES, Figures

FILE_LIMIT = 64 * 1024


class BaselineError(InvalidInputError):
    """A baseline is not what `compare --update` writes."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A figure may grow by `share` of what it was, and by `amount` at least."""

    share: float
    amount: float


TOLERANCES = {
    "unfulfilled": Tolerance(0.0, 0.0),
    "wan_ratio": Tolerance(0.005, 0.0),
    "median_seconds": Tolerance(0.03, 0.1),
    "last_seconds": Tolerance(0.03, 0.1),
    "last_ratio": Tolerance(0.03, 0.0),
    "duplicate_share": Tolerance(0.1, 0.002),
    "control_bytes": Tolerance(0.1, 2000.0),
    "gossip_bytes": Tolerance(0.1, 500.0),
}


@dataclass(frozen=True, slots=True)
class Difference:
    figure: str
    was: float | None
    now: float | None
    worse: bool
    """By more than its tolerance."""
    better: bool
    """By more than its tolerance: worth a new baseline."""


def compare(was: dict[str, Any], now: Figures) -> list[Difference]:
    """One difference for each figure that counts; `was` is a baseline's."""
    told = now.to_json()
    found = []
    for figure, tolerance in TOLERANCES.items():
        before, after = _value(was, figure), _value(told, figure)
        found.append(
            Difference(
                figure,
                before,
                after,
                worse=_worse(before, after, tolerance),
                better=_worse(after, before, tolerance),
            )
        )
    return found


def _value(figures: dict[str, Any], figure: str) -> float | None:
    if figure == "unfulfilled":
        return float(figures["wants"] - figures["fulfilled"])
    value = figures[figure]
    return None if value is None else float(value)


def _worse(before: float | None, after: float | None, tolerance: Tolerance) -> bool:
    if before is None or after is None:
        return before is not None and after is None  # it was reached, and is no longer
    return after > before + max(tolerance.amount, tolerance.share * before)


def load_untrusted(file: Path) -> dict[str, Any]:
    """Raises `BaselineError`."""
    try:
        with file.open("rb") as opened:
            value = json.loads(opened.read(FILE_LIMIT))
    except FileNotFoundError:
        raise BaselineError(f"{file} is missing; store one with `python -m sim compare --update`") from None
    except (OSError, ValueError) as malformed:
        raise BaselineError(f"{file}: not a baseline: {malformed}") from None
    if not isinstance(value, dict) or set(value) != set(NAMES):
        raise BaselineError(f"{file}: has other figures than this version; store a new one with --update")
    for figure in TOLERANCES:
        names = ("wants", "fulfilled") if figure == "unfulfilled" else (figure,)
        for name in names:
            if type(value[name]) not in (int, float, type(None)) or (len(names) > 1 and value[name] is None):
                raise BaselineError(f"{file}: {name} is no number; store a new one with --update")
    return value


def store(file: Path, figures: Figures) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(figures.to_json(), indent=2) + "\n", encoding="utf-8")
