from meshsat.protocol import effects, wire
from tests.brain import Blob, Brain, gone, led_by, only, peer, sent


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
    assert only(done, effects.SendChunk) == [effects.SendChunk(peer("honest"), blob.digest, 0)]


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
