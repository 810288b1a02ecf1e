import random

from meshsat.protocol import bitset, sparse
from meshsat.protocol.transfer import YOUNG, Transfer
from meshsat.trust.keys import PeerId
from tests.brain import Blob, peer

BLOB = Blob(chunks=60)
NOW = 100.0
TURNS = [peer(name) for name in ("me", "x", "y")]


def transfer(**holders: range) -> Transfer:
    """A transfer whose chunks the uplinked node `u` fetched, and these hold."""
    made = Transfer(BLOB.digest, BLOB.size)
    made.claims.learn(BLOB.entries("u"))
    made.learned(made.everything, NOW)
    for name, held in holders.items():
        made.held_by(peer(name), bitset.of(held))
    return made


def chosen(made: Transfer, name: str, turns: list[PeerId], now: float = NOW) -> list[int]:
    return sparse.choose(made, peer(name), turns, peer("me"), now, random.Random(1), 64)


def test_the_first_copies_are_dealt_out_where_chunks_came_in() -> None:
    made = transfer(u=range(60))
    assert sorted(chosen(made, "u", TURNS)) == list(range(0, 60, 3))
    assert len(chosen(made, "u", [])) == 60
    assert len(chosen(made, "u", TURNS, NOW + YOUNG)) == 60  # and then they are anybody's


def test_what_another_passes_on_is_not_dealt_out() -> None:
    made = transfer(relay=range(60))
    assert len(chosen(made, "relay", TURNS)) == 60


def test_rarest_first_and_what_is_on_its_way_not_again() -> None:
    made = transfer(a=range(20), b=range(10), c=range(5))
    order = chosen(made, "a", [])
    assert [set(order[:10]), set(order[10:15]), set(order[15:])] == [
        set(range(10, 20)),
        set(range(5, 10)),
        set(range(5)),
    ]
    made.ask(peer("b"), 7, BLOB.chunks[7])
    assert 7 not in chosen(made, "a", [])


def test_a_readers_window_comes_first_in_order() -> None:
    made = transfer(a=range(60))
    made.readers[1] = 30
    assert chosen(made, "a", [])[:30] == list(range(30, 60))


def test_of_a_far_peer_one_chunk_is_asked_for_that_is_known_for_a_while() -> None:
    made = transfer(hub=range(60))
    assert sparse.choose_one(made, peer("hub"), NOW, random.Random(1)) == []
    assert len(sparse.choose_one(made, peer("hub"), NOW + YOUNG, random.Random(1))) == 1
