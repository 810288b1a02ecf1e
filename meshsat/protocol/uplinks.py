"""Who has an uplink that works: ours, and the others' as they tell and as they prove.

Ours is down from a failure until a probe finds it well, and while this node's limits let nothing pass; that
is told to all. A peer's counts while its
session lives, it says so, and what it took on gets on: one that is silent about what falls to it, or whose
leases stand still, is passed over for a while. What our own uplink does is `runs`' matter.
"""

from dataclasses import dataclass, field

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.limits import Gate
from meshsat.oci.digest import Digest
from meshsat.protocol import bitset, effects, lease, wire
from meshsat.protocol.lease import QUIET, Lease
from meshsat.protocol.session import Session
from meshsat.protocol.state import State
from meshsat.protocol.transfer import Transfer
from meshsat.trust.keys import PeerId

BACKOFF = (1.0, 60.0)
"""Seconds before a blob, or the uplink, is tried again; doubles."""
PROBE_LIMIT = 4.0
"""Seconds between two looks whether the uplink is back, while somebody at the site waits for something."""
HUNG_FAILURES = 3
"""Failures that an uplink counts as which hung: it is let alone for longer."""
RETRY_AFTER_LIMIT = 600.0
"""Seconds of an upstream's Retry-After that we obey."""
ALIVE = 2.0
"""Seconds since its last bytes in which another run proves that the uplink works."""
STUCK = (10.0, 300.0)
"""Seconds for which a peer that did nothing about its leases is passed over; doubles."""
LEASES_OF_ONE = 16
"""Leases that one peer may tell of."""
UNPROVEN_CHUNKS = 4
"""Chunks' worth of bytes that a peer may say came without one of them turning up."""
DRAWN_LIMIT = 4096
WINDOW = 2.0
"""Seconds over which the rate of our uplink is measured."""
SMOOTHING = 0.3
STEADY = 0.25
"""By how much of itself the rate must have changed to be told anew: leases are not to flutter."""


def backoff(failures: int, retry_after: float | None) -> float:
    """Seconds to wait after so many failures in a row."""
    wait = min(BACKOFF[0] * 2.0 ** min(failures, 16), BACKOFF[1])
    return max(wait, min(retry_after or 0.0, RETRY_AFTER_LIMIT))


@dataclass(slots=True)
class Other:
    """A peer's uplink, as far as we know of it."""

    since: float
    """When it last said that it works, or last let a lease go."""
    rate: float = 0.0
    """Bytes per second, as it says."""
    leases: dict[Digest, Lease] = field(default_factory=dict)
    stuck_until: float = 0.0
    stuck: int = 0
    """How often in a row it was passed over."""


class Uplinks:
    """`enabled`: this node may use its uplink. `up`: it is taken to work before it was ever tried."""

    def __init__(self, state: State, *, enabled: bool, up: bool = True) -> None:
        self._state = state
        self.enabled = enabled
        self.up = enabled and up
        self.gate = Gate.OPEN
        self.up_since = 0.0
        self.rate = 0.0
        """Bytes per second, as peers were told; 0: not known."""
        self.retry_at = float("-inf")
        """When we look next whether it works, while it does not."""
        self._probing = False
        self._failures = 0
        self._probes = 0
        self._others: dict[PeerId, Other] = {}
        self._drawn: dict[tuple[Digest, int, frozenset[tuple[PeerId, float]]], PeerId | None] = {}
        """Who came out first, for which candidates."""
        self._measured = 0.0
        self._window = (0.0, 0)
        """Since when we count, and the bytes since."""

    # --- who has one ---

    def candidates(self) -> list[PeerId]:
        """The nodes that can fetch from upstream now, as far as we know; at a large site, hubs only."""
        found = [
            one.peer
            for one in self._state.sessions.values()
            if one.uplink and one.greeted and not self._passed_over(one.peer)
        ]
        found = [*found, self._state.me] if self.up else found
        view = self._state.view
        return [peer for peer in found if peer in view.hubs] if view.large else found

    def alone(self) -> bool:
        """Whether nobody else can."""
        return self.candidates() == [self._state.me]

    def _passed_over(self, peer: PeerId) -> bool:
        other = self._others.get(peer)
        return other is not None and (self._state.now or 0.0) < other.stuck_until

    def rate_of(self, peer: PeerId) -> float:
        """Bytes per second of a node's uplink, as it says; 0: not known."""
        if peer == self._state.me:
            return self.rate
        return self._others[peer].rate if peer in self._others else 0.0

    def holder(self, blob: Digest, segment: int) -> PeerId | None:
        """Whose turn the segment is, in rank."""
        transfer = self._state.transfers.get(blob)
        unable = transfer.unable if transfer is not None else ()
        rates = {peer: self.rate_of(peer) for peer in self.candidates() if peer not in unable}
        drawn = (blob, segment, frozenset(rates.items()))
        if drawn not in self._drawn:
            if len(self._drawn) >= DRAWN_LIMIT:
                self._drawn.clear()
            self._drawn[drawn] = lease.holder(lease.segment_lease(str(blob), segment), lease.weights(rates))
        return self._drawn[drawn]

    def leads(self, blob: Digest, segment: int) -> bool:
        """Whether the segment falls to us."""
        return self.up and self.holder(blob, segment) == self._state.me

    def leader(self, transfer: Transfer) -> PeerId | None:
        """To whom the first chunk that we miss falls; None if nobody's uplink can bring it."""
        missing = transfer.missing
        return self.holder(transfer.blob, transfer.cut.segment_of(bitset.lowest(missing)) if missing else 0)

    def in_rank(self, blob: Digest, places: int) -> bool:
        """Whether we are among the first so many to whom the blob falls."""
        rates = {peer: self.rate_of(peer) for peer in self.candidates()}
        for _ in range(places if self.up else 0):
            first = lease.holder(lease.segment_lease(str(blob), 0), lease.weights(rates))
            if first == self._state.me:
                return True
            if first is None:
                break
            del rates[first]
        return False

    def leads_any(self, blob: Digest, size: int) -> bool:
        if not self.up:
            return False
        cut = Cut(FIXED_1, size)
        last = cut.segment_of(cut.count - 1) if cut.count else 0
        return any(self.leads(blob, segment) for segment in range(last + 1))

    # --- what peers tell of theirs ---

    def heard(self, session: Session, frame: wire.Uplink, now: float) -> None:
        """Its uplink came, went, or has another rate."""
        other = self._others.setdefault(session.peer, Other(now))
        if frame.up and not session.uplink:
            other.since = now
        if not frame.up:
            other.leases.clear()
        session.uplink = frame.up
        other.rate = float(frame.rate)

    def leased(self, session: Session, frame: wire.Lease, now: float) -> None:
        """It tells what its uplink is bringing."""
        other = self._others.setdefault(session.peer, Other(now))
        known = other.leases.get(frame.blob)
        if frame.first >= frame.stop:
            if other.leases.pop(frame.blob, None) is not None:
                other.since = now
        elif known is not None:
            transfer = self._state.transfers.get(frame.blob)
            chunk = wire.BLOB_LIMIT if transfer is None else transfer.cut.chunk_length
            known.told(frame.first, frame.stop, frame.brought, now, UNPROVEN_CHUNKS * chunk)
        elif len(other.leases) < LEASES_OF_ONE:
            other.leases[frame.blob] = Lease(frame.first, frame.stop, frame.brought, now)

    def had(self, peer: PeerId, blob: Digest, bits: int, now: float) -> None:
        """It has these chunks, which we did not know: its lease gets on."""
        other = self._others.get(peer)
        known = other.leases.get(blob) if other is not None else None
        if other is not None and known is not None and bits & bitset.span(known.first, known.stop):
            known.had(now)
            other.stuck = 0

    def closed(self, peer: PeerId, now: float) -> None:
        """What it brought is another's now; that it was passed over is remembered as long as it lasts."""
        other = self._others.get(peer)
        if other is not None and other.stuck_until <= now:
            del self._others[peer]
        elif other is not None:
            other.leases.clear()

    def leases(self, blob: Digest, now: float) -> dict[PeerId, Lease]:
        """The leases of peers of this blob that get on."""
        return {
            peer: other.leases[blob]
            for peer, other in self._others.items()
            if blob in other.leases and other.leases[blob].alive(now) and not self._passed_over(peer)
        }

    def busy(self, peer: PeerId, now: float) -> bool:
        """Whether it gets on with something."""
        other = self._others.get(peer)
        return other is not None and any(one.alive(now) for one in other.leases.values())

    def check(self, now: float) -> bool:
        """Pass over who does nothing about what it took on, or what falls to it. True if somebody was."""
        if not self.up:  # then nobody tells us of leases, nor is there anything that we would do instead
            return False
        before = len(self.candidates())
        for other in self._others.values():
            if any(not one.alive(now) for one in other.leases.values()):
                self._pass_over(other, now)
        for transfer in self._state.transfers.values():
            untouched = transfer.missing & transfer.levels[0] if transfer.opened else 0
            for held in self.leases(transfer.blob, now).values() if untouched else ():
                untouched &= ~bitset.span(held.first, held.stop)
            if untouched and (transfer.local or self._state.demanded(transfer.blob, transfer.size)):
                self._check_idle(transfer, bitset.lowest(untouched), now)
        return len(self.candidates()) != before

    def _check_idle(self, transfer: Transfer, index: int, now: float) -> None:
        """Nobody is about to bring this chunk. Should somebody have been?"""
        peer = self.holder(transfer.blob, transfer.cut.segment_of(index))
        if peer is None or peer == self._state.me or self.busy(peer, now):
            return
        other = self._others.setdefault(peer, Other(now))
        due = max(other.since, other.stuck_until, transfer.began_at, self.up_since, self._state.settled_at)
        if now - due >= QUIET:
            self._pass_over(other, now)

    def _pass_over(self, other: Other, now: float) -> None:
        other.leases.clear()
        other.stuck_until = now + min(STUCK[0] * 2.0 ** min(other.stuck, 16), STUCK[1])
        other.stuck += 1

    # --- whether ours works ---

    def failed(self, now: float, retry_after: float | None, *, blob: Digest | None = None) -> bool:
        """The upstream can't be reached over our uplink: let another node try. False, and nothing happens,
        where a run of another blob shows that it can."""
        runs = [(one.blob, one.run) for one in self._state.transfers.values() if one.run is not None]
        if any(one != blob and now - run.progressed_at < ALIVE for one, run in runs):
            return False
        self.retry_at = now + backoff(self._failures, retry_after)
        self._failures += 1
        self._probes = 0
        self.set_up(up=False)
        return True

    def hung(self, now: float) -> None:
        """Nothing came for long: another node may try, and we come back later."""
        self._failures = max(self._failures, HUNG_FAILURES)
        self.failed(now, None)

    def leave(self, until: float) -> None:
        """Let other nodes fetch for a while."""
        self.retry_at = until
        self.set_up(up=False)

    def worked(self) -> None:
        self._failures = 0

    def gated(self, gate: Gate, now: float) -> None:
        """What may pass is another. Shut, it is not even probed."""
        if self.gate is Gate.SHUT and gate is not Gate.SHUT:
            self.retry_at = now
            self._probes = 0
        self.gate = gate
        if gate is Gate.SHUT:
            self.set_up(up=False)

    @property
    def may_retry(self) -> bool:
        """It is down, and may be tried again in time."""
        return self.enabled and not self.up and self.gate is not Gate.SHUT

    def set_up(self, *, up: bool) -> None:
        if up and self.gate is Gate.SHUT:  # a probe that was under way
            return
        if up != self.up and (self.enabled or not up):
            self.up = up
            self.up_since = self._state.now or 0.0
            self._tell()

    def _tell(self) -> None:
        for peer in self._state.sessions:
            self._state.send(peer, wire.Uplink(self.up, int(self.rate)))

    def greet(self, session: Session) -> None:
        """What `Hello` does not say: how fast it is."""
        if self.up and self.rate:
            self._state.send(session.peer, wire.Uplink(self.up, int(self.rate)))

    def retry(self, now: float) -> None:
        """When its time has come, see whether the uplink works again: it gets no lease on a hope."""
        if self.may_retry and not self._probing and now >= self.retry_at:
            self._probing = True
            self._state.emit(effects.ProbeUplink())

    def probed(self, now: float, *, up: bool) -> None:
        self._probing = False
        if up:
            self.set_up(up=True)
        elif not self.up:
            wait = backoff(self._probes, None)
            if self._state.transfers or self._state.wanted:
                wait = min(wait, PROBE_LIMIT)
            self.retry_at = now + wait
            self._probes += 1

    # --- how fast ours is ---

    def begin(self, now: float) -> None:
        """Something is asked of an uplink that was idle."""
        self._window = (now, 0)

    def measure(self, size: int, now: float) -> None:
        """So many bytes came. The rate is told when it has changed for good."""
        began, sum_ = self._window[0], self._window[1] + size
        self._window = (began, sum_)
        if now - began < WINDOW:
            return
        sample = sum_ / (now - began)
        self._window = (now, 0)
        self._measured += (sample - self._measured) * (SMOOTHING if self._measured else 1.0)
        if abs(self._measured - self.rate) > STEADY * self.rate:
            self.rate = self._measured
            self._tell()
