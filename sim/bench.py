"""`python -m sim.bench`: meshsat beside other distributors, in namespaces. Root only.

docs/guides/benchmarks.md says how to run it and how to read it. What is measured is in sim/benchmark/.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sim import links
from sim.benchmark import chart, machine, meshsat_nodes, runner, table
from sim.benchmark.figures import Report, Result, ordered, summarise
from sim.benchmark.screen import Screen, complain
from sim.benchmark.system import System
from sim.benchmark.systems import SYSTEMS
from sim.benchmark.world import WORLDS, Case, World

README = Path(__file__).parent.parent / "README.md"
RUNS = 3
QUICK_PART = 0.1
"""Of the payload, with --quick."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured, and every run went well; 1: some failed; 2: nothing could be done; 130: Ctrl-C."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        if given.source:
            report = Report.from_json(json.loads(given.source.read_text(encoding="utf-8")))
            print(table.text(summarise(report.results)))
        else:
            known = (meshsat_nodes.UNAWARE, *SYSTEMS[1:]) if given.unaware else SYSTEMS
            systems = [system for system in known if system.name in (given.systems or _names())]
            if lack := _lacks(systems):
                complain(lack)
                return 2
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.default_int_handler)  # as on Ctrl-C
            report = measure(systems, given)
        _write(report, given)
    except KeyboardInterrupt:
        complain("broken off; nothing is left behind, nothing was written")
        return 130
    except (OSError, ValueError) as fault:
        complain(str(fault))
        return 2
    return 1 if any(result.failure for result in report.results) else 0


def measure(systems: Sequence[System], given: argparse.Namespace) -> Report:
    worlds: list[World] = given.world or list(WORLDS)
    if given.quick:
        worlds = [world.scaled(QUICK_PART) for world in worlds]
    runs = given.runs or (1 if given.quick else RUNS)
    cases = [Case(given.case)] if given.case else list(Case)
    found = machine.describe()
    alone, together = runner.plan(systems, cases, worlds, runs)
    whole = runner.seconds(alone, together)
    parts = _parts(alone, together)
    results: list[Result] = []
    names = [system.name for system in systems]
    with Screen(whole, len(alone) + len(together), names) as screen:
        for result in runner.run(alone, together):
            if result:
                results.append(result)
                screen.told(result, parts[result.system, result.case, result.world])
    return Report(found, _settings(systems, runs, given.quick), tuple(ordered(results, names)))


def _parts(
    alone: Sequence[runner.Job], together: Sequence[runner.Job]
) -> dict[tuple[str, Case, World], float]:
    """What each run adds to the progress, in seconds."""
    share = (runner.seconds([], together) / sum(job.seconds for job in together)) if together else 1.0
    return {
        (job.system.name, job.case, job.world): job.seconds * (share if job.system.line_bound else 1.0)
        for job in (*alone, *together)
    }


def _settings(systems: Sequence[System], runs: int, quick: bool) -> dict[str, Any]:
    return {
        "runs": runs,
        "quick": quick,
        "line_bound_at_once": runner.AT_ONCE,
        "tbf": {"burst_bytes": links.BURST_BYTES, "queue_ms": links.QUEUE_MS},
        "systems": {system.name: system.settings for system in systems},
    }


def _lacks(systems: Sequence[System]) -> str | None:
    """Why it cannot begin."""
    if os.geteuid() != 0:
        return "network namespaces need root: run it with sudo"
    lacking = [lack for system in systems if (lack := system.missing())]
    if not lacking:
        return None
    rest = [system.name for system in systems if not system.missing()]
    without = f"\nor measure the others alone: --systems {' '.join(rest)}" if rest else ""
    return "\n".join(lacking) + without


def _write(report: Report, given: argparse.Namespace) -> None:
    """Raises `OSError`, `ValueError`."""
    for path in filter(None, (given.json, given.markdown, given.chart)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if given.json:
        given.json.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    if given.markdown:
        given.markdown.write_text(table.markdown(report), encoding="utf-8")
    if given.chart:
        chart.draw(summarise(report.results), given.chart)
    if given.readme:
        page = given.readme.read_text(encoding="utf-8")
        given.readme.write_text(table.between_marks(page, table.readme(report)), encoding="utf-8")


def _names() -> list[str]:
    return [system.name for system in SYSTEMS]


def _world(text: str) -> World:
    try:
        return World.parse(text)
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of runs")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sim.bench",
        description="How fast a site fills: meshsat beside others, in network namespaces. Root only.",
        epilog="docs/guides/benchmarks.md tells how to read it.",
    )
    add = parser.add_argument
    add("--systems", nargs="+", choices=_names(), metavar="NAME", help=f"of {', '.join(_names())}")
    add(
        "--world",
        type=_world,
        action="append",
        metavar="NODES:UPLINK:LAN:MB",
        help="Mbit/s and 10^6 bytes; may be given several times, in place of the usual "
        + ", ".join(f"{w.nodes}:{w.uplink_mbit:g}:{w.lan_mbit:g}:{w.megabytes}" for w in WORLDS),
    )
    add("--case", choices=[case.value for case in Case], help="one of the two alone")
    add("--runs", type=_count, help=f"of each (default: {RUNS}; 1 with --quick)")
    add(
        "--quick",
        action="store_true",
        help=f"{QUICK_PART:.0%}% of the payload: to see it work",
    )
    add("--unaware", action="store_true", help="meshsat's dark nodes believe in an uplink too, as by default")
    add("--json", type=Path, metavar="FILE", help="every run, the settings, the machine")
    add("--markdown", type=Path, metavar="FILE", help="the table")
    add("--chart", type=Path, metavar="FILE", help="a PNG")
    add(
        "--readme",
        type=Path,
        nargs="?",
        const=README,
        metavar="FILE",
        help="its table, between marks",
    )
    add(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="measure nothing: write the others anew from a file that --json wrote",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
