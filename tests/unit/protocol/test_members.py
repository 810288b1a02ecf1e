import cbor2
import pytest

from meshsat.errors import InvalidInputError
from meshsat.protocol.members import (
    CONTEXT,
    GONE_KEPT,
    RECORD_LIMIT,
    Gone,
    MemberRecord,
    Roster,
    decode_gone_untrusted,
    open_member_untrusted,
    seal_member,
)
from meshsat.protocol.sums import leaf_key
from meshsat.trust import envelope
from tests.brain import key, peer

HERE = ("10.0.0.1:1",)


def record(name: str = "a", at: int = 1, *, uplink: bool = False) -> MemberRecord:
    return seal_member(key(name), at, HERE, ("10.0.0.1:2",), uplink=uplink)


def test_a_record_survives_its_envelope() -> None:
    one = record(uplink=True)
    assert open_member_untrusted(one.sealed) == one
    assert (one.peer, one.uplink) == (peer("a"), True)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        cbor2.dumps([1, [], []]),
        cbor2.dumps(["1", [], [], True]),
        cbor2.dumps([-1, [], [], True]),
        cbor2.dumps([1 << 62, [], [], True]),
        cbor2.dumps([1, [1], [], True]),
        cbor2.dumps([1, [], ["x" * 256], True]),
        cbor2.dumps([1, ["x"] * 17, [], True]),
        cbor2.dumps([1, [], [], 1]),
    ],
)
def test_a_payload_that_is_no_record(payload: bytes) -> None:
    with pytest.raises(InvalidInputError):
        open_member_untrusted(envelope.seal(key("a"), CONTEXT, payload))


def test_what_is_not_sealed_for_this_is_refused() -> None:
    good = record().sealed
    for bad in (good[:-1], good + b"\0", b"\0" * (RECORD_LIMIT + 1)):
        with pytest.raises(InvalidInputError):
            open_member_untrusted(bad)
    with pytest.raises(InvalidInputError):
        open_member_untrusted(good, lambda *_: False)


def test_who_is_gone_survives_its_encoding() -> None:
    gone = Gone(peer("a"), 7)
    assert decode_gone_untrusted(gone.encode()) == gone
    for bad in (b"", cbor2.dumps([peer("a")]), cbor2.dumps(["x", 7]), cbor2.dumps([peer("a"), -1])):
        with pytest.raises(InvalidInputError):
            decode_gone_untrusted(bad)


def test_the_highest_incarnation_counts() -> None:
    roster = Roster()
    assert roster.merge(record(at=2))
    assert not roster.merge(record(at=1))
    assert not roster.merge(record(at=2))
    assert roster.merge(record(at=3, uplink=True))
    assert [one.incarnation for one in roster] == [3]
    assert roster.item(leaf_key(peer("a"))) == record(at=3, uplink=True).sealed
    assert roster.item(leaf_key(peer("b"))) is None


def test_who_is_gone_stays_so_until_it_says_otherwise_itself() -> None:
    roster = Roster()
    roster.merge(record(at=2))
    empty = Roster().sums.sum("")
    assert not roster.bury(Gone(peer("a"), 1), 0.0)  # it has been back since
    assert not roster.bury(Gone(peer("b"), 1), 0.0)  # nobody knows it
    assert roster.bury(Gone(peer("a"), 2), 0.0)
    assert roster.sums.sum("") == empty
    assert not roster.merge(record(at=2))
    assert roster.gone(peer("a")) == roster.buried(leaf_key(peer("a"))) == Gone(peer("a"), 2)
    assert roster.merge(record(at=3))
    assert roster.gone(peer("a")) is None


def test_the_gone_are_forgotten_after_a_while() -> None:
    roster = Roster()
    roster.merge(record())
    roster.bury(Gone(peer("a"), 1), 100.0)
    roster.tick(100.0 + GONE_KEPT - 1)
    assert roster.gone(peer("a"))
    roster.tick(100.0 + GONE_KEPT)
    assert roster.gone(peer("a")) is None
    assert roster.buried(leaf_key(peer("a"))) is None


def test_the_roster_is_bounded() -> None:
    roster = Roster(limit=2)
    assert roster.merge(record("a"))
    assert roster.merge(record("b"))
    assert not roster.merge(record("c"))
    assert roster.merge(record("b", at=2))
    roster.forget(peer("a"))
    roster.forget(peer("a"))
    assert roster.merge(record("c"))
    assert len(roster) == 2
