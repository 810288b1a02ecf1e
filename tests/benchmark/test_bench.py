"""The command: what it refuses, and what it writes. Nothing is measured here: tests/netns does that."""

import json
import os
import shutil
from pathlib import Path

import pytest

from sim import bench
from sim.benchmark import table
from tests.benchmark.results import report


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(report().to_json()), encoding="utf-8")
    return path


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert bench.main(["--quick"]) == 2
    assert "need root" in capsys.readouterr().err


def test_without_a_tool_it_names_the_package_and_what_can_be_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "docker-registry" else tool)
    assert bench.main(["--systems", "direct", "meshsat"]) == 2
    told = capsys.readouterr().err
    assert "apt-get install docker-registry" in told
    assert "--systems" not in told
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "tc" else tool)
    assert bench.main([]) == 2
    assert "iproute2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--runs", "0"], ["--world", "4"], ["--systems", "ftp"], ["--case", "hot"]], ids=str
)
def test_wrong_words_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(wrong)
    assert wrong[1] in capsys.readouterr().err


@pytest.mark.slow
def test_everything_is_written_from_a_stored_result(stored: Path, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"# x\n{table.BEGIN}\n{table.END}\n", encoding="utf-8")
    out = tmp_path / "out"
    given = [f"--from={stored}", f"--json={out}/a.json", f"--markdown={out}/a.md", f"--chart={out}/a.png"]
    assert bench.main([*given, f"--readme={page}"]) == 1, "one run in it failed"
    assert json.loads((out / "a.json").read_text()) == json.loads(stored.read_text())
    assert (out / "a.md").read_text() == table.markdown(report())
    assert (out / "a.png").read_bytes().startswith(b"\x89PNG")
    assert table.readme(report()) in page.read_text()


def test_a_page_without_marks_is_told(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "README.md"
    page.write_text("# x\n", encoding="utf-8")
    assert bench.main([f"--from={stored}", f"--readme={page}"]) == 2
    assert "bench:begin" in capsys.readouterr().err
    assert page.read_text() == "# x\n"
