"""Real processes: that is what a `Place` is about. Small ones, and nothing waits longer than it must."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from meshsat.demo.place import DemoError, open_place

PYTHON = (sys.executable, "-I", "-S")
DEADLINE = 10.0
"""Seconds."""


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


async def test_a_command_runs_to_its_end_and_reads_its_stdin() -> None:
    async with open_place() as place:
        echo = [*PYTHON, "-c", "import sys; print(sys.stdin.read().upper())"]
        assert (await place.run("echo", echo, b"token")).strip() == "TOKEN"


async def test_stdin_and_logs_can_be_read_by_the_owner_alone() -> None:
    async with open_place() as place:
        assert place.directory.stat().st_mode & 0o077 == 0


async def test_a_command_that_fails_is_named_with_its_last_words() -> None:
    async with open_place() as place:
        with pytest.raises(DemoError, match=r"join failed, exit code 3") as told:
            await place.run("join", [*PYTHON, "-c", "print('no enroller'); raise SystemExit(3)"])
        assert told.value.log.strip() == "no enroller"


async def test_a_command_that_hangs_is_ended() -> None:
    async with open_place() as place:
        with pytest.raises(DemoError, match=r"join did not end within 0 s"):
            await place.run("join", [*PYTHON, "-c", "import time; time.sleep(60)"], limit=0.1)


async def test_a_node_that_dies_is_named() -> None:
    async with open_place() as place:
        child = place.start("node-3", [*PYTHON, "-c", "import time; time.sleep(60)"])
        child.signal(signal.SIGKILL)
        with pytest.raises(DemoError, match=r"node-3 ended by itself, killed by SIGKILL"):
            await child.must_run()


async def test_the_visitors_settings_do_not_reach_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MESHSAT_NAME", "REGISTRY_HTTP_ADDR", "https_proxy", "LIBP2P_DEBUG"):
        monkeypatch.setenv(name, "surprise")
    async with open_place() as place:
        seen = await place.run("env", [*PYTHON, "-c", "import os; print(dict(os.environ))"])
        assert "surprise" not in seen
        assert str(place.directory) in seen  # HOME


async def test_afterwards_no_process_and_no_file_is_left_also_of_one_that_ignores_sigterm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("meshsat.demo.place.FAREWELL", 0.1)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    with trio.CancelScope() as scope:
        async with open_place() as place:
            child = place.start("deaf", [*PYTHON, "-c", deaf])
            while "deaf" not in child.log.read_text():
                await trio.sleep(0.01)
            scope.cancel()
            await trio.sleep_forever()
    assert child.exit_code == -signal.SIGKILL
    assert not place.directory.exists()


def test_when_the_demo_is_killed_its_processes_die_and_its_directory_goes(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys, trio
        from meshsat.demo.place import DemoError, open_place
        async def main():
            async with open_place() as place:
                child = place.start("node-1", [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"])
                print(child.pid, place.directory, flush=True)
                await trio.sleep_forever()
        trio.run(main)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        pid, directory = demo.stdout.readline().split()
        assert Path(directory).is_dir()
        demo.kill()
    until(lambda: gone(int(pid)))
    until(lambda: not Path(directory).exists())


def test_a_long_temporary_directory_leaves_room_for_unix_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))

    async def path_of_socket() -> int:
        async with open_place() as place:
            return len(os.fsencode(place.directory / "node-20" / "api.sock"))

    assert trio.run(path_of_socket) <= 107
