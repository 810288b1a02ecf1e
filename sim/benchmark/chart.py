"""The chart: how many times the limit the last node needs, by system and world, cold and warm.

Laws: bars begin at 0 and share one scale; what does not fit is cut, visibly, with its figure written on it;
the whiskers are the least and the most of the runs. Drawn by Agg: no screen is needed.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sim.benchmark.figures import Summary
from sim.benchmark.world import HEADERS, Case, World

COLOURS = {"meshsat": "#0b7285", "libtorrent": "#f08c00", "docker-registry": "#adb5bd", "direct": "#ced4da"}
OTHER = "#868e96"
INK, FAINT = "#212529", "#868e96"
CEILING = 2.6
"""What is beyond so many times the limit is cut."""
WIDTH = 0.82
"""Of a world's group of bars."""
TITLES = {
    Case.COLD: "cold: only the upstream has it, one node has an uplink",
    Case.WARM: "warm: one node has it, no uplink",
}


def draw(summaries: list[Summary], path: Path) -> None:
    """Write a PNG. Raises `OSError`, and `ValueError` when nothing was measured."""
    cases = [case for case in Case if any(one.case is case and one.last for one in summaries)]
    if not cases:
        raise ValueError("there is nothing to draw: no run went well")
    with mpl.rc_context({"font.size": 10, "font.family": "DejaVu Sans", "axes.edgecolor": FAINT}):
        figure = Figure(figsize=(10, 1.1 + 2.9 * len(cases)), dpi=110, facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
        for panel, case in zip(panels, cases, strict=True):
            _panel(panel, case, [one for one in summaries if one.case is case])
        _legend(figure, summaries)
        figure.tight_layout(rect=(0, 0, 1, 0.93))
        figure.savefig(path, format="png")


def _panel(panel: Any, case: Case, summaries: list[Summary]) -> None:
    systems = list(dict.fromkeys(one.system for one in summaries))
    worlds = sorted({one.world for one in summaries})
    bar = WIDTH / len(systems)
    for one in summaries:
        left = worlds.index(one.world) - WIDTH / 2 + systems.index(one.system) * bar
        _bar(panel, one, left + bar / 2, bar * 0.9)
    panel.axhline(1, color=INK, linewidth=1.2, zorder=3)
    panel.axhline(HEADERS, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=3)
    panel.set_title(TITLES[case], loc="left", fontsize=11, fontweight="bold", color=INK)
    panel.set_ylabel("last node / limit", color=INK)
    panel.set_ylim(0, CEILING * 1.09)
    panel.set_xlim(-0.55, len(worlds) - 0.45)
    panel.set_xticks(range(len(worlds)), [_title(world) for world in worlds])
    panel.set_yticks([0, 0.5, 1, 1.5, 2, 2.5])
    panel.grid(axis="y", color="#e9ecef", zorder=0)
    panel.set_axisbelow(True)
    panel.tick_params(length=0, colors=INK)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def _bar(panel: Any, one: Summary, middle: float, width: float) -> None:
    if one.last is None:
        panel.text(middle, 0.05, "failed", rotation=90, ha="center", va="bottom", color=FAINT)
        return
    value = one.last.median
    own = one.system == "meshsat"
    colour = COLOURS.get(one.system, OTHER)
    panel.bar(middle, min(value, CEILING), width, color=colour, zorder=2)
    if value > CEILING:
        for low in (CEILING * 0.90, CEILING * 0.925):
            edges = (middle - width * 0.6, middle + width * 0.6)
            panel.plot(edges, (low, low + 0.06), color="white", linewidth=2.5, zorder=4)
    elif one.runs > 1:
        panel.vlines(middle, one.last.least, one.last.most, color=INK, linewidth=1.4, zorder=5)
    top = CEILING if value > CEILING else max(value, one.last.most)
    panel.text(
        middle,
        top + 0.03,
        f"{value:.2f}" if value < 3 else f"{value:.1f}",
        ha="center",
        va="bottom",
        color=INK,
        fontweight="bold" if own else "normal",
        zorder=6,
    )


def _title(world: World) -> str:
    return f"{world.nodes} nodes\nLAN/uplink {world.rates}, {world.megabytes} MB"


def _legend(figure: Figure, summaries: list[Summary]) -> None:
    systems = list(dict.fromkeys(one.system for one in summaries))
    patches = [Patch(color=COLOURS.get(system, OTHER), label=system) for system in systems]
    lines = [
        Line2D([], [], color=INK, linewidth=1.2, label="limit"),
        Line2D([], [], color=INK, linewidth=0.8, linestyle="--", label="with headers"),
    ]
    figure.legend(
        handles=[*patches, *lines], loc="upper center", ncols=len(systems) + 2, frameon=False, fontsize=10
    )
