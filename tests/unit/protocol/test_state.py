import random

from meshsat.protocol import effects, wire
from meshsat.protocol.effects import Effect
from meshsat.protocol.events import Priority
from meshsat.protocol.session import Session
from meshsat.protocol.state import BAN, State, Wanted
from meshsat.protocol.transfer import Transfer
from meshsat.trust.keys import verify
from tests.brain import Blob, key, peer


def state_of(done: list[Effect]) -> State:
    return State(peer("me"), key("me").sign, verify, done.append, random.Random(0), now=100.0)


def test_expelled_is_told_and_banned_twice_as_long_each_time() -> None:
    done: list[Effect] = []
    state = state_of(done)
    bans = []
    for _ in range(8):
        state.expel(Session(peer("a"), 100.0), "it lies")  # a session each
        bans.append(state.bans[peer("a")] - 100.0)
    assert done[0] == effects.Disconnect(peer("a"), "it lies")
    assert bans[:3] == [60.0, 120.0, 240.0]
    assert bans[-1] == BAN[1]


def test_one_session_is_expelled_once() -> None:
    """However many of its frames were already on their way."""
    done: list[Effect] = []
    state = state_of(done)
    session = Session(peer("a"), 100.0)
    for _ in range(5):
        state.expel(session, "it floods")
    assert len(done) == 1
    assert state.bans[peer("a")] == 100.0 + BAN[0]


def test_who_only_helps_demands_nothing() -> None:
    state = state_of([])
    blob = Blob()
    assert not state.demanded(blob.digest, blob.size)
    wanted = state.wanted[blob.digest, blob.size] = Wanted(wanters={peer("a"): Priority.FOLLOW})
    assert not state.demanded(blob.digest, blob.size)
    wanted.wanters[peer("b")] = Priority.BACKGROUND
    assert state.demanded(blob.digest, blob.size)
    assert not state.demanded(blob.digest, blob.size + 1)
    assert state.wanters(blob.digest, blob.size) == [peer("a"), peer("b")]


def test_the_uplink_begins_where_the_first_of_all_reads() -> None:
    state = state_of([])
    blob = Blob(chunks=100)
    transfer = Transfer(blob.digest, blob.size)
    assert state.needed_first(transfer) == 0
    transfer.readers[1] = 50
    assert state.needed_first(transfer) == 50
    state.wanted[blob.digest, blob.size] = Wanted(first={peer("a"): 30})
    assert state.needed_first(transfer) == 30


def test_our_word_is_signed() -> None:
    blob = Blob()
    entry = state_of([]).entry(blob.digest, 2, blob.chunks[2])
    assert entry.author == peer("me")
    assert verify(peer("me"), entry.signature, wire.entries_message(blob.digest, 2, blob.chunks[2]))
