from meshsat.chunking.cut import MIN_CHUNK
from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, wire
from meshsat.protocol.asking import ENTRIES_DEADLINE, ENTRIES_PATIENCE
from meshsat.protocol.effects import Effect
from meshsat.protocol.events import Priority
from meshsat.protocol.exchange import FORGIVE
from meshsat.protocol.session import PIPELINE_CHUNKS, STALL
from tests.brain import SOURCE, Blob, Brain, gone, led_by, only, peer, requested, runs, sent


def asked_entries(done: list[Effect]) -> list[str]:
    names = {peer(name): name for name in "abcdef"}
    return [
        names[effect.peer] for effect in only(done, effects.Send) if isinstance(effect.frame, wire.AskEntries)
    ]


# --- pipelines ---


def test_what_a_peer_holds_is_asked_of_it_under_the_digest_known() -> None:
    blob = Blob(chunks=6)
    brain = Brain()
    brain.meet("a")
    brain.pull(blob)
    done = brain.hear("a", blob.holds(), blob.entries("a"))
    [request] = sent(done, wire.Request, "a")
    assert len(request.chunks) == 2  # its rate is unknown
    assert all(digest == blob.chunks[index] for index, digest in request.chunks)


def test_nothing_is_asked_before_there_is_room_on_the_disk() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a")
    assert only(brain.feed(blob.wanted()), effects.OpenTransfer)
    assert not requested(brain.hear("a", blob.holds(), blob.entries("a")))
    assert len(requested(brain.feed(brain.opened(blob)))) == 2


def test_each_chunk_that_comes_makes_room_for_others() -> None:
    blob = Blob(chunks=30)
    brain = Brain()
    brain.meet("a")
    brain.pull(blob)
    asked = requested(brain.hear("a", blob.holds(), blob.entries("a")))
    for _ in range(6):
        brain.now += 0.01
        asked += requested(brain.feed(blob.stored(asked.pop(0), "a")))
    assert len(asked) > 8  # 25 MB/s by now
    assert len(set(asked)) == len(asked)


def test_no_chunk_is_asked_of_two() -> None:
    blob = Blob(chunks=3)
    brain = Brain()
    brain.meet("a", "b", "c")
    brain.pull(blob)
    done = [effect for name in "abc" for effect in brain.hear(name, blob.holds(), blob.entries(name))]
    assert sorted(requested(done)) == [0, 1, 2]


def test_what_our_own_run_brings_next_is_not_asked_of_others() -> None:
    blob = led_by("me", [], chunks=6)
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.pull(blob)
    done = brain.hear("a", blob.have(0, 1, 5), blob.entries("a"))
    assert requested(done) == [5]


def test_a_chunk_that_came_another_way_is_cancelled() -> None:
    blob = led_by("me", [], chunks=2)
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.pull(blob)
    brain.hear("a", blob.have(0, 1), blob.entries("a"))
    brain.machine.transfers[blob.digest].run = None
    brain.tick()
    done = brain.feed(blob.stored(0))
    assert sent(done, wire.Cancel) == [wire.Cancel(blob.digest, (0,))]
    assert not brain.machine.expected(peer("a"), blob.digest, 0)


# --- stalls ---


def stalled(chunks: int = 2) -> tuple[Brain, Blob]:
    """`slow` was asked for all, and `fast` holds all as well."""
    blob = Blob(chunks=chunks)
    brain = Brain()
    brain.meet("slow")
    brain.pull(blob)
    assert sorted(requested(brain.hear("slow", blob.holds(), blob.entries("slow")))) == list(range(chunks))
    brain.meet("fast")
    brain.hear("fast", blob.holds())
    return brain, blob


def test_the_chunks_of_a_stalled_peer_are_asked_of_another() -> None:
    brain, _ = stalled()
    assert not requested(brain.wait(STALL, hearing=["slow", "fast"]))
    done = brain.wait(0.2, hearing=["slow", "fast"])
    assert sorted(frame.indexes for frame in sent(done, wire.Cancel, "slow")) == [(0,), (1,)]
    assert sorted(requested(done, "fast")) == [0, 1]
    assert not requested(done, "slow")
    assert not gone(done)


def test_a_stalled_peer_alone_gets_a_second_chance_after_a_while() -> None:
    blob = Blob(chunks=2)
    brain = Brain()
    brain.meet("slow")
    brain.pull(blob)
    brain.hear("slow", blob.holds(), blob.entries("slow"))
    assert not requested(brain.wait(STALL + 1.8, hearing=["slow"]))
    assert len(requested(brain.wait(0.5, hearing=["slow"]))) == 1
    assert not requested(brain.wait(STALL + 3.8, hearing=["slow"]))  # stalled again: twice as long
    assert len(requested(brain.wait(0.5, hearing=["slow"]))) == 1


def test_patience_with_bytes_on_their_way() -> None:
    brain, _ = stalled()
    for _ in range(10):
        done = brain.wait(1.0, hearing=["slow", "fast"])
        done += brain.feed(events.PayloadProgressed(peer("slow")))
        assert not sent(done, wire.Cancel)


def test_what_a_stalled_peer_alone_held_is_fetched_over_the_uplink() -> None:
    blob = led_by("me", [], chunks=2)
    brain = Brain(uplink=True)
    brain.meet("slow")
    brain.hear("slow", blob.holds())
    brain.pull(blob)
    brain.hear("slow", blob.entries("slow"))
    assert runs(brain.wait(STALL + 0.2, hearing=["slow"])) == [(0, 2)]


def test_a_chunk_that_comes_after_all_is_not_expected() -> None:
    brain, blob = stalled()
    brain.wait(STALL + 0.2, hearing=["slow", "fast"])
    assert brain.machine.expected(peer("slow"), blob.digest, 0) is None
    assert brain.machine.expected(peer("fast"), blob.digest, 0)


# --- entries ---


def test_a_holder_is_asked_for_the_recipe_and_then_for_chunks() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a")
    brain.pull(blob)
    done = brain.hear("a", blob.holds())
    assert sent(done, wire.AskEntries, "a") == [wire.AskEntries(blob.digest, blob.size, b"\x0f")]
    assert requested(brain.hear("a", blob.entries("a")))


def test_one_holder_at_a_time_is_asked_for_entries() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a", "b")
    brain.pull(blob)
    done = brain.hear("a", blob.holds()) + brain.hear("b", blob.holds())
    assert asked_entries(done) == ["a"]


def test_who_is_silent_about_its_recipe_does_not_keep_others_from_being_asked() -> None:
    blob = Blob()
    brain = Brain()
    everyone = list("abcd")
    brain.meet(*everyone)
    brain.pull(blob)
    for name in everyone:
        brain.hear(name, blob.holds())
    done = brain.wait(4 * ENTRIES_PATIENCE + 1.5, hearing=everyone)
    assert set(asked_entries(done)) >= set("bcd")


def test_a_holder_that_never_tells_counts_as_none_for_a_while() -> None:
    blob = led_by("me", [], chunks=4)
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.hear("a", blob.holds())
    assert not runs(brain.pull(blob))  # somebody holds it
    done = brain.wait(ENTRIES_DEADLINE + 0.5, hearing=["a"])
    assert runs(done) == [(0, 4)]


def test_who_was_not_asked_is_not_blamed() -> None:
    """The silent one is asked first; the honest one still counts when the silent one does not."""
    blob = Blob()
    for seed in range(6):
        brain = Brain(seed=seed)
        brain.meet("silent")
        brain.pull(blob)
        brain.hear("silent", blob.holds())
        brain.wait(ENTRIES_DEADLINE - 0.3, hearing=["silent"])
        brain.meet("honest")
        brain.hear("honest", blob.holds())
        done: list[Effect] = []
        for _ in range(80):
            done += brain.wait(0.1, hearing=["silent", "honest"])
            if sent(done, wire.AskEntries, "honest"):
                done += brain.hear("honest", blob.entries("honest"))
                break
        assert requested(done, "honest"), seed


def test_what_a_peer_rejected_may_be_asked_of_it_again_after_a_while() -> None:
    blob = Blob(chunks=1)
    brain = Brain()
    brain.meet("a")
    brain.tick()
    brain.pull(blob)
    assert requested(brain.hear("a", blob.holds())) == [0]
    brain.hear("a", wire.Reject(blob.digest, 0))
    assert not requested(brain.wait(5, hearing=["a"]))
    assert set(requested(brain.wait(FORGIVE, hearing=["a"]))) == {0}


def test_a_rejected_chunk_is_asked_of_another() -> None:
    blob = Blob(chunks=1)
    brain = Brain()
    brain.meet("a")
    brain.pull(blob)
    brain.hear("a", blob.holds())
    brain.meet("b")
    brain.hear("b", blob.holds())
    assert requested(brain.hear("a", wire.Reject(blob.digest, 0)), "b") == [0]


def test_a_reject_that_answers_nothing_changes_nothing() -> None:
    blob = Blob(chunks=1)
    brain = Brain()
    brain.meet("a")
    brain.pull(blob)
    brain.hear("a", blob.holds())
    assert brain.hear("a", wire.Reject(blob.digest, 9), wire.Reject(Blob("other").digest, 0)) == []
    assert brain.machine.expected(peer("a"), blob.digest, 0)


def test_a_chunk_on_whose_digest_two_differ_is_asked_under_the_other_word() -> None:
    """A liar spoke first; the holder has the chunk otherwise, and says so by rejecting it."""
    blob = Blob(chunks=2)
    brain = Brain()
    brain.meet("liar", "honest")
    brain.pull(blob)
    brain.hear("liar", blob.entries("liar", lie="x"))
    done = brain.hear("honest", blob.holds(), blob.entries("honest"))
    [request] = sent(done, wire.Request, "honest")
    index, digest = request.chunks[0]
    assert digest == blob.lie("x")[index]
    done = brain.hear("honest", wire.Reject(blob.digest, index))
    assert (index, blob.chunks[index]) in [
        pair for frame in sent(done, wire.Request) for pair in frame.chunks
    ]


def test_of_a_session_that_closes_everything_is_asked_elsewhere() -> None:
    brain, _ = stalled()
    assert sorted(requested(brain.leave("slow"), "fast")) == [0, 1]


# --- a thousand blobs of one chunk: none of them costs a look at all the others ---

SIZE = 10 * 1024
SMALL = [Digest.of(b"%d" % number) for number in range(200)]


def wanting(brain: Brain, blobs: list[Digest]) -> None:
    for blob in blobs:
        brain.feed(events.BlobWanted(blob, SIZE, (SOURCE,), Priority.PULL), events.TransferOpened(blob, ()))


def held(*blobs: Digest) -> wire.Holds:
    return wire.Holds(tuple((blob, SIZE) for blob in blobs))


def asked(done: list[effects.Effect], of: str) -> list[Digest]:
    return [frame.blob for frame in sent(done, wire.Request, of)]


def stored(blob: Digest, source: str | None) -> events.ChunkStored:
    return events.ChunkStored(blob, 0, blob.raw, None if source is None else peer(source))


def test_what_comes_makes_room_for_others_at_once() -> None:
    brain = Brain()
    brain.meet("a")
    wanting(brain, SMALL)
    first = asked(brain.hear("a", held(*SMALL)), "a")
    assert 10 < len(first) <= PIPELINE_CHUNKS[1]
    done: list[effects.Effect] = []
    for blob in first:
        brain.now += 0.001
        done += brain.feed(stored(blob, "a"), events.BlobPublished(blob, SIZE))
    more = asked(done, "a")
    assert len(more) >= len(first) // 2, "and no tick was waited for"
    assert not set(more) & set(first)


def test_all_of_them_come() -> None:
    brain = Brain()
    brain.meet("a", "b")
    wanting(brain, SMALL)
    waiting = asked(brain.hear("a", held(*SMALL[:150])), "a")
    waiting_b = asked(brain.hear("b", held(*SMALL[50:])), "b")
    got: list[Digest] = []
    while waiting or waiting_b:
        for of, queue in (("a", waiting), ("b", waiting_b)):
            if queue:
                brain.now += 0.001
                got.append(blob := queue.pop(0))
                done = brain.feed(stored(blob, of), events.BlobPublished(blob, SIZE))
                waiting += asked(done, "a")
                waiting_b += asked(done, "b")
    assert sorted(got, key=str) == sorted(SMALL, key=str), "each once"


def test_one_is_told_once_when_it_is_whole() -> None:
    (blob,) = SMALL[:1]
    brain = Brain()
    brain.meet("a", "b")
    brain.hear("b", wire.Want(((blob, SIZE, 2, 0),), (SOURCE,)))
    wanting(brain, [blob])
    brain.hear("a", held(blob))
    done = brain.feed(stored(blob, "a"), events.BlobPublished(blob, SIZE))
    frames = [effect.frame for effect in only(done, effects.Send) if effect.peer == peer("b")]
    assert frames == [held(blob)]


def test_of_our_own_uplink_one_needs_no_word_of_ours() -> None:
    (blob,) = SMALL[:1]
    brain = Brain(uplink=True)
    brain.meet("a")
    wanting(brain, [blob])
    brain.hear("a", wire.Want(((blob, SIZE, 2, 0),), (SOURCE,)))
    assert not sent(brain.feed(stored(blob, None)), wire.Entries)


def test_whoever_holds_one_wants_it_no_longer() -> None:
    blob, other = SMALL[:2]
    brain = Brain(uplink=True)
    brain.meet("a")
    done = brain.hear("a", wire.Want(((blob, SIZE, 2, 0), (other, SIZE, 2, 0)), (SOURCE,)))
    assert set(brain.machine.transfers) == {blob, other}, "we help"
    brain.feed(events.TransferOpened(blob, ()), events.TransferOpened(other, ()))
    done = brain.hear("a", held(blob))
    assert only(done, effects.CloseTransfer) == [effects.CloseTransfer(blob)]
    assert set(brain.machine.transfers) == {other}
    assert brain.machine.sessions[peer("a")].wants == {other: SIZE}


def test_where_one_run_ends_the_next_begins() -> None:
    brain = Brain(uplink=True)
    wanting(brain, SMALL[:10])
    begun = {blob for blob, transfer in brain.machine.transfers.items() if transfer.run}
    assert len(begun) == 3
    while begun:
        blob = begun.pop()
        done = brain.feed(stored(blob, None), events.BlobPublished(blob, SIZE))
        begun |= {effect.blob for effect in only(done, effects.FetchUplink)}
        assert runs(done) in ([], [(0, 1)])
    assert brain.machine.transfers == {}, "without a tick"


def test_large_pipelines_are_as_before() -> None:
    """The least number of bytes asked for is two chunks of the least length."""
    size = 100 * MIN_CHUNK
    blob = Digest.of(b"large")
    brain = Brain()
    brain.meet("a")
    brain.feed(events.BlobWanted(blob, size, (SOURCE,), Priority.PULL), events.TransferOpened(blob, ()))
    brain.hear("a", wire.Holds(((blob, size),)))
    assert brain.machine.sessions[peer("a")].room(MIN_CHUNK, brain.now) == 2
