import random

import pytest

from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, exchange, wire
from meshsat.protocol.gossip import seal
from meshsat.protocol.machine import BUSY_TICK, IDLE_TICK, Machine, Settings
from meshsat.protocol.members import open_member_untrusted, seal_member
from meshsat.protocol.session import FRAME_RATE, UPLOAD_QUEUE, WANTS_LIMIT
from meshsat.protocol.spread import Kind
from meshsat.protocol.state import BAN
from tests.brain import ADDRESS, UNIX, Blob, Brain, gone, key, only, peer, sent
from tests.room import Room

HELLO = wire.Hello("a", False, ADDRESS, ADDRESS)


def test_a_session_begins_with_a_greeting() -> None:
    brain = Brain(uplink=True)
    done = brain.feed(events.SessionOpened(peer("a"), dialled=True))
    assert done == [effects.Send(peer("a"), wire.Hello("me", True, ADDRESS, ADDRESS))]


def test_a_newcomer_learns_who_else_is_there_and_what_we_hold() -> None:
    brain = Brain()
    blob, wanted = Blob("held"), Blob("wanted")
    brain.seed(blob)
    brain.pull(wanted)
    brain.meet("a")
    done = brain.meet("b")
    (told,) = sent(done, wire.News, "b")
    assert open_member_untrusted(told.items[0][1]).bulk == ADDRESS
    assert sent(done, wire.Holds, "b") == [blob.holds()]
    assert sent(done, wire.Want, "b") == [wanted.want()]


def test_many_blobs_are_told_in_frames_that_decode() -> None:
    brain = Brain()
    for number in range(wire.LIST_LIMIT + 1):
        brain.feed(events.BlobPublished(Digest.of(f"{number}".encode()), number))
    told = sent(brain.meet("a"), wire.Holds)
    assert [len(frame.blobs) for frame in told] == [wire.LIST_LIMIT, 1]


# --- breaking the rules ---


def test_the_first_frame_is_a_greeting() -> None:
    brain = Brain()
    brain.feed(events.SessionOpened(peer("a"), dialled=False))
    assert "no greeting" in gone(brain.hear("a", wire.Ping(1)))[peer("a")]


def test_nobody_greets_twice() -> None:
    brain = Brain()
    brain.meet("a")
    assert "twice" in gone(brain.hear("a", HELLO))[peer("a")]


def test_a_flood_of_frames_ends_the_session() -> None:
    brain = Brain()
    brain.meet("a")
    done = brain.hear("a", *[wire.Pong(0)] * (int(FRAME_RATE * 5) + 5))
    assert gone(done) == {peer("a"): "it floods us with frames"}
    assert len(only(done, effects.Disconnect)) == 1


def test_a_chunk_comes_only_as_a_payload() -> None:
    brain = Brain()
    brain.meet("a")
    assert gone(brain.hear("a", wire.Chunk(Blob().digest, 0)))


def test_too_many_wants() -> None:
    brain = Brain()
    brain.meet("a")
    wants = [wire.Want(((Digest.of(f"{n}".encode()), 1, 2, 0),), ()) for n in range(WANTS_LIMIT + 1)]
    assert not gone(brain.hear("a", *wants[:-1]))
    assert "wants more than" in gone(brain.hear("a", wants[-1]))[peer("a")]


@pytest.mark.parametrize("kind", ["holds", "drops"])
def test_a_long_list_told_again_and_again_is_a_flood(kind: str) -> None:
    blobs = [Digest.of(b"%d" % number) for number in range(wire.LIST_LIMIT)]
    whole = wire.Holds(tuple((blob, 1) for blob in blobs)) if kind == "holds" else wire.Drops(tuple(blobs))
    brain = Brain()
    brain.meet("a")
    assert not gone(brain.hear("a", *[whole] * 64)), "as a peer may that greets"
    assert gone(brain.hear("a", *[whole] * 100)) == {peer("a"): "it floods us with frames"}


def test_too_many_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "HOLDS_LIMIT", 3)
    blobs = [(Digest.of(bytes([n])), 1) for n in range(4)]
    brain = Brain()
    brain.meet("a")
    assert not gone(brain.hear("a", wire.Holds(tuple(blobs[:3]))))
    assert not gone(brain.hear("a", wire.Holds(tuple(blobs[1:3]))))  # told again
    assert "holds more than" in gone(brain.hear("a", wire.Holds(tuple(blobs[3:]))))[peer("a")]


def test_too_many_requests() -> None:
    blob = Blob(chunks=UPLOAD_QUEUE + 10)
    brain = Brain()
    brain.seed(blob)
    brain.meet("a")
    request = [wire.Request(blob.digest, ((index, blob.chunks[index]),)) for index in range(UPLOAD_QUEUE + 3)]
    assert not gone(brain.hear("a", *request[:-1]))  # two of them are being sent
    assert "asks for more than" in gone(brain.hear("a", request[-1]))[peer("a")]


def test_an_outlaw_is_not_spoken_to_and_its_frames_count_no_more() -> None:
    brain = Brain()
    blob = brain_wants(brain)
    brain.hear("a", wire.Chunk(blob.digest, 0))
    assert brain.hear("a", blob.holds(), wire.Ping(1)) == []
    brain.leave("a")
    done = brain.feed(events.SessionOpened(peer("a"), dialled=False))
    assert done == [effects.Disconnect(peer("a"), "it misbehaved a short while ago")]
    assert peer("a") not in brain.machine.sessions
    brain.now += BAN[0]
    assert not gone(brain.meet("a"))


def brain_wants(brain: Brain) -> Blob:
    blob = Blob()
    brain.meet("a")
    brain.pull(blob)
    return blob


def test_whoever_has_no_session_says_nothing() -> None:
    brain = Brain()
    assert brain.hear("stranger", HELLO) == []
    assert brain.feed(events.PayloadProgressed(peer("stranger"))) == []
    assert brain.feed(events.ChunkSent(peer("stranger"), Blob().digest, 0)) == []


# --- time ---


def test_pings_are_answered_and_measured() -> None:
    brain = Brain()
    brain.meet("a")
    assert sent(brain.hear("a", wire.Ping(77)), wire.Pong, "a") == [wire.Pong(77)]
    brain.pull(Blob())
    pings = sent(brain.wait(1.1), wire.Ping, "a")
    assert len(pings) == 1
    brain.now += 0.25
    brain.hear("a", wire.Pong(pings[0].token))
    assert brain.machine.sessions[peer("a")].rtt == pytest.approx(0.25)


def test_the_silent_are_let_go() -> None:
    brain = Brain()
    brain.meet("quiet", "lively")
    brain.pull(Blob())
    done = brain.wait(2.9, hearing=["lively"])
    assert not gone(done)
    done = brain.wait(0.3, hearing=["lively"])
    assert gone(done) == {peer("quiet"): "it was silent for 3 s"}
    assert brain.now - 100.0 <= 3.5
    assert not brain.machine.sessions[peer("quiet")].expelled  # no crime


def test_who_was_idle_is_asked_for_a_word_as_soon_as_something_is_wanted() -> None:
    brain = Brain()
    brain.meet("quiet", "lively")
    assert not sent(brain.wait(15.0), wire.Ping, "quiet")
    done = brain.pull(Blob())
    assert sent(done, wire.Ping, "quiet")
    assert sent(done, wire.Ping, "lively")
    done = brain.wait(2.9, hearing=["lively"])
    assert not gone(done)
    assert gone(brain.wait(0.3, hearing=["lively"])).keys() == {peer("quiet")}


def test_a_question_is_waited_for_like_a_blob() -> None:
    brain = Brain()
    brain.meet("quiet", uplink=True)
    brain.wait(15.0)
    brain.feed(events.ReferenceWanted("registry.test", "library/pos", "42", 0.0))
    assert gone(brain.wait(3.2)).keys() == {peer("quiet")}


def test_bytes_of_a_chunk_are_a_sign_of_life() -> None:
    brain = Brain()
    brain.meet("a")
    brain.pull(Blob())
    brain.wait(2.0)
    brain.feed(events.PayloadProgressed(peer("a")))
    assert not gone(brain.wait(2.0))


def test_when_we_slept_it_was_not_they_who_were_silent() -> None:
    brain = Brain()
    brain.meet("a")
    brain.pull(Blob())
    brain.wait(1.0)
    brain.now += 3600
    assert not gone(brain.tick())
    assert not gone(brain.wait(0.8))
    assert gone(brain.wait(3.0))  # but now it is


def test_after_our_sleep_silence_counts_as_before() -> None:
    """Also of a peer that is heard before our first look at the clock."""
    brain = Brain()
    brain.meet("a")
    brain.pull(Blob())
    brain.wait(1.0)
    brain.now += 3600
    brain.hear("a", wire.Pong(0))
    brain.tick()
    assert gone(brain.wait(3.3))


def test_a_chunk_on_its_way_while_we_slept_is_no_stall() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a")
    brain.pull(blob)
    brain.hear("a", blob.holds(), blob.entries("a"))
    brain.wait(1.0, hearing=["a"])
    brain.feed(events.PayloadProgressed(peer("a")))
    brain.now += 3600
    brain.hear("a", wire.Pong(0))
    assert not sent(brain.tick(), wire.Cancel)


def test_the_machine_asks_to_be_called() -> None:
    brain = Brain()
    assert brain.machine.deadline(brain.now) == brain.now
    brain.tick()
    assert brain.machine.deadline(brain.now) == brain.now + IDLE_TICK
    assert brain.machine.deadline(brain.now + 9) == brain.now + 9
    brain.pull(Blob())
    assert brain.machine.deadline(brain.now) == brain.now + BUSY_TICK


# --- what the shell looks at ---


def test_the_site_has_an_uplink_if_a_node_has() -> None:
    brain = Brain()
    assert not brain.machine.site_has_uplink()
    brain.meet("a", uplink=True)
    assert brain.machine.site_has_uplink()
    brain.hear("a", wire.Uplink(up=False))
    assert not brain.machine.site_has_uplink()
    assert Brain(uplink=True).machine.site_has_uplink()


def test_the_size_of_what_peers_hold() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a")
    assert brain.machine.held_by_peers(blob.digest) is None
    brain.hear("a", blob.holds())
    assert brain.machine.held_by_peers(blob.digest) == blob.size
    brain.hear("a", wire.Drops((blob.digest,)))
    assert brain.machine.held_by_peers(blob.digest) is None


def test_of_several_sizes_the_one_that_most_tell_counts() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("liar", "a", "b")
    brain.hear("liar", wire.Holds(((blob.digest, 1),)))
    brain.hear("a", blob.holds())
    brain.hear("b", blob.holds())
    assert brain.machine.held_by_peers(blob.digest) == blob.size


def test_records_that_are_news_are_told_apart() -> None:
    record = seal(
        key("a"),
        registry="up.example",
        repository="library/pos",
        reference="42",
        media_type="m",
        digest=Blob().digest,
        size=1,
        resolved_at=UNIX,
    )
    machine = Brain().machine
    assert machine.take_records([record, record]) == [record]
    assert machine.take_records([record]) == []


def test_where_we_are_is_told_and_where_others_are_is_heard() -> None:
    brain = Brain()
    brain.meet("a")
    other = next(name for name in map(str, range(20)) if peer("me") < peer(name))
    record = seal_member(key(other), 1, (), ("10.0.0.9:1",), uplink=False)
    done = brain.hear("a", wire.News(((Kind.MEMBER, record.sealed),), more=False))
    assert only(done, effects.Dial) == [effects.Dial(peer(other), (), ("10.0.0.9:1",))]


# --- as a whole ---


def test_the_same_events_have_the_same_effects() -> None:
    def log(seed: int) -> list[object]:
        room = Room(["u", "v", "a", "b", "c"], uplinks=["u"], seed=seed)
        blob = room.add(Blob(chunks=40))
        room.feed("u", blob.published())
        room.feed("v", blob.published())
        room.introduce()
        for name in "abc":
            room.feed(name, blob.wanted())
        room.run(60)
        assert all(room.holds(name, blob) for name in "abc")
        return list(room.log)

    assert log(1) == log(1)
    assert log(1) != log(2)


def test_a_cold_site_fetches_each_chunk_once() -> None:
    room = Room(["u", "a", "b", "c", "d"], uplinks=["u"])
    blob = room.add(Blob(chunks=60))
    room.introduce()
    for name in "abcd":
        room.feed(name, blob.wanted())
    room.run(80)
    assert all(room.holds(name, blob) for name in "abcd")
    assert sorted(index for _, index in room.brought) == list(range(60))
    assert not any(isinstance(effect, effects.Disconnect) for _, effect in room.log)


def test_a_site_has_a_blob_almost_when_its_uplink_has() -> None:
    room = Room(["u", "a", "b", "c", "d"], uplinks=["u"])
    room.uplink_rate, room.upload_rate = 1, 4
    blob = room.add(Blob(chunks=60))
    room.introduce()
    for name in "abcd":
        room.feed(name, blob.wanted())
    room.run(30 + 60 + 4)  # settling, fetching, the last chunk's way
    assert all(room.holds(name, blob) for name in "abcd")


def test_the_clock_of_the_machine_may_begin_anywhere() -> None:
    machine = Machine(Settings(peer("me"), "me", uplink=False), key("me").sign, random.Random(0))
    assert machine.handle(events.TimerExpired(), -5.0) == []
    assert machine.handle(events.SessionOpened(peer("a"), dialled=True), -4.0)
    assert not gone(machine.handle(events.TimerExpired(), -3.0))
