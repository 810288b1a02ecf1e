"""Cutting a blob into chunks loses nothing and is the same for everybody."""

import hashlib
import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.chunking.cut import FIXED_1, MANY_CHUNKS, MAX_CHUNK, MIN_CHUNK, SEGMENT, Cut
from meshsat.chunking.recipe import Recipe, decode_recipe_untrusted
from meshsat.oci.digest import Digest

settings.register_profile("steady", derandomize=True, database=None, deadline=None)
STEADY = settings.get_profile("steady")
SIZES = st.one_of(
    st.integers(0, 2**42),
    st.integers(0, 2**42).map(lambda size: size // MIN_CHUNK * MIN_CHUNK),
    st.tuples(st.integers(0, 18), st.integers(-1, 1)).map(
        lambda pair: max(0, MIN_CHUNK * 2 ** pair[0] + pair[1])
    ),
)
POOL = random.Random(6).randbytes(6 * MIN_CHUNK)


def blob(size: int, seed: int) -> bytes:
    return POOL[seed : seed + size]


BLOBS = st.builds(blob, st.integers(0, 5 * MIN_CHUNK), st.integers(0, MIN_CHUNK))


@STEADY
@given(SIZES)
def test_chunks_cover_the_blob_without_gap_or_overlap(size: int) -> None:
    cut = Cut(FIXED_1, size)
    assert cut.chunk_length in {MIN_CHUNK, 2 * MIN_CHUNK, 4 * MIN_CHUNK, 8 * MIN_CHUNK, MAX_CHUNK}
    assert cut.count <= MANY_CHUNKS or cut.chunk_length == MAX_CHUNK
    for index in {0, 1, cut.count // 2, cut.count - 2, cut.count - 1} & set(range(cut.count)):
        offset, length = cut.span(index)
        assert 0 < length <= cut.chunk_length
        assert offset + length == (size if index == cut.count - 1 else cut.span(index + 1)[0])
        assert cut.covering(offset, offset + length) == range(index, index + 1)


@STEADY
@given(SIZES, st.data())
def test_covering_is_the_least_that_holds_the_range(size: int, data: st.DataObject) -> None:
    cut = Cut(FIXED_1, size)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    chunks = cut.covering(start, stop)
    assert bool(chunks) == (start < stop)
    if chunks:
        first, last = cut.span(chunks[0]), cut.span(chunks[-1])
        assert first[0] <= start < sum(first)
        assert last[0] < stop <= sum(last)


@STEADY
@given(SIZES)
def test_segments_share_the_chunks_out(size: int) -> None:
    cut = Cut(FIXED_1, size)
    for number in {0, 1, cut.segments - 1} & set(range(cut.segments)):
        chunks = cut.segment(number)
        assert cut.span(chunks[0])[0] == number * SEGMENT
        assert {cut.segment_of(chunks[0]), cut.segment_of(chunks[-1])} == {number}
        assert chunks[-1] + 1 == (cut.count if number == cut.segments - 1 else cut.segment(number + 1)[0])


@settings(STEADY, max_examples=25)
@given(BLOBS)
def test_chunks_joined_are_the_blob(data: bytes) -> None:
    cut = Cut(FIXED_1, len(data))
    spans = [cut.span(index) for index in range(cut.count)]
    assert b"".join(data[offset : offset + length] for offset, length in spans) == data


@settings(STEADY, max_examples=25)
@given(BLOBS, st.randoms(use_true_random=False), st.integers(1, 7))
def test_the_recipe_is_the_same_from_any_ranges_in_any_order(
    data: bytes, rng: random.Random, parts: int
) -> None:
    cut = Cut(FIXED_1, len(data))
    borders = sorted({0, cut.count, *(rng.randint(0, cut.count) for _ in range(parts))})
    ranges = list(itertools.pairwise(borders))
    rng.shuffle(ranges)
    found: dict[int, bytes] = {}
    for first, stop in ranges:  # each cut by itself, as by another node
        start = first * cut.chunk_length
        received = data[start : stop * cut.chunk_length]
        for index in range(first, stop):
            offset, length = cut.span(index)
            found[index] = hashlib.sha256(received[offset - start : offset - start + length]).digest()
    assert Recipe(Digest.of(data), cut, tuple(found[index] for index in range(cut.count))) == Recipe.of(data)


@settings(STEADY, max_examples=25)
@given(BLOBS, st.sampled_from(["sha256", "sha512"]))
def test_recipes_come_back_from_their_encoding(data: bytes, algorithm: str) -> None:
    recipe = Recipe.of(data, algorithm)
    assert decode_recipe_untrusted(recipe.encode()) == recipe
