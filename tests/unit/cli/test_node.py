"""`meshsat node` as a process: what an operator sees of its start and its end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshsat.cli.client import NodeClient
from meshsat.errors import MeshsatError
from meshsat.mesh.identity import is_member
from tests.unit.cli.conftest import Meshsat

DEADLINE = 30.0
"""Seconds, on a machine that is busy with other tests."""
QUIET = {
    "MESHSAT_MESH__MDNS": "false",
    "MESHSAT_MESH__LISTEN": "127.0.0.1",
    "MESHSAT_MESH__CONTROL_PORT": "0",
    "MESHSAT_MESH__BULK_PORT": "0",
    "MESHSAT_REGISTRY__PORT": "0",
    "MESHSAT_API__PORT": "0",
}


@contextmanager
def running(data_dir: Path, *flags: str) -> Iterator["subprocess.Popen[str]"]:
    log = data_dir / "log"
    command = [sys.executable, "-m", "meshsat", "node", "--data-dir", str(data_dir), *flags]
    with log.open("w") as output:
        process = subprocess.Popen(command, stderr=output, text=True, env={**os.environ, **QUIET})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(true: Callable[[], bool], data_dir: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, (data_dir / "log").read_text()
        time.sleep(0.02)


def answers(data_dir: Path) -> bool:
    try:
        NodeClient(data_dir).get("/api/v1/status")
    except MeshsatError:
        return False
    return True


@pytest.mark.slow
def test_with_nothing_but_a_directory_it_says_what_to_do_and_goes_on_when_that_is_done(
    meshsat: Meshsat, short_dir: Path
) -> None:
    with running(short_dir, "--name", "coach-7", "--no-uplink") as process:
        until(lambda: "in no fleet yet" in (short_dir / "log").read_text(), short_dir)
        told = (short_dir / "log").read_text()
        assert f"meshsat init FLEET --data-dir {short_dir}" in told
        assert f"meshsat join - --data-dir {short_dir}" in told
        assert meshsat("init", "trains", "--data-dir", short_dir).code == 0
        until(lambda: answers(short_dir), short_dir)
        status = NodeClient(short_dir).get("/api/v1/status")
        assert (status["name"], status["uplink"]["enabled"]) == ("coach-7", False)

        second = meshsat("node", "--data-dir", short_dir)
        assert second.code == 2
        assert str(short_dir) in second.err
        assert str(process.pid) in second.err

        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - start < 3
        assert "Traceback" not in (short_dir / "log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_that_waits_for_a_fleet_ends_well_too(short_dir: Path, number: signal.Signals) -> None:
    with running(short_dir) as process:
        until(lambda: "in no fleet yet" in (short_dir / "log").read_text(), short_dir)
        process.send_signal(number)
        assert process.wait(10) == 0
    assert not is_member(short_dir)


@pytest.mark.parametrize(
    "flags", [("--log-level", "loud"), ("--control-port", "70000"), ("--config", "/nonexistent.toml")]
)
def test_a_wrong_setting_is_one_line_and_misuse(
    meshsat: Meshsat, tmp_path: Path, flags: tuple[str, str]
) -> None:
    ended = meshsat("node", "--data-dir", tmp_path, *flags)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert ended.err.startswith("meshsat: ")


@pytest.mark.slow
def test_a_hangup_reads_the_configuration_again_and_a_wrong_one_changes_nothing(
    meshsat: Meshsat, short_dir: Path
) -> None:
    file = short_dir / "meshsat.toml"
    file.write_text("[uplink]\nrate = 1000\n[mesh]\nmax_peers = 8\n")

    def uplink() -> dict[str, Any]:
        told: dict[str, Any] = NodeClient(short_dir).get("/api/v1/status")["uplink"]
        return told

    def problems() -> str:
        return " ".join(NodeClient(short_dir).get("/api/v1/status")["problems"])

    with running(short_dir, "--config", str(file), "--log-level", "info") as process:
        until(lambda: "in no fleet yet" in (short_dir / "log").read_text(), short_dir)
        process.send_signal(signal.SIGHUP)  # nothing runs that could read it: it waits on
        assert meshsat("init", "trains", "--data-dir", short_dir).code == 0
        until(lambda: answers(short_dir), short_dir)
        assert uplink()["rate"] == 1000

        window = '[[uplink.windows]]\ncron = "0 0 1 1 *"\nduration = 1\n'
        file.write_text(f"[uplink]\nrate = 2000\n[mesh]\nmax_peers = 9\n{window}")
        process.send_signal(signal.SIGHUP)
        until(lambda: uplink()["rate"] == 2000, short_dir)
        assert (uplink()["gate"], uplink()["gate_reason"]) == ("shut", "no window of the uplink is open")
        assert "waiting for a restart: mesh.max_peers" in problems()

        file.write_text("[uplink]\nrate = -5\n")
        process.send_signal(signal.SIGHUP)
        until(lambda: "the one of before is in force" in problems(), short_dir)
        assert uplink()["rate"] == 2000
        refused = meshsat("reload", "--data-dir", short_dir)
        assert refused.code == 1
        assert "uplink.rate" in refused.err

        file.write_text("[uplink]\nrate = 3000\n")
        assert "uplink.rate" in meshsat("reload", "--data-dir", short_dir).out
        assert uplink()["rate"] == 3000
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert "Traceback" not in (short_dir / "log").read_text()
