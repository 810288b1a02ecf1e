"""`python -m sim run SCENARIO`: run a scenario, print its figures, draw a picture."""

import argparse
import cProfile
import json
import pstats
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sim.simulator.figures import Figures, figures_of
from sim.simulator.run import Progress as Tell
from sim.simulator.run import run as run_scenario
from sim.verbs import scenarios

BAR_FROM = 200
"""Nodes from which on a terminal shows a bar."""
PACKAGES = {"protocol": "meshsat/protocol", "simulator": "sim/simulator", "meshsat": "meshsat/"}
COSTLIEST = 15
"""Functions that a profile shows."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", help="a name that `python -m sim list` shows, or a .toml file")
    parser.add_argument("--seed", type=int, default=1, help="what all chance is made from (default 1)")
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout, the same for a seed")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw a picture")
    parser.add_argument("--profile", action="store_true", help="tell on stderr where the time goes (slower)")


def run(given: argparse.Namespace) -> int:
    """1: somebody who was to get an image did not."""
    scenario = scenarios.load(given.scenario)
    began = time.process_time()
    profile = cProfile.Profile() if given.profile else None
    with _bar(scenario.duration, shown=scenario.nodes >= BAR_FROM) as tell:
        if profile is None:
            out = run_scenario(scenario, given.seed, tell)
        else:
            out = profile.runcall(run_scenario, scenario, given.seed, tell)
    seconds = time.process_time() - began
    figures = figures_of(out)
    if given.json:
        print(json.dumps(figures.to_json(), indent=2))
    else:
        print(scenario.title)
        print("\n".join(report(figures)))
    print(
        f"{out.world.queue.done:,} steps of the world in {seconds:.1f} CPU-seconds; "
        f"{out.ended_at:.1f} simulated",
        file=sys.stderr,
    )
    if profile is not None:
        print("\n".join(_where_time_went(profile)), file=sys.stderr)
    if given.png is not None:
        from sim.simulator.pictures import draw  # noqa: PLC0415 - matplotlib takes half a second to load

        draw(out, figures, given.png)
    return 0 if figures.fulfilled == figures.wants else 1


def report(figures: Figures) -> Iterator[str]:
    yield f"nodes              {figures.nodes:,} at {figures.sites:,} sites"
    yield f"wants fulfilled    {figures.fulfilled:,} of {figures.wants:,}"
    wan = "" if figures.wan_ratio is None else f" = {figures.wan_ratio:.4f} x what the sites lacked"
    yield f"WAN                {figures.wan_bytes / 1e6:,.1f} MB{wan}"
    yield f"median, last node  {_seconds(figures.median_seconds)}, {_seconds(figures.last_seconds)}"
    if figures.limit_seconds is not None:
        ratio = "never" if figures.last_ratio is None else f"{figures.last_ratio:.3f} x it"
        yield f"limit              {figures.limit_seconds:.2f} s; the last node {ratio}"
    yield f"duplicate content  {figures.duplicate_share:.3%}"
    yield (
        f"beside content     {figures.control_bytes / 1000:,.1f} kB received a node "
        f"(at most {figures.control_bytes_max / 1000:,.1f}), {figures.control_rate:,.0f} B/s; "
        f"gossip alone {figures.gossip_bytes / 1000:,.1f} kB"
    )


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:,.2f} s"


@contextmanager
def _bar(duration: float, *, shown: bool) -> Iterator[Tell]:
    if not shown or not sys.stderr.isatty():
        yield lambda *_: None
        return
    columns = (
        TextColumn("{task.fields[at]:>9} simulated"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} wants fulfilled"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("run", total=1, at="0 s")

        def tell(now: float, fulfilled: int, wants: int) -> None:
            at = f"{min(now, duration):.1f} s"
            progress.update(task, completed=fulfilled, total=max(wants, 1), at=at)

        yield tell


def _where_time_went(profile: cProfile.Profile) -> Iterator[str]:
    stats = pstats.Stats(profile)
    spent: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for (file, _line, name), (_, _, own, _, _) in stats.stats.items():  # type: ignore[attr-defined]  # typeshed lacks it
        where = next((package for package, path in PACKAGES.items() if path in file), "Python")
        spent[where] += own
        short = file.partition("meshsat/protocol/")[2] or Path(file).name
        functions[f"{short}:{name}" if file != "~" else name] += own
    whole = sum(spent.values())
    yield "own time by part:  " + ", ".join(f"{name} {own / whole:.0%}" for name, own in spent.most_common())
    for name, own in functions.most_common(COSTLIEST):
        yield f"  {own / whole:>6.1%}  {name}"
