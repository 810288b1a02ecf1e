"""The tables: what stands in them, and where."""

import pytest

from sim.benchmark import table
from sim.benchmark.figures import Spread, summarise
from sim.benchmark.world import Case
from tests.benchmark.results import figures, report, result


def test_the_text_has_a_row_for_each_system_in_each_world() -> None:
    lines = table.text(summarise(report().results)).splitlines()
    assert len(lines) == 2 + 6
    assert lines[2].split() == [
        *("N=4,", "200/50", "Mbit/s,", "200", "MB", "cold", "meshsat"),
        *("1.070", "(1.060..1.080)", "1.003", "1.50", "0.10%", "2"),
    ]


def test_systems_of_one_world_stand_together() -> None:
    rows = table.rows(summarise(report().results))
    assert [row[1:3] for row in rows[:4]] == [
        ("cold", "meshsat"),
        ("cold", "direct"),
        ("cold", "meshsat"),
        ("cold", "direct"),
    ]


def test_a_failed_run_shows_in_the_count_and_a_failed_row_shows_why() -> None:
    (partly,) = (row for row in table.rows(summarise(report().results)) if row[-1] == "1 of 2")
    assert partly[3] == "4.200"
    ((*_, last, wan, cpu, again, runs),) = table.rows(
        summarise([result(failure="the cache does not come up")])
    )
    assert last == "failed: the cache does not come up"
    assert (wan, cpu, again, runs) == ("-", "-", "-", "0 of 1")


def test_the_wan_has_no_figure_where_it_is_cut() -> None:
    (row,) = table.rows(summarise([result(case=Case.WARM, of=figures(wan=0.0))]))
    assert row[4] == "-"


def test_a_spread_of_one_run_is_one_figure() -> None:
    assert table.spread(Spread(1.06, 1.06, 1.06), 3) == "1.060"
    assert table.spread(Spread(1.06, 1.05, 1.07), 2) == "1.06 (1.05..1.07)"


def test_the_markdown_is_a_table_and_says_on_what() -> None:
    page = table.markdown(report())
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 6
    assert {row.count("|") for row in rows} == {len(table.COLUMNS) + 1}
    assert "- cores: 2" in page
    assert "libtorrent" not in page


def test_the_readme_has_a_column_for_each_system() -> None:
    rows = [line for line in table.readme(report()).splitlines() if line.startswith("|")]
    assert rows[0] == "|  | nodes | LAN a node / uplink, payload | meshsat | direct |"
    assert rows[2] == "| cold: last node / limit | 4 | 200/50 Mbit/s, 200 MB | 1.07 | 4.20 |"
    assert rows[-1] == "|  | 16 | 50/12.5 Mbit/s, 50 MB | 1.07 | - |"
    assert len(rows) == 2 + 6


def test_only_what_stands_between_the_marks_is_written() -> None:
    page = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    written = table.between_marks(page, "new\n")
    assert written == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"
    assert table.between_marks(written, "new\n") == written


@pytest.mark.parametrize("page", ["", table.BEGIN, f"{table.END} {table.BEGIN}"])
def test_a_page_without_marks_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="bench:begin"):
        table.between_marks(page, "new")
