"""A run as a picture: how the nodes filled, what went over which link; of a fleet, how long each site took.

One style for all: readable at the width of a README, units in every title, one colour for one thing.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from sim.simulator.figures import Figures
from sim.simulator.run import Outcome, Want
from sim.simulator.scenario import Do

INK, GREY, PALE = "#1f2937", "#6b7280", "#e5e7eb"
RECEIVED, SENT, UPLINK = "#2563eb", "#0d9488", "#d97706"
OUTAGE = "#fee2e2"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": GREY,
    "axes.edgecolor": PALE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.solid_capstyle": "round",
}
WIDTH, HEIGHT, DPI = 10.0, 4.4, 160
BARS = 16
"""Nodes whose links are shown one by one; of more, their ranks."""
FLEET = 9
"""Sites from which on they are shown, and not their nodes."""


def draw(out: Outcome, figures: Figures, file: Path) -> None:
    """Write a PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        figure.suptitle(out.scenario.title, x=0.012, ha="left", color=INK, fontsize=13, fontweight="bold")
        if len(out.world.sites) >= FLEET:
            _completions(left, out, figures)
            _sites(right, out)
        else:
            _progress(left, out, figures)
            _links(right, out)
        figure.text(0.012, -0.03, _caption(figures), color=GREY, fontsize=9, ha="left")
        figure.savefig(file, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})


def _legend(axes: Any) -> None:
    """Below the axes, where no curve runs."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, columnspacing=1.4, handlelength=1.6)


def _caption(figures: Figures) -> str:
    parts = [f"{figures.nodes:,} nodes", f"{figures.fulfilled:,} of {figures.wants:,} wants fulfilled"]
    if figures.wan_ratio is not None:
        parts.append(f"WAN {figures.wan_ratio:.3f} x what was lacking")
    if figures.last_ratio is not None:
        parts.append(f"last node {figures.last_ratio:.3f} x the limit")
    parts += [f"duplicate content {figures.duplicate_share:.2%}", f"seed {figures.seed}"]
    return "  ·  ".join(parts)


# --- how the nodes filled ---


def _unit(seconds: float) -> tuple[float, str]:
    if seconds > 3 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if seconds > 900 else (1.0, "seconds")


def _began(out: Outcome) -> float:
    return min((want.wanted_at for want in out.wants), default=0.0)


def _ended(out: Outcome) -> float:
    done = [want.done_at for want in out.wants if want.done_at is not None]
    return max(done, default=out.ended_at)


def _progress(axes: Any, out: Outcome, figures: Figures) -> None:
    began, ended = _began(out), _ended(out)
    per, unit = _unit(ended - began)
    size_of: dict[str, int] = {}
    for want in out.wants:
        size_of[want.node.name] = size_of.get(want.node.name, 0) + want.size
    shown = [number for number, node in enumerate(out.watched) if size_of.get(node.name)]
    times = [(time - began) / per for time, _ in out.looks]
    curves = [
        [100 * min(1.0, got[number] / size_of[out.watched[number].name]) for _, got in out.looks]
        for number in shown
    ]
    _outages(axes, out, began, per)
    for curve in curves:
        axes.plot(times, curve, color=RECEIVED, linewidth=0.9, alpha=0.35)
    if curves:
        middle = [statistics.median(column) for column in zip(*curves, strict=True)]
        axes.plot(times, middle, color=RECEIVED, linewidth=2.2, label="median node")
    if figures.limit_seconds is not None:
        limit = figures.limit_seconds / per
        axes.axvline(limit, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label="the limit")
    axes.set(
        title="Content held by each node, %",
        xlabel=f"{unit} after the first want",
        xlim=(0, (ended - began) / per * 1.03),
        ylim=(0, 102),
    )
    _legend(axes)


def _outages(axes: Any, out: Outcome, began: float, per: float) -> None:
    """Shade the times in which no uplink works, and in which the LAN is cut."""
    if len(out.world.sites) > 1:
        return
    spans = [("no uplink", span) for span in _without_uplink(out)] + [
        ("LAN cut", span) for span in _cuts(out)
    ]
    told: set[str] = set()
    for name, (start, stop) in spans:
        label = None if name in told else name
        told.add(name)
        axes.axvspan((start - began) / per, (stop - began) / per, color=OUTAGE, linewidth=0, label=label)


def _without_uplink(out: Outcome) -> list[tuple[float, float]]:
    working: set[str] = set()
    spans, since = [], None
    for time, _, node, works in out.uplinks:
        working = working | {node} if works else working - {node}
        if not working and since is None:
            since = time
        elif working and since is not None:
            spans.append((since, time))
            since = None
    return spans if since is None else [*spans, (since, out.ended_at)]


def _cuts(out: Outcome) -> list[tuple[float, float]]:
    steps = sorted((one for step in out.scenario.steps for one in step.repetitions()), key=lambda one: one.at)
    spans, since = [], None
    for step in steps:
        if step.do is Do.CUT and since is None:
            since = step.at
        elif step.do is Do.HEAL and since is not None:
            spans.append((since, step.at))
            since = None
    return spans if since is None else [*spans, (since, out.ended_at)]


# --- what went over which link ---


def _bytes_unit(most: float) -> tuple[float, str]:
    return (1e9, "GB") if most >= 2e9 else (1e6, "MB")


def _links(axes: Any, out: Outcome) -> None:
    nodes = list(out.world.nodes.values())
    series = [
        ("received", RECEIVED, [node.down.bytes for node in nodes]),
        ("sent", SENT, [node.up.bytes for node in nodes]),
        ("over its uplink", UPLINK, [node.wan_bytes for node in nodes]),
    ]
    per, unit = _bytes_unit(max(max(values) for _, _, values in series))
    if len(nodes) <= BARS:
        for place, (label, colour, values) in enumerate(series):
            rows = [number + (place - 1) * 0.27 for number in range(len(nodes))]
            axes.barh(rows, [value / per for value in values], height=0.25, color=colour, label=label)
        axes.set_yticks(range(len(nodes)), [_short(node.name, out) for node in nodes])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(title=f"Bytes on each node's links, {unit}")
        axes.set_ylabel("node")
        _legend(axes)
        return
    for label, colour, values in series:
        ranked = sorted((value / per for value in values if value), reverse=True)
        if ranked:
            axes.plot(range(1, len(ranked) + 1), ranked, color=colour, linewidth=2, label=label, marker=".")
    axes.set(
        title=f"Bytes on the nodes' links, {unit}", xlabel="nodes, those with most first", ylim=(0, None)
    )
    _legend(axes)


def _short(name: str, out: Outcome) -> str:
    return name if len(out.world.sites) > 1 else name.rpartition("/")[2]


# --- fleets ---


def _completions(axes: Any, out: Outcome, figures: Figures) -> None:
    began, ended = _began(out), _ended(out)
    per, unit = _unit(ended - began)
    wants = len(out.wants)
    wanted = sorted((want.wanted_at - began) / per for want in out.wants)
    done = sorted((want.done_at - began) / per for want in out.wants if want.done_at is not None)
    share = [100 * number / wants for number in range(1, wants + 1)]
    axes.step(wanted, share, where="post", color=GREY, linewidth=1.4, label="want it")
    axes.step(done, share[: len(done)], where="post", color=RECEIVED, linewidth=2.4, label="have it")
    axes.fill_between(done, share[: len(done)], step="post", color=RECEIVED, alpha=0.08, linewidth=0)
    if figures.limit_seconds is not None:
        axes.axvline(
            figures.limit_seconds / per,
            color=INK,
            linewidth=1.2,
            linestyle=(0, (4, 3)),
            label="the limit of a site",
        )
    axes.set(
        title=f"Nodes, % of {figures.nodes:,}",
        xlabel=f"{unit} after the first want",
        ylim=(0, 102),
        xlim=(0, (ended - began) / per * 1.03),
    )
    _legend(axes)


def _sites(axes: Any, out: Outcome) -> None:
    by_site: dict[str, list[Want]] = {}
    for want in out.wants:
        by_site.setdefault(want.site, []).append(want)
    rows: list[Sequence[float]] = []
    for wants in by_site.values():
        began = min(want.wanted_at for want in wants)
        took = sorted(want.done_at - began for want in wants if want.done_at is not None)
        if took:
            rows.append((took[0], statistics.median(took), took[-1]))
    rows.sort(key=lambda row: row[2])
    per, unit = _unit(rows[-1][2])
    first, middle, last = ([row[which] / per for row in rows] for which in range(3))
    ranks = range(1, len(rows) + 1)
    axes.fill_between(ranks, first, last, color=RECEIVED, alpha=0.18, linewidth=0, label="first to last node")
    axes.plot(ranks, middle, color=SENT, linewidth=1.2, label="median node")
    axes.plot(ranks, last, color=RECEIVED, linewidth=2, label="last node")
    axes.set(
        title=f"{len(rows)} sites: time until the image is there, {unit}",
        xlabel="sites, the fastest first",
        ylim=(0, None),
        xlim=(1, len(rows)),
    )
    _legend(axes)
