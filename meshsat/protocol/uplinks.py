"""Our uplink and the others': who fetches which segment, what runs, what is tried again and when.

A chunk is fetched over an uplink when somebody wants its blob, nobody at the site holds it, and the lease of
its segment is ours. `lease` tells that from the nodes with an uplink that we have a session with, so that a
node which falls silent loses its leases with its session.
"""

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.oci.digest import Digest
from meshsat.protocol import bitset, effects, events, lease, wire
from meshsat.protocol.events import Fault
from meshsat.protocol.scheduler import READER_WINDOW
from meshsat.protocol.state import State
from meshsat.protocol.transfer import Run, Transfer
from meshsat.trust.keys import PeerId

RUN_SEGMENTS = 64
"""Segments of one run (1 GiB): a peer's want of a tebibyte must not cost a look at each of its 65536."""
RUNS = 3
"""Blobs that come over our uplink at once."""
BACKOFF = (1.0, 60.0)
"""Seconds before a blob, or the uplink, is tried again; doubles."""
PERMANENT = 60.0
"""Seconds for which an upstream's "not found" or "denied" is believed."""
RETRY_AFTER_LIMIT = 600.0
"""Seconds of an upstream's Retry-After that we obey."""
MESSAGE_LIMIT = 384


def backoff(failures: int, retry_after: float | None) -> float:
    """Seconds to wait after so many failures in a row."""
    wait = min(BACKOFF[0] * 2.0 ** min(failures, 16), BACKOFF[1])
    return max(wait, min(retry_after or 0.0, RETRY_AFTER_LIMIT))


def mismatch_backoff(mismatches: int) -> float:
    """Seconds before a blob that the upstream served wrongly is fetched again: it costs the WAN each time."""
    return min(15.0 * 2.0 ** min(mismatches - 1, 16), RETRY_AFTER_LIMIT)


class Uplinks:
    """`enabled`: this node may use its uplink. `up`: it is taken to work before it was ever tried."""

    def __init__(self, state: State, *, enabled: bool, up: bool = True) -> None:
        self._state = state
        self.enabled = enabled
        self.up = enabled and up
        self._probing = False
        self._retry_at = float("-inf")
        self._failures = 0

    # --- who has one ---

    def candidates(self) -> list[PeerId]:
        """The nodes that can fetch from upstream now, as far as we know."""
        found = [one.peer for one in self._state.sessions.values() if one.uplink and one.greeted]
        return [*found, self._state.me] if self.up else found

    def leads(self, blob: Digest, segment: int) -> bool:
        """Whether the lease of this segment is ours."""
        if not self.up:
            return False
        transfer = self._state.transfers.get(blob)
        unable = transfer.unable if transfer is not None else ()
        candidates = [peer for peer in self.candidates() if peer not in unable]
        return lease.holder(lease.segment_lease(str(blob), segment), candidates) == self._state.me

    def leader(self, transfer: Transfer) -> PeerId | None:
        """Whose uplink fetches the first chunk that we miss; None if nobody's can."""
        missing = transfer.missing
        segment = transfer.cut.segment_of(bitset.lowest(missing)) if missing else 0
        return lease.holder(lease.segment_lease(str(transfer.blob), segment), self.candidates())

    def leads_any(self, blob: Digest, size: int) -> bool:
        if not self.up:
            return False
        cut = Cut(FIXED_1, size)
        last = cut.segment_of(cut.count - 1) if cut.count else 0
        return any(self.leads(blob, segment) for segment in range(last + 1))

    def failed(self, now: float, retry_after: float | None) -> None:
        """The upstream can't be reached over our uplink: let another node try."""
        self._retry_at = now + backoff(self._failures, retry_after)
        self._failures += 1
        self.set_up(up=False)

    def step_aside(self, now: float) -> None:
        """We can't keep what our uplink would bring: let other nodes' bring it, where there are any."""
        if self.candidates() != [self._state.me]:
            self.failed(now, PERMANENT)

    def worked(self) -> None:
        self._failures = 0

    def set_up(self, *, up: bool) -> None:
        if up != self.up and (self.enabled or not up):
            self.up = up
            for peer in self._state.sessions:
                self._state.send(peer, wire.Uplink(up))

    def retry(self, now: float) -> None:
        """When its time has come, see whether the uplink works again: it gets no lease on a hope."""
        if self.enabled and not self.up and not self._probing and now >= self._retry_at:
            self._probing = True
            self._state.emit(effects.ProbeUplink())

    def probed(self, now: float, *, up: bool) -> None:
        self._probing = False
        if up:
            self.set_up(up=True)
        elif not self.up:
            self._retry_at = now + backoff(self._failures, None)
            self._failures += 1

    # --- runs ---

    def start(self, transfer: Transfer, now: float) -> None:
        """Begin a run if there is something that our uplink should fetch for this transfer."""
        if transfer.run is not None or not transfer.opened or transfer.publishing or not transfer.sources:
            return
        if not self.up or now < transfer.retry_at or now < self._state.settled_at:
            return
        if not transfer.local and not self._state.demanded(transfer.blob, transfer.size):
            return
        if sum(other.run is not None for other in self._state.transfers.values()) >= RUNS:
            return
        lacking = transfer.missing & ~transfer.inflight
        if not transfer.doubted:
            lacking &= transfer.levels[0]
        needed_first = self._state.needed_first(transfer)
        run = self._next_run(transfer, lacking >> needed_first << needed_first)
        if run is None:
            run = self._next_run(transfer, lacking)
        if run is not None:
            transfer.run = run
            self._state.emit(
                effects.FetchUplink(transfer.blob, transfer.size, run.next, run.stop, transfer.sources)
            )

    def _next_run(self, transfer: Transfer, lacking: int) -> Run | None:
        """The first run of neighbouring chunks among these, in segments whose lease is ours."""
        cut = transfer.cut
        while lacking:
            first = bitset.lowest(lacking)
            segment = cut.segment_of(first)
            if self.leads(transfer.blob, segment):
                stop = first + bitset.lowest(~(lacking >> first))
                last = segment + RUN_SEGMENTS - 1
                while (
                    segment < last
                    and cut.segment(segment).stop < stop
                    and self.leads(transfer.blob, segment + 1)
                ):
                    segment += 1
                return Run(first, min(stop, cut.segment(segment).stop))
            lacking &= ~bitset.full(cut.segment(segment).stop)
        return None

    def turn(self, transfer: Transfer, needed: int) -> None:
        """Somebody reads on from this chunk: leave a run that is somewhere else."""
        run, near = transfer.run, READER_WINDOW // transfer.cut.chunk_length
        uplink_only = transfer.levels[0] & transfer.missing >> needed << needed
        if run is not None and uplink_only:
            first = bitset.lowest(uplink_only)
            elsewhere = first <= needed + near and not run.next - 1 <= first <= run.next + near
            if elsewhere and self.leads(transfer.blob, transfer.cut.segment_of(first)):
                self.stop(transfer)

    def advanced(self, transfer: Transfer, index: int) -> None:
        """The run brought this chunk. Does it go on?"""
        run = transfer.run
        if run is None or index + 1 < run.next:
            return
        run.next = index + 1
        if run.next >= run.stop:
            return  # the end of the run is told by the shell
        taken = (transfer.have | transfer.inflight) >> run.next & 1
        segment = transfer.cut.segment_of(run.next)
        new_segment = segment != transfer.cut.segment_of(index)
        if taken or (new_segment and not self.leads(transfer.blob, segment)):
            self.stop(transfer)

    def stop(self, transfer: Transfer) -> None:
        if transfer.run is not None:
            transfer.run = None
            self._state.emit(effects.CancelUplink(transfer.blob))

    def ended(self, transfer: Transfer, event: events.UplinkEnded, now: float) -> None:
        """The shell's run is over, with a fault or without."""
        transfer.run = None
        if event.fault is None:
            return
        self.postpone(transfer, now, event.retry_after)
        if event.fault is Fault.UNAVAILABLE:
            self.failed(now, event.retry_after)
        elif event.fault is Fault.STORAGE:
            self.step_aside(now)
        elif event.fault in (Fault.NOT_FOUND, Fault.DENIED):
            transfer.retry_at = now + PERMANENT
        self.tell_failed(transfer, event.fault, event.message)

    def postpone(self, transfer: Transfer, now: float, retry_after: float | None) -> None:
        transfer.retry_at = now + backoff(transfer.failures, retry_after)
        transfer.failures += 1

    def tell_failed(self, transfer: Transfer, fault: Fault, message: str) -> None:
        short = message[:MESSAGE_LIMIT]
        if transfer.local:
            self._state.emit(effects.TellFailed(transfer.blob, fault, short))
        for peer in self._state.wanters(transfer.blob, transfer.size):
            self._state.send(peer, wire.Failed(transfer.blob, int(fault), short))
