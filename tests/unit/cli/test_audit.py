import json
from pathlib import Path

from meshsat.audit.event import Actor, Entry
from meshsat.audit.opening import journal_of
from meshsat.config import Config
from tests.unit.cli.conftest import Meshsat


def filled(data_dir: Path, count: int = 3) -> Path:
    journal = journal_of(Config.load(data_dir=data_dir))
    journal.append(
        [
            Entry(
                1_800_000_000.0,
                "user.login",
                Actor("client", "bob", "192.0.2.7"),
                str(number),
                "failure",
                "bad_password",
            )
            for number in range(count)
        ]
    )
    return journal.path


def test_the_last_lines_are_shown_for_people(meshsat: Meshsat, tmp_path: Path) -> None:
    filled(tmp_path, 30)
    ended = meshsat("audit", "tail", "-n", "2", "--data-dir", tmp_path)
    assert ended.out.splitlines() == [
        f"2027-01-15T08:00:00.000Z  user.login  failure  {number}  by client bob 192.0.2.7  (bad_password)"
        for number in (28, 29)
    ]
    assert len(meshsat("audit", "tail", "--data-dir", tmp_path).out.splitlines()) == 20


def test_what_is_whole_verifies(meshsat: Meshsat, tmp_path: Path) -> None:
    filled(tmp_path)
    ended = meshsat("audit", "verify", "--data-dir", tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("3 lines, from 1 to 3")


def test_what_was_changed_is_told_by_file_and_line(meshsat: Meshsat, tmp_path: Path) -> None:
    path = filled(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"192.0.2.7", b"192.0.2.8", 1))
    ended = meshsat("audit", "verify", "--data-dir", tmp_path)
    assert (ended.code, "audit.jsonl:2" in ended.err) == (1, True)
    ended = meshsat("audit", "verify", "--json", "--data-dir", tmp_path)
    assert json.loads(ended.out)["faults"]


def test_nothing_is_there_yet(meshsat: Meshsat, tmp_path: Path) -> None:
    assert meshsat("audit", "verify", "--data-dir", tmp_path).out == "the audit log is empty\n"
    assert meshsat("audit", "tail", "--data-dir", tmp_path).out == ""
    assert list(tmp_path.iterdir()) == []
