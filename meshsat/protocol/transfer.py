"""One blob on its way to this node: what is held, what is in flight, who has what, how rare it is.

All sets of chunks are bitsets, so that a question about 4096 chunks costs a few operations on 512 bytes.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.oci.digest import Digest
from meshsat.protocol import bitset
from meshsat.protocol.claims import Claims
from meshsat.protocol.events import Priority
from meshsat.protocol.wire import Source
from meshsat.trust.keys import PeerId

YOUNG = 1.0
"""Seconds for which a chunk's first copies are left to the peer whose turn it is."""


@dataclass(slots=True)
class Run:
    """A fetch over our own uplink: the first chunk that has still to come, and where it ends."""

    next: int
    stop: int
    progressed_at: float = 0.0
    """When bytes came last, or when it began."""
    told_at: float = 0.0
    """When peers last heard of it."""
    bytes: int = 0
    chunks: int = 0
    """Bits of the chunks that it brought; several connections bring them out of order."""
    trimmed: bool = False
    """It ends earlier than the shell was first told."""
    yields: bool = False
    """It ends with the chunk in hand: something more urgent has taken its place."""
    ends_by: float = math.inf
    """It may not go on: when it is cut off, if the chunks in hand are not through by then."""


class Transfer:
    def __init__(self, blob: Digest, size: int) -> None:  # noqa: PLR0915 - all that one blob calls for
        self.blob = blob
        self.size = size
        self.cut = Cut(FIXED_1, size)
        self.everything = bitset.full(self.cut.count)
        self.chunk_length = min(self.cut.chunk_length, size)
        """Bytes of its largest chunk."""
        self.claims = Claims(blob, self.cut)
        self.self_evident = self.claims.known == self.everything
        """Its own digest is its chunk's."""
        self.turn = blob.raw[0]
        """Who comes first where its chunks are dealt out: of many small blobs not always the same."""
        self.sources: tuple[Source, ...] = ()
        self.began_at = 0.0
        self.wanted_at = 0.0
        """When peers were last told that we want it."""
        self.opened = False
        self.publishing = False
        self.priority = Priority.FOLLOW
        self.local: Counter[Priority] = Counter()
        """Who on this node wants it, by priority; empty when only the site does."""
        self.readers: dict[int, int] = {}
        """Reader -> the chunk it needs next."""
        self.have = 0
        self.inflight = 0
        self.digests: dict[int, bytes] = {}
        """What we hold is, seen with our own eyes; what others say of it does not count."""
        self.asked_of: dict[int, PeerId] = {}
        self.asked_under: dict[int, bytes] = {}
        """Under which digest: what its sender is judged by, whatever is said meanwhile."""
        self.stands_on: dict[int, PeerId] = {}
        """On whose word each chunk was taken; absent: proven, or off our own uplink."""
        self.holders: dict[PeerId, int] = {}
        self.credited: dict[PeerId, int] = {}
        """Chunks of which the peer told us once: news then, and never again."""
        self.levels: list[int] = [self.everything]
        """levels[n]: the chunks that exactly n connected peers hold."""
        self.run: Run | None = None
        self.unable: set[PeerId] = set()
        """Peers whose uplink can not bring it, by their own word: their leases of it are others'."""
        self.retry_at = 0.0
        """Not before this time do we try our uplink for it again."""
        self.problem = ""
        """Why our uplink last failed to bring it, if nothing came since."""
        self.problem_since = 0.0
        self.failures = 0
        self.mismatches = 0
        """How often all that our own uplink brought proved wrong."""
        self.doubted = False
        """A recipe for it proved wrong: what peers say they hold keeps no uplink from fetching it."""
        self.entries_asked = 0
        self.entries_asked_at = 0.0
        self.entries_lacking_since: float | None = None
        self.entries_asked_of: dict[PeerId, None] = {}
        self._young: deque[tuple[float, int]] = deque()
        self._young_bits = 0
        self._turn_at: dict[PeerId, float] = {}
        """Peer -> when something that it alone holds fell to us last, or when that was first asked."""

    # --- what is there ---

    @property
    def complete(self) -> bool:
        return self.have == self.everything

    @property
    def missing(self) -> int:
        return self.everything & ~self.have

    @property
    def have_bytes(self) -> int:
        held = self.have.bit_count() * self.cut.chunk_length
        if self.cut.count and self.have >> (self.cut.count - 1) & 1:
            held -= self.cut.count * self.cut.chunk_length - self.size
        return held

    def wanted_by_us(self, priority: Priority, change: int) -> None:
        """So many more, or fewer, on this node want it."""
        self.local[priority] += change
        self.local = +self.local
        self.priority = max(self.local, default=Priority.FOLLOW)

    def length(self, index: int) -> int:
        return self.cut.span(index)[1]

    # --- who holds what ---

    def held_by(self, peer: PeerId, bits: int) -> None:
        """The peer holds these chunks too."""
        fresh = bits & self.everything & ~self.holders.get(peer, 0)
        if not fresh:
            return
        self.holders[peer] = self.holders.get(peer, 0) | fresh
        for level in range(len(self.levels) - 1, -1, -1):
            moved = self.levels[level] & fresh
            if moved:
                if level + 1 == len(self.levels):
                    self.levels.append(0)
                self.levels[level] ^= moved
                self.levels[level + 1] |= moved

    def lost_by(self, peer: PeerId, bits: int | None = None) -> None:
        """The peer holds these chunks (None: all that it held) no longer, or is gone."""
        held = self.holders.get(peer, 0)
        gone = held if bits is None else bits & held
        if bits is None:
            self.holders.pop(peer, None)
        else:
            self.holders[peer] = held & ~gone
        for level in range(1, len(self.levels)):
            moved = self.levels[level] & gone
            self.levels[level] ^= moved
            self.levels[level - 1] |= moved

    def copies(self, index: int) -> int:
        """How many connected peers hold this chunk."""
        return next(level for level, bits in enumerate(self.levels) if bits >> index & 1)

    # --- what is asked for ---

    def ask(self, peer: PeerId, index: int, digest: bytes) -> None:
        self.asked_of[index] = peer
        self.asked_under[index] = digest
        self.inflight |= 1 << index

    def unask(self, index: int) -> None:
        self.asked_of.pop(index, None)
        self.asked_under.pop(index, None)
        self.inflight &= ~(1 << index)

    def stored(self, index: int, digest: bytes, author: PeerId | None) -> None:
        self.unask(index)
        self.have |= 1 << index
        self.digests[index] = digest
        if author is not None:
            self.stands_on[index] = author

    def forget(self, author: PeerId) -> tuple[int, ...]:
        """Drop the chunks that stand on this author's word; returns them."""
        dropped = tuple(sorted(index for index, word in self.stands_on.items() if word == author))
        for index in dropped:
            del self.stands_on[index], self.digests[index]
        self.have &= ~bitset.of(dropped)
        return dropped

    def forget_all(self) -> tuple[int, ...]:
        """Drop every chunk; returns them."""
        dropped = tuple(bitset.members(self.have))
        self.stands_on.clear()
        self.digests.clear()
        self.have = 0
        return dropped

    # --- how long a chunk is known ---

    def learned(self, bits: int, now: float) -> None:
        """The digests of these chunks became known."""
        for index in bitset.members(bits):
            self._young.append((now, index))
        self._young_bits |= bits

    def idle_turns(self, peer: PeerId, now: float, *, mine: bool) -> int:
        """For how often `YOUNG` seconds nothing of what this peer alone holds fell to us. `mine`: something
        does now."""
        if mine:
            self._turn_at[peer] = now
        return int((now - self._turn_at.setdefault(peer, now)) / YOUNG)

    def young(self, now: float) -> int:
        """The chunks that are known for less than `YOUNG` seconds."""
        while self._young and self._young[0][0] + YOUNG <= now:
            self._young_bits &= ~(1 << self._young.popleft()[1])
        return self._young_bits
