"""What our own uplink brings: which chunks, in which order, until when.

A chunk is fetched when somebody wants its blob, nobody at the site holds it, and no peer's uplink is bringing
it. A run begins in segments that fall to us by rank (`lease`); with none left, our uplink helps: it takes
what another has not begun with, or the back of what another is bringing, which ends its run there when it
hears so. All know of each other's runs by `Lease` frames: at the begin, each second, at the end.

Where this node's limits let only what is urgent pass, that is blobs that a client reads now, here or at a
peer, and manifests. What may pass no longer ends with the chunks in hand.
"""

import math
from collections import Counter
from collections.abc import Iterator

from meshsat.limits import Gate
from meshsat.oci.digest import Digest
from meshsat.protocol import bitset, effects, events, lease, wire
from meshsat.protocol.events import Fault, Priority
from meshsat.protocol.scheduler import READER_WINDOW
from meshsat.protocol.session import Session
from meshsat.protocol.state import State
from meshsat.protocol.transfer import Run, Transfer
from meshsat.protocol.uplinks import Uplinks, backoff
from meshsat.trust.keys import PeerId

RUN_SEGMENTS = 64
"""Segments of one run (1 GiB): a peer's want of a tebibyte must not cost a look at each of its 65536."""
RUNS = 3
"""Blobs that come over our uplink at once."""
LEASES_LIMIT = 8
"""Uplinks that share one blob: an upstream is not to be hammered."""
HELP_BYTES = 4 << 20
"""Blobs of at least so much are shared from the first moment."""
HELP_AFTER = 1.5
"""Seconds after which an idle uplink begins with what another should have."""
STALL = 3.0
"""Seconds without a byte after which a run is left to another uplink, where there is one."""
BEAT = 1.0
"""Seconds between two words about a run."""
PERMANENT = 60.0
"""Seconds for which an upstream's "not found" or "denied" is believed."""
YIELD_BYTES = 1 << 20
"""Of a chunk, up to which it is brought to its end although something more urgent waits."""
DRAIN = 5.0
"""Seconds that the chunks in hand get when nothing more may pass."""
MISMATCH = (15.0, 3600.0)
MESSAGE_LIMIT = 384


def mismatch_backoff(mismatches: int) -> float:
    """Seconds before a blob that the upstream served wrongly is fetched again: it costs the WAN each time."""
    return min(MISMATCH[0] * 2.0 ** min(mismatches - 1, 16), MISMATCH[1])


class Runs:
    def __init__(self, state: State, uplinks: Uplinks) -> None:
        self._state = state
        self._uplinks = uplinks
        self._served: Counter[PeerId] = Counter()
        """Runs that were begun for each who wanted them."""
        self._running: dict[Digest, Transfer] = {}

    # --- what to begin with ---

    def start(self, transfer: Transfer, now: float) -> None:
        """Begin a run if there is something that our uplink should fetch for this transfer."""
        if not self._startable(transfer, now):
            return
        lasting = [one for one in self._running.values() if one.run is not None and not one.run.yields]
        weakest = min(lasting, key=self._urgency, default=None)
        full = len(lasting) >= RUNS
        if full and weakest is not None and self._urgency(weakest) >= self._urgency(transfer):
            return
        run = self._choose(transfer, idle=not self._running, now=now)
        if run is None:
            return
        if full and weakest is not None:
            self._make_way(weakest, now)
        if not self._running:
            self._uplinks.begin(now)
        run.progressed_at = now
        transfer.run = run
        self._running[transfer.blob] = transfer
        self._served.update(self._wanters(transfer))
        source = transfer.sources
        self._state.emit(effects.FetchUplink(transfer.blob, transfer.size, run.next, run.stop, source))
        self._tell(transfer.blob, run, now)

    def _make_way(self, transfer: Transfer, now: float) -> None:
        """Something more urgent comes: this run ends, with the chunk in hand where that is soon there, so
        that what came of it is not paid for twice."""
        run = transfer.run
        if run is None or transfer.cut.chunk_length > YIELD_BYTES:
            self.stop(transfer)
            return
        run.yields = True
        if run.stop > run.next + 1:
            run.stop, run.trimmed = run.next + 1, True
            self._state.emit(effects.TrimUplink(transfer.blob, run.stop))
            self._tell(transfer.blob, run, now)

    def start_waiting(self, now: float) -> None:
        """Where there is room, begin with what is most urgent, of that with whose wanters got least."""
        if len(self._running) >= RUNS or not self._uplinks.up:
            return
        waiting = [one for one in self._state.transfers.values() if self._startable(one, now)]
        for transfer in sorted(waiting, key=self._turn):
            self.start(transfer, now)
            if len(self._running) >= RUNS:
                return

    def _startable(self, transfer: Transfer, now: float) -> bool:
        if transfer.run is not None or not transfer.opened or transfer.publishing or not transfer.sources:
            return False
        if not self._uplinks.up or now < transfer.retry_at or now < self._state.settled_at:
            return False
        if not self._may_pass(transfer):
            return False
        return bool(transfer.local) or self._state.demanded(transfer.blob, transfer.size)

    def _may_pass(self, transfer: Transfer) -> bool:
        """Whether this node's limits let it over the uplink."""
        if self._uplinks.gate is Gate.URGENT:
            as_manifest = any(source[2] for source in transfer.sources)
            return as_manifest or self._urgency(transfer) >= Priority.READER
        return self._uplinks.gate is Gate.OPEN

    def _wanters(self, transfer: Transfer) -> list[PeerId]:
        own = [self._state.me] if transfer.local else []
        return own + self._state.wanters(transfer.blob, transfer.size)

    def _urgency(self, transfer: Transfer) -> int:
        """The priority of whoever needs it most, here or at a peer."""
        wanted = self._state.wanted.get((transfer.blob, transfer.size))
        levels: list[int] = [] if wanted is None else list(wanted.wanters.values())
        return max(levels, default=0) if not transfer.local else max(int(transfer.priority), *levels, 0)

    def _turn(self, transfer: Transfer) -> tuple[int, int]:
        wanters = self._wanters(transfer)
        return -self._urgency(transfer), min((self._served[peer] for peer in wanters), default=0)

    def _choose(self, transfer: Transfer, *, idle: bool, now: float) -> Run | None:
        free = transfer.missing & ~transfer.inflight
        if not transfer.doubted:
            free &= transfer.levels[0]
        leases = self._uplinks.leases(transfer.blob, now)
        for held in leases.values():
            free &= ~bitset.span(held.first, held.stop)
        needed = self._state.needed_first(transfer)
        run = self._own(transfer, free >> needed << needed) or self._own(transfer, free)
        if run is None and idle and len(leases) < LEASES_LIMIT:
            run = self._others(transfer, free, now) or self._share(transfer, leases, now)
        return run

    def _own(self, transfer: Transfer, free: int) -> Run | None:
        """The first run of neighbouring chunks among these, in segments that fall to us."""
        cut = transfer.cut
        while free:
            first = bitset.lowest(free)
            segment = cut.segment_of(first)
            if self._uplinks.leads(transfer.blob, segment):
                stop = first + bitset.lowest(~(free >> first))
                last = segment + RUN_SEGMENTS - 1
                while (
                    segment < last
                    and cut.segment(segment).stop < stop
                    and self._uplinks.leads(transfer.blob, segment + 1)
                ):
                    segment += 1
                return Run(first, min(stop, cut.segment(segment).stop))
            free &= ~bitset.full(cut.segment(segment).stop)
        return None

    def _others(self, transfer: Transfer, free: int, now: float) -> Run | None:
        """What falls to another, who is busy elsewhere or late: of its segments the last."""
        if not free:
            return None
        cut = transfer.cut
        span = cut.segment(cut.segment_of(free.bit_length() - 1))
        leader = self._uplinks.holder(transfer.blob, cut.segment_of(span.start))
        late = now - max(transfer.began_at, self._uplinks.up_since, self._state.settled_at) >= HELP_AFTER
        if leader is None or not (late or self._uplinks.busy(leader, now)):
            return None
        last = free & bitset.span(span.start, span.stop)
        first = bitset.lowest(last)
        return Run(first, first + bitset.lowest(~(last >> first)))

    def _share(self, transfer: Transfer, leases: dict[PeerId, lease.Lease], now: float) -> Run | None:
        """The back of the lease that would take longest; all who are idle share out the longest alike."""
        left = {peer: self._left(transfer, held, leases) for peer, held in leases.items()}
        rates = {peer: self._uplinks.rate_of(peer) for peer in leases}
        order = sorted(left, key=lambda peer: (-len(left[peer]) / (rates[peer] or 1.0), peer))
        helpers = {self._state.me, *self._state.wanters(transfer.blob, transfer.size)}
        idle = sorted(
            peer
            for peer in self._uplinks.candidates()
            if peer in helpers and not self._uplinks.busy(peer, now)
        )
        place = idle.index(self._state.me)
        for turn in range(len(order)):
            number = (place + turn) % len(order)
            at_it = range(number, max(len(idle), number + 1), len(order))
            mine = at_it.index(place) if place in at_it else 0
            holder = order[number]
            chunks = lease.split(
                left[holder],
                transfer.cut.chunk_length,
                rates[holder],
                self._uplinks.rate,
                (mine, len(at_it) if place in at_it else 1),
            )
            if chunks:
                return Run(chunks[0], chunks[-1] + 1)
        return None

    @staticmethod
    def _left(transfer: Transfer, held: lease.Lease, leases: dict[PeerId, lease.Lease]) -> list[int]:
        """What a lease has still to bring, without what others took over from its back."""
        bits = bitset.span(held.first, min(held.stop, transfer.cut.count))
        for other in leases.values():
            if other.first > held.first:
                bits &= ~bitset.span(other.first, other.stop)
        return list(bitset.members(bits & transfer.missing & transfer.levels[0]))

    def may_help(self, blob: Digest, size: int, now: float) -> bool:
        """Whether our uplink should have a part in a blob that peers want. A small one is for the first in
        rank, and for one more of those behind it each time that it is late."""
        late = int((now - self._state.wanted[blob, size].since) / HELP_AFTER)
        places = LEASES_LIMIT if size >= HELP_BYTES else min(1 + late, LEASES_LIMIT)
        return self._uplinks.in_rank(blob, places) or self._uplinks.leads_any(blob, size)

    # --- how it goes ---

    def progressed(self, event: events.UplinkProgressed, now: float) -> None:
        transfer = self._state.transfers.get(event.blob)
        if transfer is not None and transfer.run is not None:
            self._came(transfer.run, event.size, now)

    def _came(self, run: Run, size: int, now: float) -> None:
        run.progressed_at = now
        run.bytes += size
        self._uplinks.measure(size, now)

    def advanced(self, transfer: Transfer, index: int, now: float) -> None:
        """The run brought this chunk. Does it go on?"""
        self._uplinks.worked()
        transfer.failures, transfer.problem = 0, ""
        run = transfer.run
        if run is None:
            return
        run.chunks |= 1 << index
        self._came(run, max(0, run.chunks.bit_count() * transfer.cut.chunk_length - run.bytes), now)
        behind = ~transfer.have >> run.next
        run.next += bitset.lowest(behind)
        if run.next >= run.stop:
            if run.trimmed:
                self.stop(transfer)
            return  # else the end of the run is told by the shell
        ahead = index + 1
        if ahead >= run.stop or run.chunks >> ahead & 1:
            return
        elsewhere = transfer.have | transfer.inflight
        if not transfer.doubted:
            elsewhere |= transfer.everything & ~transfer.levels[0]
        new_segment = transfer.cut.segment_of(ahead) != transfer.cut.segment_of(index)
        if elsewhere >> ahead & 1 or (new_segment and self._outwaited(transfer, now)):
            self.stop(transfer)

    def _outwaited(self, transfer: Transfer, now: float) -> bool:
        """At the end of a segment: whether somebody who got less waits for room."""
        if len(self._running) < RUNS:
            return False
        waiting = (one for one in self._state.transfers.values() if self._startable(one, now))
        return any(
            self._turn(one) < self._turn(transfer) and self._choose(one, idle=False, now=now) is not None
            for one in waiting
        )

    def turn(self, transfer: Transfer, needed: int) -> None:
        """Somebody reads on from this chunk: leave a run that is somewhere else."""
        run, near = transfer.run, READER_WINDOW // transfer.cut.chunk_length
        uplink_only = transfer.levels[0] & transfer.missing >> needed << needed
        if run is not None and uplink_only:
            first = bitset.lowest(uplink_only)
            elsewhere = first <= needed + near and not run.next - 1 <= first <= run.next + near
            if elsewhere and self._uplinks.leads(transfer.blob, transfer.cut.segment_of(first)):
                self.stop(transfer)

    def stop(self, transfer: Transfer) -> None:
        if transfer.run is not None:
            self._state.emit(effects.CancelUplink(transfer.blob))
            self._over(transfer)

    def _over(self, transfer: Transfer) -> None:
        run, transfer.run = transfer.run, None
        self._running.pop(transfer.blob, None)
        if run is not None:
            for peer in self._uplinked():
                self._state.send(peer, wire.Lease(transfer.blob, run.next, run.next, run.bytes))

    def ended(self, transfer: Transfer, event: events.UplinkEnded, now: float) -> None:
        """The shell's run is over, with a fault or without."""
        self._over(transfer)
        if event.fault is None:
            return
        self.postpone(transfer, now, event.retry_after)
        if not transfer.problem:
            transfer.problem_since = now
        transfer.problem = event.message[:MESSAGE_LIMIT]
        if event.fault is Fault.UNAVAILABLE and event.retry_after is None:
            if self._uplinks.failed(now, event.retry_after, blob=transfer.blob):
                self.stop_all()
        elif event.fault is Fault.STORAGE:
            self.step_aside(now)
        elif event.fault in (Fault.NOT_FOUND, Fault.DENIED):
            transfer.retry_at = now + PERMANENT
        self.tell_failed(transfer, event.fault, event.message)

    def step_aside(self, now: float) -> None:
        """We can't keep what our uplink would bring: let other nodes' bring it, where there are any."""
        if not self._uplinks.alone():
            self._uplinks.leave(now + PERMANENT)
            self.stop_all()

    def stop_all(self) -> None:
        for transfer in list(self._running.values()):
            self.stop(transfer)

    def postpone(self, transfer: Transfer, now: float, retry_after: float | None) -> None:
        transfer.retry_at = now + backoff(transfer.failures, retry_after)
        transfer.failures += 1

    def tell_failed(self, transfer: Transfer, fault: Fault, message: str) -> None:
        short = message[:MESSAGE_LIMIT]
        if transfer.local:
            self._state.emit(effects.TellFailed(transfer.blob, fault, short))
        for peer in self._state.wanters(transfer.blob, transfer.size):
            self._state.send(peer, wire.Failed(transfer.blob, int(fault), short))

    # --- among the uplinks of the site ---

    def _uplinked(self) -> Iterator[PeerId]:
        return (one.peer for one in self._state.sessions.values() if one.uplink and one.greeted)

    def _tell(self, blob: Digest, run: Run, now: float) -> None:
        run.told_at = now
        for peer in self._uplinked():
            self._state.send(peer, wire.Lease(blob, run.next, run.stop, run.bytes))

    def greet(self, session: Session) -> None:
        """What `Hello` does not say."""
        self._uplinks.greet(session)
        self._tell_all(session)

    def heard(self, session: Session, frame: wire.Uplink, now: float) -> None:
        came = frame.up and not session.uplink
        self._uplinks.heard(session, frame, now)
        if came:
            self._tell_all(session)

    def _tell_all(self, session: Session) -> None:
        """All that our uplink is bringing, to a peer whose uplink came."""
        for transfer in self._running.values():
            run = transfer.run
            if run is not None and session.uplink:
                self._state.send(session.peer, wire.Lease(transfer.blob, run.next, run.stop, run.bytes))

    def leased(self, session: Session, frame: wire.Lease, now: float) -> bool:
        """A peer's uplink brings these chunks. Of two runs that meet, the one behind ends where the other
        began; of two that began at one place, the one that is first in rank stays. True: there may be
        something for us to do now."""
        self._uplinks.leased(session, frame, now)
        transfer = self._state.transfers.get(frame.blob)
        run = transfer.run if transfer is not None else None
        if transfer is None or run is None:
            return True
        if session.peer not in self._uplinks.leases(frame.blob, now):
            return False
        if frame.stop <= run.next or frame.first >= run.stop:
            return False
        if frame.first > run.next:
            run.stop, run.trimmed = frame.first, True
            self._state.emit(effects.TrimUplink(transfer.blob, run.stop))
            self._tell(transfer.blob, run, now)
        elif frame.first == run.next:
            name = lease.segment_lease(str(frame.blob), frame.first)
            if lease.holder(name, {session.peer: 1.0, self._state.me: 1.0}) == session.peer:
                self.stop(transfer)
        return transfer.run is None

    def gated(self, event: events.UplinkGated, now: float) -> None:
        """What may pass is another."""
        self._uplinks.gated(event.gate, now)
        if event.gate is not Gate.OPEN:
            for transfer in list(self._state.transfers.values()):
                if transfer.local and transfer.sources and not self._may_pass(transfer):
                    self._state.emit(
                        effects.TellFailed(transfer.blob, Fault.UNAVAILABLE, event.reason[:MESSAGE_LIMIT])
                    )
        self._drain(now)

    def _drain(self, now: float) -> None:
        """What may pass no longer ends with the chunks in hand, or soon."""
        for transfer in list(self._running.values()):
            run = transfer.run
            if run is None or self._may_pass(transfer):
                continue
            if math.isinf(run.ends_by):
                run.ends_by, run.stop = now + DRAIN, run.next + 1
                self._state.emit(effects.TrimUplink(transfer.blob, run.stop))
                self._tell(transfer.blob, run, now)
            elif now >= run.ends_by:
                self.stop(transfer)

    def tick(self, now: float) -> None:
        """Say what goes on, and leave what does not to others."""
        self._drain(now)
        for transfer in list(self._running.values()):
            run = transfer.run
            if run is not None and not math.isinf(run.ends_by):
                continue
            if not self._uplinks.up:
                self.stop(transfer)
            elif run is not None and now - run.progressed_at >= STALL and not self._uplinks.alone():
                self._uplinks.hung(now)
                self.stop(transfer)
                self.postpone(transfer, now, None)
            elif run is not None and now - run.told_at >= BEAT:
                self._tell(transfer.blob, run, now)
