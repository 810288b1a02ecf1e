"""`python -m sim replay FILE`: run the mesh's brain over the trace of a real node."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sim.simulator.replay import Replay, Step, in_words

AROUND = 5
"""Events shown before the first departure, or the end."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", type=Path, metavar="FILE", help="what `meshsat node --record` wrote")
    parser.add_argument(
        "--events", metavar="FROM:TO", help="show these events and their effects; `:` shows all"
    )
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout")


def run(given: argparse.Namespace) -> int:
    """0: the machine did what was recorded; 1: it departed, or failed."""
    replay = Replay()
    start, stop = _range(given.events) if given.events else (0, 0)
    recent: list[Step] = []
    for step in replay.steps(given.trace.read_bytes()):
        if start <= step.number < stop:
            print("\n".join(_lines(step)))
        if replay.departed is None or replay.departed is step:
            recent = [*recent[-AROUND:], step]
    if given.json:
        print(json.dumps(_figures(replay), indent=2))
    else:
        print("\n".join(_report(replay, [] if given.events else recent)))
    return 0 if replay.departed is None and not replay.failed else 1


def _range(text: str) -> tuple[int, float]:
    first, colon, last = text.partition(":")
    try:
        return int(first or 0), float(last or "inf") if colon else int(first) + 1
    except ValueError:
        raise ValueError(f"--events {text}: give two numbers, like 100:120") from None


def _lines(step: Step) -> Iterator[str]:
    mark = "  <-- departs from what was recorded" if step.departs else ""
    yield f"{step.number:>7} {step.at:>10.3f} s  {in_words(step.event)}{mark}"
    for effect in step.effects:
        yield f"{'':>22} -> {in_words(effect)}"
    if step.fault:
        yield f"{'':>22} !! {step.fault}"


def _figures(replay: Replay) -> dict[str, object]:
    return {
        "version": replay.version,
        "name": replay.name,
        "peer": replay.peer,
        "seconds": round(replay.seconds, 6),
        "ended": replay.ended,
        "departed_at_event": None if replay.departed is None else replay.departed.number,
        "events": dict(sorted(replay.events.items())),
        "effects": dict(sorted(replay.effects.items())),
        "frames_in": dict(sorted(replay.frames_in.items())),
        "frames_out": dict(sorted(replay.frames_out.items())),
        "records": replay.records,
    }


def _report(replay: Replay, recent: list[Step]) -> Iterator[str]:
    yield f"node        {replay.name} ({replay.peer}), meshsat {replay.version}"
    yield f"recorded    {replay.events.total()} events in {replay.seconds:.1f} s; {replay.ended}"
    for title, counted in (
        ("events", replay.events),
        ("effects", replay.effects),
        ("frames in", replay.frames_in),
        ("frames out", replay.frames_out),
    ):
        yield f"{title:<11} {_counted(counted)}"
    if replay.departed is None:
        yield "replayed    the machine did what was recorded, to the end"
    else:
        yield f"replayed    the machine departs from what was recorded at event {replay.departed.number}:"
    if replay.departed is not None or replay.failed:
        for step in recent:
            yield from _lines(step)


def _counted(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted.most_common()) or "none"
