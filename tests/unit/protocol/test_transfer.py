from meshsat.oci.digest import Digest
from meshsat.protocol import bitset
from meshsat.protocol.events import Priority
from meshsat.protocol.transfer import YOUNG, Transfer
from tests.brain import Blob, peer

A, B = peer("a"), peer("b")


def transfer_of(chunks: int = 4) -> Transfer:
    blob = Blob(chunks=chunks)
    return Transfer(blob.digest, blob.size)


def test_an_empty_blob_is_complete() -> None:
    transfer = Transfer(Digest.of(b""), 0)
    assert transfer.complete
    assert transfer.have_bytes == transfer.missing == 0


def test_the_last_chunk_is_shorter() -> None:
    transfer = Transfer(Digest.of(b"x"), 2 * 256 * 1024 + 7)
    assert [transfer.length(index) for index in range(3)] == [256 * 1024, 256 * 1024, 7]
    transfer.stored(2, b"", None)
    assert transfer.have_bytes == 7
    transfer.stored(0, b"", None)
    assert transfer.have_bytes == 7 + 256 * 1024


def test_levels_say_how_many_hold_a_chunk() -> None:
    transfer = transfer_of()
    transfer.held_by(A, 0b0111)
    transfer.held_by(B, 0b0011)
    transfer.held_by(B, 0b0011)  # told twice
    assert transfer.levels == [0b1000, 0b0100, 0b0011]
    transfer.lost_by(A, 0b1001)
    assert transfer.levels == [0b1000, 0b0101, 0b0010]
    transfer.lost_by(B)
    assert transfer.levels == [0b1001, 0b0110, 0]
    assert transfer.holders == {A: 0b0110}


def test_a_peer_holds_no_chunk_that_there_is_not() -> None:
    transfer = transfer_of()
    transfer.held_by(A, 0b110000)
    assert transfer.levels == [0b1111]


def test_a_chunk_asked_for_is_in_flight_until_it_comes() -> None:
    transfer = transfer_of()
    transfer.ask(A, 2, b"digest")
    assert (transfer.inflight, transfer.asked_of, transfer.asked_under) == (0b100, {2: A}, {2: b"digest"})
    transfer.stored(2, b"digest", B)
    assert (transfer.inflight, transfer.asked_of, transfer.asked_under) == (0, {}, {})
    assert (transfer.have, transfer.stands_on, transfer.digests) == (0b100, {2: B}, {2: b"digest"})


def test_what_stood_on_a_liars_word_is_dropped_and_nothing_else() -> None:
    transfer = transfer_of()
    for index, author in enumerate((A, B, A, None)):
        transfer.stored(index, bytes([index]), author)
    assert transfer.forget(A) == (0, 2)
    assert transfer.have == 0b1010
    assert set(transfer.digests) == {1, 3}
    assert transfer.forget_all() == (1, 3)
    assert (transfer.have, transfer.stands_on, transfer.digests) == (0, {}, {})


def test_the_most_urgent_counts() -> None:
    transfer = transfer_of()
    priorities = [transfer.priority]
    for priority, change in ((Priority.PULL, 1), (Priority.READER, 1), (Priority.READER, -1)):
        transfer.wanted_by_us(priority, change)
        priorities.append(transfer.priority)
    assert priorities == [Priority.FOLLOW, Priority.PULL, Priority.READER, Priority.PULL]


def test_chunks_are_young_for_a_while() -> None:
    transfer = transfer_of()
    transfer.learned(0b0011, 10.0)
    transfer.learned(0b0100, 10.5)
    assert transfer.young(10.5) == 0b0111
    assert transfer.young(10.0 + YOUNG) == 0b0100
    assert transfer.young(10.5 + YOUNG) == 0


def test_sets_are_bounded_by_the_blob() -> None:
    transfer = transfer_of(3)
    transfer.held_by(A, bitset.full(100))
    assert transfer.holders[A] == transfer.everything == 0b111
