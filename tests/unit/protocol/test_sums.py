import pytest

from meshsat.protocol.sums import Sums, children, leaf_key, leaf_version

KEYS = [leaf_key(str(number)) for number in range(300)]


def of(keys: list[bytes], version: bytes = b"") -> Sums:
    sums = Sums()
    for key in keys:
        sums.put(key, leaf_version(version))
    return sums


@pytest.mark.parametrize("part", ["", KEYS[0].hex()[:1], KEYS[0].hex()[:2], KEYS[0].hex()[:3], KEYS[0].hex()])
def test_a_sum_is_of_what_is_there_in_whatever_order(part: str) -> None:
    one, other = of(KEYS), of(KEYS[::-1])
    other.put(leaf_key("more"), b"8 bytes.")
    other.drop(leaf_key("more"))
    other.drop(leaf_key("never there"))
    assert one.sum(part) == other.sum(part) != 0
    assert one.leaves(part) == other.leaves(part)
    assert one.count(part) == len(one.leaves(part)) == sum(key.hex().startswith(part) for key in KEYS)


def test_what_differs_shows_in_each_part_that_it_belongs_to() -> None:
    one, other = of(KEYS), of(KEYS)
    other.put(KEYS[7], leaf_version(b"new"))
    name = KEYS[7].hex()
    for digits in range(17):
        assert one.sum(name[:digits]) != other.sum(name[:digits])
    differing = [part for part in children("") if one.sum(part) != other.sum(part)]
    assert differing == [name[0]]
    other.put(KEYS[7], leaf_version(b""))
    assert one.sum("") == other.sum("")


def test_put_twice_counts_once() -> None:
    one, other = of(KEYS[:3]), of(KEYS[:3] * 2)
    assert (one.sum(""), one.count("")) == (other.sum(""), other.count(""))
    assert one.version(KEYS[0]) == leaf_version(b"")
    assert one.version(KEYS[5]) is None
    assert of([]).sum("") == 0
