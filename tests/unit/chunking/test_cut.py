import pytest

from meshsat.chunking.cut import FIXED_1, MAX_CHUNK, MIN_CHUNK, SEGMENT, Cut, chunk_length

KIB, MIB, GIB = 2**10, 2**20, 2**30


@pytest.mark.parametrize(
    ("size", "length"),
    [
        (0, 256 * KIB),
        (1, 256 * KIB),
        (GIB, 256 * KIB),
        (GIB + 1, 512 * KIB),
        (2 * GIB, 512 * KIB),
        (2 * GIB + 1, MIB),
        (16 * GIB, 4 * MIB),
        (16 * GIB + 1, 4 * MIB),
        (1024 * GIB, 4 * MIB),
    ],
)
def test_chunks_double_until_they_are_few(size: int, length: int) -> None:
    assert chunk_length(size) == length


def test_spans_of_a_blob_that_does_not_divide() -> None:
    cut = Cut(FIXED_1, 2 * MIN_CHUNK + 7)
    assert cut.count == 3
    assert [cut.span(index) for index in range(3)] == [
        (0, MIN_CHUNK),
        (MIN_CHUNK, MIN_CHUNK),
        (2 * MIN_CHUNK, 7),
    ]
    for index in (-1, 3):
        with pytest.raises(IndexError):
            cut.span(index)


def test_empty_blob_has_nothing() -> None:
    cut = Cut(FIXED_1, 0)
    assert (cut.count, cut.segments) == (0, 0)
    assert list(cut.covering(0, 10)) == []
    with pytest.raises(IndexError):
        cut.segment(0)


def test_covering() -> None:
    cut = Cut(FIXED_1, 4 * MIN_CHUNK)
    assert cut.covering(0, 1) == range(1)
    assert cut.covering(MIN_CHUNK - 1, MIN_CHUNK + 1) == range(2)
    assert cut.covering(MIN_CHUNK, 2 * MIN_CHUNK) == range(1, 2)
    assert cut.covering(-5, 10**12) == range(4)
    assert len(cut.covering(7, 7)) == len(cut.covering(9, 7)) == 0


def test_segments_are_whole_chunks() -> None:
    assert SEGMENT % MAX_CHUNK == 0
    cut = Cut(FIXED_1, 2 * SEGMENT + 1)
    assert cut.segments == 3
    assert [cut.segment(number) for number in range(3)] == [range(64), range(64, 128), range(128, 129)]
    assert [cut.segment_of(index) for index in (0, 63, 64, 128)] == [0, 0, 1, 2]
    with pytest.raises(IndexError):
        cut.segment(3)


def test_other_kinds_are_not_guessed() -> None:
    with pytest.raises(ValueError, match="fixed/2"):
        Cut("fixed/2", 1)
    with pytest.raises(ValueError, match="-1"):
        Cut(FIXED_1, -1)
