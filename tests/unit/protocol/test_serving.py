from meshsat.protocol import effects, events, wire
from tests.brain import Blob, Brain, chunks_of, only, sent


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
