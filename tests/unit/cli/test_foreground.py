import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import trio

from meshsat.cli import foreground
from meshsat.cli.foreground import run_foreground, wait_for_membership
from meshsat.config import Config
from meshsat.errors import ConfigError, StorageError

pytestmark = pytest.mark.slow  # it waits on real clocks


def is_member(_data_dir: Path) -> bool:
    return True


async def fails_to_start(_config: Config, *, task_status: Any) -> None:
    del task_status
    raise ConfigError("port 4701 is taken")


async def fails_later(_config: Config, *, task_status: Any) -> None:
    task_status.started()
    await trio.lowlevel.checkpoint()
    async with trio.open_nursery():
        raise StorageError("the disk went away")


async def has_a_defect(_config: Config, *, task_status: Any) -> None:
    del task_status
    raise KeyError("x")


async def runs(_config: Config, *, task_status: Any) -> None:
    task_status.started()
    os.kill(os.getpid(), signal.SIGTERM)
    await trio.sleep_forever()


def test_a_fault_at_the_start_is_one_line_and_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_foreground(Config(), fails_to_start, is_member) == 2
    assert capsys.readouterr().err == "meshsat: port 4701 is taken\n"


def test_a_fault_while_it_runs_is_one_line_and_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_foreground(Config(), fails_later, is_member) == 1
    assert capsys.readouterr().err == "meshsat: the disk went away\n"


def test_a_defect_is_told_with_all_that_is_known() -> None:
    with pytest.raises(ExceptionGroup, match="nursery"):
        run_foreground(Config(), has_a_defect, is_member)


def test_sigterm_ends_it_well(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(foreground, "_leave_at_last", lambda: left.append(1))
    assert run_foreground(Config(), runs, is_member) == 0
    assert left == [1]


async def test_a_node_without_a_pass_waits_for_one_and_tells_once(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    looks = 0

    def member_at_last(_data_dir: Path) -> bool:
        nonlocal looks
        looks += 1
        return looks > 10

    await wait_for_membership(tmp_path, member_at_last)
    assert trio.current_time() < 10 * foreground.LOOK_EVERY + 1


def child(serve: str) -> "subprocess.Popen[str]":
    program = textwrap.dedent(f"""
        import trio
        from pathlib import Path
        from meshsat.cli import foreground
        foreground.GRACE = 0.3
        from meshsat.cli.foreground import end_quietly_while_starting, run_foreground
        from meshsat.config import Config
        end_quietly_while_starting()
        async def serve(config, *, task_status):
            task_status.started()
            print("up", flush=True)
            {serve}
        raise SystemExit(run_foreground(Config(), serve, lambda _: True))
    """)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_whose_loop_hangs_ends_all_the_same(number: signal.Signals) -> None:
    """Cancelled, it does not come to an end; the promise is 3 seconds all the same."""
    hangs = "with trio.CancelScope(shield=True): await trio.sleep_forever()"
    with child(hangs) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.wait(10) == 0
    assert foreground.GRACE < 3


def test_a_signal_while_it_is_still_importing_ends_it_well() -> None:
    program = (
        "import os, signal\nfrom meshsat.cli.foreground import end_quietly_while_starting\n"
        "end_quietly_while_starting()\nos.kill(os.getpid(), signal.SIGTERM)\nprint('still here')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")
