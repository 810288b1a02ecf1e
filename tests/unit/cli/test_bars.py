import json

import pytest

from meshsat.cli.bars import Bar


def test_lines_for_programs_are_few_and_the_last_is_all(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("export", as_json=True) as bar:
        for have in range(1001):
            bar.move(have, 1000)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) < 100
    assert lines[0] == {"event": "progress", "have_bytes": 0, "total_bytes": 1000}
    assert lines[-1]["have_bytes"] == 1000


def test_where_there_is_no_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("export", as_json=False) as bar:
        bar.move(1, 2)
    shown = capsys.readouterr()
    assert (shown.out, shown.err.strip()) == ("", "")
