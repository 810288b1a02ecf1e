"""A member that breaks its word, in one way: `python -m sim.rogue KIND node --config FILE`.

It is the shipped node, with a valid pass, but for one thing:
  wrong   every chunk that it sends has a byte changed
  mute    it takes requests for chunks, and never sends one; all else it says as it should
"""

import sys
from collections.abc import Sequence

from meshsat.cli.main import main
from meshsat.mesh.driver import Driver
from meshsat.mesh.link import Link
from meshsat.oci.digest import Digest

_honest = Driver.read_chunks


async def _wrong(self: Driver, chunks: Sequence[tuple[Digest, int]]) -> list[bytes | None]:
    read = await _honest(self, chunks)
    return [None if chunk is None else bytes((chunk[0] ^ 1,)) + bytes(chunk[1:]) for chunk in read]


def _mute(self: Link, blob: Digest, index: int, length: int) -> None:
    pass


def be(kind: str) -> None:
    """Turn the node of this process into a rogue. Raises `ValueError`."""
    match kind:
        case "wrong":
            Driver.read_chunks = _wrong  # type: ignore[method-assign]  # that is what a rogue is
        case "mute":
            Link.send_chunk = _mute  # type: ignore[method-assign]
        case _:
            raise ValueError(f"no rogue is {kind}")


if __name__ == "__main__":
    be(sys.argv.pop(1))
    main()
