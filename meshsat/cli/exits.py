"""Exit codes of `meshsat`, and how it says why. Documented in docs/reference/cli.md."""

import sys

from meshsat.errors import ConfigError, InvalidInputError, MeshsatError, StoreLockedError

OK = 0
FAILED = 1
"""The verb was understood and could not be done."""
MISUSED = 2
"""Wrong flags, wrong configuration, or a node that could not start."""
INTERRUPTED = 130
"""Ctrl-C, as shells count it: 128 + SIGINT."""


def exit_code(fault: MeshsatError) -> int:
    """What the process ends with after `fault`."""
    return MISUSED if isinstance(fault, ConfigError | InvalidInputError | StoreLockedError) else FAILED


def say(message: str) -> None:
    """One line for a person, on stderr: stdout belongs to what was asked for."""
    print(f"meshsat: {' '.join(message.split())}", file=sys.stderr, flush=True)
