"""News goes on to those who lack it, two sets become one with few bytes, and a lie or a flood ends a session."""

import pytest

from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, spread, wire
from meshsat.protocol.effects import Effect
from meshsat.protocol.gossip import ImageRecord, seal
from meshsat.protocol.members import Gone, open_member_untrusted, seal_member
from meshsat.protocol.spread import Kind
from meshsat.protocol.token_use import TokenUse
from tests.brain import ADDRESS, UNIX, Brain, gone, key, only, peer, sent
from tests.room import Room

PEERS = "abcdefgh"
USE = TokenUse("0" * 32, peer("joiner"), UNIX, UNIX + 60)


def record(tag: str = "42", at: float = UNIX, meaning: bytes = b"") -> ImageRecord:
    return seal(
        key("author"),
        registry="up.example",
        repository="library/pos",
        reference=tag,
        media_type="m",
        digest=Digest.of(meaning),
        size=1,
        resolved_at=at,
    )


def news(*items: tuple[Kind, bytes], more: bool = False) -> wire.News:
    return wire.News(tuple((int(kind), data) for kind, data in items), more)


def image(one: ImageRecord) -> wire.News:
    return news((Kind.IMAGE, one.sealed))


def pushed(done: list[Effect]) -> dict[str, list[bytes]]:
    """To whom which records went."""
    return {
        name: [data for frame in sent(done, wire.News, name) for _, data in frame.items]
        for name in PEERS
        if sent(done, wire.News, name)
    }


def met(*names: str) -> Brain:
    brain = Brain()
    brain.meet(*names)
    brain.wait(1.0, hearing=names)
    return brain


# --- pushes ---


def test_news_goes_on_to_all_but_whoever_told_it_and_once() -> None:
    brain = met("a", "b", "c")
    one = record()
    assert only(brain.hear("a", image(one)), effects.TellRecord) == [effects.TellRecord(one)]
    assert brain.machine.deadline(brain.now) == brain.now + spread.FLUSH
    assert not brain.hear("b", image(one))  # known, so not told to it either
    assert pushed(brain.wait(0.1)) == {"c": [one.sealed]}
    assert not pushed(brain.hear("c", image(one)) + brain.wait(0.1))


def test_what_our_upstream_says_and_what_an_answer_brings_is_pushed() -> None:
    brain = Brain(uplink=True)
    brain.meet("a", "b")
    one = record()
    brain.feed(events.UpstreamAnswered(*one.key, one))
    assert pushed(brain.wait(0.1)) == {"a": [one.sealed], "b": [one.sealed]}
    dark = Brain("dark")
    dark.meet("a", "b")
    dark.hear("a", wire.Uplink(up=True))
    dark.feed(events.ReferenceWanted(*one.key, 10.0))
    dark.hear("a", wire.Resolved(*one.key, one.sealed, 0, ""))
    assert pushed(dark.wait(0.1)) == {"b": [one.sealed]}


def test_a_record_is_pushed_to_few_of_many() -> None:
    names = [f"n{number}" for number in range(30)]
    brain = met(*names)
    brain.hear("n0", image(record()))
    told = {
        effect.peer for effect in only(brain.wait(0.1), effects.Send) if isinstance(effect.frame, wire.News)
    }
    assert 3 <= len(told) <= 6


def test_whoever_tells_what_is_outdated_is_told_better() -> None:
    brain = met("a")
    old, young = record(at=UNIX - 1), record()
    brain.machine.take_records([young])
    assert pushed(brain.hear("a", image(old))) == {"a": [young.sealed]}
    assert not only(brain.wait(0.2), effects.TellRecord)


def test_uses_of_tokens_travel_too() -> None:
    brain = met("a", "b")
    brain.feed(events.TokenUsed(USE))
    assert pushed(brain.wait(0.1)) == {"a": [USE.encode()], "b": [USE.encode()]}
    other = met("a", "b")
    done = other.hear("a", news((Kind.USE, USE.encode())))
    assert only(done, effects.CountUse) == [effects.CountUse(USE)]
    assert pushed(other.wait(0.1)) == {"b": [USE.encode()]}
    assert not other.feed(events.TokenUsed(USE))


def test_a_record_from_the_future_is_left_out_and_nobody_punished() -> None:
    brain = met("a")
    assert brain.hear("a", image(record(at=UNIX + 1e6))) == []


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in spread.JUDGED])
def test_a_wrong_record_costs_its_sender_the_session(kind: Kind) -> None:
    brain = met("a")
    assert "wrong record" in gone(brain.hear("a", news((kind, b"\xff"))))[peer("a")]


def test_a_flood_of_records_that_are_no_news_costs_its_sender_the_session() -> None:
    brain = met("a")
    old = [record(str(number), at=UNIX - 9) for number in range(60)]
    brain.machine.take_records([record(str(number)) for number in range(60)])
    frame = news(*((Kind.IMAGE, one.sealed) for one in old))
    for _ in range(200):
        done = brain.hear("a", frame)
        if gone(done):
            break
    assert "floods" in gone(done)[peer("a")]


# --- members ---


def own(done: list[Effect], to: str) -> list[int]:
    """The incarnations of ourselves that we told."""
    return [
        open_member_untrusted(data).incarnation
        for frame in sent(done, wire.News, to)
        for kind, data in frame.items
        if kind == Kind.MEMBER and open_member_untrusted(data).peer == peer("me")
    ]


def test_we_tell_where_we_are_when_we_meet_and_when_that_changes() -> None:
    brain = Brain()
    (first,) = own(brain.meet("a"), "a")
    assert not own(brain.wait(5, hearing="a"), "a")
    brain.machine.addresses = (ADDRESS, ("10.0.0.9:9",))
    (second,) = own(brain.wait(1, hearing="a"), "a")
    assert second > first
    nowhere = Brain()
    nowhere.machine.addresses = ((), ())
    assert not sent(nowhere.meet("a"), wire.News)


def test_who_is_taken_for_gone_says_that_it_is_here() -> None:
    brain = Brain()
    (first,) = own(brain.meet("a"), "a")
    (second,) = own(brain.hear("a", news((Kind.GONE, Gone(peer("me"), first + 5).encode()))), "a")
    assert second > first + 5
    (second,) = own(brain.hear("a", news((Kind.GONE, Gone(peer("me"), second).encode()))), "a")
    assert second > first


def test_a_clock_set_back_does_not_make_us_unheard() -> None:
    """What we said before is still known, and looks younger."""
    brain = Brain()
    (first,) = own(brain.meet("a"), "a")
    before = seal_member(key("me"), first + 1000, (), ("10.9.9.9:9",), uplink=True)
    (second,) = own(brain.hear("a", news((Kind.MEMBER, before.sealed))), "a")
    assert second == first + 1001


def test_who_is_gone_is_told_on_but_not_of_whoever_is_here() -> None:
    brain = met("a", "b", "c")
    far = seal_member(key("far"), 5, (), ("10.0.0.5:5",), uplink=False)
    brain.hear("a", news((Kind.MEMBER, far.sealed)))
    assert pushed(brain.wait(0.1)) == {"b": [far.sealed], "c": [far.sealed]}
    gone_far = Gone(peer("far"), 5)
    brain.hear("a", news((Kind.GONE, gone_far.encode())))
    assert pushed(brain.wait(0.1)) == {"b": [gone_far.encode()], "c": [gone_far.encode()]}
    assert brain.machine.roster.get(peer("far")) is None
    # Who still tells of it learns that it is gone.
    assert pushed(
        brain.hear("b", news((Kind.MEMBER, seal_member(key("far"), 4, (), ("x:1",), uplink=True).sealed)))
    ) == {"b": [gone_far.encode()]}
    here = seal_member(key("c"), 5, (), ("10.0.0.6:6",), uplink=False)
    brain.hear("c", news((Kind.MEMBER, here.sealed)))
    done = brain.hear("a", news((Kind.GONE, Gone(peer("c"), 5).encode()))) + brain.wait(0.1)
    assert pushed(done) == {"c": [Gone(peer("c"), 5).encode()]}  # let it speak for itself
    assert brain.machine.roster.get(peer("c")) == here


# --- comparing ---


def bytes_of(room: Room, *kinds: type[wire.Frame]) -> int:
    return sum(
        len(wire.encode(effect.frame))
        for _, effect in room.log
        if isinstance(effect, effects.Send) and isinstance(effect.frame, kinds)
    )


def pair(one: list[ImageRecord], other: list[ImageRecord]) -> Room:
    room = Room(["one", "other"])
    room.brains["one"].machine.take_records(one)
    room.brains["other"].machine.take_records(other)
    room.introduce()
    room.run(10)
    return room


def alike(room: Room) -> bool:
    one, other = (set(brain.machine.records) for brain in room.brains.values())
    return one == other


def many(count: int, at: float = UNIX) -> list[ImageRecord]:
    return [record(str(number), at) for number in range(count)]


def test_equal_sets_cost_one_small_frame() -> None:
    room = pair(many(300), many(300))
    assert alike(room)
    frames = [effect.frame for _, effect in room.log if isinstance(effect, effects.Send)]
    assert 1 <= sum(isinstance(frame, wire.Compare) for frame in frames) <= 4  # members differ at first
    room.log.clear()
    room.run(3000)
    compared = [
        effect.frame
        for _, effect in room.log
        if isinstance(effect, effects.Send) and not isinstance(effect.frame, wire.Ping | wire.Pong)
    ]
    assert 10 <= len(compared) <= 30  # five minutes of two nodes
    assert {type(frame) for frame in compared} == {wire.Compare}
    assert max(len(wire.encode(frame)) for frame in compared) < 64


@pytest.mark.parametrize("count", [100, 1500])
def test_sets_that_differ_little_cost_little(count: int) -> None:
    here = many(count)
    room = pair([*here[1:], record("mine")], [*here[:-1], record("0", UNIX + 5)])
    assert alike(room)
    assert len(room.brains["one"].machine.records) == count + 1
    assert bytes_of(room, wire.Compare, wire.Summary, wire.News) < 6000


def test_two_of_one_instant_that_differ_become_one() -> None:
    room = pair([record(meaning=b"one")], [record(meaning=b"other")])
    assert alike(room)
    assert len(room.brains["one"].machine.records) == 1


def test_who_has_nothing_is_given_all_a_part_at_a_time() -> None:
    room = pair([], many(1000))
    assert alike(room)
    frames = [effect.frame for _, effect in room.log if isinstance(effect, effects.Send)]
    assert max(len(wire.encode(frame)) for frame in frames) < spread.FRAME_BYTES + 4096
    assert sum(isinstance(frame, wire.News) and frame.more for frame in frames) >= 2


def test_comparing_is_paced() -> None:
    brain = Brain()
    done: list[Effect] = []
    for name in PEERS:
        done += brain.feed(events.SessionOpened(peer(name), dialled=True))
        done += brain.hear(name, wire.Hello(name, False, ADDRESS, (f"{name}:4703",)))
    assert len(sent(done, wire.Compare)) == 1
    done = brain.wait(4.0, hearing=PEERS)
    assert len(sent(done, wire.Compare)) == len(PEERS) - 1


# --- clocks, and who is no member any more


def test_the_time_can_turn_out_to_be_another() -> None:
    brain = met("a", "b")
    later = record(at=UNIX + 5000)
    assert not only(brain.hear("a", image(later)), effects.TellRecord)
    brain.feed(events.ClockSet(UNIX + 5000 - brain.now, right=True))
    assert only(brain.hear("b", image(record("43", at=UNIX + 5000))), effects.TellRecord)


def test_our_clock_is_told_only_if_it_is_right() -> None:
    brain = Brain()
    assert sent(brain.feed(events.SessionOpened(peer("a"), dialled=False)), wire.Hello)[0].clock == 0
    brain.feed(events.ClockSet(UNIX, right=True))
    (hello,) = sent(brain.feed(events.SessionOpened(peer("b"), dialled=False)), wire.Hello)
    assert hello.clock == int(brain.now + UNIX)
    brain.hear("b", wire.Hello("b", False, ADDRESS, ADDRESS, 12345))
    brain.hear("a", wire.Hello("a", False, ADDRESS, ADDRESS))
    sessions = brain.machine.sessions
    assert (sessions[peer("a")].clock, sessions[peer("b")].clock) == (None, 12345 - brain.now)


def revoked(*names: str, at: float = UNIX) -> events.PeersRevoked:
    return events.PeersRevoked(tuple((peer(name), at) for name in names))


def test_who_is_revoked_is_ended_forgotten_and_not_let_back() -> None:
    brain = met("a", "b")
    brain.hear("a", news((Kind.MEMBER, seal_member(key("b"), 5, ADDRESS, ADDRESS, uplink=False).sealed)))
    assert brain.machine.roster.get(peer("b")) is not None
    assert set(gone(brain.feed(revoked("b")))) == {peer("b")}
    brain.leave("b")
    machine = brain.machine
    assert peer("b") not in machine.membership.known
    assert machine.roster.get(peer("b")) is None
    newer = seal_member(key("b"), 9, ADDRESS, ADDRESS, uplink=False).sealed
    brain.hear("a", news((Kind.MEMBER, newer)))
    brain.feed(events.PeerSighted(peer("b"), ADDRESS, ADDRESS))
    assert peer("b") not in machine.membership.known
    assert machine.roster.get(peer("b")) is None
    assert not only(brain.wait(120, hearing=["a"]), effects.Dial)
    assert set(gone(brain.feed(events.SessionOpened(peer("b"), dialled=False)))) == {peer("b")}
    assert peer("a") in machine.sessions  # whoever passes on what it wrote is not to blame


def test_what_a_revoked_author_wrote_counts_up_to_then() -> None:
    brain = met("a", "b")
    before, after = record("1", at=UNIX - 10), record("2", at=UNIX + 10)
    brain.hear("a", image(before), image(after))
    assert len(brain.machine.records) == 2
    brain.feed(revoked("author"))
    assert [one.reference for one in brain.machine.records] == ["1"]
    assert not only(brain.hear("b", image(record("3", at=UNIX + 11))), effects.TellRecord)
    assert only(brain.hear("b", image(record("4", at=UNIX - 11))), effects.TellRecord)
    brain.feed(events.PeersRevoked(()))  # it turned out that whoever revoked might not
    assert only(brain.hear("b", image(record("5", at=UNIX + 12))), effects.TellRecord)


def test_an_answer_by_a_revoked_author_is_none() -> None:
    dark = Brain("dark")
    dark.meet("a")
    dark.hear("a", wire.Uplink(up=True))
    dark.feed(revoked("author"))
    one = record(at=UNIX + 10)
    dark.feed(events.ReferenceWanted(*one.key, 10.0))
    (told,) = only(dark.hear("a", wire.Resolved(*one.key, one.sealed, 0, "")), effects.TellResolved)
    assert told.record is None
