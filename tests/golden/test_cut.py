"""The cut of the swap, pinned: two nodes that cut differently cannot trade. No change may alter these."""

import hashlib

import pytest

from meshsat.chunking.cut import FIXED_1, SEGMENT, Cut
from meshsat.chunking.recipe import Recipe

GIB = 2**30
CUTS = {
    # blob size: (chunk length, chunks, length of the last one, segments)
    0: (262144, 0, 0, 0),
    1: (262144, 1, 1, 1),
    262144: (262144, 1, 262144, 1),
    262145: (262144, 2, 1, 1),
    40_000_000: (262144, 153, 154112, 3),
    200_000_000: (262144, 763, 246272, 12),
    GIB: (262144, 4096, 262144, 64),
    GIB + 1: (524288, 2049, 1, 65),
    5 * GIB: (2097152, 2560, 2097152, 320),
    16 * GIB: (4194304, 4096, 4194304, 1024),
    100 * GIB + 7: (4194304, 25601, 7, 6401),
}


@pytest.mark.parametrize(("size", "expected"), CUTS.items())
def test_cut(size: int, expected: tuple[int, int, int, int]) -> None:
    cut = Cut(FIXED_1, size)
    last = cut.span(cut.count - 1)[1] if cut.count else 0
    assert (cut.chunk_length, cut.count, last, cut.segments) == expected
    assert (FIXED_1, SEGMENT) == ("fixed/1", 16777216)


def test_recipe_bytes() -> None:
    data = b"".join(number.to_bytes(4, "big") for number in range(150_000))
    chunks = b"".join(hashlib.sha256(data[at : at + 262144]).digest() for at in (0, 262144, 524288))
    expected = (
        b"\x84"
        + (b"\x67" + b"fixed/1")
        + (b"\x78\x47" + b"sha256:dde21868e1c982c461b855783fbfdc0b73758af03d88f1e457bc8ff5506b8d68")
        + (b"\x1a" + (600_000).to_bytes(4, "big"))
        + (b"\x58\x60" + chunks)
    )
    assert Recipe.of(data).encode() == expected
    assert chunks[:4].hex() == "91facb72"
