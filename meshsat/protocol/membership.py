"""Which members we know, where they are, and when to dial them.

Of two nodes that sight each other the one with the smaller peer id dials; the other does only when nothing
came of that for a while. Failed dials back off up to a minute, refused ones up to ten; what misbehaved is not
spoken to for a while.
"""

from dataclasses import dataclass, field

from meshsat.protocol import effects
from meshsat.protocol.rng import Rng
from meshsat.protocol.state import State
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


class Membership:
    def __init__(self, state: State, rng: Rng, *, max_sessions: int) -> None:
        self._state = state
        self._rng = rng
        self._max_sessions = max_sessions
        self.known: dict[PeerId, Known] = {}

    def hearsay(self, peer: PeerId, control: tuple[str, ...], bulk: tuple[str, ...], now: float) -> None:
        """Another member told where the peer is: good where we know no better, no reason to hurry."""
        known = self.known.get(peer)
        if known is None:
            if len(self.known) < PEERS_LIMIT:
                self.sighted(peer, control, bulk, now)
        elif known.failures and peer not in self._state.sessions:
            known.control, known.bulk = control or known.control, bulk or known.bulk

    def sighted(self, peer: PeerId, control: tuple[str, ...], bulk: tuple[str, ...], now: float) -> None:
        """Discovery, the configuration or the peer itself told where it is."""
        if peer == self._state.me or not (control or bulk):
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
        self._dial_if_due(peer, known, now)

    def _forget_one(self) -> bool:
        idle = [peer for peer in self.known if peer not in self._state.sessions]
        if not idle:
            return False
        del self.known[min(idle, key=lambda peer: (self.known[peer].sighted_at, peer))]
        return True

    def opened(self, peer: PeerId, now: float) -> None:
        if peer not in self.known and len(self.known) >= PEERS_LIMIT:
            self._forget_one()
        known = self.known.setdefault(peer, Known(sighted_at=now))
        known.dialling = False
        known.refused = False
        known.opened_at = now

    def closed(self, peer: PeerId, now: float) -> None:
        known = self.known.get(peer)
        if known is None:
            return
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
        limit = REFUSED_BACKOFF if refused else BACKOFF[1]
        base = 10.0 if refused else BACKOFF[0]
        wait = min(base * 2.0 ** min(known.failures, 16), limit)
        known.failures += 1
        known.dial_at = now + wait * self._rng.uniform(0.75, 1.25)

    def tick(self, now: float) -> None:
        """Dial whoever is due."""
        for peer, known in self.known.items():
            self._dial_if_due(peer, known, now)

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
