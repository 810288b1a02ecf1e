import pytest

from meshsat.protocol import effects, events, membership, wire
from meshsat.protocol.members import seal_member
from meshsat.protocol.membership import BACKOFF, DIALS_LIMIT, LASTING, REFUSED_BACKOFF, YIELD
from meshsat.protocol.spread import Kind
from meshsat.protocol.state import BAN
from tests.brain import Brain, key, only, peer

LARGER = [name for name in map(str, range(60)) if peer(name) > peer("me")]
SMALLER = [name for name in map(str, range(60)) if peer(name) < peer("me")]


def sighted(brain: Brain, name: str, address: str = "10.0.0.2:1") -> list[effects.Dial]:
    return only(brain.feed(events.PeerSighted(peer(name), (), (address,))), effects.Dial)


def dials(brain: Brain, seconds: float) -> int:
    return len(only(brain.wait(seconds), effects.Dial))


def test_the_smaller_id_dials_at_once() -> None:
    brain = Brain()
    assert sighted(brain, LARGER[0]) == [effects.Dial(peer(LARGER[0]), (), ("10.0.0.2:1",))]
    assert sighted(brain, LARGER[0]) == []  # under way


def test_the_larger_id_waits_its_turn() -> None:
    brain = Brain()
    assert sighted(brain, SMALLER[0]) == []
    assert dials(brain, YIELD - 0.1) == 0
    assert dials(brain, 0.2) == 1


def test_who_is_here_is_not_dialled() -> None:
    brain = Brain()
    brain.meet(*LARGER[:1])
    assert sighted(brain, LARGER[0]) == []


def test_nor_are_we_nor_whoever_has_no_address() -> None:
    brain = Brain()
    assert sighted(brain, "me") == []
    assert only(brain.feed(events.PeerSighted(peer(LARGER[0]), (), ())), effects.Dial) == []
    assert brain.machine.membership.known == {}


@pytest.mark.parametrize(("refused", "longest"), [(False, BACKOFF[1]), (True, REFUSED_BACKOFF)])
def test_failed_dials_back_off(refused: bool, longest: float) -> None:
    brain = Brain()
    sighted(brain, LARGER[0])
    waits = []
    for _ in range(14):
        brain.feed(events.DialFailed(peer(LARGER[0]), refused))
        failed_at = brain.now
        while not only(brain.tick(), effects.Dial):
            brain.now += 0.25
        waits.append(brain.now - failed_at)
    assert waits[0] < 20
    assert waits[3] > 2 * waits[0]
    assert all(wait <= longest * 1.25 + 0.3 for wait in waits)
    assert waits[-1] >= longest * 0.75


def test_whoever_moved_is_dialled_soon() -> None:
    brain = Brain()
    sighted(brain, LARGER[0])
    for _ in range(8):
        brain.feed(events.DialFailed(peer(LARGER[0]), refused=False))
    assert dials(brain, 5.0) == 0
    sighted(brain, LARGER[0], "10.0.0.3:1")
    assert dials(brain, BACKOFF[0] + 0.1) == 1


def test_whoever_closes_is_dialled_again_soon_if_the_session_was_one() -> None:
    brain = Brain()
    brain.meet(LARGER[0])
    brain.wait(LASTING, hearing=[LARGER[0]])
    brain.leave(LARGER[0])
    assert dials(brain, BACKOFF[0] + 0.1) == 1


def test_sessions_that_do_not_last_back_off() -> None:
    """It takes our calls and hangs up: it has banned us, or is full."""
    brain = Brain()
    sighted(brain, LARGER[0])
    brain.feed(events.SessionOpened(peer(LARGER[0]), dialled=True))
    brain.leave(LARGER[0])
    count = 0
    for _ in range(600):
        brain.now += 0.1
        for _dial in only(brain.tick(), effects.Dial):
            count += 1
            brain.feed(events.SessionOpened(peer(LARGER[0]), dialled=True))
            brain.leave(LARGER[0])
    assert 4 <= count <= 9


def test_outlaws_are_not_dialled_until_their_time_is_up() -> None:
    brain = Brain()
    name = LARGER[0]
    brain.meet(name)
    brain.hear(name, wire.Pong(1))
    brain.machine._state.expel(brain.machine.sessions[peer(name)], "it lies")
    brain.leave(name)
    assert sighted(brain, name) == []
    assert dials(brain, BAN[0] - 0.1) == 0
    assert dials(brain, 0.2) == 1


def test_few_dials_are_under_way_at_once() -> None:
    brain = Brain()
    names = [name for name in map(str, range(200)) if peer(name) > peer("me")][: DIALS_LIMIT + 1]
    assert sum(len(sighted(brain, name)) for name in names) == DIALS_LIMIT
    assert dials(brain, 1.0) == 0
    brain.feed(events.DialFailed(peer(names[0]), refused=False))
    assert dials(brain, 0.1) == 1


def test_sessions_are_limited() -> None:
    brain = Brain(sessions=2)
    brain.meet("a")
    assert len(sighted(brain, LARGER[0])) == 1
    assert sighted(brain, LARGER[1]) == []  # it would be the third
    brain.feed(events.DialFailed(peer(LARGER[0]), refused=True))
    assert dials(brain, 1.0) == 1


def test_the_one_not_sighted_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "PEERS_LIMIT", 3)
    brain = Brain()
    brain.meet("here")
    for name in ("older", "old", "new"):
        brain.now += 1
        sighted(brain, name)
    known = brain.machine.membership.known
    assert set(known) == {peer("here"), peer("old"), peer("new")}
    brain.now += 1
    sighted(brain, "old")
    brain.meet("there")  # a member that nobody told of
    assert set(known) == {peer("here"), peer("old"), peer("there")}
    brain.meet("old")
    sighted(brain, "one more")  # all are here: there is no room
    assert peer("one more") not in known


def word(name: str, *bulk: str, at: int = 1, uplink: bool = False) -> wire.News:
    """What a member says of itself, as gossip carries it."""
    record = seal_member(key(name), at, (), bulk, uplink=uplink)
    return wire.News(((Kind.MEMBER, record.sealed),), more=False)


def test_where_a_member_is_it_tells_itself_through_whomever() -> None:
    brain = Brain()
    brain.meet("a")
    assert only(brain.hear("a", word(LARGER[0], "10.0.0.7:7")), effects.Dial) == [
        effects.Dial(peer(LARGER[0]), (), ("10.0.0.7:7",))
    ]
    brain.feed(events.DialFailed(peer(LARGER[0]), refused=False))
    brain.hear("a", word(LARGER[0], "10.0.0.8:8", at=3))
    brain.hear("a", word(LARGER[0], "10.0.0.6:6", at=2))  # from before it moved
    assert only(brain.wait(BACKOFF[0] + 0.1), effects.Dial) == [
        effects.Dial(peer(LARGER[0]), (), ("10.0.0.8:8",))
    ]


def test_made_up_members_do_not_displace_whoever_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "PEERS_LIMIT", 3)
    brain = Brain()
    brain.meet("liar", "real")
    for number in range(10):
        brain.hear("liar", word(f"made up {number}", "6.6.6.6:6"))
    assert {peer("liar"), peer("real")} <= set(brain.machine.membership.known)
    assert len(brain.machine.membership.known) == 3
