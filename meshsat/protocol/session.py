"""What one session knows of its peer: what it holds, what we asked of it, what it asked of us."""

import math
from collections import OrderedDict
from dataclasses import dataclass, field

from meshsat.oci.digest import Digest
from meshsat.trust.keys import PeerId

PIPELINE = 0.25
"""Seconds of a peer's measured rate that we keep asked for."""
PIPELINE_CHUNKS = (2, 64)
"""Fewest and most chunks asked for at once."""
PIPELINE_BYTES = (512 << 10, 8 << 20)
"""Fewest and most bytes asked for at once, where that is no fewer chunks."""
UPLOAD_QUEUE = 256
"""Chunks that a peer may have asked for at once."""
HOLDS_LIMIT = 1 << 18
"""Blobs that we remember a peer to hold."""
WANTS_LIMIT = 4096
"""Blobs that a peer may want at once."""
STALL = 3.0
"""Seconds without a byte of what was asked before a peer counts as stalled, while its rate is unknown."""
SNUB = (2.0, 60.0)
"""Seconds for which a stalled peer is asked for nothing; doubles with each stall."""
RATE_SMOOTHING = 0.2
FRAME_RATE = 4000.0
"""Control frames a second that a peer may send for long; five times as many in a burst."""
ENTRY_RATE = 65_536.0
"""Entries of recipes a second that we tell one peer for long (2 MiB); eight times as many in a burst."""


@dataclass(slots=True)
class Session:
    peer: PeerId
    opened_at: float
    name: str = ""
    dialled: bool = False
    """By us."""
    greeted: bool = False
    expelled: bool = False
    """It broke the rules: nothing that it still says counts, and it is asked for nothing."""
    uplink: bool = False
    control: tuple[str, ...] = ()
    bulk: tuple[str, ...] = ()
    clock: float | None = None
    """What to add to the machine's time to have Unix time by its clock; None: it does not know."""

    holds: dict[Digest, int] = field(default_factory=dict)
    """Whole blobs, with sizes."""
    haves: dict[Digest, int] = field(default_factory=dict)
    """Chunks of blobs on their way, as bits."""
    refused: dict[Digest, int] = field(default_factory=dict)
    """Chunks that it rejected though it said it had them."""
    wants: dict[Digest, int] = field(default_factory=dict)
    """Blobs it wants, with the sizes that it gave."""

    asked: dict[tuple[Digest, int], tuple[float, int]] = field(default_factory=dict)
    """What we asked for and have not got: when, and how many bytes."""
    asked_bytes: int = 0
    refill_at: int = 0
    """Of so many chunks asked for, or fewer, all transfers are looked through for more to ask."""
    rate: float = 0.0
    """Bytes per second, smoothed; 0 is not measured yet."""
    _unmeasured: int = 0
    """Bytes that came and are in no rate yet."""
    last_payload: float = 0.0
    """When the last chunk was whole."""
    last_progress: float = 0.0
    """When the last bytes of one came."""
    snubbed_until: float = 0.0
    stalls: int = 0

    uploads: OrderedDict[tuple[Digest, int], bytes] = field(default_factory=OrderedDict)
    """What it asked for, under which digest, and we have not begun to send."""
    sending: dict[tuple[Digest, int], int] = field(default_factory=dict)
    """Chunks in the driver's hands, with their lengths in bytes."""
    last_heard: float = 0.0
    last_ping: float = 0.0
    watched_at: float = math.inf
    """Since when its silence counts; infinity while nobody waits for it (keepalive.py)."""
    rtt: float | None = None
    """Seconds from our last ping to its answer."""
    frame_credit: float = FRAME_RATE * 5
    frame_credit_at: float = 0.0
    entry_credit: float = ENTRY_RATE * 8
    entry_credit_at: float = 0.0

    def room(self, chunk_length: int, now: float) -> int:
        """How many more chunks of this length to ask it for."""
        if now < self.snubbed_until or not self.greeted or self.expelled:
            return 0
        least, most = PIPELINE_BYTES
        window = min(max(self.rate * PIPELINE, PIPELINE_CHUNKS[0] * chunk_length, least), most)
        if self.stalls and not self.rate:
            window = chunk_length
        room = int(window - self.asked_bytes + chunk_length - 1) // chunk_length
        return max(0, min(room, PIPELINE_CHUNKS[1] - len(self.asked)))

    def ask(self, blob: Digest, index: int, length: int, now: float) -> None:
        if not self.asked:
            self.last_payload = now
            self._unmeasured = 0
        self.asked[blob, index] = (now, length)
        self.asked_bytes += length

    def unask(self, blob: Digest, index: int) -> tuple[float, int] | None:
        asked = self.asked.pop((blob, index), None)
        if asked is not None:
            self.asked_bytes -= asked[1]
        return asked

    def delivered(self, blob: Digest, index: int, now: float) -> bool:
        """A chunk came; False if it was not (or no longer) asked for."""
        asked = self.unask(blob, index)
        if asked is None:
            return False
        began = max(asked[0], self.last_payload)
        self._unmeasured += asked[1]
        if now > began:  # else it is one of many that came at once
            sample, self._unmeasured = self._unmeasured / (now - began), 0
            self.rate = sample if not self.rate else self.rate + RATE_SMOOTHING * (sample - self.rate)
        self.last_payload = now
        self.stalls = 0
        return True

    def stalled(self, now: float) -> bool:
        """Whether it brings nothing of what we asked for, for longer than its rate explains."""
        if not self.asked:
            return False
        patience = max(1.0, 4 * self.asked_bytes / self.rate) if self.rate else STALL
        return now - max(self.last_payload, self.last_progress) > min(patience, 10.0)

    def snub(self, now: float) -> None:
        self.snubbed_until = now + min(SNUB[0] * 2**self.stalls, SNUB[1])
        self.stalls = min(self.stalls + 1, 16)
        self.rate = 0.0

    def pause(self, seconds: float, now: float) -> None:
        """We were not running for so long up to now: that is no fault of the peer's."""
        self.last_heard = min(now, self.last_heard + seconds)
        self.last_payload = min(now, self.last_payload + seconds)
        self.last_progress = min(now, self.last_progress + seconds)
        if self.watched_at < math.inf:
            self.watched_at = min(now, self.watched_at + seconds)

    def spend_entries(self, count: int, now: float) -> bool:
        """Account entries of recipes that we are to tell; False when it has asked for too many lately."""
        self.entry_credit = min(ENTRY_RATE * 8, self.entry_credit + (now - self.entry_credit_at) * ENTRY_RATE)
        self.entry_credit_at = now
        if self.entry_credit < count:
            return False
        self.entry_credit -= count
        return True

    def earn_frame(self, cost: int = 1) -> None:
        """It brought news that we want: there is only so much to tell, and no flood."""
        self.frame_credit += cost

    def spend_frame(self, now: float, cost: int = 1) -> bool:
        """Account one control frame, which costs us as much as `cost` small ones; False when the peer floods
        us (token bucket)."""
        self.frame_credit = min(FRAME_RATE * 5, self.frame_credit + (now - self.frame_credit_at) * FRAME_RATE)
        self.frame_credit_at = now
        self.frame_credit -= cost
        return self.frame_credit >= 0
