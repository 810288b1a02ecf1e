import pytest

from meshsat.cli.tables import show_pairs, show_table


def test_in_a_pipe_nothing_is_cut_or_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    long = "sha256:" + "ab" * 200
    show_table(("DIGEST", "SIZE"), [(long, "1 B"), ("x", "20 MB")], right=("SIZE",))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [line.rstrip() for line in lines]
    assert [line.split() for line in lines] == [["DIGEST", "SIZE"], [long, "1", "B"], ["x", "20", "MB"]]


def test_what_a_peer_calls_itself_is_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("NAME",), [("[red]loud[/red]",)])
    show_pairs([("name", "[bold]x")])
    shown = capsys.readouterr().out
    assert "[red]loud[/red]" in shown
    assert "[bold]x" in shown
