"""Every command of the simulator and of the benchmarks says what it does."""

import subprocess
import sys

import pytest

COMMANDS = (
    "sim",
    "sim.bench",
    "sim.bench_node",
    "sim.bench_registry",
    "sim.bench_site",
    "sim.bench_transport",
    "sim.faults",
    "sim.site",
)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_there(command: str) -> None:
    shown = subprocess.run(
        (sys.executable, "-m", command, "--help"), capture_output=True, text=True, timeout=60, check=False
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "usage:" in shown.stdout
