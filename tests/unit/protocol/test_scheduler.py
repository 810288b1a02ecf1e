import random
from collections import Counter

from meshsat.protocol import bitset, events, scheduler
from meshsat.protocol.transfer import YOUNG, Transfer
from tests.brain import Blob, Brain, peer, requested
from tests.room import Room

ME = peer("me")
A, B, C = peer("a"), peer("b"), peer("c")


def transfer_of(blob: Blob, *, known_at: float = 0.0) -> Transfer:
    transfer = Transfer(blob.digest, blob.size)
    transfer.learned(transfer.claims.learn(blob.entries("a")), known_at)
    return transfer


def chosen(transfer: Transfer, of: str, *takers: str, now: float = 0.0, seed: int = 0) -> list[int]:
    order = sorted((ME, *map(peer, takers)))
    return scheduler.choose(transfer, peer(of), order, ME, now, random.Random(seed), 64)


def test_nothing_is_asked_for_that_is_held_or_coming_or_unknown() -> None:
    blob = Blob(chunks=4)
    transfer = Transfer(blob.digest, blob.size)
    transfer.claims.learn(blob.entries("a", 0, 3))
    transfer.held_by(A, bitset.full(4))
    transfer.stored(0, blob.chunks[0], None)
    transfer.ask(B, 1, blob.chunks[1])
    assert chosen(transfer, "a") == [2]
    assert chosen(transfer, "b") == []


def test_what_a_reader_waits_for_comes_first_and_in_order() -> None:
    blob = Blob(chunks=200)
    transfer = transfer_of(blob)
    transfer.held_by(A, bitset.full(200))
    transfer.readers[1] = 100
    window = scheduler.READER_WINDOW // blob.cut.chunk_length
    assert chosen(transfer, "a")[:window] == list(range(100, 100 + window))


def test_rarest_first() -> None:
    blob = Blob(chunks=6)
    transfer = transfer_of(blob)
    transfer.held_by(A, bitset.full(6))
    transfer.held_by(B, bitset.full(6))
    transfer.held_by(C, bitset.of([0, 1, 2]))
    order = chosen(transfer, "a")
    assert set(order[:3]) == {3, 4, 5}
    assert set(order[3:]) == {0, 1, 2}


def test_ties_go_at_random() -> None:
    blob = Blob(chunks=6)
    transfer = transfer_of(blob)
    transfer.held_by(A, bitset.full(6))
    transfer.held_by(B, bitset.full(6))
    assert len({tuple(chosen(transfer, "a", seed=seed)) for seed in range(20)}) > 10


def test_what_only_one_holds_is_dealt_out_among_the_takers() -> None:
    blob = Blob(chunks=12)
    shares = []
    takers = sorted(["b", "c", "d"], key=peer)
    for me in takers:
        transfer = transfer_of(blob)
        transfer.held_by(A, bitset.full(12))
        order = sorted(map(peer, takers))
        shares.append(sorted(scheduler.choose(transfer, A, order, peer(me), 0.0, random.Random(0), 64)))
    assert sorted(shares) == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_of_many_small_blobs_each_taker_comes_first_for_some() -> None:
    takers = sorted(["b", "c", "d"], key=peer)
    order = sorted(map(peer, takers))
    first: Counter[str] = Counter()
    for number in range(60):
        blob = Blob(f"small {number}", chunks=1)
        for me in takers:
            transfer = transfer_of(blob)
            transfer.held_by(A, 1)
            if scheduler.choose(transfer, A, order, peer(me), 0.0, random.Random(0), 64):
                first[me] += 1
    assert sum(first.values()) == 60
    assert min(first.values()) > 10


def test_who_does_not_know_of_each_other_yet_seldom_ask_for_the_same() -> None:
    blob = Blob(chunks=200)
    transfer = transfer_of(blob)
    transfer.held_by(A, bitset.full(200))
    first = {chosen(transfer, "a", seed=seed)[0] for seed in range(15)}
    assert len(first) > 10


def test_the_seed_itself_takes_no_share() -> None:
    blob = Blob(chunks=4)
    transfer = transfer_of(blob)
    transfer.held_by(A, bitset.full(4))
    assert sorted(chosen(transfer, "a", "a")) == [0, 1, 2, 3]


def test_what_its_turn_taker_left_is_anybodys_after_a_while() -> None:
    blob = Blob(chunks=6)
    transfer = transfer_of(blob, known_at=5.0)
    transfer.held_by(A, bitset.full(6))
    own = chosen(transfer, "a", "b", now=5.0 + YOUNG - 0.01)
    assert len(own) == 3
    for index in own:
        transfer.ask(A, index, blob.chunks[index])
    assert chosen(transfer, "a", "b", now=5.0 + YOUNG) == [], (
        "our turn has just ended, and theirs may not have"
    )
    later = chosen(transfer, "a", "b", now=5.0 + 2 * YOUNG)
    assert sorted(later) == sorted({*range(6)} - {*own})


def test_of_a_late_share_one_neighbour_more_takes_each_while() -> None:
    """Else all who are done take the same last chunks at once."""
    blob = Blob(chunks=8)
    takers = sorted(["b", "c", "d", "e"], key=peer)
    order = sorted(map(peer, takers))
    shares: list[list[int]] = []
    for me in takers:
        transfer = transfer_of(blob)
        transfer.held_by(A, bitset.full(8))

        def take(now: float, transfer: Transfer = transfer, me: str = me) -> list[int]:
            taken = sorted(scheduler.choose(transfer, A, order, peer(me), now, random.Random(0), 64))
            for index in taken:
                transfer.ask(A, index, blob.chunks[index])
            return taken

        shares.append(take(0.0))
        own, *late = shares[-1], take(YOUNG - 0.1), take(YOUNG), take(2 * YOUNG), take(3 * YOUNG)
        assert own
        assert [len(taken) for taken in late] == [0, 2, 2, 2], "the shares of one, two, three others"
    assert sorted(index for share in shares for index in share) == list(range(8))


def test_the_first_copies_out_of_a_sole_seed_are_all_different() -> None:
    """Five nodes want what one holds: each has a fifth of it, and the rest of the others."""
    room = Room(["seed", "a", "b", "c", "d", "e"], seed=1)
    blob = room.add(Blob(chunks=60))
    room.feed("seed", blob.published())
    room.introduce()
    for name in "abcde":
        room.feed(name, blob.wanted())
    room.run(40)
    assert all(room.holds(name, blob) for name in "abcde")
    out = [index for name, _, index in room.given if name == "seed"]
    assert len(set(out[:48])) == 48  # until the fastest is done with its share
    assert set(out) == set(range(60))
    assert len(out) < 60 * 1.25
    shares = Counter(to for name, to, _ in room.given if name == "seed")
    assert max(shares.values()) < 20


def test_a_readers_window_comes_before_the_turns() -> None:
    blob = Blob(chunks=40)
    brain = Brain()
    brain.meet("seed", "b", "c")
    brain.hear("b", blob.want())
    brain.hear("c", blob.want())
    brain.pull(blob)
    brain.hear("seed", blob.holds())
    brain.feed(events.ReaderMoved(blob.digest, 1, 20 * blob.cut.chunk_length))
    done = brain.hear("seed", blob.entries("seed"))
    assert requested(done, "seed") == [20, 21]


def test_a_peer_that_alone_holds_some_is_asked_for_nothing_that_others_hold_too() -> None:
    blob = Blob(chunks=8)
    transfer = transfer_of(blob)
    transfer.held_by(A, bitset.full(8))
    transfer.held_by(B, 0b1111)
    own = sorted(chosen(transfer, "a", "c"))
    assert own in ([4, 6], [5, 7])
    for index in own:
        transfer.ask(A, index, blob.chunks[index])
    assert sorted(chosen(transfer, "a", "c", now=2 * YOUNG)) == sorted({4, 5, 6, 7} - {*own})


def test_what_nobody_tells_the_digest_of_keeps_no_other_chunk_waiting() -> None:
    """Two holders, each with a chunk of its own that can not be asked for, and one that both hold."""
    blob = Blob(chunks=3)
    transfer = Transfer(blob.digest, blob.size)
    transfer.claims.learn(blob.entries("a", 1, 2))
    transfer.held_by(A, bitset.of([0, 1]))
    transfer.held_by(B, bitset.of([1, 2]))
    assert chosen(transfer, "a") == [1]
    assert chosen(transfer, "b") == [1]
