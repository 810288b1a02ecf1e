"""The node's audit log: nobody waits for it, and nothing that it lost is hidden."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshsat.audit import log as module
from meshsat.audit.event import NODE, Entry
from meshsat.audit.journal import Journal, JournalError
from meshsat.audit.log import BATCH, QUEUE, RETRY_EVERY, AuditLog


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's clock does not wait for threads."""

    async def inline(call: Callable[..., Any], *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return call(*args)

    monkeypatch.setattr("trio.to_thread.run_sync", inline)


class Disk(Journal):
    def __init__(self) -> None:
        self.written: list[Entry] = []
        self.damage: str | None = None
        self.room: int | None = None
        """Entries; None: any number."""

    def append(self, entries: Sequence[Entry]) -> None:
        for count, entry in enumerate(entries):
            if self.room == 0:
                raise JournalError("the disk is full", count)
            self.room = None if self.room is None else self.room - 1
            self.written.append(entry)


def tell(log: AuditLog, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        log.record("node.start", actor=NODE, object=str(number), outcome="success")


def told(disk: Disk) -> list[int]:
    return [int(entry.object) for entry in disk.written if entry.event == "node.start"]


async def test_what_is_told_is_written_in_order(autojump_clock: MockClock) -> None:
    disk = Disk()
    log = AuditLog(disk, lambda: 7.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        tell(log, BATCH + 10)
        await trio.sleep(1)
        tell(log, 5, BATCH + 10)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert told(disk) == list(range(BATCH + 15))
    assert disk.written[0].at == 7.0


async def test_what_waits_at_the_end_is_still_written() -> None:
    disk = Disk()
    log = AuditLog(disk, lambda: 7.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        await wait_all_tasks_blocked()
        tell(log, 3)
        nursery.cancel_scope.cancel()
    assert told(disk) == [0, 1, 2]


async def test_a_full_disk_is_a_problem_until_there_is_room_and_no_entry_is_written_twice(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    disk.room = 2
    log = AuditLog(disk, lambda: 7.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        tell(log, 5)
        await trio.sleep(1)
        assert log.problem is not None
        assert "the disk is full" in log.problem
        disk.room = None
        await trio.sleep(RETRY_EVERY)
        assert log.problem is None
        nursery.cancel_scope.cancel()
    assert told(disk) == list(range(5))


async def test_what_finds_no_room_is_counted_and_the_number_is_told(autojump_clock: MockClock) -> None:
    disk = Disk()
    disk.room = 0
    log = AuditLog(disk, lambda: 7.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        tell(log, QUEUE + 7)
        await trio.sleep(1)
        assert len(log._waiting) == QUEUE
        disk.room = None
        await trio.sleep(2 * RETRY_EVERY)
        nursery.cancel_scope.cancel()
    assert told(disk) == list(range(QUEUE))
    (drop,) = [entry for entry in disk.written if entry.event == "audit.drop"]
    assert drop.reason.startswith("7 entries")


async def test_a_disk_that_stays_full_does_not_hold_up_the_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    disk.room = 0
    log = AuditLog(disk, lambda: 7.0)
    with trio.fail_after(module.LAST_WORDS + 1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            tell(log, 5)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_what_was_changed_behind_our_back_is_a_problem(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "audit.jsonl", 1 << 20, 1)
    log = AuditLog(journal, lambda: 7.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        tell(log, 2)
        nursery.cancel_scope.cancel()
    assert log.problem is None
    journal.path.write_bytes(b"")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        tell(log, 1)
        nursery.cancel_scope.cancel()
    assert log.problem is not None
    assert "meshsat audit verify" in log.problem


def test_what_waits_is_bounded_in_bytes_too() -> None:
    log = AuditLog(Disk(), lambda: 7.0)
    log.record("x", actor=NODE, object="o" * 100_000, outcome="failure", reason="r" * 100_000)
    (entry,) = log._waiting
    assert len(entry.object) < 600
    assert len(entry.reason) < 600
