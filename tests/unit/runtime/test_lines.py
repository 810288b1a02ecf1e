import pytest

from meshsat.runtime.lines import as_lines, ended, indent_of, newline_of, split


@pytest.mark.parametrize(("text", "end"), [("", "\n"), ("a", "\n"), ("a\nb\r\n", "\n"), ("a\r\nb\n", "\r\n")])
def test_new_lines_end_like_the_first_one(text: str, end: str) -> None:
    assert newline_of(text) == end
    assert as_lines(text, "x", "") == [f"x{end}", end]


@pytest.mark.parametrize("text", ["", "a", "a\n", "\n", "a\r\n\x0c\u2028b\rc\n\nd"])
def test_lines_put_together_are_the_text(text: str) -> None:
    assert "".join(split(text)) == text
    assert len(split(text)) == text.count("\n") + (not text.endswith("\n") and bool(text))


def test_an_end_is_given_where_there_is_none() -> None:
    assert [ended(text) for text in ("", "a", "a\n", "a\r\nb")] == ["", "a\n", "a\n", "a\r\nb\r\n"]


def test_indentation() -> None:
    assert [indent_of(line) for line in ("a", "\t a", "  ", "")] == ["", "\t ", "  ", ""]
