"""Which chunks to ask a peer for.

Laws, in order:
1. What a reader waits for comes first, in order.
2. A peer that alone holds chunks gives each of them to one peer, all different: the chunks that only it holds
   are dealt out among those who want the blob, by index; every node deals alike, without a word. The rest of
   the site then has them from each other, and the only seed's upload is spent once on each chunk.
   Each begins at a random place: views of who wants it may differ for a moment, and then meet seldom.
3. Else rarest first, ties at random. A peer that alone holds some is asked for nothing that others hold too.
4. What its turn-taker did not fetch within `YOUNG` seconds is anybody's who had no turn for as long.
"""

from collections.abc import Sequence

from meshsat.protocol import bitset
from meshsat.protocol.rng import Rng
from meshsat.protocol.transfer import Transfer
from meshsat.trust.keys import PeerId

READER_WINDOW = 8 << 20
"""Bytes before a reader that are asked for before anything else."""


def choose(
    transfer: Transfer, peer: PeerId, takers: Sequence[PeerId], me: PeerId, now: float, rng: Rng, limit: int
) -> list[int]:
    """Chunks to ask `peer` for, best first, `limit` at most.

    `takers` are all who want the blob, this node among them, in the same order on every node.
    """
    held = transfer.holders.get(peer, 0)
    askable = held & transfer.missing & transfer.claims.known
    wanted = askable & ~transfer.inflight
    if not wanted:
        return []
    chosen: list[int] = []
    taken = 0

    def take(bits: int, *, ordered: bool) -> None:
        nonlocal taken
        bits &= ~taken
        while bits and len(chosen) < limit:
            index = bitset.lowest(bits) if ordered else bitset.any_member(bits, rng)
            chosen.append(index)
            taken |= 1 << index
            bits &= ~(1 << index)

    for position in transfer.readers.values():
        window = max(2, READER_WINDOW // transfer.cut.chunk_length)
        take(wanted & bitset.span(position, position + window), ordered=True)

    sole = askable & transfer.levels[1] if len(transfer.levels) > 1 else 0
    turns = [taker for taker in takers if taker != peer]
    place = 0
    if me in turns:
        place = (turns.index(me) + transfer.turn) % len(turns)
        mine = bitset.every(len(turns), place, transfer.cut.count)
        take(wanted & sole & mine, ordered=False)
    if not sole:
        for level in transfer.levels[2:]:
            take(wanted & level, ordered=False)
            if len(chosen) >= limit:
                break
        take(wanted & ~transfer.young(now), ordered=False)
    else:
        late = 0
        for step in range(1, min(transfer.idle_turns(peer, now, mine=bool(chosen)) + 1, len(turns))):
            late |= bitset.every(len(turns), (place - step) % len(turns), transfer.cut.count)
        if late:
            take(wanted & sole & late & ~transfer.young(now), ordered=False)
    return chosen
