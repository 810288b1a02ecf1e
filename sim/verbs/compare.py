"""`python -m sim compare [SCENARIO...]`: run scenarios, and show what differs from the stored baseline."""

import argparse
from pathlib import Path

from sim.simulator import baseline
from sim.simulator.baseline import Difference
from sim.simulator.figures import Figures, figures_of
from sim.simulator.run import run as run_scenario
from sim.simulator.scenario import Scenario
from sim.verbs import scenarios

DIRECTORY = Path(__file__).parent.parent / "baselines"
SEED = 1


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", nargs="*", help="names or files (default: the quick ones)")
    parser.add_argument("--update", action="store_true", help="store what comes out as the new baseline")
    parser.add_argument("--all", action="store_true", help="show also the figures that are as they were")


def run(given: argparse.Namespace) -> int:
    """1: a figure is worse by more than its tolerance."""
    chosen = [scenarios.load(name) for name in given.scenario] or scenarios.quick()
    failed = []
    for scenario in chosen:
        figures = measure(scenario)
        file = DIRECTORY / f"{scenario.name}.json"
        try:
            differences = baseline.compare(baseline.load_untrusted(file), figures)
        except baseline.BaselineError as missing:
            if not given.update:
                raise
            print(f"{scenario.name:<19} new ({missing})")
            differences = []
        worse = [one for one in differences if one.worse]
        if worse:
            failed.append(scenario.name)
        print(_headline(scenario.name, differences), flush=True)
        for one in differences:
            if given.all or one.worse or one.better:
                print(in_words(one), flush=True)
        if given.update:
            baseline.store(file, figures)
    if given.update:
        print(f"stored {len(chosen)} baselines in {DIRECTORY.relative_to(DIRECTORY.parent.parent)}")
        return 0
    if failed:
        names = " ".join(failed)
        print(f"\nworse than the baseline: {names}")
        print("If that is meant, store the new figures, and commit them with the change:")
        print(f"  python -m sim compare --update {names}")
    return 1 if failed else 0


def measure(scenario: Scenario) -> Figures:
    return figures_of(run_scenario(scenario, SEED))


def _headline(name: str, differences: list[Difference]) -> str:
    worse, better = (sum(one.worse for one in differences), sum(one.better for one in differences))
    verdict = f"{worse} figures worse" if worse else "as it was"
    return f"{name:<19} {verdict}{f', {better} better' if better else ''}"


def in_words(one: Difference) -> str:
    mark = "WORSE" if one.worse else "better" if one.better else ""
    change = ""
    if one.was and one.now is not None:
        change = f"{(one.now - one.was) / one.was:+.1%}"
    return f"  {one.figure:<16} {_shown(one.was):>12} -> {_shown(one.now):>12} {change:>8}  {mark}".rstrip()


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
