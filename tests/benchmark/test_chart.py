"""The chart draws what there is, and refuses where there is nothing."""

import struct
from pathlib import Path

import pytest

from sim.benchmark import chart
from sim.benchmark.figures import summarise
from sim.benchmark.world import Case
from tests.benchmark.results import report, result

pytestmark = pytest.mark.slow


def size(png: Path) -> tuple[int, int]:
    """Width and height: PNG (RFC 2083), IHDR."""
    start = png.read_bytes()[:24]
    assert start[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", start[16:])
    return width, height


def test_a_report_becomes_a_png(tmp_path: Path) -> None:
    chart.draw(summarise(report().results), tmp_path / "two.png")
    chart.draw(summarise([one for one in report().results if one.case is Case.COLD]), tmp_path / "one.png")
    width, height = size(tmp_path / "two.png")
    assert width == 1100
    assert size(tmp_path / "one.png")[1] < height


def test_without_a_figure_nothing_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        chart.draw(summarise([result(failure="no")]), tmp_path / "none.png")
    assert not list(tmp_path.iterdir())
