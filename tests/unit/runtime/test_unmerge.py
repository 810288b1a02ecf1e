import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.runtime.unmerge import take_back

LINES = st.lists(st.sampled_from(["a", "b", "c", "", "x"]), max_size=8)


def data(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


@pytest.mark.parametrize(
    ("without", "ours", "now", "left"),
    [
        ("a b", "a N b", "a N b", "a b"),
        ("a b", "a N b", "z a N b y", "z a b y"),
        ("a b", "a N b", "a b", "a b"),
        ("a b", "a N b", "a c b", "a c b"),
        ("a b", "a N M b", "a N b", None),
        ("a b", "a N M b", "a N c M b", None),
        ("a o b", "a N b", "a N b c", "a o b c"),
        ("a o b", "a N b", "a o b c", "a o b c"),
        ("a o b", "a N b", "a b", "a b"),
        ("a o b", "a N b", "a c b", None),
        ("a o b", "a b", "a b c", "a o b c"),
        ("a o b", "a b", "a c b", None),
        ("", "N M", "N M c", "c"),
        ("", "N M", "", ""),
    ],
)
def test_our_change_is_taken_back(without: str, ours: str, now: str, left: str | None) -> None:
    taken = take_back(*(data(text.split()) for text in (without, ours, now)))
    assert taken == (None if left is None else data(left.split()))


@given(LINES, LINES)
def test_unedited_it_gives_back_what_was(without: list[str], ours: list[str]) -> None:
    assert take_back(data(without), data(ours), data(ours)) == data(without)
    assert take_back(data(without), data(without), data(ours)) == data(ours)


@given(LINES, st.integers(0, 8), LINES)
def test_an_edit_elsewhere_is_kept(without: list[str], at: int, edit: list[str]) -> None:
    ours = [*without[:at], "N1", "N2", *without[at:]]
    assert take_back(data(without), data(ours), data([*ours, "E", *edit])) == data([*without, "E", *edit])
