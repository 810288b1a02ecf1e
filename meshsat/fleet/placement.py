"""Which nodes of a site hold an image of which only some need to: rendezvous hashing (Thaler and Ravishankar,
"Using name-based mappings to increase hit rates", 1998).

Every node computes it for itself from what it knows of the others, so there is nobody to ask. Laws: pure; the
same knowledge gives the same answer; when a node goes, only what it held moves, and when it comes back, that
moves back. The name decides and not the digest: the next version of an image comes to where its layers are.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from meshsat.trust.keys import PeerId


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that is there."""

    peer: PeerId
    roles: frozenset[str] = frozenset()
    has_room: bool = True
    """False: it says that the image does not fit, and it does not hold it."""


def holders(
    name: str, candidates: Iterable[Candidate], *, roles: Collection[str], copies: int | Literal["all"]
) -> frozenset[PeerId]:
    """Who of the candidates should hold the image of this name."""
    fitting = [one for one in candidates if not roles or one.roles.intersection(roles)]
    if isinstance(copies, str):
        return frozenset(one.peer for one in fitting)
    with_room = [one.peer for one in fitting if one.has_room]
    return frozenset(sorted(with_room, key=lambda peer: _rank(name, peer))[:copies])


@lru_cache(maxsize=65536)
def _rank(name: str, peer: PeerId) -> bytes:
    return hashlib.sha256(f"{name}\0{peer}".encode()).digest()
