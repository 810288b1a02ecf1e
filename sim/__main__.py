"""`python -m sim VERB`: the simulator on the command line. docs/guides/simulator.md tells how to use it."""

import argparse
import sys
from collections.abc import Sequence
from typing import Protocol

from meshsat.errors import MeshsatError
from sim.verbs import agree, compare, list, replay, run  # noqa: A004 - a verb's own name


class Verb(Protocol):
    """A module of `sim.verbs`."""

    __doc__: str | None

    def add_flags(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, given: argparse.Namespace) -> int: ...


VERBS: dict[str, Verb] = {
    "list": list,
    "run": run,
    "compare": compare,
    "replay": replay,
    "agree": agree,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0: done; 1: done, and something is worse than it should be; 2: misuse."""
    parser = argparse.ArgumentParser(prog="python -m sim", description="The simulator of meshsat's mesh.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        told = (verb.__doc__ or "").partition(": ")[2]
        verb.add_flags(verbs.add_parser(name, help=told.splitlines()[0], description=told))
    given = parser.parse_args(arguments)
    try:
        return VERBS[given.verb].run(given)
    except (MeshsatError, OSError, ValueError) as fault:
        print(f"python -m sim {given.verb}: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
