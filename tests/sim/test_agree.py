"""The namespaces' figures and the simulator's in one table."""

import json
from pathlib import Path

import pytest

from sim.__main__ import main
from sim.benchmark.figures import Report
from sim.benchmark.world import Case, World
from sim.simulator import baseline
from sim.verbs import compare
from tests.benchmark.results import MACHINE, figures, result

WORLD = World(4, 50, 200, 200)
SIMULATED = baseline.load_untrusted(compare.DIRECTORY / "warm-4.json")["last_ratio"]


def written(directory: Path, last: float, world: World = WORLD) -> str:
    results = [result("meshsat", Case.WARM, world, number, figures(last)) for number in (1, 2)]
    results.append(result("libtorrent", Case.WARM, world, 1, figures(9.0)))
    file = directory / "bench.json"
    file.write_text(json.dumps(Report(MACHINE, {}, tuple(results)).to_json()), encoding="utf-8")
    return str(file)


def test_what_agrees_is_a_line_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(SIMULATED, float)
    assert main(["agree", written(tmp_path, SIMULATED * 1.05)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert f"| {SIMULATED:.3f} | -4.8% |" in lines[2]


def test_what_differs_by_more_than_a_tenth_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(SIMULATED, float)
    assert main(["agree", written(tmp_path, SIMULATED * 1.2)]) == 1
    assert "too much" in capsys.readouterr().out


@pytest.mark.parametrize("world", [World(4, 50, 200, 20), World(5, 50, 200, 200)])
def test_another_world_is_not_compared(tmp_path: Path, world: World) -> None:
    assert main(["agree", written(tmp_path, 1.1, world)]) == 1


def test_what_is_no_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bench.json").write_text("{}")
    assert main(["agree", str(tmp_path / "bench.json")]) == 2
    assert "no benchmark's result" in capsys.readouterr().err
