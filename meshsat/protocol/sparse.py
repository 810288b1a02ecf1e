"""Which chunks to ask a peer for at a site too large for a full mesh, where nobody sees all who want a blob.

Laws, in order:
1. What a reader waits for comes first, in order.
2. Rarest first, as far as our own peers go, ties at random: neighbours that ask one source at the same time
   mostly ask for different chunks, and what one of them has the others soon have from it.
3. The first copies out of where a chunk came into the site are dealt out among the neighbours of that
   node, by index; each deals alike, without a word. What its turn-taker did not fetch soon is anybody's.
4. A far peer (a hub, or for a hub whoever is no neighbour) has everybody's asking to bear: while near peers
   want or hold the blob it is asked for a chunk only where nothing came from these for a while, and then for
   any: all who wait would ask for the same rarest one.
"""

from collections.abc import Sequence

from meshsat.protocol import bitset
from meshsat.protocol.rng import Rng
from meshsat.protocol.scheduler import READER_WINDOW
from meshsat.protocol.transfer import Transfer
from meshsat.trust.keys import PeerId


def choose(
    transfer: Transfer, peer: PeerId, turns: Sequence[PeerId], me: PeerId, now: float, rng: Rng, limit: int
) -> list[int]:
    """Chunks to ask a near peer for, best first, `limit` at most.

    `turns`: its neighbours in the same order for each of them, or nobody where few of them want the blob.
    """
    wanted = askable(transfer, peer)
    if turns:
        wanted &= ~_others(transfer, peer, turns, me, now)
    chosen: list[int] = []
    for position in transfer.readers.values():
        window = max(2, READER_WINDOW // transfer.cut.chunk_length)
        wanted = _take(chosen, wanted, bitset.span(position, position + window), None, limit)
    for level in transfer.levels[1:]:
        if not wanted or len(chosen) >= limit:
            break
        wanted = _take(chosen, wanted, level, rng, limit)
    return chosen


def choose_one(transfer: Transfer, peer: PeerId, now: float, rng: Rng) -> list[int]:
    """A chunk to ask a far peer for, any of those that are known for a while."""
    wanted = askable(transfer, peer) & ~transfer.young(now)
    return [bitset.any_member(wanted, rng)] if wanted else []


def askable(transfer: Transfer, peer: PeerId) -> int:
    return transfer.holders.get(peer, 0) & transfer.missing & ~transfer.inflight & transfer.claims.known


def _others(transfer: Transfer, peer: PeerId, turns: Sequence[PeerId], me: PeerId, now: float) -> int:
    """The chunks that came into the site by this peer, that only it holds, and that are other neighbours' to
    fetch from it first."""
    sole = transfer.levels[1] & transfer.young(now) if len(transfer.levels) > 1 else 0
    others = 0
    for index in bitset.members(sole & askable(transfer, peer)):
        word = transfer.claims.word(index)
        if word is not None and word[1] == peer and turns[index % len(turns)] != me:
            others |= 1 << index
    return others


def _take(chosen: list[int], wanted: int, among: int, rng: Rng | None, limit: int) -> int:
    """Move chunks among these to the chosen, in order or at random; returns what is wanted still."""
    left = wanted & among
    while left and len(chosen) < limit:
        index = bitset.lowest(left) if rng is None else bitset.any_member(left, rng)
        chosen.append(index)
        left &= ~(1 << index)
        wanted &= ~(1 << index)
    return wanted
