"""A thousand blobs of one chunk: none of them costs a look at all the others."""

from meshsat.chunking.cut import MIN_CHUNK
from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, wire
from meshsat.protocol.events import Priority
from meshsat.protocol.session import PIPELINE_CHUNKS
from tests.brain import SOURCE, Brain, only, peer, runs, sent

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
