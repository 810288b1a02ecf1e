"""Who fetches what over the uplink: whose turn it is, what a peer says it fetches, how the rest is shared.

Pure arithmetic. Every node ranks the candidates alike by rendezvous hashing, without a word, so that two
uplinks begin in different places; from then on each says which chunks it is bringing, nobody fetches what a
lease that gets on covers, and whoever has nothing left to do takes the back of the longest rest. Views may
differ for a moment; the price is a chunk fetched twice, never one fetched by nobody.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meshsat.trust.keys import PeerId

WEIGHT_RATIO = 4.0
"""How much more, or less, than the middle one an uplink counts, whatever rate it tells of."""
QUIET = 4.0
"""Seconds without progress after which a lease is nobody's."""
LEAST_PROGRESS = 32 * 1024
"""Bytes in `QUIET` seconds that count as progress: a word a second alone keeps no lease."""
SPLIT_BYTES = 2 << 20
SPLIT_SECONDS = 0.5
"""What is left of a lease is shared where it takes so long, or is so much while the rate is not known."""
SHARE_LIMITS = (0.05, 0.95)
KEPT = 0.25


def holder(lease: str, weights: Mapping[PeerId, float]) -> PeerId | None:
    """The candidate with the highest -w/ln(h), h its hash with the lease's name in (0, 1): each leads a share
    of all leases in proportion to its weight, and when one comes, goes or changes its weight, only leases to
    or from it move (Thaler and Ravishankar, 1998; weighted: Schindelhauer and Schomaker, 2005)."""

    def score(peer: PeerId) -> tuple[float, PeerId]:
        drawn = hashlib.sha256(f"{lease}\0{peer}".encode()).digest()
        h = (int.from_bytes(drawn[:6], "big") + 1) / ((1 << 48) + 2)
        return -weights[peer] / math.log(h), peer

    return max(weights, key=score, default=None)


def weights(rates: Mapping[PeerId, float]) -> dict[PeerId, float]:
    """What each counts, by its uplink's rate in bytes per second (0: not known, as the middle one)."""
    known = sorted(rate for rate in rates.values() if rate > 0)
    middle = known[(len(known) - 1) // 2] if known else 1.0
    return {
        peer: min(max(rate / middle, 1 / WEIGHT_RATIO), WEIGHT_RATIO) if rate > 0 else 1.0
        for peer, rate in rates.items()
    }


def segment_lease(blob: str, segment: int) -> str:
    return f"segment {blob} {segment}"


def reference_lease(registry: str, repository: str, reference: str) -> str:
    return f"reference {registry}/{repository} {reference}"


@dataclass(slots=True)
class Lease:
    """Chunks from `first` up to `stop` that a peer says its uplink is bringing."""

    first: int
    stop: int
    brought: int
    """Bytes, since it began."""
    progressed_at: float
    unproven: int = 0
    """Bytes that it says came since we last saw a chunk of them."""

    def told(self, first: int, stop: int, brought: int, now: float, credit: int) -> None:
        """It speaks again. Bytes are progress, but only `credit` of them on its word alone."""
        gained = brought - self.brought
        if gained >= LEAST_PROGRESS and self.unproven < credit:
            self.unproven += gained
            self.progressed_at = now
        if gained >= LEAST_PROGRESS or gained < 0:
            self.brought = brought
        self.first, self.stop = first, stop

    def had(self, now: float) -> None:
        """A chunk of it is there."""
        self.progressed_at = now
        self.unproven = 0

    def alive(self, now: float) -> bool:
        return now - self.progressed_at < QUIET


def split(
    left: Sequence[int], chunk: int, theirs: float, ours: float, place: tuple[int, int] = (0, 1)
) -> Sequence[int]:
    """Of the chunks that a lease has still to bring, those that an idle uplink takes over; none where it is
    not worth it.

    `chunk` in bytes, the rates in bytes per second (0: not known). `place`: which of how many idle uplinks
    this one is; they share alike. All end at about the same time. What the holder brings within `KEPT`
    seconds it keeps: it has begun with that."""
    number, of = place
    kept = 1 + int(KEPT * theirs / chunk) if theirs else 2
    small = len(left) * chunk < (SPLIT_SECONDS * theirs or SPLIT_BYTES)
    if small or len(left) - kept < of:
        return ()
    share = ours / (ours + theirs) if ours and theirs and of == 1 else of / (of + 1)
    first = max(kept, round(len(left) * (1 - min(max(share, SHARE_LIMITS[0]), SHARE_LIMITS[1]))))
    first = min(first, len(left) - of)
    taken = len(left) - first
    return left[first + taken * number // of : first + taken * (number + 1) // of]
