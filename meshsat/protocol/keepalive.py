"""Who is still there: when to ping a peer, and when its silence means that it is gone.

Laws: whoever waits for something of a peer, or sends it what it asked for, watches it: a ping a second, and
silence of `silence_limit` ends the session. Where nobody waits the pair says a word every `idle` seconds, at
the cost of one ping and its answer, which are signs of life both ways; of the two the smaller peer id pings,
the other only where that fails to. A peer that owes an answer is watched, so that it too is gone
`silence_limit` after the ping. Silence counts from when the watch began: before, nobody had to speak.
"""

import enum
import math
from dataclasses import dataclass

from meshsat.protocol.session import Session
from meshsat.trust.keys import PeerId

PATIENCE = 1.25
"""How much longer than the smaller peer id the larger one waits for a word."""


class Verdict(enum.Enum):
    WELL = enum.auto()
    PING = enum.auto()
    GONE = enum.auto()


@dataclass(frozen=True, slots=True)
class Keepalive:
    """`me` is this node; all else seconds."""

    me: PeerId
    attentive: float
    """Between two pings to a peer that is watched."""
    idle: float
    """Without a word, after which an idle peer is asked for one."""
    silence_limit: float

    def look(self, session: Session, now: float, *, waiting: bool) -> Verdict:
        """What to do about this peer; `waiting`: we wait for something that may hang on it."""
        if session.watched_at == math.inf:
            if not waiting and now - session.last_heard < self._idle(session):
                return Verdict.WELL
            session.watched_at = now
        elif not waiting and session.last_heard >= session.watched_at:
            session.watched_at = math.inf
            return Verdict.WELL
        if now - max(session.last_heard, session.watched_at) > self.silence_limit:
            return Verdict.GONE
        if now - session.last_ping < self.attentive:
            return Verdict.WELL
        session.last_ping = now
        return Verdict.PING

    def _idle(self, session: Session) -> float:
        return self.idle if self.me < session.peer else self.idle * PATIENCE
