import pytest

from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, serving, wire
from tests.brain import Blob, Brain, chunks_of, only, peer, sent


def ask(blob: Blob, *indexes: int) -> wire.Request:
    return wire.Request(blob.digest, tuple((index, blob.chunks[index]) for index in indexes))


def test_a_chunk_of_a_whole_blob_goes_out_only_under_its_own_digest() -> None:
    """Also where the recipe has to be read first: else a liar's word makes a liar of us."""
    blob = Blob()
    brain = Brain()
    brain.feed(blob.published())
    brain.meet("a")
    done = brain.hear("a", wire.Request(blob.digest, ((0, blob.lie()[0]), (1, blob.chunks[1]))))
    assert only(done, effects.LoadRecipe) == [effects.LoadRecipe(blob.digest)]
    assert not only(done, effects.SendChunk)
    done = brain.feed(events.RecipeLoaded(blob.digest, blob.chunks))
    assert sent(done, wire.Reject, "a") == [wire.Reject(blob.digest, 0)]
    assert list(chunks_of(done)) == [1]


def test_chunks_go_out_two_at_a_time_in_the_order_asked() -> None:
    blob = Blob(chunks=5)
    brain = Brain()
    brain.seed(blob)
    brain.meet("a")
    assert list(chunks_of(brain.hear("a", ask(blob, 3, 1, 4, 0)))) == [3, 1]
    assert list(chunks_of(brain.feed(events.ChunkSent(peer("a"), blob.digest, 3)))) == [4]
    assert list(chunks_of(brain.feed(events.ChunkSent(peer("a"), blob.digest, 1)))) == [0]
    assert brain.feed(events.ChunkSent(peer("a"), blob.digest, 4)) == []


def test_one_peers_queue_is_not_in_the_way_of_anothers() -> None:
    blob = Blob(chunks=5)
    brain = Brain()
    brain.seed(blob)
    brain.meet("a", "b")
    brain.hear("a", ask(blob, 0, 1, 2, 3))
    assert list(chunks_of(brain.hear("b", ask(blob, 4)))) == [4]


def test_where_many_want_it_what_is_common_is_told_later_and_in_one() -> None:
    """First and second copies are told at once; of the others everybody knows where to have them."""
    blob = Blob(chunks=5)
    many = "bcdef"
    brain = Brain()
    brain.meet("seed", *many)
    for name in many:
        brain.hear(name, blob.want())
    brain.pull(blob)
    brain.hear("seed", blob.holds(), blob.entries("seed"))
    done = brain.feed(blob.stored(0, "seed"))
    assert [len(sent(done, wire.Have, name)) for name in many] == [1] * 5
    for name in "bc":
        brain.hear(name, blob.have(1, 2))
    done = brain.feed(blob.stored(1, "b")) + brain.feed(blob.stored(2, "b"))
    assert sent(done, wire.Have) == []
    done = brain.wait(serving.ABUNDANT_PACE + 0.2)
    assert sent(done, wire.Have, "d") == [blob.have(1, 2)]
    assert sent(done, wire.Have, "b") == [], "it has them"


def test_what_was_forgotten_meanwhile_is_not_told_as_abundant() -> None:
    """The whole proved wrong before the next frame of haves: nobody is to ask for what is gone."""
    blob = Blob(chunks=3)
    many = "bcdef"
    brain = Brain()
    brain.meet("seed", *many)
    for name in many:
        brain.hear(name, blob.want())
    brain.pull(blob)
    brain.hear("seed", blob.holds(), blob.entries("seed"))
    brain.hear("b", blob.have(1))
    brain.feed(blob.stored(1, "seed"))
    brain.transfer(blob).forget_all()
    assert sent(brain.wait(serving.ABUNDANT_PACE + 0.2), wire.Have) == []


def test_what_is_cancelled_is_not_sent() -> None:
    blob = Blob(chunks=5)
    brain = Brain()
    brain.seed(blob)
    brain.meet("a")
    brain.hear("a", ask(blob, 0, 1, 2, 3), wire.Cancel(blob.digest, (2, 77)))
    assert list(chunks_of(brain.feed(events.ChunkSent(peer("a"), blob.digest, 0)))) == [3]


def test_what_can_not_be_read_is_rejected() -> None:
    blob = Blob()
    brain = Brain()
    brain.seed(blob)
    brain.meet("a")
    brain.hear("a", ask(blob, 0))
    done = brain.feed(events.ChunkSent(peer("a"), blob.digest, 0, failed=True))
    assert sent(done, wire.Reject, "a") == [wire.Reject(blob.digest, 0)]


def test_what_we_do_not_hold_is_rejected() -> None:
    blob, other = Blob(chunks=4), Blob("other")
    brain = Brain()
    brain.meet("a")
    brain.pull(blob, 1)
    done = brain.hear("a", ask(blob, 0, 1), ask(other, 0))
    assert sent(done, wire.Reject, "a") == [wire.Reject(blob.digest, 0), wire.Reject(other.digest, 0)]
    assert list(chunks_of(done)) == [1]
    brain.seed(other)
    done = brain.hear("a", wire.Request(other.digest, ((99, other.chunks[0]),)))
    assert sent(done, wire.Reject, "a") == [wire.Reject(other.digest, 99)]


def test_what_was_dropped_or_forgotten_while_it_waited_is_rejected() -> None:
    blob = Blob(chunks=4)
    brain = Brain()
    brain.seed(blob)
    brain.meet("a")
    brain.hear("a", ask(blob, 0, 1, 2))
    brain.feed(events.BlobDropped(blob.digest))
    done = brain.feed(events.ChunkSent(peer("a"), blob.digest, 0))
    assert sent(done, wire.Reject, "a") == [wire.Reject(blob.digest, 2)]


def test_a_blob_of_one_chunk_needs_no_recipe() -> None:
    data = b"a manifest"
    digest = Digest.of(data)
    brain = Brain()
    brain.feed(events.BlobPublished(digest, len(data)))
    brain.meet("a")
    done = brain.hear("a", wire.Request(digest, ((0, digest.raw),)))
    assert done == [effects.SendChunk(peer("a"), digest, 0, len(data))]


# --- recipes ---


def test_the_recipe_of_a_whole_blob_is_read_once_and_told_to_all_who_asked() -> None:
    blob = Blob(chunks=6)
    brain = Brain()
    brain.feed(blob.published())
    brain.meet("a", "b")
    done = brain.hear("a", wire.AskEntries(blob.digest, blob.size, b"\x03"))
    done += brain.hear("a", wire.AskEntries(blob.digest, blob.size, b"\x20"))
    assert only(done, effects.LoadRecipe) == [effects.LoadRecipe(blob.digest)]
    brain.hear("b", wire.AskEntries(blob.digest, blob.size, b"\x3f"))
    done = brain.feed(events.RecipeLoaded(blob.digest, blob.chunks))
    assert [(frame.first, frame.digests) for frame in sent(done, wire.Entries, "a")] == [
        (0, b"".join(blob.chunks[:2])),
        (5, blob.chunks[5]),
    ]
    assert [frame.digests for frame in sent(done, wire.Entries, "b")] == [b"".join(blob.chunks)]
    assert all(frame.author == peer("me") for frame in sent(done, wire.Entries))
    done = brain.hear("b", wire.AskEntries(blob.digest, blob.size, b"\x01"))
    assert len(sent(done, wire.Entries, "b")) == 1  # at hand


def test_a_recipe_that_could_not_be_read_is_read_for_the_next_who_asks() -> None:
    blob = Blob()
    brain = Brain()
    brain.feed(blob.published())
    brain.meet("a")
    brain.hear("a", wire.AskEntries(blob.digest, blob.size, b"\x0f"))
    brain.leave("a")
    brain.meet("a")
    assert only(brain.hear("a", wire.AskEntries(blob.digest, blob.size, b"\x0f")), effects.LoadRecipe)


def test_of_a_blob_on_its_way_the_authors_own_words_are_passed_on() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a", "b")
    brain.pull(blob)
    first, second = blob.entries("author", 0, 2), blob.entries("other", 2)
    brain.hear("a", first, second)
    done = brain.hear("b", wire.AskEntries(blob.digest, blob.size, b"\x01"))
    assert sent(done, wire.Entries, "b") == [first]


@pytest.mark.parametrize("size", [0, 1, wire.BLOB_LIMIT])
def test_of_another_size_nothing_is_told(size: int) -> None:
    blob = Blob()
    brain = Brain()
    brain.seed(blob)
    brain.meet("a")
    assert brain.hear("a", wire.AskEntries(blob.digest, size, b"\xff" * 100)) == []


def test_few_recipes_are_kept_at_hand() -> None:
    brain = Brain()
    brain.meet("a")
    blobs = [Blob(f"{number}", 2) for number in range(serving.RECIPES + 1)]
    for blob in blobs:
        brain.seed(blob)
    question = wire.AskEntries(blobs[0].digest, blobs[0].size, b"\x03")
    assert only(brain.hear("a", question), effects.LoadRecipe)
    question = wire.AskEntries(blobs[-1].digest, blobs[-1].size, b"\x03")
    assert not only(brain.hear("a", question), effects.LoadRecipe)


def test_what_is_asked_of_us_in_masses_is_answered_in_measure() -> None:
    """A question of a hundred bytes has an answer of up to 128 KiB."""
    blob = Blob(chunks=1000)
    brain = Brain()
    brain.seed(blob)
    brain.meet("a")
    question = wire.AskEntries(blob.digest, blob.size, b"\xff" * 125)
    told = sum(len(frame.digests) for frame in sent(brain.hear("a", *[question] * 1000), wire.Entries))
    assert told < 20 << 20


def test_a_recipe_is_told_once_to_whoever_asked_once() -> None:
    blob = Blob()
    brain = Brain()
    brain.feed(blob.published())
    brain.meet("a")
    brain.hear("a", wire.AskEntries(blob.digest, blob.size, b"\x0f"))
    assert sent(brain.feed(events.RecipeLoaded(blob.digest, blob.chunks)), wire.Entries)
    assert brain.feed(events.RecipeLoaded(blob.digest, blob.chunks)) == []


def test_what_an_earlier_run_left_is_signed_only_if_nobody_else_gives_a_word() -> None:
    blob = Blob()
    brain = Brain()
    brain.meet("a", "b")
    brain.hear("a", blob.want())
    assert not sent(brain.pull(blob, 0, 1), wire.Entries)
    brain.hear("b", blob.entries("b", 1))
    done = brain.hear("a", wire.AskEntries(blob.digest, blob.size, b"\x03"))
    told = {(entries.author, entries.first) for entries in sent(done, wire.Entries, "a")}
    assert told == {(peer("me"), 0), (peer("b"), 1)}
