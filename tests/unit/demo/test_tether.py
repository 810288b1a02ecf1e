import os
import subprocess
import sys

from meshsat.demo import tether

PYTHON = (sys.executable, "-I", "-S")


def run(parent: int) -> "subprocess.CompletedProcess[bytes]":
    command = [*PYTHON, tether.__file__, str(parent), "/bin/echo", "started"]
    return subprocess.run(command, capture_output=True, check=False)


def test_the_command_takes_its_place() -> None:
    ended = run(os.getpid())
    assert (ended.returncode, ended.stdout) == (0, b"started\n")


def test_it_does_not_start_for_a_parent_that_is_gone() -> None:
    ended = run(os.getppid())
    assert (ended.returncode, ended.stdout) == (1, b"")
