"""`python -m sim.site` as a person uses it: it says what to do, that works, and Ctrl-C removes it."""

import signal
import subprocess
import sys

import pytest

from sim import namespaces
from sim.site import main
from tests.tools import require_tool

pytestmark = [pytest.mark.netns, pytest.mark.slow]


def test_the_site_explains_itself_works_and_goes_away(namespaces_work: None) -> None:
    require_tool("docker-registry")
    command = (sys.executable, "-m", "sim.site", "--nodes", "2", "--uplink-mbit", "200", "--lan-mbit", "400")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as site:
        try:
            assert site.stdout is not None
            told = []
            for line in site.stdout:
                told.append(line)
                if line.startswith("Ctrl-C"):
                    break
            text = "".join(told)
            assert "203.0.113.1:5000" in text, text
            prefix = next(word for word in text.split() if word.endswith("-wan)")).removesuffix("-wan)")
            assert len(namespaces.namespaces(prefix)) == 4
            pull = next(line.split() for line in told if " pull " in line)
            pulled = subprocess.run(pull, capture_output=True, text=True, timeout=60, check=False)
            assert pulled.returncode == 0, pulled.stderr
            assert "sha256:" in pulled.stdout
            site.send_signal(signal.SIGINT)
            assert site.wait(20) == 0
        finally:
            site.kill()
    assert namespaces.namespaces(prefix) == []


def test_a_plan_that_makes_no_sense_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nodes", "2", "--uplinked", "3"]) == 1
    assert "uplinked" in capsys.readouterr().err
