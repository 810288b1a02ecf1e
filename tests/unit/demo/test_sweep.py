import subprocess
import sys
from pathlib import Path

from meshsat.demo import sweep

COMMAND = (sys.executable, "-I", "-S", sweep.__file__)


def test_the_directory_goes_when_stdin_ends_and_not_before(tmp_path: Path) -> None:
    directory = tmp_path / f"{sweep.PREFIX}1"
    (directory / "node-1").mkdir(parents=True)
    with subprocess.Popen([*COMMAND, str(directory)], stdin=subprocess.PIPE) as sweeper:
        assert sweeper.poll() is None
        assert directory.exists()
        sweeper.communicate()
    assert sweeper.returncode == 0
    assert not directory.exists()


def test_a_directory_that_was_never_made_is_no_fault(tmp_path: Path) -> None:
    command = [*COMMAND, str(tmp_path / f"{sweep.PREFIX}1")]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 0


def test_nothing_is_removed_that_the_demo_did_not_make(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    ended = subprocess.run(
        [*COMMAND, str(precious)], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert ended.returncode == 1
    assert precious.is_dir()


def test_what_ends_the_demo_does_not_end_it(tmp_path: Path) -> None:
    """Ctrl-C and a hang-up reach all processes of a terminal."""
    directory = tmp_path / f"{sweep.PREFIX}1"
    directory.mkdir()
    program = (
        "import runpy, signal, sys\n"
        f"sys.argv = ['sweep', {str(directory)!r}]\n"
        "class Told:\n"
        "    class buffer:\n"
        "        def read():\n"
        "            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.raise_signal(number)\n"
        "sys.stdin = Told\n"
        f"runpy.run_path({sweep.__file__!r}, run_name='__main__')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == 0
    assert not directory.exists()
