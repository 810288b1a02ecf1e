"""A node in the foreground: signals, waiting to become a member, and what its end means for the shell.

Law: SIGTERM and SIGINT end the process within `GRACE` seconds with exit code 0, whatever hangs. A node may
be killed at any instruction without losing anything verified, so cutting a slow farewell short costs nothing.
"""

import gc
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import structlog
import trio

from meshsat.cli.exits import FAILED, MISUSED, OK, say
from meshsat.cli.faults import culprit, in_words
from meshsat.config import Config

log = structlog.get_logger(__name__)

ENDING = (signal.SIGTERM, signal.SIGINT)
GRACE = 2.5
"""Seconds from the signal to the end of the process. The promise to operators is 3."""
GARBAGE = (10_000, 20, 50)
"""When the garbage collector looks (gc.set_threshold): a thousand wants at once are no garbage."""
LOOK_EVERY = 0.5
"""Seconds between two looks for a pass, on a node that has none yet."""

Serve = Callable[..., Awaitable[None]]
"""`run_node(config, *, task_status)`: raises `MeshsatError`, otherwise runs until cancelled."""
IsMember = Callable[[Path], bool]


def end_quietly_while_starting() -> None:
    """From here on a signal ends the process with 0, also while it is still importing."""

    def leave(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(OK)

    for number in ENDING:
        signal.signal(number, leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing to read again yet


def run_foreground(config: Config, serve: Serve, is_member: IsMember) -> int:
    """Run `serve(config)` until a signal or a fault; the exit code, the fault told on stderr."""
    gc.freeze()  # what was imported stays for good
    gc.set_threshold(*GARBAGE)
    life = _Life(config, serve, is_member)
    try:
        trio.run(life.run, strict_exception_groups=True)
    except BaseException as end:
        fault = culprit(end)
        if fault is None:
            raise
        say(in_words(fault))
        return FAILED if life.up else MISUSED
    return OK


class _Life:
    def __init__(self, config: Config, serve: Serve, is_member: IsMember) -> None:
        self.up = False
        self._config = config
        self._serve = serve
        self._is_member = is_member

    async def run(self) -> None:
        with trio.open_signal_receiver(*ENDING) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_on_signal, signals, nursery.cancel_scope)
                await wait_for_membership(self._config.data_dir, self._is_member)
                await nursery.start(partial(self._serve, self._config))
                self.up = True


async def _end_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for number in signals:
        log.info("node ends", signal=signal.Signals(number).name)
        _leave_at_last()
        scope.cancel()
        return


def _leave_at_last() -> None:
    """Outside trio, because what could hang is trio's own loop or a thread that it waits for."""

    def leave() -> None:
        time.sleep(GRACE)
        os._exit(OK)

    threading.Thread(target=leave, name="leave at last", daemon=True).start()


async def wait_for_membership(data_dir: Path, is_member: IsMember) -> None:
    """Return as soon as the data directory holds a pass; until then say, once, how to get one."""
    if is_member(data_dir):
        return
    log.warning(
        "this machine is in no fleet yet",
        data_dir=str(data_dir),
        new_fleet=f"meshsat init FLEET --data-dir {data_dir}",
        existing_fleet=f"meshsat join - --data-dir {data_dir}",
        hint="run one of these beside this process; it goes on by itself",
    )
    while not is_member(data_dir):  # noqa: ASYNC110 - another process writes the pass
        await trio.sleep(LOOK_EVERY)
    log.info("this machine is a member now", data_dir=str(data_dir))
