"""The benchmark measures, with real processes: each system once, small; and leaves nothing behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.benchmark import libtorrent_sessions
from sim.benchmark.system import System
from sim.benchmark.systems import SYSTEMS
from sim.benchmark.world import Case, World
from sim.namespaces import run
from tests.tools import ROOT, require_tool

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(120)]

TINY = World(nodes=3, uplink_mbit=40, lan_mbit=100, megabytes=3)
MEASURED = [
    (system, case)
    for system in SYSTEMS
    for case in system.cases
    # It is of the benchmark alone (requirements/bench.in): where that is not installed, there is nothing to test.
    if system is not libtorrent_sessions.SYSTEM or libtorrent_sessions.installed()
]
START_SECONDS = 30.0
END_SECONDS = 20.0


@pytest.mark.parametrize(
    ("system", "case"), MEASURED, ids=lambda each: each.name if isinstance(each, System) else each.value
)
def test_a_run_brings_figures_that_can_be(namespaces_work: None, system: System, case: Case) -> None:
    require_tool("docker-registry", "ss")
    figures = system.measure(TINY, case)
    copies = {"direct": 3.0, "docker-registry": 3.0}.get(system.name, 1.0)
    warm = case is Case.WARM
    assert figures.last_ratio > 1, "nothing is faster than the line"
    assert 0 < figures.seconds_first <= figures.seconds_last
    if warm:
        assert figures.wan_ratio < 0.01
        assert figures.lan_ratio >= 1
    else:
        assert copies <= figures.wan_ratio < copies + 1.5
        assert figures.last_ratio > copies * 0.9
    assert len(figures.cpu_seconds) == TINY.nodes
    assert sum(figures.cpu_seconds) > 0
    assert figures.peak_mib > 1
    assert (figures.duplicate_share is None) == (system.name in ("direct", "docker-registry"))


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_broken_off_it_leaves_nothing(namespaces_work: None, end: signal.Signals) -> None:
    require_tool("docker-registry", "ss")
    command = (
        sys.executable,
        "-m",
        "sim.bench",
        "--systems",
        "direct",
        "--world",
        "3:1:100:50",
        "--runs",
        "3",
    )
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as bench:
        own = f"meshsat-{bench.pid}."
        try:
            deadline = time.monotonic() + START_SECONDS
            while sum("http_client" in line for line in _commands(own)) < 9:
                assert bench.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            bench.send_signal(end)
            assert bench.wait(END_SECONDS) == 130
        finally:
            bench.kill()
        assert bench.stderr
        assert "nothing is left behind" in bench.stderr.read()
    assert own not in run(("ip", "netns", "list"))
    assert not _commands(own)


def _commands(prefix: str) -> list[str]:
    """Command lines of what runs in the namespaces of the run."""
    names = [line.split()[0] for line in run(("ip", "netns", "list")).splitlines() if line.startswith(prefix)]
    pids: list[str] = []
    for name in names:
        listed = subprocess.run(("ip", "netns", "pids", name), capture_output=True, text=True, check=False)
        pids += listed.stdout.split()
    lines = []
    for pid in pids:
        try:
            lines.append(Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8"))
        except OSError:
            continue
    return lines
