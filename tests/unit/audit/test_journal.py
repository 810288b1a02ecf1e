"""The files of the audit log: chained, rotated, written by several; what was done to them shows."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshsat.audit import journal as module
from meshsat.audit.event import NODE, Entry
from meshsat.audit.journal import Journal, JournalError, older
from meshsat.audit.lines import FIRST_PREV, parse_line_untrusted


def entries(*names: str) -> list[Entry]:
    return [Entry(1.0, "node.start", NODE, name, "success") for name in names]


def journal_in(directory: Path, max_bytes: int = 1 << 20, keep: int = 3) -> Journal:
    return Journal(directory / "audit" / "audit.jsonl", max_bytes, keep)


def objects(journal: Journal, count: int = 1000) -> list[str]:
    return [line.entry.object for line in journal.lines(count)]


def test_lines_are_numbered_and_chained_from_one_process_to_the_next(tmp_path: Path) -> None:
    journal_in(tmp_path).append(entries("a", "b"))
    journal_in(tmp_path).append(entries("c"))
    journal = journal_in(tmp_path)
    assert [(line.seq, line.entry.object) for line in journal.lines(10)] == [(1, "a"), (2, "b"), (3, "c")]
    assert journal.lines(10)[0].prev == FIRST_PREV
    assert objects(journal, 2) == ["b", "c"]
    found = journal.verify()
    assert (found.lines, found.first, found.head.seq, found.faults) == (3, 1, 3, [])


def test_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    journal.append(entries("a"))
    assert journal.path.parent.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in journal.path.parent.iterdir()} == {0o600}


def test_what_is_not_there_is_empty_and_is_not_made_by_looking(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    assert journal.lines(10) == []
    assert journal.verify().faults == []
    assert list(tmp_path.iterdir()) == []


def test_it_rotates_by_size_and_keeps_so_many(tmp_path: Path) -> None:
    journal = journal_in(tmp_path, max_bytes=1000, keep=2)
    for number in range(40):
        journal.append(entries(f"entry {number}"))
    files = [*older(journal.path), journal.path]
    assert len(files) == 3
    assert all(path.stat().st_size <= 1000 for path in files)
    found = journal.verify()
    assert found.faults == []
    assert found.first > 1
    assert found.head.seq == 40
    assert objects(journal)[-1] == "entry 39"
    assert found.lines == 40 - found.first + 1


def test_a_batch_larger_than_a_file_is_spread_over_several(tmp_path: Path) -> None:
    journal = journal_in(tmp_path, max_bytes=1000, keep=100)
    journal.append(entries(*map(str, range(30))))
    assert objects(journal) == list(map(str, range(30)))
    assert journal.verify().faults == []


def test_no_older_file_is_kept_where_none_is_to_be(tmp_path: Path) -> None:
    journal = journal_in(tmp_path, max_bytes=1000, keep=0)
    journal.append(entries(*map(str, range(30))))
    assert older(journal.path) == []
    assert journal.verify().faults == []


@pytest.mark.parametrize("at", range(6))
def test_a_line_that_was_changed_shows(tmp_path: Path, at: int) -> None:
    journal = journal_in(tmp_path)
    journal.append(entries(*"abcdef"))
    lines = journal.path.read_bytes().splitlines(keepends=True)
    lines[at] = lines[at].replace(b'"success"', b'"failure"')
    journal.path.write_bytes(b"".join(lines))
    assert journal.verify().faults


@pytest.mark.parametrize("at", range(6))
def test_a_line_that_was_taken_out_shows(tmp_path: Path, at: int) -> None:
    journal = journal_in(tmp_path)
    journal.append(entries(*"abcdef"))
    lines = journal.path.read_bytes().splitlines(keepends=True)
    del lines[at]
    journal.path.write_bytes(b"".join(lines))
    faults = journal.verify().faults
    assert faults or at == 0  # the oldest may have been rotated away
    if at == 0:
        assert journal.verify().first == 2


def test_lines_that_were_swapped_or_put_in_show(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    journal.append(entries(*"abcd"))
    lines = journal.path.read_bytes().splitlines(keepends=True)
    for wrong in (
        [lines[0], lines[2], lines[1], lines[3]],
        [*lines[:2], lines[1], *lines[2:]],
        [*lines[:2], b"nonsense\n", *lines[2:]],
        [*lines[:2], b"x" * 100_000 + b"\n", *lines[2:]],
    ):
        journal.path.write_bytes(b"".join(wrong))
        assert journal.verify().faults


@pytest.mark.parametrize("how", ["cut", "emptied", "removed", "changed"])
def test_an_end_that_was_cut_shows_also_after_more_was_written(tmp_path: Path, how: str) -> None:
    journal = journal_in(tmp_path)
    journal.append(entries(*"abcd"))
    raw = journal.path.read_bytes()
    match how:
        case "cut":
            journal.path.write_bytes(b"".join(raw.splitlines(keepends=True)[:2]))
        case "emptied":
            journal.path.write_bytes(b"")
        case "removed":
            journal.path.unlink()
        case "changed":
            journal.path.write_bytes(raw.replace(b'"object":"d"', b'"object":"x"'))
    assert journal.verify().faults
    journal.append(entries("e"))
    assert [line.entry.event for line in journal.lines(2)] == ["audit.damage", "node.start"]
    assert journal.lines(1)[0].seq == 6
    if how in ("cut", "changed"):
        assert journal.verify().faults
    journal.append(entries("f"))
    assert [line.entry.event for line in journal.lines(10)].count("audit.damage") == 1


def test_a_line_that_a_crash_cut_in_half_is_mended_and_told(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    journal.append(entries("a", "b"))
    with journal.path.open("ab") as file:
        file.write(b'{"time":"20')
    journal.append(entries("c"))
    assert [line.entry.event for line in journal.lines(10)] == ["node.start"] * 2 + [
        "audit.repair",
        "node.start",
    ]
    assert "11 bytes" in journal.lines(2)[0].entry.reason
    assert journal.verify().faults == []


class Crash(BaseException):
    """The process ends here."""


def crashing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """End at the `at`-th thing that is done to the disk; a write is done in part, and nothing after it."""
    count, write = 0, os.write

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal count
            count += 1
            if count == at and real is write:
                write(args[0], bytes(args[1])[:20])
            if count >= at:
                raise Crash
            return real(*args)

        return call

    for name in ("write", "pwrite", "fdatasync", "fsync"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))


def test_a_crash_at_any_step_leaves_a_chain_without_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = 0
    for at in range(1, 200):
        journal = journal_in(tmp_path / str(at), max_bytes=600, keep=2)
        journal.append(entries("a", "b"))
        with monkeypatch.context() as patch:
            crashing(patch, at)
            try:
                journal.append(entries("c", "d", "e", "f"))
            except Crash:
                ended += 1
            else:
                break
        journal.append(entries("after"))
        assert journal.verify().faults == []
        assert objects(journal)[-1] == "after"
        assert "audit.damage" not in [line.entry.event for line in journal.lines(100)]
    assert ended > 8


def test_a_full_disk_is_told_and_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = journal_in(tmp_path)
    journal.append(entries("a"))
    before = journal.path.read_bytes()
    write = os.write
    room = 300

    def full(descriptor: int, data: Any) -> int:
        nonlocal room
        if room == 0:
            raise OSError(28, "No space left on device")
        done = write(descriptor, bytes(data)[:room])
        room -= done
        return done

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(JournalError, match="No space left") as refused:
            journal.append(entries("b", "c", "d", "e"))
    assert refused.value.written == 1
    assert journal.path.read_bytes().startswith(before)
    journal.append(entries("c", "d", "e"))
    assert objects(journal) == list("abcde")
    assert journal.verify().faults == []


def test_a_directory_that_is_not_ours_is_told(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file")
    with pytest.raises(JournalError, match="cannot be written"):
        journal_in(tmp_path).append(entries("a"))


def test_it_follows_no_link(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    journal.path.parent.mkdir()
    (tmp_path / "victim").write_text("precious\n")
    journal.path.symlink_to(tmp_path / "victim")
    with pytest.raises(JournalError):
        journal.append(entries("a"))
    assert (tmp_path / "victim").read_text() == "precious\n"


def test_who_writes_waits_for_the_other_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_LIMIT", 0.05)
    one, other = journal_in(tmp_path), journal_in(tmp_path)
    with one._locked(), pytest.raises(JournalError, match="held by another"):
        other.append(entries("a"))


def test_the_sink_gets_each_line(tmp_path: Path) -> None:
    got: list[tuple[str, int]] = []
    journal = Journal(
        tmp_path / "audit.jsonl",
        1 << 20,
        1,
        lambda entry, line: got.append((entry.object, parse_line_untrusted(line).seq)),
    )
    journal.append(entries("a", "b"))
    assert got == [("a", 1), ("b", 2)]


WRITER = """
import sys
from pathlib import Path
from meshsat.audit.event import NODE, Entry
from meshsat.audit.journal import Journal
journal = Journal(Path(sys.argv[1]), 4000, 50)
for number in range(50):
    journal.append([Entry(1.0, "node.start", NODE, f"{sys.argv[2]} {number}", "success")])
"""


@pytest.mark.slow
def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name]) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = Journal(path, 4000, 50).verify()
    assert (found.lines, found.faults) == (150, [])
