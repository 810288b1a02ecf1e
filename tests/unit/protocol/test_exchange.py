from dataclasses import replace

import pytest

from meshsat.chunking.cut import MIN_CHUNK
from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, exchange, wire
from meshsat.protocol.effects import Effect
from meshsat.protocol.events import BlobWanted, Fault, Priority
from meshsat.trust.keys import PeerId
from tests.brain import SOURCE, Blob, Brain, gone, led_by, only, peer, requested, runs, sent
from tests.room import Room


def test_a_session_that_closes_takes_its_chunks_off_every_transfer() -> None:
    """Two transfers know the peer: ending the first, which only it wanted, looks at the second."""
    first = led_by("me", [])
    second = Blob("second")
    brain = Brain(uplink=True, settle=1000)
    brain.meet("a")
    brain.hear("a", first.want())
    brain.feed(brain.opened(first))
    brain.pull(second)
    brain.hear("a", second.have(0, 1), second.entries("a", 0, 2))
    done = brain.leave("a")
    assert only(done, effects.CloseTransfer) == [effects.CloseTransfer(first.digest)]
    assert brain.transfer(second).holders == {}


# --- lies about recipes ---


def test_bytes_that_were_asked_for_are_not_held_against_a_later_word() -> None:
    """Between request and chunk, a liar says otherwise of that chunk: the sender brought what it was asked for."""
    blob = Blob()
    brain = Brain()
    brain.meet("liar", "honest")
    brain.pull(blob)
    brain.hear("liar", blob.entries("liar", 0, 1, lie="x"))
    brain.hear("honest", blob.entries("honest", 3), blob.have(3))
    brain.hear("liar", blob.entries("liar", 3, lie="x"))
    length_digest = brain.machine.expected(peer("honest"), blob.digest, 3)
    assert length_digest == (blob.cut.chunk_length, blob.chunks[3])
    brain.feed(blob.stored(3, "honest"))
    assert brain.transfer(blob).stands_on[3] == peer("honest")


def test_what_our_uplink_brought_is_given_under_its_own_digest() -> None:
    """A liar spoke of the chunk before our uplink brought it: its word is not what we hold."""
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("liar", "honest")
    brain.pull(blob)
    brain.hear("honest", blob.want())
    brain.hear("liar", blob.entries("liar", lie="x"))
    brain.feed(blob.stored(0))
    done = brain.hear("honest", wire.Request(blob.digest, ((0, blob.lie("x")[0]),)))
    assert sent(done, wire.Reject) == [wire.Reject(blob.digest, 0)]
    done = brain.hear("honest", wire.Request(blob.digest, ((0, blob.chunks[0]),)))
    assert only(done, effects.SendChunk) == [effects.SendChunk(peer("honest"), blob.digest, 0, MIN_CHUNK)]


def test_the_recipe_proven_is_that_of_the_bytes_and_not_the_first_word() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("liar", "honest")
    brain.pull(blob)
    brain.hear("liar", blob.entries("liar", lie="x"))
    for index in range(3):
        brain.feed(blob.stored(index))
    brain.hear("honest", blob.entries("honest"))
    done = brain.feed(blob.stored(3))
    assert only(done, effects.Publish) == [effects.Publish(blob.digest)]
    done = brain.feed(blob.published())
    assert list(gone(done)) == [peer("liar")]
    done = brain.hear("honest", wire.AskEntries(blob.digest, blob.size, b"\x0f"))
    assert [frame.digests for frame in sent(done, wire.Entries)] == [b"".join(blob.chunks)]


def test_wrong_bytes_end_the_session_and_the_chunk_is_had_elsewhere() -> None:
    blob = Blob(chunks=2)
    brain = Brain()
    brain.meet("liar")
    brain.pull(blob)
    brain.hear("liar", blob.holds(), blob.entries("liar"))
    brain.meet("honest")
    brain.hear("honest", blob.holds())
    done = brain.feed(events.ChunkRefused(blob.digest, 0, peer("liar")))
    assert gone(done) == {peer("liar"): f"it sent wrong bytes as chunk 0 of {blob.digest}"}
    assert requested(done) == requested(done, "honest") == [0]
    assert requested(brain.leave("liar"), "honest") == [1]
    assert brain.machine.transfers[blob.digest].have == 0


def test_entries_with_a_wrong_signature_end_the_session() -> None:
    blob = Blob()
    good = blob.entries("a")
    for bad in (
        replace(good, signature=bytes(64)),
        replace(good, author=peer("b")),
        replace(good, author="no peer id"),
        replace(good, first=1, digests=good.digests[32:]),
    ):
        brain = Brain()
        brain.meet("a")
        brain.pull(blob)
        assert "wrong signature" in gone(brain.hear("a", bad))[peer("a")]
        assert brain.transfer(blob).claims.known == 0


def test_entries_may_come_by_way_of_others() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a")
    brain.pull(blob)
    assert not gone(brain.hear("a", blob.entries("author")))
    assert brain.transfer(blob).claims.word(0) == (blob.chunks[0], peer("author"))


# --- a recipe that proves wrong ---


def assembled(brain: Brain, blob: Blob, *sources: tuple[str, int, int, str | None]) -> list[Effect]:
    """All chunks as these authors (author, first, stop, lie) told them; they fit, the blob does not."""
    for author, first, stop, lie in sources:
        brain.hear(author, blob.entries(author, first, stop, lie=lie), blob.have(*range(first, stop)))
        chunks = blob.chunks if lie is None else blob.lie(lie)
        for index in range(first, stop):
            done = brain.feed(blob.stored(index, author, chunks[index]))
    assert only(done, effects.Publish)
    return brain.feed(events.BlobMismatched(blob.digest))


def test_the_only_author_of_a_wrong_recipe_is_not_heard_again() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("liar", "honest")
    brain.pull(blob)
    done = assembled(brain, blob, ("liar", 0, 4, "x"))
    assert only(done, effects.ForgetChunks) == [effects.ForgetChunks(blob.digest, (0, 1, 2, 3))]
    assert brain.transfer(blob).have == 0
    assert not requested(brain.hear("liar", blob.entries("liar"), blob.holds()))
    done = brain.hear("honest", blob.holds(), blob.entries("honest"))
    assert all(
        digest == blob.chunks[index] for frame in sent(done, wire.Request) for index, digest in frame.chunks
    )
    assert requested(done)


def test_of_several_authors_each_is_heard_alone_until_the_blob_is_right() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("liar", "honest")
    brain.pull(blob)
    done = assembled(brain, blob, ("liar", 0, 2, "x"), ("honest", 2, 4, None))
    assert sorted(index for effect in only(done, effects.ForgetChunks) for index in effect.indexes) == [
        0,
        1,
        2,
        3,
    ]
    brain.hear("honest", blob.entries("honest"), blob.holds())
    brain.hear("liar", blob.entries("liar", lie="x"), blob.holds())
    on_trial = {peer("liar"): "liar", peer("honest"): "honest"}
    first = min(on_trial)
    words = [brain.transfer(blob).claims.word(index) for index in range(4)]
    assert {word[1] for word in words if word} == {first}


def test_a_liar_is_expelled_once_the_blob_is_proven() -> None:
    blob = Blob(chunks=2)
    brain = Brain()
    brain.tick()
    brain.meet("liar", "honest")
    brain.pull(blob)
    assembled(brain, blob, ("liar", 0, 2, "x"))
    assert not gone(brain.tick())
    brain.hear("honest", blob.entries("honest"), blob.holds())
    brain.feed(blob.stored(0, "honest"), blob.stored(1, "honest"))
    done = brain.feed(blob.published())
    assert gone(done) == {peer("liar"): f"it told a wrong recipe of {blob.digest}"}


def test_doubted_chunks_are_fetched_over_our_own_uplink() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("liar")
    brain.hear("liar", blob.holds())
    brain.pull(blob)
    done = assembled(brain, blob, ("liar", 0, 4, "x"))
    assert runs(done) == [(0, 4)]


def test_with_nobody_left_to_ask_the_one_who_waits_is_told() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("liar")
    brain.pull(blob)
    [told] = only(assembled(brain, blob, ("liar", 0, 4, "x")), effects.TellFailed)
    assert told.fault is Fault.WRONG_BYTES


def test_an_upstream_that_delivers_other_bytes_is_told_of_and_left_alone_for_a_while() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("dark")
    brain.hear("dark", blob.want())
    brain.pull(blob)
    for index in range(4):
        brain.feed(blob.stored(index, None, blob.lie()[index]))
    done = brain.feed(events.BlobMismatched(blob.digest))
    assert only(done, effects.ForgetChunks) == [effects.ForgetChunks(blob.digest, (0, 1, 2, 3))]
    assert [effect.fault for effect in only(done, effects.TellFailed)] == [Fault.WRONG_BYTES]
    assert [frame.fault for frame in sent(done, wire.Failed, "dark")] == [Fault.WRONG_BYTES]
    assert not runs(brain.wait(14, hearing=["dark"]))
    assert runs(brain.wait(2, hearing=["dark"])) == [(0, 4)]


def test_a_site_gets_over_a_liar() -> None:
    """It says first that it holds the blob, tells a wrong recipe, and the chunks to it."""
    room = Room(["liar", "honest", "a", "b"])
    blob = room.add(Blob(chunks=12))
    room.liars.add("liar")
    room.introduce()
    for name in ("a", "b"):
        room.feed(name, blob.wanted())
    room.feed("liar", blob.published(), events.RecipeLoaded(blob.digest, blob.lie("liar")))
    room.run(15)
    assert not room.holds("a", blob)
    room.feed("honest", blob.published())
    room.run(150)
    assert room.holds("a", blob)
    assert room.holds("b", blob)
    expelled = {effect.peer for _, effect in room.log if isinstance(effect, effects.Disconnect)}
    assert expelled == {peer("liar")}


# --- wrong sizes ---


def test_a_liars_size_is_not_in_the_way_of_our_own_want() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("liar")
    brain.hear("liar", blob.want(size=blob.size - 1))
    assert brain.transfer(blob).size == blob.size - 1
    done = brain.feed(blob.wanted())
    assert effects.OpenTransfer(blob.digest, blob.size) in done
    assert runs(brain.feed(brain.opened(blob))) == [(0, 4)]


def test_a_liars_size_is_in_the_way_of_other_peers_only_until_it_proves_wrong() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("liar", "dark")
    short = Blob(blob.name, 3)
    brain.hear("liar", blob.want(size=short.size))
    brain.hear("dark", blob.want())
    brain.feed(events.TransferOpened(blob.digest))
    for index in range(3):
        brain.feed(short.stored(index))
    done = brain.feed(events.BlobMismatched(blob.digest)) + brain.wait(0.5, hearing=["liar", "dark"])
    assert effects.OpenTransfer(blob.digest, blob.size) in done
    assert only(done, effects.OpenTransfer)[-1].size == blob.size


def test_an_empty_size_is_no_way_to_keep_us_busy() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("liar")
    done = brain.hear("liar", blob.want(size=0))
    done += brain.feed(events.TransferOpened(blob.digest))
    for _ in range(40):
        if only(done, effects.Publish)[1:]:
            break
        done += brain.feed(events.BlobMismatched(blob.digest)) + brain.wait(0.1, hearing=["liar"])
    assert len(only(done, effects.Publish)) == 1
    own = Brain()
    done = own.feed(blob.wanted(), BlobWanted(Digest.of(b"x"), 0, (), Priority.PULL))
    done = own.feed(events.TransferOpened(Digest.of(b"x")))
    for _ in range(10):
        done += own.feed(events.BlobMismatched(Digest.of(b"x"))) + own.wait(0.5)
    assert len(only(done, effects.Publish)) <= 2


def test_peers_of_another_size_hold_another_blob() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a")
    brain.pull(blob)
    done = brain.hear("a", wire.Holds(((blob.digest, blob.size + 1),)))
    assert done == []
    assert brain.transfer(blob).holders == {}


# --- who wants what ---


def test_a_want_is_told_and_taken_back() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a")
    done = brain.feed(
        blob.wanted(Priority.BACKGROUND), blob.wanted(Priority.PULL), blob.wanted(Priority.PULL)
    )
    assert sent(done, wire.Want, "a") == [blob.want(Priority.BACKGROUND), blob.want(Priority.PULL)]
    brain.feed(brain.opened(blob))
    done = brain.feed(events.BlobUnwanted(blob.digest, Priority.PULL))
    assert not sent(done, wire.Want)
    done = brain.feed(events.BlobUnwanted(blob.digest, Priority.PULL))
    assert sent(done, wire.Want, "a") == [blob.want(Priority.BACKGROUND)]
    done = brain.feed(events.BlobUnwanted(blob.digest, Priority.BACKGROUND))
    assert sent(done, wire.Unwant, "a") == [wire.Unwant((blob.digest,))]
    assert only(done, effects.CloseTransfer) == [effects.CloseTransfer(blob.digest)]
    assert brain.machine.transfers == {}


def test_what_is_held_is_not_wanted() -> None:
    blob = Blob()
    brain = Brain()
    brain.seed(blob)
    assert brain.feed(blob.wanted()) == []
    assert brain.feed(events.BlobUnwanted(blob.digest, Priority.PULL)) == []


def test_what_is_no_longer_wanted_is_no_longer_asked_for() -> None:
    blob = Blob()
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.pull(blob)
    asked = requested(brain.hear("a", blob.have(2, 3), blob.entries("a")))
    done = brain.feed(events.BlobUnwanted(blob.digest, Priority.PULL))
    assert sorted(index for frame in sent(done, wire.Cancel, "a") for index in frame.indexes) == sorted(asked)
    assert only(done, effects.CancelUplink) == [effects.CancelUplink(blob.digest)]
    assert brain.feed(blob.stored(0)) == []  # it was on its way


def test_room_made_for_what_nobody_wants_any_more_is_closed() -> None:
    blob = Blob()
    brain = Brain()
    brain.feed(blob.wanted(), events.BlobUnwanted(blob.digest, Priority.PULL))
    assert brain.feed(brain.opened(blob)) == [effects.CloseTransfer(blob.digest)]


@pytest.mark.parametrize("how", ["unwants", "leaves", "only helps now"])
def test_a_follower_ends_when_nobody_demands_it(how: str) -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("dark", "helper")
    brain.hear("dark", blob.want())
    brain.hear("helper", blob.want(Priority.FOLLOW))
    brain.feed(brain.opened(blob), blob.stored(0))
    if how == "leaves":
        done = brain.leave("dark")
    else:
        done = brain.hear(
            "dark", wire.Unwant((blob.digest,)) if how == "unwants" else blob.want(Priority.FOLLOW)
        )
    assert only(done, effects.CancelUplink) == [effects.CancelUplink(blob.digest)]
    assert only(done, effects.CloseTransfer) == [effects.CloseTransfer(blob.digest)]


def test_a_follower_that_was_publishing_when_demand_ended_does_not_begin_anew() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("dark", "liar")
    brain.hear("dark", blob.want())
    brain.feed(brain.opened(blob))
    brain.hear("liar", blob.entries("liar", lie="x"), blob.have(0, 1, 2, 3))
    for index in range(4):
        brain.feed(blob.stored(index, "liar", blob.lie("x")[index]))
    brain.hear("dark", wire.Unwant((blob.digest,)))
    done = brain.feed(events.BlobMismatched(blob.digest))
    assert only(done, effects.CloseTransfer) == [effects.CloseTransfer(blob.digest)]
    assert not runs(done)


def test_a_follower_that_another_leads_and_has_nothing_ends() -> None:
    blob = led_by("u", ["me"])
    brain = Brain(uplink=True)
    brain.meet("dark")
    brain.hear("dark", blob.want())
    assert blob.digest in brain.machine.transfers
    brain.meet("u", uplink=True)
    brain.hear("dark", wire.Unwant((blob.digest,)))
    assert blob.digest not in brain.machine.transfers


# --- telling ---


def test_chunks_are_told_to_those_who_want_and_lack_them() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("wants", "has", "whole", "idle")
    for name in ("wants", "has", "whole"):
        brain.hear(name, blob.want())
    brain.pull(blob)
    brain.hear("has", blob.have(0))
    brain.hear("whole", blob.holds())
    done = brain.feed(blob.stored(0))
    assert [effect.peer for effect in only(done, effects.Send) if isinstance(effect.frame, wire.Have)] == [
        peer("wants")
    ]
    [entry] = sent(done, wire.Entries, "wants")
    assert (entry.author, entry.first, entry.digests) == (peer("me"), 0, blob.chunks[0])


def test_whoever_wants_later_hears_what_is_there() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a")
    brain.pull(blob, 0, 2)
    done = brain.hear("a", blob.want())
    assert sent(done, wire.Have, "a") == [blob.have(0, 2)]
    assert not sent(brain.hear("a", blob.want()), wire.Have)  # once


def test_what_an_earlier_run_left_is_told_and_not_fetched() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.hear("a", blob.want())
    brain.feed(blob.wanted())
    done = brain.feed(brain.opened(blob, 0, 1))
    assert sent(done, wire.Have, "a") == [blob.have(0, 1)]
    assert runs(done) == [(2, 4)]


def test_a_blob_that_is_whole_is_published_and_told() -> None:
    blob = Blob(chunks=1)
    brain = Brain()
    brain.meet("a")
    brain.pull(blob)
    brain.hear("a", blob.holds())
    done = brain.feed(blob.stored(0, "a"))
    assert only(done, effects.Publish) == [effects.Publish(blob.digest)]
    assert not only(brain.tick(), effects.Publish)
    done = brain.feed(blob.published())
    assert sent(done, wire.Holds, "a") == [blob.holds()]
    assert not sent(done, wire.Unwant)  # whoever has it wants it no longer
    assert brain.machine.transfers == {}
    done = brain.feed(blob.published())
    assert not sent(done, wire.Holds)  # no news


def test_a_blob_that_came_another_way_ends_its_transfer() -> None:
    blob = Blob()
    brain = Brain(uplink=True)
    brain.pull(blob)
    done = brain.feed(blob.published())
    assert only(done, effects.CancelUplink)
    assert brain.machine.transfers == {}


def test_a_blob_dropped_is_told_and_may_be_wanted_again() -> None:
    blob = Blob()
    brain = Brain()
    brain.seed(blob)
    brain.meet("a")
    assert sent(brain.feed(events.BlobDropped(blob.digest)), wire.Drops, "a") == [wire.Drops((blob.digest,))]
    assert brain.feed(events.BlobDropped(blob.digest)) == []
    assert only(brain.feed(blob.wanted()), effects.OpenTransfer)


def test_whoever_dropped_a_blob_or_ended_its_transfer_holds_it_no_more() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a", "b")
    brain.hear("b", blob.want())
    brain.pull(blob)
    brain.hear("a", blob.holds())
    brain.hear("b", blob.have(0, 1))
    brain.hear("a", wire.Drops((blob.digest,)))
    brain.hear("b", wire.Unwant((blob.digest,)))
    assert brain.transfer(blob).levels[0] == brain.transfer(blob).everything


def test_whoever_says_it_is_whole_and_ends_its_transfer_still_holds_it() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a")
    brain.hear("a", blob.want())
    brain.pull(blob)
    brain.hear("a", blob.have(0), blob.holds(), wire.Unwant((blob.digest,)))
    assert brain.transfer(blob).holders == {peer("a"): brain.transfer(blob).everything}


# --- the disk ---


def test_a_full_disk_is_told_and_ends_the_transfer() -> None:
    blob = Blob()
    brain = Brain()
    brain.feed(blob.wanted())
    done = brain.feed(events.StorageFailed(blob.digest, "no space"))
    assert only(done, effects.TellFailed) == [effects.TellFailed(blob.digest, Fault.STORAGE, "no space")]
    assert brain.machine.transfers == {}


def test_a_full_disk_helps_nobody_and_does_not_try_all_the_time() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("dark")
    tries = 0
    done = brain.hear("dark", blob.want())
    for _ in range(300):
        if only(done, effects.OpenTransfer):
            tries += 1
            told = brain.feed(events.StorageFailed(blob.digest, "no space"))
            assert [frame.fault for frame in sent(told, wire.Failed, "dark")] == [Fault.STORAGE]
        done = brain.wait(0.1, hearing=["dark"])
    assert tries == 1


def test_a_full_disk_leaves_its_leases_to_others() -> None:
    blob = led_by("me", ["u"])
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    brain.meet("dark")
    brain.hear("dark", blob.want())
    done = brain.feed(events.StorageFailed(blob.digest, "no space"))
    assert sent(done, wire.Uplink, "u") == sent(done, wire.Uplink, "dark") == [wire.Uplink(up=False)]


def test_a_disk_that_fills_up_in_a_run_leaves_its_leases_to_others() -> None:
    blob = led_by("me", ["u"])
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    brain.pull(blob)
    done = brain.feed(events.UplinkEnded(blob.digest, Fault.STORAGE, "no space"))
    assert sent(done, wire.Uplink, "u") == [wire.Uplink(up=False)]
    assert not runs(done)


def test_a_full_disk_of_the_only_uplink_still_resolves() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("dark")
    brain.hear("dark", blob.want())
    brain.feed(events.StorageFailed(blob.digest, "no space"))
    assert brain.machine.uplink_up


# --- late, and many ---


def test_whoever_comes_late_to_large_blobs_hears_of_them_in_few_frames() -> None:
    """Their recipes came entry by entry; told like that, it would be more than a flood is."""
    blobs = [Blob("one", 1300), Blob("two", 1300)]
    room = Room(["u", "early", "late"], uplinks=["u"])
    room.uplink_rate = 300
    for blob in blobs:
        room.add(blob)
        room.feed("early", blob.wanted())
    room.introduce("u", "early")
    room.run(4)
    room.uplink_rate = 0
    for blob in blobs:
        room.feed("late", blob.wanted())
    room.log.clear()
    room.introduce()
    assert not any(isinstance(effect, effects.Disconnect) for _, effect in room.log)
    told = [effect.frame for _, effect in room.log if isinstance(effect, effects.Send)]
    assert sum(isinstance(frame, wire.Entries) for frame in told) < 4 * 90
    for name in ("early", "late"):
        assert all(room.brains[name].transfer(blob).claims.known.bit_count() == 1200 for blob in blobs)


def test_news_is_no_flood() -> None:
    """A fast uplink tells of thousands of chunks a second; the same again and again is another matter."""
    blob = Blob(chunks=3000)
    brain = Brain()
    brain.meet("u")
    brain.pull(blob)
    session = brain.machine.sessions[peer("u")]
    before = session.frame_credit
    frames: list[wire.Frame] = []
    for index in range(200):
        frames += [blob.entries("u", index, index + 1), blob.have(index)]
    assert not gone(brain.hear("u", *frames))
    assert session.frame_credit == before
    brain.hear("u", *frames)
    assert session.frame_credit == before - len(frames)
    brain.hear("u", wire.Unwant((blob.digest,)), *frames)
    assert session.frame_credit == before - 2 * len(frames) - 1


def test_entries_told_again_are_not_checked_again() -> None:
    blob = Blob()
    checked: list[str] = []

    def check(author: PeerId, _signature: bytes, _message: bytes) -> bool:
        checked.append(author)
        return True

    brain = Brain(check=check)
    brain.meet("a", "b")
    brain.pull(blob)
    brain.hear("a", blob.entries("u"))
    assert not gone(brain.hear("b", blob.entries("u")))
    assert checked == [peer("u")]


def test_who_holds_a_blob_and_does_not_give_it_does_not_keep_an_uplink_from_fetching_it() -> None:
    """The disk of the only holder is rotten, and the puller has no uplink."""
    room = Room(["broken", "u", "dark"], uplinks=["u"])
    blob = room.add(Blob(chunks=8))
    room.broken.add("broken")
    room.feed("broken", blob.published())
    room.introduce()
    room.feed("dark", blob.wanted())
    room.run(40)
    assert not room.brought  # it is held here, they say
    room.run(120)
    assert room.holds("dark", blob)
    assert sorted(index for _, index in room.brought) == list(range(8))


def test_wanting_again_what_another_has_in_hand_changes_nothing() -> None:
    blob = led_by("u", ["me"])
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    brain.meet("dark")
    assert brain.hear("dark", *[blob.want()] * 3) == []
    assert brain.hear("dark", blob.want(Priority.READER, first=2), blob.want(Priority.READER, first=3)) == []


def test_a_reader_that_moves_is_no_complaint() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("seed", "dark")
    brain.hear("seed", blob.holds())
    moves = [blob.want(Priority.READER, first=first) for first in range(4)]
    assert brain.hear("dark", blob.want(), *moves) == []
    assert only(brain.hear("dark", moves[-1]), effects.OpenTransfer)


def test_nobody_crowds_out_the_places_to_fetch_from() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("liar", "dark")
    junk = tuple((f"junk{number}.example", "x", False) for number in range(16))
    brain.hear("liar", blob.want(sources=junk))
    brain.hear("dark", blob.want())
    [run] = only(brain.feed(brain.opened(blob)), effects.FetchUplink)
    assert run.sources == (*junk[:4], SOURCE)
    brain.feed(events.UplinkEnded(blob.digest, Fault.UNAVAILABLE, "no"))
    brain.feed(blob.wanted())
    brain.wait(1.2, hearing=["liar", "dark"])
    [run] = only(brain.feed(events.UplinkProbed(up=True)), effects.FetchUplink)
    assert run.sources[0] == SOURCE  # our own first


def test_help_is_bounded() -> None:
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.hear("a", *[Blob(f"{number}").want() for number in range(exchange.HELP_LIMIT + 20)])
    assert len(brain.machine.transfers) == exchange.HELP_LIMIT
    own = Blob("own")
    assert only(brain.feed(own.wanted()), effects.OpenTransfer)
    brain.feed(events.UplinkEnded(Blob("0").digest, Fault.NOT_FOUND, "no"))
    brain.wait(0.2, hearing=["a"])
    assert Blob(f"{exchange.HELP_LIMIT}").digest in brain.machine.transfers
