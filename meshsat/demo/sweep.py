"""Run as a program: remove DIRECTORY as soon as stdin ends, which is when the demo is gone, even by kill -9.

    python -I -S sweep.py DIRECTORY

It outlives the demo by design, so it deafens itself to what ends the demo; it has nothing else to do and
waits for nothing else, and the processes that could still write there die with the demo (`tether`).
"""

import shutil
import signal
import sys
import time
from pathlib import Path

PREFIX = "meshsat-demo-"
ATTEMPTS = 50
PAUSE = 0.1
"""Seconds between two attempts."""


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    directory = Path(sys.argv[1])
    if not directory.name.startswith(PREFIX):
        sys.exit(f"{directory} was not made by the demo")
    sys.stdin.buffer.read()
    for _ in range(ATTEMPTS):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(PAUSE)
    sys.exit(f"{directory} could not be removed")


if __name__ == "__main__":
    main()
