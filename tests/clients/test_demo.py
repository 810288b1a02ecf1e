"""The demo for real, small: every process, every byte. It is the first thing that a visitor runs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.clients, pytest.mark.timeout(180)]

DEMO = (sys.executable, "-m", "meshsat", "demo")
SMALL = ("--nodes", "3", "--size-mb", "4", "--uplink-mbit", "16", "--json")
DEADLINE = 120.0
"""Seconds, on a machine that is busy with other tests."""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo makes its directory. Short, since Unix sockets lie below it."""
    short = Path("/tmp") / f"mt-{tmp_path.stat().st_ino}"
    short.mkdir()
    monkeypatch.setenv("TMPDIR", str(short))
    yield short
    short.rmdir()  # fails where anything was left


def left_over(temporary: Path) -> dict[int, str]:
    """Processes that the demo started and that still run: their command lines name its directory."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it has ended
                continue
            if str(temporary) in command:
                found[int(entry.name)] = command
    return found


def until_clean(temporary: Path) -> None:
    deadline = time.monotonic() + 15
    while left_over(temporary) or list(temporary.iterdir()):
        assert time.monotonic() < deadline, (left_over(temporary), list(temporary.iterdir()))
        time.sleep(0.05)


def check(ended: "subprocess.CompletedProcess[str]", client: str) -> None:
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["ok"]
    assert result["client"] == client
    assert (result["nodes"], len(result["node_seconds"])) == (3, 3)
    assert 3_900_000 < result["image_bytes"] < 4_200_000
    assert result["image_bytes"] <= result["wan_bytes"] <= 1.02 * result["image_bytes"] + 64 * 1024
    assert result["limit_seconds"] == pytest.approx(8 * result["image_bytes"] / 16e6, abs=0.001)
    assert result["seconds_last"] > 0.9 * result["limit_seconds"]  # the cap on the uplink holds
    assert "each node for itself" in ended.stderr


def test_an_image_crosses_the_uplink_once_and_reaches_every_node(temporary: Path) -> None:
    ended = subprocess.run([*DEMO, *SMALL], capture_output=True, text=True, timeout=DEADLINE, check=False)
    installed = subprocess.run(["which", "skopeo"], capture_output=True, check=False).returncode == 0
    check(ended, "skopeo" if installed else "meshsat's own client")
    assert left_over(temporary) == {}


def test_it_needs_nothing_that_is_not_its_own(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(temporary))
    ended = subprocess.run([*DEMO, *SMALL], capture_output=True, text=True, timeout=DEADLINE, check=False)
    check(ended, "meshsat's own client")
    assert "the demo's own registry" in ended.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
def test_nothing_is_left_of_a_demo_that_is_ended_in_the_middle(
    temporary: Path, number: signal.Signals, code: int
) -> None:
    with subprocess.Popen([*DEMO, *SMALL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stderr is not None
        assert any("node-1 is up" in line for line in demo.stderr)
        assert left_over(temporary)
        demo.send_signal(number)
        demo.communicate(timeout=DEADLINE)
    assert demo.returncode == code
    until_clean(temporary)


def test_a_node_that_is_killed_ends_the_demo_with_its_name_and_log(temporary: Path) -> None:
    with subprocess.Popen([*DEMO, *SMALL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stderr is not None
        assert any("node-1 is up" in line for line in demo.stderr)
        (victim,) = (pid for pid, command in left_over(temporary).items() if "node-1.toml" in command)
        os.kill(victim, signal.SIGKILL)
        out, err = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 1
    assert "node-1 ended by itself, killed by SIGKILL" in err.splitlines()[-1]
    assert "node is up" in err
    assert json.loads(out.splitlines()[-1])["ok"] is False
    until_clean(temporary)
