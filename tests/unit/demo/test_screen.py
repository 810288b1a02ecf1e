import io

from rich.console import Console

from meshsat.demo.screen import Row, Screen

ROWS = [Row("node-1", uplinked=True, have=50, total=200, wan_in=1_500_000), Row("node-2", uplinked=False)]


def test_elsewhere_progress_is_a_line_now_and_then() -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, width=100))
    for _ in range(100):
        screen.progress(ROWS)
    assert len(out.getvalue().splitlines()) == 1
    assert "node-1  25 %" in out.getvalue()
    screen.progress_ends(ROWS)
    assert len(out.getvalue().splitlines()) == 2


def test_on_a_terminal_it_is_a_table_that_is_given_back() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    screen = Screen(console)
    screen.progress(ROWS)
    ROWS[1].seconds = 16.8
    screen.progress_ends(ROWS)
    screen.close()
    assert "1.5 MB" in out.getvalue()
    assert "whole after 16.8 s" in out.getvalue()
    assert out.getvalue().endswith("\x1b[?25h")  # the cursor is shown again
