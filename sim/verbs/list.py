"""`python -m sim list`: the scenarios that there are."""

import argparse
import textwrap

from sim.verbs import scenarios


def add_flags(parser: argparse.ArgumentParser) -> None:
    del parser  # it has none


def run(_given: argparse.Namespace) -> int:
    for scenario in map(scenarios.load, scenarios.names()):
        quick = "  (quick)" if scenario.quick else ""
        print(f"{scenario.name:<19} {scenario.nodes:>6,} nodes  {scenario.title}{quick}")
        print(textwrap.fill(scenario.about, 108, initial_indent=" " * 34, subsequent_indent=" " * 34))
    return 0
