"""`python -m sim.janitor PREFIX DIR`: waits for the end of the owner of a run, then removes what it left.

The owner holds the other end of standard input; the kernel closes it however the owner ends.
"""

import sys
from pathlib import Path

from sim.namespaces import remove


def main() -> None:
    prefix, directory = sys.argv[1:]
    sys.stdin.buffer.read()
    remove(prefix, Path(directory))


if __name__ == "__main__":
    main()
