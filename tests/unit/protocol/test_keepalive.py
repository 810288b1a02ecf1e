"""When a peer is pinged, and when it is taken to be gone: two sides on one clock."""

from collections import Counter

import pytest

from meshsat.protocol.keepalive import PATIENCE, Keepalive, Verdict
from meshsat.protocol.session import Session
from meshsat.trust.keys import PeerId
from tests.brain import peer

IDLE, LIMIT = 20.0, 3.0
SMALL, LARGE = sorted((peer("a"), peer("b")))
TICK = 0.5


class Pair:
    """Two peers in one session, looked at every half second; a ping is answered where the other lives."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sides = {me: Keepalive(me, 1.0, IDLE, LIMIT) for me in (SMALL, LARGE)}
        self.sessions = {
            me: Session(other, self.now, last_heard=self.now, last_ping=self.now)
            for me, other in ((SMALL, LARGE), (LARGE, SMALL))
        }
        self.waiting: set[PeerId] = set()
        self.dead: set[PeerId] = set()
        self.pings: Counter[PeerId] = Counter()
        self.gone_at: dict[PeerId, float] = {}

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            for me, keepalive in self.sides.items():
                if me in self.dead or me in self.gone_at:
                    continue
                session = self.sessions[me]
                match keepalive.look(session, self.now, waiting=me in self.waiting):
                    case Verdict.PING:
                        self.pings[me] += 1
                        if session.peer not in self.dead:
                            session.last_heard = self.sessions[session.peer].last_heard = self.now
                    case Verdict.GONE:
                        self.gone_at[me] = self.now
            self.now += TICK


def test_an_idle_pair_pings_once_for_both_sides() -> None:
    pair = Pair()
    pair.run(10 * (IDLE + TICK))
    assert pair.pings[SMALL] == 10
    assert pair.pings[LARGE] == 0
    assert not pair.gone_at


@pytest.mark.parametrize("me", [SMALL, LARGE])
def test_who_waits_notices_silence_within_the_limit_however_long_it_was_quiet_before(me: PeerId) -> None:
    pair = Pair()
    pair.run(15.0)
    assert not pair.pings
    began = pair.now
    pair.dead.add(pair.sessions[me].peer)
    pair.waiting.add(me)
    pair.run(10.0)
    assert LIMIT < pair.gone_at[me] - began <= LIMIT + TICK
    assert pair.pings[me] == 4  # at once, and every second


@pytest.mark.parametrize(("me", "most"), [(SMALL, IDLE), (LARGE, PATIENCE * IDLE)])
def test_the_dead_are_gone_in_the_end_though_nobody_waits(me: PeerId, most: float) -> None:
    pair = Pair()
    began = pair.now
    pair.dead.add(pair.sessions[me].peer)
    pair.run(60.0)
    assert most + LIMIT < pair.gone_at[me] - began <= most + LIMIT + 2 * TICK


def test_one_side_that_waits_keeps_the_other_informed() -> None:
    pair = Pair()
    pair.waiting.add(LARGE)
    pair.run(30.0)
    assert pair.pings[LARGE] == 29
    assert pair.pings[SMALL] == 0


def test_an_answered_doubt_is_forgotten() -> None:
    pair = Pair()
    pair.run(IDLE + 2 * TICK)
    assert pair.pings[SMALL] == 1
    pair.run(IDLE - 2 * TICK)
    assert pair.pings[SMALL] == 1


def test_no_longer_waited_for_but_not_yet_answered_it_is_still_watched() -> None:
    pair = Pair()
    pair.run(5.0)
    pair.dead.add(LARGE)
    pair.waiting.add(SMALL)
    began = pair.now
    pair.run(1.0)
    pair.waiting.clear()
    pair.run(5.0)
    assert pair.gone_at[SMALL] - began <= LIMIT + TICK
