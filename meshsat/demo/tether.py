"""Run as a program: become COMMAND, but die when the process PARENT does, however that comes about.

    python -I -S tether.py PARENT COMMAND [ARGUMENT ...]

Imports nothing of meshsat: it must cost a few milliseconds. The kernel forgets the wish when the *thread*
that started us ends (prctl(2), PR_SET_PDEATHSIG), so whoever uses this starts it from a thread that stays.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the wish was made
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - that is the purpose


if __name__ == "__main__":
    main()
