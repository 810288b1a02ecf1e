"""`python -m sim agree FILE`: the benchmark's figures beside the simulator's, as Markdown."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from sim.benchmark.figures import Report, Summary, summarise
from sim.benchmark.world import Case
from sim.simulator.scenario import Scenario
from sim.verbs import compare, scenarios

TOLERANCE = 0.10
SYSTEM = "meshsat"
HEAD = "| world | namespaces, median (least..most) | simulator | difference |\n|---|---|---|---|"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("report", type=Path, metavar="FILE", help="what `python -m sim.bench --json` wrote")


def run(given: argparse.Namespace) -> int:
    """1: they differ by more than a tenth somewhere, or there is nothing to compare."""
    report = Report.from_json(json.loads(given.report.read_text(encoding="utf-8")))
    rows = list(_rows(summarise(report.results)))
    print(HEAD)
    for text, _ in rows:
        print(text)
    return 0 if rows and all(abs(difference) <= TOLERANCE for _, difference in rows) else 1


def _rows(summaries: Sequence[Summary]) -> Iterator[tuple[str, float]]:
    """Of each world that is a scenario too: a line of the table, and by how much the simulator is above."""
    for one in summaries:
        scenario = _same_world(one)
        if scenario is None or one.last is None:
            continue
        simulated = compare.measure(scenario).last_ratio
        if simulated is None:
            continue
        difference = simulated / one.last.median - 1
        mark = "" if abs(difference) <= TOLERANCE else ", too much"
        real = f"{one.last.median:.3f} ({one.last.least:.3f}..{one.last.most:.3f})"
        yield f"| {one.case}, {one.world} | {real} | {simulated:.3f} | {difference:+.1%}{mark} |", difference


def _same_world(one: Summary) -> Scenario | None:
    """The scenario `cold-4` and the like, if it has this world's nodes, rates and payload."""
    name = f"{one.case}-{one.world.nodes}"
    if one.system != SYSTEM or name not in scenarios.names():
        return None
    scenario = scenarios.load(name)
    (site,), (image,) = scenario.sites, scenario.images
    uplinks = one.case is Case.WARM or site.uplink_mbit == one.world.uplink_mbit
    same = site.lan_mbit == one.world.lan_mbit and sum(image.layers_mb) == one.world.megabytes
    return scenario if same and uplinks else None
