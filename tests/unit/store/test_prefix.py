import pytest

from meshsat.chunking.cut import FIXED_1, MIN_CHUNK, Cut
from meshsat.oci.digest import Digest
from meshsat.store.prefix import PrefixDigest
from tests.images import random_bytes

DATA = random_bytes(3 * MIN_CHUNK + 1)
PLENTY = 2**40


class Blob:
    """Chunks of `DATA`, and a note of those that were read back."""

    def __init__(self) -> None:
        self.cut = Cut(FIXED_1, len(DATA))
        self.read_back: list[int] = []
        self.prefix = PrefixDigest(Digest.of(DATA), self.cut, self.read)

    def chunk(self, index: int) -> bytes:
        offset, length = self.cut.span(index)
        return DATA[offset : offset + length]

    def read(self, index: int) -> bytes:
        self.read_back.append(index)
        return self.chunk(index)


def test_in_order_nothing_is_read_back() -> None:
    blob = Blob()
    for index in range(4):
        assert not blob.prefix.matches()
        blob.prefix.take(index, blob.chunk(index))
    assert blob.prefix.matches()
    assert blob.read_back == []


def test_what_came_early_is_read_back_within_the_budget() -> None:
    blob = Blob()
    for index in (1, 2, 3):
        blob.prefix.take(index, blob.chunk(index))
    recorded = {1, 2, 3}
    assert not blob.prefix.catch_up(recorded, PLENTY)
    assert blob.read_back == []
    blob.prefix.take(0, blob.chunk(0))
    assert not blob.prefix.catch_up(recorded, 1)
    assert blob.read_back == [1]
    assert blob.prefix.catch_up(recorded, PLENTY)
    assert blob.read_back == [1, 2, 3]
    assert blob.prefix.matches()


def test_only_what_is_recorded_is_read() -> None:
    blob = Blob()
    assert not blob.prefix.catch_up({0, 2, 3}, PLENTY)
    assert blob.read_back == [0]


def test_other_bytes_do_not_match_until_it_is_restarted() -> None:
    blob = Blob()
    blob.prefix.take(0, bytes(MIN_CHUNK))
    assert blob.prefix.catch_up(range(4), PLENTY)
    assert not blob.prefix.matches()
    blob.prefix.restart()
    assert blob.prefix.catch_up(range(4), PLENTY)
    assert blob.prefix.matches()


def test_a_read_that_fails_leaves_it_usable() -> None:
    blob = Blob()
    blob.cut = Cut(FIXED_1, MIN_CHUNK)  # every read but the first fails
    with pytest.raises(IndexError):
        blob.prefix.catch_up(range(4), PLENTY)
    blob.cut = Cut(FIXED_1, len(DATA))
    assert blob.prefix.catch_up(range(4), PLENTY)
    assert blob.prefix.matches()
