import pytest

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.oci.digest import Digest
from meshsat.protocol import bitset
from meshsat.protocol.claims import AUTHOR_LIMIT, BATCH_LIMIT, Claims, in_batches
from tests.brain import Blob, peer

A, B, C = peer("a"), peer("b"), peer("c")


def claims_of(blob: Blob) -> Claims:
    return Claims(blob.digest, blob.cut)


def test_what_nobody_told_is_unknown() -> None:
    blob = Blob()
    claims = claims_of(blob)
    assert claims.digest(0) is None
    assert claims.known == 0
    assert claims.learn(blob.entries("a", 1, 3)) == 0b0110
    assert claims.word(1) == (blob.chunks[1], A)
    assert claims.digest(0) is None


def test_a_blob_of_one_chunk_proves_itself() -> None:
    digest = Digest.of(b"small")
    claims = Claims(digest, Cut(FIXED_1, 5))
    assert claims.word(0) == (digest.raw, None)
    assert claims.known == 1


def test_a_sha512_blob_of_one_chunk_does_not() -> None:
    claims = Claims(Digest.of(b"small", "sha512"), Cut(FIXED_1, 5))
    assert claims.known == 0


def test_entries_beyond_the_blob_are_ignored() -> None:
    blob = Blob(chunks=4)
    claims = Claims(blob.digest, Cut(FIXED_1, 3 * blob.cut.chunk_length))
    assert claims.learn(blob.entries("a")) == 0
    assert claims.known == 0


def test_telling_again_is_no_news() -> None:
    blob = Blob()
    claims = claims_of(blob)
    claims.learn(blob.entries("a", 0, 2))
    assert claims.learn(blob.entries("a", 0, 2)) == 0
    assert claims.learn(blob.entries("b", 1, 4)) == 0b1100
    assert len(claims.batches(0b1111)) == 2


def test_few_authors_are_heard() -> None:
    blob = Blob()
    claims = claims_of(blob)
    for number in range(AUTHOR_LIMIT):
        claims.learn(blob.entries(f"author {number}", 0, 1))
    assert claims.learn(blob.entries("one more")) == 0
    assert claims.learn(blob.entries("author 0")) == 0b1110


def test_who_speaks_for_itself_comes_before_those_it_is_told_of() -> None:
    blob = Blob()
    claims = Claims(blob.digest, blob.cut)
    claims.learn(blob.entries("met", 0, 1))
    for number in range(AUTHOR_LIMIT):
        claims.learn(blob.entries(f"made up {number}", 0, 1), direct=False)
    assert claims.learn(blob.entries("one more", 1, 3), direct=False) == 0
    assert claims.learn(blob.entries("peer")) == 0b1110
    assert claims.word(3) == (blob.chunks[3], peer("peer"))
    assert claims.word(0) == (blob.chunks[0], peer("met"))


def test_the_one_author_of_a_wrong_recipe_is_barred() -> None:
    blob = Blob()
    claims = claims_of(blob)
    claims.learn(blob.entries("a", lie="x"))
    claims.accuse([A])
    assert claims.known == 0
    assert claims.hopeless()
    assert claims.is_barred(A)
    assert claims.learn(blob.entries("a")) == 0
    assert claims.learn(blob.entries("b")) == 0b1111
    assert not claims.hopeless()
    assert claims.word(0) == (blob.chunks[0], B)


def test_of_several_each_is_heard_alone_in_turn() -> None:
    blob = Blob()
    claims = claims_of(blob)
    claims.learn(blob.entries("a", 0, 3, lie="x"))
    claims.learn(blob.entries("b"))
    claims.learn(blob.entries("c", lie="y"))
    order = sorted([A, B, C])
    claims.accuse([A, B, C])
    for author in order:
        word = claims.word(0)
        assert word is not None
        assert word[1] == author
        claims.accuse([author])
    assert claims.hopeless()


def test_a_chunk_that_a_holder_has_otherwise_goes_by_another_word() -> None:
    blob = Blob()
    claims = claims_of(blob)
    claims.learn(blob.entries("a", lie="x"))
    assert not claims.dispute(0)  # there is no other word
    claims.learn(blob.entries("b"))
    assert claims.dispute(0)
    assert claims.word(0) == (blob.chunks[0], B)
    assert claims.word(1) == (blob.lie("x")[1], A)


def test_what_is_proven_is_not_disputed() -> None:
    blob = Blob()
    claims = claims_of(blob)
    claims.prove(blob.chunks)
    assert not claims.dispute(0)
    assert claims.digest(0) == blob.chunks[0]


def test_the_proof_names_the_liars_barred_or_not() -> None:
    blob = Blob()
    claims = claims_of(blob)
    claims.learn(blob.entries("a", 3, lie="x"))
    claims.learn(blob.entries("b"))
    claims.learn(blob.entries("c", lie="y"))
    claims.accuse([C])
    claims.prove(blob.chunks)
    assert sorted(claims.liars()) == sorted([A, C])


def test_the_word_of_the_barred_is_not_passed_on() -> None:
    blob = Blob()
    claims = claims_of(blob)
    claims.learn(blob.entries("a", lie="x"))
    honest = blob.entries("b")
    claims.learn(honest)
    claims.accuse([A])
    assert claims.batches(0b1111) == [honest]


def test_everybody_gets_another_hearing() -> None:
    blob = Blob()
    claims = claims_of(blob)
    claims.learn(blob.entries("a", lie="x"))
    claims.accuse([A])
    claims.forget_authors()
    assert not claims.hopeless()
    assert claims.learn(blob.entries("a")) == 0b1111


def test_an_author_may_correct_itself_but_nobody_may_correct_it() -> None:
    blob = Blob()
    claims = claims_of(blob)
    claims.learn(blob.entries("a", lie="x"))
    claims.learn(blob.entries("a"), direct=False)
    assert claims.digest(0) == blob.lie("x")[0]
    claims.learn(blob.entries("a"))
    assert claims.digest(0) == blob.chunks[0]


def test_what_one_author_says_takes_bounded_room() -> None:
    """Batches that overlap would be kept, and passed on, with all their repetitions."""
    blob = Blob(chunks=64)
    claims = claims_of(blob)
    for first in range(63, -1, -1):
        claims.learn(blob.entries("a", first))
    assert claims.known == bitset.full(64)
    kept = sum(len(entries.digests) for entries in claims.batches(claims.known))
    assert kept <= 3 * 64 * 32


def test_what_took_several_frames_is_passed_on_in_one() -> None:
    blob = Blob(chunks=6)
    claims = claims_of(blob)
    single = [blob.entries("a", index, index + 1) for index in range(6)]
    for entries in single:
        claims.learn(entries)
    assert claims.run_of(A, 1, 3) == (1, b"".join(blob.chunks[1:4]))
    whole = blob.entries("a", 0, 4)
    assert claims.learn(whole) == 0
    assert claims.batches(0b111111) == [*single[4:], whole]
    assert claims.kept(whole)
    assert not claims.kept(single[0])
    claims.learn(blob.entries("a", 1, 3))
    claims.learn(blob.entries("a", 3, 5))  # says no more, and takes no less
    assert claims.batches(0b111111) == [*single[4:], whole]


def test_a_run_ends_at_what_the_author_did_not_say() -> None:
    blob = Blob(chunks=6)
    claims = claims_of(blob)
    for index in (0, 2, 3):
        claims.learn(blob.entries("a", index, index + 1))
    assert claims.run_of(A, 0, 3) == (2, b"".join(blob.chunks[2:4]))
    assert claims.run_of(B, 0, 3) == (4, b"")


def test_an_author_that_takes_its_word_back_is_not_summed_up() -> None:
    blob = Blob(chunks=2)
    claims = claims_of(blob)
    lie = blob.entries("a", 0, 1, lie="x")
    claims.learn(lie)
    claims.learn(blob.entries("a"))
    assert lie in claims.batches(0b11)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0, []),
        (0b1011, [(0, 2), (3, 4)]),
        (bitset.full(BATCH_LIMIT + 1), [(0, BATCH_LIMIT), (BATCH_LIMIT, BATCH_LIMIT + 1)]),
    ],
)
def test_batches_are_runs(bits: int, expected: list[tuple[int, int]]) -> None:
    assert list(in_batches(bits)) == expected
