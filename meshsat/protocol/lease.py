"""Who fetches what over the uplink: rendezvous hashing over the nodes that have one now.

Every node ranks the candidates alike, without a word: the first takes the lease. When it falls silent it is
no candidate any more, and the next one is the first. Views may differ for a moment; the price is a segment
fetched twice, never one fetched by nobody.
"""

import hashlib
from collections.abc import Iterable

from meshsat.trust.keys import PeerId


def holder(lease: str, candidates: Iterable[PeerId]) -> PeerId | None:
    """The candidate whose hash with the lease's name is the highest (Thaler and Ravishankar, 1998)."""

    def weight(peer: PeerId) -> bytes:
        return hashlib.sha256(f"{lease}\0{peer}".encode()).digest()

    return max(candidates, key=weight, default=None)


def segment_lease(blob: str, segment: int) -> str:
    return f"segment {blob} {segment}"


def reference_lease(registry: str, repository: str, reference: str) -> str:
    return f"reference {registry}/{repository} {reference}"
