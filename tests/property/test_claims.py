"""However authors speak and are accused, only what an author that is believed said is believed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.protocol import bitset
from meshsat.protocol.claims import Claims
from meshsat.trust.keys import PeerId
from tests.brain import Blob, peer

BLOB = Blob("blob", 6)
NAMES = ["a", "b", "c"]
SAID = [
    BLOB.entries(name, first, stop, lie=lie)
    for name in NAMES
    for first, stop in ((0, 6), (0, 2), (1, 4), (5, 6))
    for lie in (None, "x")
]
STEP = st.one_of(
    st.sampled_from(SAID),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
    st.integers(0, 5),
)


@settings(max_examples=60)
@given(st.lists(STEP, max_size=20))
def test_claims_hold_together(steps: list[object]) -> None:
    claims = Claims(BLOB.digest, BLOB.cut)
    for step in steps:
        before = claims.known
        match step:
            case list():
                authors = [peer(str(name)) for name in step]
                claims.accuse([author for author in authors if not claims.is_barred(author)])
            case int():
                word = claims.digest(step)
                assert claims.dispute(step) == (claims.digest(step) != word)
            case _:
                fresh = claims.learn(next(one for one in SAID if one is step))
                assert fresh & before == 0
                assert claims.known == before | fresh
        told = 0
        for index in range(6):
            word_now = claims.word(index)
            if word_now is not None:
                told |= 1 << index
                digest, author = word_now
                assert author is not None
                assert not claims.is_barred(author)
                assert digest in (BLOB.chunks[index], BLOB.lie("x")[index])
                assert claims.author(index, digest) is not None
        assert told == claims.known
        assert claims.known & ~bitset.full(6) == 0
        assert not any(claims.is_barred(PeerId(one.author)) for one in claims.batches(bitset.full(6)))
    claims.prove(BLOB.chunks)
    assert claims.known == bitset.full(6)
    assert [claims.word(index) for index in range(6)] == [(chunk, None) for chunk in BLOB.chunks]
    assert set(claims.liars()) <= {peer(name) for name in NAMES}
