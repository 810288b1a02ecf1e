"""What is told of holders, in whatever order, counts each chunk once for each who holds it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.protocol import bitset
from meshsat.protocol.transfer import Transfer
from tests.brain import Blob, peer

CHUNKS = 20
PEERS = [peer(name) for name in "abcd"]
BITS = st.integers(0, (1 << CHUNKS + 2) - 1)  # two beyond the blob
STEP = st.tuples(
    st.sampled_from(["holds", "holds", "lost", "gone", "asked", "stored", "forget"]),
    st.sampled_from(PEERS),
    BITS,
    st.integers(0, CHUNKS - 1),
)


@settings(max_examples=60)
@given(st.lists(STEP, max_size=30))
def test_the_books_are_right(steps: list[tuple[str, str, int, int]]) -> None:
    blob = Blob(chunks=CHUNKS)
    transfer = Transfer(blob.digest, blob.size)
    holds: dict[str, set[int]] = {}
    stored: dict[int, str] = {}
    for what, name, bits, index in steps:
        who = next(one for one in PEERS if one == name)
        told = set(bitset.members(bits & transfer.everything))
        match what:
            case "holds":
                transfer.held_by(who, bits)
                holds[who] = holds.get(who, set()) | told
            case "lost":
                transfer.lost_by(who, bits)
                holds[who] = holds.get(who, set()) - told
            case "gone":
                transfer.lost_by(who)
                holds.pop(who, None)
            case "asked" if index not in stored:
                transfer.ask(who, index, blob.chunks[index])
            case "stored":
                transfer.stored(index, blob.chunks[index], who)
                stored[index] = who
            case "forget":
                dropped = transfer.forget(who)
                assert sorted(dropped) == list(dropped)
                for one in dropped:
                    assert stored.pop(one) == who
        assert {one: set(bitset.members(bits)) for one, bits in transfer.holders.items() if bits} == {
            one: held for one, held in holds.items() if held
        }
        count = [sum(index in held for held in holds.values()) for index in range(CHUNKS)]
        for level, members in enumerate(transfer.levels):
            assert set(bitset.members(members)) == {index for index in range(CHUNKS) if count[index] == level}
        assert sum(transfer.levels) == transfer.everything
        assert transfer.inflight == bitset.of(transfer.asked_of) == bitset.of(transfer.asked_under)
        assert not transfer.inflight & transfer.have
        assert set(bitset.members(transfer.have)) == set(transfer.digests) == set(stored)
        assert transfer.missing | transfer.have == transfer.everything
