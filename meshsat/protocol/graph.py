"""Who is whose neighbour at a site too large for everybody to know everybody; computed alike by every node.

The graph is a union of rings: for each, the members stand in the order of a hash, and each is the
neighbour of those before and after it. Such a union is, but for the few edges that coincide, a random
regular graph, so it is connected and few hops wide, and stays so when many nodes die at once. A member
more or less changes the places next to its own, and nothing else. Who can't be reached is left out by
whoever sees that, and its neighbours close the ring.

Beside its neighbours every node keeps a session with a few hubs, the same for all: members whose uplink
works before others. They hear every want and see every holding of the site, so that they fetch what nobody
holds, and can tell who holds what. A hub is no conductor: it is chosen by hash, and another takes its
place when it goes.
"""

import hashlib
from collections.abc import Collection, Iterable
from functools import lru_cache

from meshsat.trust.keys import PeerId

RINGS = 6
FULL_MESH = 32
"""Nodes of a site in which everybody has a session with everybody."""
GOSSIP_RINGS = 3
"""Rings along which news is pushed."""
HUBS = 4


@lru_cache(maxsize=1 << 14)
def _places(peer: PeerId) -> tuple[bytes, ...]:
    """The member's place on each ring, and last its rank among those that may be hubs."""
    return tuple(
        hashlib.blake2b(f"meshsat/ring/{ring}\0{peer}".encode(), digest_size=12).digest()
        for ring in range(RINGS + 1)
    )


def ring_neighbours(me: PeerId, members: Collection[PeerId], rings: int = RINGS) -> list[PeerId]:
    """Those next to us on each ring of these members (we may be among them), the first ring's first."""
    others = [peer for peer in members if peer != me]
    if not others:
        return []
    found: dict[PeerId, None] = {}
    for ring in range(rings):
        mine = _places(me)[ring]
        placed = [(_places(peer)[ring], peer) for peer in others]
        first, last = min(placed), max(placed)
        found[min((one for one in placed if one[0] > mine), default=first)[1]] = None
        found[max((one for one in placed if one[0] < mine), default=last)[1]] = None
    return list(found)


@lru_cache(maxsize=64)
def around(peer: PeerId, members: tuple[PeerId, ...]) -> tuple[PeerId, ...]:
    """A member's neighbours, sorted."""
    return tuple(sorted(ring_neighbours(peer, members)))


def hubs(members: Iterable[PeerId], uplinked: Collection[PeerId]) -> list[PeerId]:
    """Who knows all of a large site: the first in rank, those whose uplink works before others."""
    return sorted(members, key=lambda peer: (peer not in uplinked, _places(peer)[RINGS]))[:HUBS]
