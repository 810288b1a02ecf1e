"""A small scenario, run: what its figures say, its picture, and that a seed decides everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.__main__ import main
from sim.simulator.figures import Figures, figures_of, limit_of
from sim.simulator.run import Outcome, run
from sim.simulator.scenario import parse_untrusted

HEAD = """
title = "A test"
about = "A small site."
limit = "{limit}"
duration = 60
[[sites]]
name = "shop"
nodes = 4
uplinked = 2
lan_mbit = 80
uplink_mbit = 8
late = {late}
[[images]]
name = "app"
layers_mb = [3, 1]
"""
WANT = '[[steps]]\nat = 4\ndo = "want"\nnodes = "shop"\nimage = "app"\n'


def ran(steps: str = WANT, *, limit: str = "cold", late: int = 0, seed: int = 1) -> tuple[Outcome, Figures]:
    out = run(parse_untrusted(HEAD.format(limit=limit, late=late) + steps, "small"), seed)
    return out, figures_of(out)


def test_a_cold_site() -> None:
    out, figures = ran()
    assert (figures.sites, figures.nodes, figures.wants, figures.fulfilled) == (1, 4, 4, 4)
    assert figures.size == 4e6
    assert figures.limit_seconds == pytest.approx(2.0)  # 4 MB over 2 x 1 MB/s
    assert figures.last_seconds is not None
    assert figures.last_ratio is not None
    assert figures.last_ratio == pytest.approx(figures.last_seconds / 2.0)
    assert 1.0 < figures.last_ratio < 2.0
    assert figures.wan_ratio == pytest.approx(1.0, abs=0.1)
    assert figures.wan_bytes == pytest.approx(4e6, rel=0.1)
    assert figures.control_bytes_max >= figures.control_bytes > 0
    assert [want.done_at is not None for want in out.wants] == [True] * 4
    assert out.looks[-1][1] == [4e6] * 4


def test_an_uplink_that_is_down_stretches_the_limit() -> None:
    down = '[[steps]]\nat = 5\ndo = "uplink-down"\nnodes = "shop/uplinked"\n'
    up = '[[steps]]\nat = 8\ndo = "uplink-up"\nnodes = "shop/0"\n'
    out, figures = ran(WANT + down + up)
    # 2 MB in the first second, 3 s of nothing, 2 MB over one uplink
    assert figures.limit_seconds == pytest.approx(1 + 3 + 2)
    assert limit_of(out, "shop", 8.0) == pytest.approx(4.0)


def test_a_site_that_never_gets_it_says_so() -> None:
    _, figures = ran(WANT + '[[steps]]\nat = 4.5\ndo = "uplink-down"\nnodes = "shop/uplinked"\n')
    assert figures.fulfilled == 0
    assert figures.last_seconds is None
    assert figures.last_ratio is None
    assert figures.limit_seconds is None
    assert figures.seconds == 60


def test_a_warm_site_and_its_limit() -> None:
    steps = '[[steps]]\nat = 0\ndo = "hold"\nnodes = "shop/3"\nimage = "app"\n'
    steps += WANT.replace('"shop"', '"shop/0-2"')
    _, figures = ran(steps, limit="warm")
    assert figures.limit_seconds == pytest.approx(0.4)
    assert figures.wants == figures.fulfilled == 3
    assert (figures.wan_ratio, figures.wan_bytes) == (None, 0.0)


def test_who_is_killed_for_good_is_not_waited_for() -> None:
    _, figures = ran(WANT + '[[steps]]\nat = 4.5\ndo = "kill"\nnodes = "shop/dark"\npick = 1\n')
    assert figures.wants == figures.fulfilled == 3


def test_a_late_node_joins() -> None:
    start = '[[steps]]\nat = 9\ndo = "start"\nnodes = "shop"\n'
    _, figures = ran(WANT + start, late=1)
    assert figures.fulfilled == figures.wants == 4
    assert figures.last_seconds is not None
    assert figures.last_seconds > 5


def test_a_seed_decides_and_another_decides_otherwise() -> None:
    steps = WANT + "spread = 2\n"
    one, again, other = (ran(steps, seed=seed)[1].to_json() for seed in (1, 1, 2))
    assert one == again
    assert {**one, "seed": 2} != other


@pytest.mark.slow
def test_two_processes_with_other_hash_seeds_agree_to_the_byte() -> None:
    outputs = set()
    for hash_seed in ("1", "4242"):
        done = subprocess.run(
            [sys.executable, "-m", "sim", "run", "node-churn", "--seed", "5", "--json"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            timeout=110,
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert json.loads(outputs.pop())["seed"] == 5


# --- the command ---


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(HEAD.format(limit="cold", late=0) + WANT)
    return file


def test_run_prints_figures_and_draws(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "small.png"
    assert main(["run", str(small), "--png", str(picture)]) == 0
    told = capsys.readouterr()
    for part in (
        "A test",
        "wants fulfilled    4 of 4",
        "x what the sites lacked",
        "limit              2.00 s",
    ):
        assert part in told.out
    assert "CPU-seconds" in told.err
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_run_prints_json_and_a_profile(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(small), "--json", "--seed", "3", "--profile"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["seed"] == 3
    assert "own time by part:" in told.err


def test_run_fails_where_somebody_goes_without(small: Path) -> None:
    with small.open("a") as file:
        file.write('[[steps]]\nat = 4.5\ndo = "uplink-down"\nnodes = "shop/uplinked"\n')
    assert main(["run", str(small)]) == 1


def test_a_fleet_is_drawn_by_sites(tmp_path: Path) -> None:
    file, picture = tmp_path / "fleet.toml", tmp_path / "fleet.png"
    text = HEAD.format(limit="cold", late=0) + WANT.replace('"shop"', '"*"') + "spread = 1\n"
    file.write_text(text.replace("nodes = 4", "nodes = 2\ncount = 9"))
    assert main(["run", str(file), "--png", str(picture)]) == 0
    assert picture.stat().st_size > 10_000


def test_misuse_is_a_line_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "sea"]) == 2
    assert capsys.readouterr().err.startswith("python -m sim run: no scenario is called 'sea'")


def test_list_shows_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "fleet-500x20        10,000 nodes" in capsys.readouterr().out


def test_replay_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trace").write_bytes(b"garbage")
    assert main(["replay", str(tmp_path / "trace")]) == 2
    assert "not a trace" in capsys.readouterr().err
