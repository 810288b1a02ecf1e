"""Results and what is made of them: one run's figures, medians and spreads of several, JSON to and fro."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from sim.benchmark.world import Case, World

FORMAT = 1
"""Of the JSON file."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run that went well: every node that asked has the payload, with the right digest."""

    seconds_first: float
    """From the moment that all were asked until the first had it."""
    seconds_last: float
    last_ratio: float
    """seconds_last / limit."""
    wan_ratio: float
    """What the WAN sent to the site / size: interface counters, headers of a GSO packet once."""
    wan_wire_ratio: float
    """The same with each segment's headers."""
    lan_ratio: float
    """What all nodes received on the LAN / (size x nodes that get it from there)."""
    cpu_seconds: tuple[float, ...]
    """By node, from the question to the last answer."""
    peak_mib: float
    """Resident memory of the largest process."""
    duplicate_share: float | None = None
    """Payload that came twice / payload wanted; None where the system does not tell."""


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run, good or failed: one of `figures` and `failure` is None."""

    system: str
    case: Case
    world: World
    number: int
    """1 is the first run."""
    figures: Figures | None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        known = sorted(values)
        return cls(float(statistics.median(known)), known[0], known[-1])


@dataclass(frozen=True, slots=True)
class Summary:
    """The runs of one system in one world."""

    system: str
    case: Case
    world: World
    runs: int
    failures: tuple[str, ...]
    last: Spread | None
    """last / limit; None, like all that follows, when every run failed."""
    wan: Spread | None
    cpu: Spread | None
    """Seconds a node."""
    duplicates: Spread | None


def ordered(results: Iterable[Result], systems: Sequence[str]) -> list[Result]:
    """By case, world, system (as in `systems`), run."""
    return sorted(results, key=lambda one: (one.case, one.world, systems.index(one.system), one.number))


def summarise(results: Sequence[Result]) -> list[Summary]:
    """In the order in which system, case and world first appear."""
    groups: dict[tuple[str, Case, World], list[Result]] = {}
    for result in results:
        groups.setdefault((result.system, result.case, result.world), []).append(result)
    return [_summary(group) for group in groups.values()]


def _summary(group: Sequence[Result]) -> Summary:
    one = group[0]
    good = [result.figures for result in group if result.figures]
    told = [figures.duplicate_share for figures in good if figures.duplicate_share is not None]
    return Summary(
        one.system,
        one.case,
        one.world,
        len(group),
        tuple(result.failure for result in group if result.failure),
        last=Spread.of(figures.last_ratio for figures in good) if good else None,
        wan=Spread.of(figures.wan_ratio for figures in good) if good else None,
        cpu=Spread.of(sum(figures.cpu_seconds) / len(figures.cpu_seconds) for figures in good)
        if good
        else None,
        duplicates=Spread.of(told) if told else None,
    )


@dataclass(frozen=True, slots=True)
class Report:
    """All that a benchmark found, and where."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    results: tuple[Result, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "machine": self.machine,
            "settings": self.settings,
            "summary": [asdict(summary) for summary in summarise(self.results)],
            "runs": [asdict(result) for result in self.results],
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Self:
        """Raises `ValueError` when it is not what `to_json` gives."""
        try:
            if told["format"] != FORMAT:
                raise ValueError(f"format {told['format']}, not {FORMAT}")
            return cls(told["machine"], told["settings"], tuple(map(_result, told["runs"])))
        except (KeyError, TypeError) as fault:
            raise ValueError(f"no benchmark's result: {fault!r}") from None


def _result(told: dict[str, Any]) -> Result:
    figures = told["figures"]
    if figures is not None:
        figures = Figures(**{**figures, "cpu_seconds": tuple(figures["cpu_seconds"])})
    world = World(**told["world"])
    return Result(told["system"], Case(told["case"]), world, told["number"], figures, told["failure"])
