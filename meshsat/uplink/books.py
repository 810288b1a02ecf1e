"""Books: `DATA/wan.json`, in which the ledger, the accounts and the measured rate outlive the process.

Law: what a crash makes us forget is counted as spent. The file says up to how many bytes may be spent beyond
what it tells (`reserve`), and more is not spent before it says so again; so a quota is never had twice, and a
crash costs at most the reserve of it. Without a quota the file is written each `INTERVAL` seconds at most,
and a crash loses what was counted since.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import trio

from meshsat.errors import InvalidInputError, StorageError
from meshsat.schedule import LATEST
from meshsat.store.disk import Threads, rename, sync_directory, write_file
from meshsat.uplink.accounts import Accounts
from meshsat.uplink.allowance import Allowance
from meshsat.uplink.ledger import GRAIN, KEPT
from meshsat.uplink.measured import Measured

log = structlog.get_logger(__name__)

FILE = "wan.json"
FILE_LIMIT = 1024 * 1024
INTERVAL = 30.0
RESERVE = (64 * 1024, 8 * 1024 * 1024)
"""Bytes, least and most."""
_AGAIN = 5.0
"""Seconds before a write that failed is tried again."""
_RATE_LIMIT = 1e12


class Books:
    def __init__(
        self,
        directory: Path | None,
        allowance: Allowance,
        accounts: Accounts,
        measured: Measured,
        threads: Threads | None = None,
    ) -> None:
        """`directory` None: nothing is kept."""
        self.problem: str | None = None
        self._path = directory / FILE if directory is not None else None
        self._allowance = allowance
        self._accounts = accounts
        self._measured = measured
        self._threads = threads or Threads(1)
        self._saved = 0
        """The ledger's total when it was written last."""
        self._reserved = 0
        self._saved_at = float("-inf")
        self._tried_at = float("-inf")
        self._turn = trio.Lock()

    @property
    def reserve(self) -> int:
        """Bytes that may be spent beyond what the file tells: a hundredth of the smallest quota."""
        cap = self._allowance.least_cap
        return min(RESERVE[1], max(RESERVE[0], cap // 100)) if cap else 0

    async def load(self) -> None:
        """Take up what an earlier run left; a file that cannot be read is told, and begun anew."""
        if self._path is None:
            return
        try:
            raw = await self._threads.run(_read, self._path)
            if raw is not None:
                self._take_untrusted(raw)
        except (InvalidInputError, OSError) as fault:
            self.problem = f"{self._path} can't be read ({fault}): quotas are counted from nothing"
            log.warning("what went over the WAN is not known", file=str(self._path), problem=str(fault))
        self._saved = self._allowance.ledger.total

    def _take_untrusted(self, raw: bytes) -> None:
        """Raises `InvalidInputError`, and takes nothing."""
        now, slots, reserved, rate, accounts = parse_books_untrusted(raw)
        self._accounts.restore_untrusted(accounts)
        self._allowance.ledger.restore(now, slots)
        self._allowance.spend(reserved)  # as of now: it may have been spent until just before
        self._measured.rate = rate

    async def cover(self) -> None:
        """To be called before bytes are spent: see to it that the file owns up to them."""
        reserve = self.reserve
        if self._path is None or not reserve:
            return
        spent = self._allowance.ledger.total - self._saved
        if spent < self._reserved / 2 or trio.current_time() < self._tried_at:
            return
        async with self._turn:
            if self._allowance.ledger.total - self._saved >= self._reserved / 2:
                await self._save(reserve)

    async def save_if_due(self) -> None:
        now = trio.current_time()
        if now < max(self._saved_at + INTERVAL, self._tried_at):
            return
        if self._saved == self._allowance.ledger.total and self._saved_at > float("-inf"):
            return
        async with self._turn:
            await self._save(self.reserve)

    async def close(self) -> None:
        """The last word: nothing is in reserve any more."""
        if self._path is not None and (self._reserved or self._saved != self._allowance.ledger.total):
            async with self._turn:
                await self._save(0)

    async def _save(self, reserve: int) -> None:
        if self._path is None:
            return
        self._allowance.now()
        total = self._allowance.ledger.total
        kept = {
            **self._allowance.ledger.as_json(),
            "reserved": reserve,
            "rate": self._measured.rate,
            "accounts": self._accounts.as_json(),
        }
        try:
            await self._threads.run(_write, self._path, json.dumps(kept).encode())
        except StorageError as fault:
            self.problem = f"{fault}: a crash would forget what quotas were spent"
            self._tried_at = trio.current_time() + _AGAIN
            return
        self.problem = None
        self._saved, self._reserved, self._saved_at = total, reserve, trio.current_time()


def parse_books_untrusted(raw: bytes) -> tuple[float, dict[int, int], int, float, dict[str, Any]]:
    """The ledger's time, its slots, the reserve, the measured rate, and the accounts as they stand there.

    Raises `InvalidInputError`."""
    if len(raw) > FILE_LIMIT:
        raise InvalidInputError(f"more than {FILE_LIMIT} bytes")
    try:
        kept = json.loads(raw)
        slots = {int(slot): size for slot, size in kept["slots"].items()}
        now, rate, reserved, accounts = kept["now"], kept["rate"], kept["reserved"], kept["accounts"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise InvalidInputError("it is not what a node writes there") from None
    numbers = isinstance(now, int | float) and isinstance(rate, int | float)
    if not numbers or not (0 <= now <= LATEST and 0 <= rate <= _RATE_LIMIT) or not isinstance(accounts, dict):
        raise InvalidInputError("it holds a number that can't be")
    counts = [reserved, *slots.values()]
    if len(slots) > 2 * KEPT // GRAIN or not all(type(one) is int and 0 <= one < 1 << 63 for one in counts):
        raise InvalidInputError("it holds a count that can't be")
    return float(now), slots, reserved, float(rate), accounts


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(FILE_LIMIT + 1)
    except FileNotFoundError:
        return None


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all. Raises `StorageError`."""
    new = path.with_suffix(".new")
    try:
        write_file(new, data)
        rename(new, path)
    except StorageError:
        with suppress(OSError):
            new.unlink()
        raise
    sync_directory(path.parent)
