"""Which members we know, where they are, whom to have a session with, and when to dial.

Of two nodes that sight each other the one with the smaller peer id dials; the other does only when nothing
came of that for a while. Failed dials back off up to a minute, refused ones up to ten; what misbehaved is not
spoken to for a while.

At a site of up to `graph.FULL_MESH` nodes everybody has a session with everybody. At a larger one each has
its neighbours' and the hubs' (`graph`), and for a while those of members that hold what it wants. A
session that this leaves over is ended by whoever dialled it, when nothing goes over it: never in haste,
one at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from meshsat.protocol import effects, graph
from meshsat.protocol.members import MemberRecord, Roster
from meshsat.protocol.rng import Rng
from meshsat.protocol.session import Session
from meshsat.protocol.state import State, View
from meshsat.trust.keys import PeerId

PEERS_LIMIT = 1024
"""Members remembered; the one not sighted for longest goes first."""
YIELD = 2.0
"""Seconds that the node with the larger peer id waits before it dials."""
BACKOFF = (0.5, 60.0)
REFUSED_BACKOFF = 600.0
LASTING = 10.0
"""Seconds after which a session counts as one."""
DIALS_LIMIT = 16
"""Dials under way at once."""
UNREACHABLE = 2
"""Failures in a row after which the rings close without a member."""
GONE = (3, 10.0, 20.0)
"""Failures in a row, and seconds without a session, drawn from a range, after which a member counts as
gone."""
MESH_AGAIN = graph.FULL_MESH - 4
"""Nodes down to which a site that was larger shrinks before it is a full mesh again."""
LEFT_OVER = graph.FULL_MESH + 4
"""Nodes from which on sessions that the graph does not have are ended."""
LOOK_PACE = 0.5
"""Seconds between two looks at who is whose neighbour."""
SPARE_AGE = 30.0
"""Seconds that a session lasts before it may be left over."""
SPARE_PACE = 2.0
"""Seconds between two sessions that we end."""
PROBE_PACE = 5.0
"""Seconds between two dials of members at a large site that can't be reached, so that a cut LAN heals."""
SOUGHT = 60.0
"""Seconds for which a member that holds what we want is as good as a neighbour."""
SOUGHT_LIMIT = 16


@dataclass(slots=True)
class Known:
    control: tuple[str, ...] = ()
    bulk: tuple[str, ...] = ()
    sighted_at: float = 0.0
    dial_at: float = 0.0
    failures: int = 0
    """Dials that failed, or sessions that did not last, in a row."""
    opened_at: float = 0.0
    dialling: bool = False
    refused: bool = field(default=False)
    lost_at: float | None = None
    """Since when we have tried to reach it in vain."""
    gone: bool = False
    """Others say so too."""


class Membership:
    """`uplink_up` tells whether our own uplink works."""

    def __init__(
        self, state: State, rng: Rng, roster: Roster, uplink_up: Callable[[], bool], *, max_sessions: int
    ) -> None:
        self._state = state
        self._rng = rng
        self._roster = roster
        self._uplink_up = uplink_up
        self._max_sessions = max_sessions
        self.known: dict[PeerId, Known] = {}
        self.members: list[PeerId] = [state.me]
        """All of the site that can be reached, as far as we know, and we."""
        self._targets: set[PeerId] = set()
        """At a large site, with whom we should have a session."""
        self._sought: dict[PeerId, float] = {}
        self._look_at = float("-inf")
        self._spare_at = float("-inf")
        self._probe_at = float("-inf")

    # --- who is there ---

    def heard(self, record: MemberRecord, now: float) -> None:
        """A member's own word of where it is, however it came."""
        self.sighted(record.peer, record.control, record.bulk, now)
        known = self.known.get(record.peer)
        if known is not None and known.gone:
            known.gone, known.failures, known.dial_at = False, 0, now

    def gone(self, peer: PeerId) -> None:
        """Others can't reach the member either."""
        known = self.known.get(peer)
        if known is not None:
            known.gone = True

    def sought(self, peer: PeerId, control: tuple[str, ...], bulk: tuple[str, ...], now: float) -> None:
        """It holds what we want: have a session with it for a while."""
        if peer not in self.known and len(self.known) >= PEERS_LIMIT:
            return
        self.sighted(peer, control, bulk, now)
        known = self.known.get(peer)
        if known is not None and (peer in self._sought or len(self._sought) < SOUGHT_LIMIT):
            self._sought[peer] = now + SOUGHT
            known.dial_at = min(known.dial_at, now) if not known.failures else known.dial_at
            self._dial_if_due(peer, known, now)

    def sighted(self, peer: PeerId, control: tuple[str, ...], bulk: tuple[str, ...], now: float) -> None:
        """Discovery, the configuration or the peer itself told where it is."""
        if peer == self._state.me or peer in self._state.revoked or not (control or bulk):
            return
        known = self.known.get(peer)
        if known is None:
            if len(self.known) >= PEERS_LIMIT and not self._forget_one():
                return
            wait = 0.0 if self._state.me < peer else YIELD
            known = self.known[peer] = Known(dial_at=now + wait)
        moved = bool(bulk and bulk != known.bulk) or bool(control and control != known.control)
        known.control = control or known.control
        known.bulk = bulk or known.bulk
        known.sighted_at = now
        if moved and known.failures and not known.refused:
            known.failures = 0
            known.dial_at = min(known.dial_at, now + BACKOFF[0])
        if not self._state.view.large and len(self.known) < graph.FULL_MESH:
            self._dial_if_due(peer, known, now)

    def _forget_one(self) -> bool:
        idle = [peer for peer in self.known if peer not in self._state.sessions]
        if not idle:
            return False
        forgotten = min(idle, key=lambda peer: (self.known[peer].sighted_at, peer))
        del self.known[forgotten]
        self._roster.forget(forgotten)
        return True

    def forget(self, peer: PeerId) -> None:
        """It is no member any more."""
        self.known.pop(peer, None)
        self._sought.pop(peer, None)
        self._roster.forget(peer)

    def opened(self, peer: PeerId, now: float) -> None:
        if peer not in self.known and len(self.known) >= PEERS_LIMIT:
            self._forget_one()
        known = self.known.setdefault(peer, Known(sighted_at=now))
        known.dialling = known.refused = known.gone = False
        known.opened_at = now
        known.lost_at = None

    def closed(self, peer: PeerId, now: float) -> None:
        known = self.known.get(peer)
        if known is None:
            return
        known.lost_at = now
        if now - known.opened_at >= LASTING:
            known.failures = 0
        wait = min(BACKOFF[0] * 2.0 ** min(known.failures, 16), BACKOFF[1])
        known.failures += 1
        known.dial_at = now + wait * self._rng.uniform(0.5, 1.0) + (0.0 if self._state.me < peer else YIELD)

    def dial_failed(self, peer: PeerId, now: float, *, refused: bool) -> None:
        known = self.known.get(peer)
        if known is None:
            return
        known.dialling = False
        known.refused = refused
        if known.lost_at is None:
            known.lost_at = now
        limit = REFUSED_BACKOFF if refused else BACKOFF[1]
        least = 10.0 if refused else BACKOFF[0]
        wait = min(least * 2.0 ** min(known.failures, 16), limit)
        known.failures += 1
        known.dial_at = now + wait * self._rng.uniform(0.75, 1.25)

    # --- whose neighbour is who ---

    def look(self, now: float) -> None:
        """See anew who is there, and whom of them to have a session with."""
        self._look_at = now + LOOK_PACE
        me, view = self._state.me, self._state.view
        members = [me]
        for peer, known in self.known.items():
            if peer in self._state.sessions or (known.failures < UNREACHABLE and not known.gone):
                members.append(peer)
        self.members = members
        large = len(members) > (MESH_AGAIN if view.large else graph.FULL_MESH)
        if not large:
            self._state.view, self._targets = View(), set()
            return
        hubs = graph.hubs(members, {peer for peer in members if self._has_uplink(peer)})
        neighbours = graph.ring_neighbours(me, members)
        self._state.view = View(large, frozenset(neighbours), frozenset(hubs), tuple(sorted(members)))
        self._targets = set(members if me in hubs else (*neighbours, *hubs)) - {me}

    def _has_uplink(self, peer: PeerId) -> bool:
        """As its record says: that, everybody hears. Our own is known to us before."""
        if peer == self._state.me:
            return self._uplink_up()
        record = self._roster.get(peer)
        return record is not None and record.uplink

    # --- dialling ---

    def tick(self, now: float) -> list[PeerId]:
        """Dial whoever is due. Returns the members that prove to be gone."""
        if now >= self._look_at:
            self.look(now)
        self._sought = {peer: until for peer, until in self._sought.items() if until > now}
        if not self._state.view.large:
            if self.known.keys() <= self._state.sessions.keys():  # the usual case: all have met
                return []
            for peer, known in self.known.items():
                self._dial_if_due(peer, known, now)
            return self._lost(self.known, now)
        for peer in (*self._targets, *self._sought):
            known = self.known.get(peer)  # type: ignore[assignment]  # None only where it was forgotten since
            if known is not None:
                self._dial_if_due(peer, known, now)
        self._probe(now)
        self._spare(now)
        return self._lost(self.known, now)

    def _lost(self, peers: dict[PeerId, Known], now: float) -> list[PeerId]:
        failures, least, most = GONE
        return [
            peer
            for peer, known in peers.items()
            if known.failures >= failures
            and not known.gone
            and known.lost_at is not None
            and now - known.lost_at > least
            and peer not in self._state.sessions
            and self._roster.get(peer) is not None
            and now - known.lost_at > self._rng.uniform(least, most)
        ]

    def _probe(self, now: float) -> None:
        """Try one of those that could not be reached: it may be that the LAN is whole again."""
        if now < self._probe_at:
            return
        strange = [
            (known.dial_at, peer)
            for peer, known in self.known.items()
            if (known.gone or known.failures >= UNREACHABLE) and peer not in self._state.sessions
        ]
        if strange:
            self._probe_at = now + PROBE_PACE
            peer = min(strange)[1]
            self._dial_if_due(peer, self.known[peer], now)

    def _spare(self, now: float) -> None:
        """End one session that we dialled and the graph does not have, if nothing goes over it."""
        if now < self._spare_at or len(self.members) < LEFT_OVER:
            return
        for peer, session in self._state.sessions.items():
            if not session.dialled or peer in self._targets or peer in self._sought:
                continue
            if now - session.opened_at > SPARE_AGE and self._idle(session):
                self._spare_at = now + SPARE_PACE
                self._state.emit(effects.Disconnect(peer, "it is no neighbour of ours"))
                return

    def _idle(self, session: Session) -> bool:
        if session.asked or session.uploads or session.sending or session.wants:
            return False
        return not any(transfer.holders.get(session.peer) for transfer in self._state.transfers.values())

    def _dial_if_due(self, peer: PeerId, known: Known, now: float) -> None:
        if known.dialling or now < known.dial_at or peer in self._state.sessions:
            return
        if now < self._state.bans.get(peer, 0.0) or not (known.control or known.bulk):
            return
        dialling = self._dialling()
        if dialling < DIALS_LIMIT and len(self._state.sessions) + dialling < self._max_sessions:
            known.dialling = True
            self._state.emit(effects.Dial(peer, known.control, known.bulk))

    def _dialling(self) -> int:
        return sum(known.dialling for known in self.known.values())
