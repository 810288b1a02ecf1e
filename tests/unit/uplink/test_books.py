"""What outlives the process: killed at any moment, a quota is never had twice."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from meshsat.errors import StorageError
from meshsat.limits import Period, Quota, WanLimits
from meshsat.store.disk import Threads
from meshsat.uplink import books
from meshsat.uplink.accounts import Accounts, Purpose
from meshsat.uplink.allowance import Allowance
from meshsat.uplink.books import FILE, INTERVAL, RESERVE, Books
from meshsat.uplink.measured import Measured

NOON = datetime(2026, 6, 10, 12, tzinfo=UTC).timestamp()
CAP = 1_000_000_000
LIMITS = WanLimits(quota=Quota(day=CAP))


class Life:
    """One run of a process over the directory."""

    def __init__(self, directory: Path, limits: WanLimits = LIMITS) -> None:
        self.allowance = Allowance(limits, "never", lambda: NOON + trio.current_time(), trio.current_time)
        self.accounts, self.measured = Accounts(), Measured()
        self.books = Books(directory, self.allowance, self.accounts, self.measured, Threads(0))

    async def spend(self, size: int) -> None:
        await self.books.cover()
        self.allowance.spend(size)
        self.accounts.add(Purpose("up.example/pos", "blob"), size, 0, NOON)

    @property
    def spent(self) -> int:
        self.allowance.now()
        return self.allowance.ledger.spent(Period.DAY, "UTC")


async def test_a_clean_end_forgets_nothing_and_costs_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    life = Life(tmp_path)
    await life.books.load()
    await life.spend(12_345)
    life.measured.rate = 777.0
    await life.books.close()
    later = Life(tmp_path)
    await later.books.load()
    assert (later.spent, later.measured.rate) == (12_345, 777.0)
    assert later.accounts.rows == life.accounts.rows
    assert later.books.problem is None


@pytest.mark.parametrize("reads", [1, 10, 333, 4000])
async def test_a_crash_at_any_moment_counts_as_spent_what_may_have_been(
    tmp_path: Path, autojump_clock: MockClock, reads: int
) -> None:
    life = Life(tmp_path)
    await life.books.load()
    for _ in range(reads):
        await life.spend(64 * 1024)
    later = Life(tmp_path)  # the first was killed
    await later.books.load()
    assert life.spent <= later.spent <= life.spent + life.books.reserve
    assert life.books.reserve == min(RESERVE[1], CAP // 100)


async def test_crashing_again_and_again_gives_no_more_than_the_quota(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    total = 0
    for _ in range(400):
        life = Life(tmp_path)
        await life.books.load()
        for _ in range(40):
            if life.allowance.left() == 0:
                break
            await life.spend(64 * 1024)
            total += 64 * 1024
    assert life.allowance.left() == 0
    assert total <= CAP + 64 * 1024


async def test_writes_are_few(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    real = books._write

    def counted(path: Path, data: bytes) -> None:
        written.append(len(data))
        real(path, data)

    monkeypatch.setattr(books, "_write", counted)
    life = Life(tmp_path)
    await life.books.load()
    for _ in range(1000):
        await life.spend(64 * 1024)
        await life.books.save_if_due()
    assert len(written) <= 2 * 65_536_000 / life.books.reserve + 2

    written.clear()
    free = Life(tmp_path / "free", WanLimits())
    (tmp_path / "free").mkdir()
    for _ in range(100):
        await free.spend(64 * 1024)
        await free.books.save_if_due()
        await trio.sleep(INTERVAL / 10)
    assert len(written) == pytest.approx(10, abs=1)
    await trio.sleep(10 * INTERVAL)
    await free.books.save_if_due()
    written.clear()
    await trio.sleep(10 * INTERVAL)
    await free.books.save_if_due()
    assert not written, "nothing was spent since"


async def test_a_full_disk_stops_nothing_and_is_told(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(tmp_path)
    await life.books.load()
    tried: list[float] = []

    def full(_path: Path, _data: bytes) -> None:
        tried.append(trio.current_time())
        raise StorageError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(books, "_write", full)
        for _ in range(100):
            await life.spend(8 * 1024 * 1024)
            await trio.sleep(0.1)
        assert life.books.problem == "no space left: a crash would forget what quotas were spent"
        assert len(tried) <= 3, "it is not tried with each read"
    await trio.sleep(6)
    await life.spend(1)
    assert life.books.problem is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[1]",
        b"\xff",
        b"[" * 100_000,
        b" " * (books.FILE_LIMIT + 1),
        b'{"now": 1, "slots": {"x": 1}, "reserved": 0, "rate": 0, "accounts": {}}',
        b'{"now": NaN, "slots": {}, "reserved": 0, "rate": 0, "accounts": {}}',
        b'{"now": 1, "slots": {"1": -1}, "reserved": 0, "rate": 0, "accounts": {}}',
        b'{"now": 1, "slots": {}, "reserved": true, "rate": 0, "accounts": {}}',
        b'{"now": 1, "slots": {}, "reserved": 0, "rate": 0, "accounts": {}}',
    ],
)
async def test_a_file_that_is_none_is_told_and_begun_anew(
    tmp_path: Path, autojump_clock: MockClock, raw: bytes
) -> None:
    (tmp_path / FILE).write_bytes(raw)
    life = Life(tmp_path)
    await life.books.load()
    assert str(tmp_path / FILE) in (life.books.problem or "")
    assert life.spent == 0
    await life.spend(5)
    await life.books.close()
    assert json.loads((tmp_path / FILE).read_bytes())["slots"]


async def test_the_file_is_whole_or_not_there(tmp_path: Path, autojump_clock: MockClock) -> None:
    life = Life(tmp_path)
    await life.spend(5)
    await life.books.close()
    before = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).with_suffix(".new").mkdir()  # the next write can't even begin
    await life.spend(CAP)
    await life.books.close()
    assert (tmp_path / FILE).read_bytes() == before
    assert life.books.problem is not None
