"""What a tag means: one question to the upstream for the whole site.

A node that wants to know asks the node whose uplink has the lease of the reference; that one asks upstream
once, however many ask it meanwhile, and an answer younger than the asker's limit is given again. When it can
not answer, the next in rank is asked. Tags that an upstream says do not exist are remembered for a moment.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from meshsat.errors import InvalidInputError
from meshsat.protocol import effects, events, lease, wire
from meshsat.protocol.events import Fault
from meshsat.protocol.gossip import FutureRecordError, ImageRecord, Key, RecordSet, open_record_untrusted
from meshsat.protocol.session import Session
from meshsat.protocol.state import State
from meshsat.protocol.uplinks import Uplinks
from meshsat.trust.keys import PeerId

ANSWER_DEADLINE = 12.0
"""Seconds for a peer's uplink to answer before another is asked."""
TOGETHER = 5.0
"""Seconds: peers that ask within so long of each other have one answer, however fresh they want it."""
LOOKUPS_LIMIT = 4096


@dataclass(slots=True)
class Lookup:
    """A question on its way."""

    local: bool = False
    askers: dict[PeerId, None] = field(default_factory=dict)
    asked: PeerId | None = None
    deadline: float = 0.0
    tried: set[PeerId] = field(default_factory=set)
    fault: Fault = Fault.UNAVAILABLE
    message: str = "no node of this site has a working uplink"


class Resolver:
    """`unix` turns the machine's time into Unix time, in which records are dated. `negative_age`: seconds for
    which "not found" is answered again without a question."""

    def __init__(
        self,
        state: State,
        uplinks: Uplinks,
        records: RecordSet,
        unix: Callable[[float], float],
        negative_age: float,
    ) -> None:
        self._negative_age = negative_age
        self._state = state
        self._uplinks = uplinks
        self._records = records
        self._unix = unix
        self._lookups: dict[Key, Lookup] = {}
        self._negative: dict[Key, tuple[float, str]] = {}

    @property
    def busy(self) -> bool:
        return bool(self._lookups)

    def wanted(self, event: events.ReferenceWanted, now: float) -> None:
        """This node asks."""
        key = (event.registry, event.repository, event.reference)
        record = self._fresh(key, event.max_age, now)
        if record is not None:
            self._state.emit(effects.TellResolved(*key, record))
            return
        negative = self._negative.get(key)
        if negative is not None and now < negative[0]:
            self._state.emit(effects.TellResolved(*key, None, Fault.NOT_FOUND, negative[1]))
            return
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = Lookup(local=True)
            self._advance(key, lookup, now)
        elif not lookup.local:  # asked for a peer so far
            lookup.local = True
            lookup.deadline = now + ANSWER_DEADLINE

    def _fresh(self, key: Key, max_age: float, now: float) -> ImageRecord | None:
        record = self._records.get(key)
        if record is None or abs(self._unix(now) - record.resolved_at) > max_age:
            return None  # from long ago; or our clock is behind, and we can't tell
        return record

    def _advance(self, key: Key, lookup: Lookup, now: float) -> None:
        """Ask the first in rank that has not failed us."""
        candidates = [peer for peer in self._uplinks.candidates() if peer not in lookup.tried]
        chosen = lease.holder(lease.reference_lease(*key), dict.fromkeys(candidates, 1.0))
        lookup.asked = chosen
        lookup.deadline = now + ANSWER_DEADLINE
        if chosen is None:
            self._finish(key, None, lookup.fault, lookup.message)
        elif chosen == self._state.me:
            self._state.emit(effects.ResolveUpstream(*key))
        else:
            self._state.send(chosen, wire.Resolve(*key, 0.0))

    def asked(self, session: Session, frame: wire.Resolve, now: float) -> None:
        """A peer asks us."""
        key = (frame.registry, frame.repository, frame.reference)
        # Several that ask in one instant cause one question: an answer that came meanwhile is theirs too.
        record = self._fresh(key, max(frame.max_age, TOGETHER), now)
        negative = self._negative.get(key)
        if record is not None:
            self._answer(session.peer, key, record, None, "")
        elif negative is not None and now < negative[0]:
            self._answer(session.peer, key, None, Fault.NOT_FOUND, negative[1])
        elif not self._uplinks.up or len(self._lookups) >= LOOKUPS_LIMIT:
            self._answer(session.peer, key, None, Fault.UNAVAILABLE, "its uplink is down")
        else:
            lookup = self._lookups.get(key)
            if lookup is None:
                lookup = self._lookups[key] = Lookup(deadline=now + 10 * ANSWER_DEADLINE)
            if lookup.asked != self._state.me:  # else two that ask each other would wait for each other
                lookup.asked = self._state.me
                self._state.emit(effects.ResolveUpstream(*key))
            lookup.askers[session.peer] = None

    def resolved(self, session: Session, frame: wire.Resolved, now: float) -> None:
        """A peer answers us."""
        key = (frame.registry, frame.repository, frame.reference)
        lookup = self._lookups.get(key)
        if lookup is None or lookup.asked != session.peer:
            return
        fault = Fault(frame.fault) if frame.fault in set(Fault) else Fault.UNAVAILABLE
        message = frame.message
        if frame.record:
            fault, message = Fault.UNAVAILABLE, "it answered something else"
            try:
                record = open_record_untrusted(frame.record, self._unix(now), self._state.verify)
            except FutureRecordError as clocks:
                message = str(clocks)
            except InvalidInputError as wrong:
                message = f"it sent a wrong image record: {wrong}"
                self._state.expel(session, message)
            else:
                if record.key == key and self._state.believes(record):
                    self._records.merge(record)
                    self._finish(key, record, None, "")
                    return
        self._failed(key, lookup, fault, f"{session.name or session.peer}: {message}", now)

    def upstream_answered(self, event: events.UpstreamAnswered, now: float) -> None:
        """Our own uplink answers."""
        key = (event.registry, event.repository, event.reference)
        lookup = self._lookups.get(key)
        if event.record is not None:
            self._uplinks.worked()
            self._records.merge(event.record)
            self._state.emit(effects.TellRecord(event.record))
            self._finish(key, event.record, None, "")
            return
        fault = event.fault or Fault.UNAVAILABLE
        if fault is Fault.UNAVAILABLE:
            self._uplinks.failed(now, None)
        if fault is Fault.NOT_FOUND:
            self._negative[key] = (now + self._negative_age, event.message)
            while len(self._negative) > LOOKUPS_LIMIT:
                del self._negative[next(iter(self._negative))]
        if lookup is not None:
            for peer in lookup.askers:
                self._answer(peer, key, None, fault, event.message)
            lookup.askers.clear()
            if lookup.asked == self._state.me:  # else it took so long that another was asked meanwhile
                self._failed(key, lookup, fault, event.message, now)

    def _failed(self, key: Key, lookup: Lookup, fault: Fault, message: str, now: float) -> None:
        lookup.fault, lookup.message = fault, message
        if not lookup.local:
            del self._lookups[key]
        elif fault is Fault.NOT_FOUND:
            self._finish(key, None, fault, message)
        else:
            if lookup.asked is not None:
                lookup.tried.add(lookup.asked)
            self._advance(key, lookup, now)

    def _finish(self, key: Key, record: ImageRecord | None, fault: Fault | None, message: str) -> None:
        lookup = self._lookups.pop(key, None)
        if lookup is None:
            return
        if lookup.local:
            self._state.emit(effects.TellResolved(*key, record, fault, message))
        for peer in lookup.askers:
            self._answer(peer, key, record, fault, message)

    def _answer(
        self, peer: PeerId, key: Key, record: ImageRecord | None, fault: Fault | None, message: str
    ) -> None:
        if peer in self._state.sessions:
            sealed = b"" if record is None else record.sealed
            text = message[: wire.TEXT_LIMIT - 1]
            self._state.send(peer, wire.Resolved(*key, sealed, int(fault or 0), text))

    def closed(self, session: Session, now: float) -> None:
        for key, lookup in list(self._lookups.items()):
            lookup.askers.pop(session.peer, None)
            if lookup.asked == session.peer:
                self._failed(key, lookup, Fault.UNAVAILABLE, "the node that was asked went away", now)

    def tick(self, now: float) -> None:
        for key, lookup in list(self._lookups.items()):
            if now >= lookup.deadline:
                self._failed(key, lookup, Fault.UNAVAILABLE, "no answer in time", now)
