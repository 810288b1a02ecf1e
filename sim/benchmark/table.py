"""Summaries as tables: text for a terminal, Markdown, and the short one of the README."""

from collections.abc import Iterable, Sequence

from sim.benchmark.figures import Report, Spread, Summary, summarise
from sim.benchmark.world import HEADERS, Case, World

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
"""What stands between them in the README is written by `--readme`."""
COLUMNS = ("world", "case", "system", "last node / limit", "WAN / size", "CPU s a node", "duplicates", "runs")
LEFT = 3
"""So many columns hold words and not numbers."""
NONE = "-"


def rows(summaries: Iterable[Summary]) -> list[tuple[str, ...]]:
    """Cells as text, one row a summary, worlds and cases together."""
    return [
        (
            f"N={one.world.nodes}, {one.world.rates}, {one.world.megabytes} MB",
            one.case.value,
            one.system,
            spread(one.last, 3) if one.last else f"failed: {one.failures[0]}",
            f"{one.wan.median:.3f}" if one.wan and one.case is Case.COLD else NONE,
            f"{one.cpu.median:.2f}" if one.cpu else NONE,
            f"{one.duplicates.median:.2%}" if one.duplicates else NONE,
            f"{one.runs - len(one.failures)} of {one.runs}" if one.failures else str(one.runs),
        )
        for one in sorted(summaries, key=_place)
    ]


def _place(one: Summary) -> tuple[str, World]:
    return one.case.value, one.world  # the sort is stable: systems stay in their order


def spread(of: Spread, digits: int) -> str:
    """`median (least..most)`, or the median alone when there is no spread."""
    middle, least, most = (f"{value:.{digits}f}" for value in (of.median, of.least, of.most))
    return middle if least == most else f"{middle} ({least}..{most})"


def text(summaries: Iterable[Summary]) -> str:
    table = [COLUMNS, *rows(summaries)]
    # A failure's reason may be long: it must not push the other columns apart.
    widths = [max(len(row[i]) for row in table if "failed" not in row[i]) for i in range(len(COLUMNS))]
    lines = []
    for row in table:
        cells = (
            cell.ljust(width) if i < LEFT else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(report: Report) -> str:
    """The whole table, with what it was measured on."""
    table = [COLUMNS, *rows(summarise(report.results))]
    machine = "\n".join(f"- {name}: {value}" for name, value in report.machine.items() if value is not None)
    return (
        "# What the benchmark found\n\n"
        "Written by `python -m sim.bench`; [how to read it](../guides/benchmarks.md). Medians (least..most). "
        f"Headers alone make {HEADERS}.\n\n{_markdown(table, LEFT)}\n\nMeasured on\n\n{machine}\n"
    )


def readme(report: Report) -> str:
    """What stands in the README between the marks: ratios, one row a world, one column a system."""
    summaries = summarise(report.results)
    systems = list(dict.fromkeys(one.system for one in summaries))
    runs = max(one.runs for one in summaries)
    head = ("", "nodes", "LAN a node / uplink, payload", *systems)
    table = [head]
    for title, case, measure in (
        ("cold: last node / limit", Case.COLD, "last"),
        ("cold: WAN bytes / size", Case.COLD, "wan"),
        ("warm: last node / limit", Case.WARM, "last"),
    ):
        for world in sorted({one.world for one in summaries if one.case is case}):
            here = {one.system: one for one in summaries if one.case is case and one.world == world}
            cells = (_short(here.get(system), measure) for system in systems)
            table.append((title, str(world.nodes), f"{world.rates}, {world.megabytes} MB", *cells))
            title = ""  # noqa: PLW2901 - said once for several rows
    machine = report.machine
    return (
        f"{_markdown(table, 1)}\n\n![The same as a chart](docs/img/bench.png)\n\n"
        f"{'Medians of ' + str(runs) + ' runs' if runs > 1 else 'One run each'}"
        f" on {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}"
        f", libtorrent {machine['libtorrent']}, docker-registry {machine['docker_registry']}.\n"
        f"Headers alone make {HEADERS}. With spreads, CPU seconds and duplicates:"
        " [all figures](docs/figures/bench.md).\n"
    )


def _short(one: Summary | None, measure: str) -> str:
    if one is None:
        return NONE
    value: Spread | None = getattr(one, measure)
    return "failed" if value is None else f"{value.median:.2f}"


def between_marks(page: str, new: str) -> str:
    """`page` with `new` between its marks. Raises `ValueError` when it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} and {END} in it")
    return f"{before}{BEGIN}\n{new}{END}{after}"


def _markdown(table: Sequence[Sequence[str]], left: int) -> str:
    head, *body = table
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))
