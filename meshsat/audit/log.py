"""The node's audit log: what is told waits in a bounded queue, and one task writes it.

Laws: telling never waits and never fails; what found no room is counted, and the number is told in the log
itself; a disk that is full, or a file that can't be written, is a problem in `status` and stops nothing.
"""

from collections import deque
from collections.abc import Callable

import structlog
import trio

from meshsat.audit.event import FAILURE, NODE, Actor, Entry, Outcome
from meshsat.audit.journal import Journal, JournalError
from meshsat.audit.lines import OBJECT_LIMIT, REASON_LIMIT

QUEUE = 1024
"""Entries that wait; a line is at most 16 KiB, and a usual one 300 bytes."""
BATCH = 256
RETRY_EVERY = 10.0
"""Seconds until a file that could not be written is tried again."""
LAST_WORDS = 1.0
"""Seconds for what waits when the node ends."""

log = structlog.get_logger(__name__)


class AuditLog:
    """`unix` gives Unix seconds. To be told from trio's thread alone."""

    def __init__(self, journal: Journal, unix: Callable[[], float]) -> None:
        self._journal = journal
        self._unix = unix
        self._waiting: deque[Entry] = deque()
        self._dropped = 0
        self._news = trio.Event()
        self._fault: str | None = None
        """Why nothing is written at the moment."""

    @property
    def problem(self) -> str | None:
        """What an operator should see to."""
        if self._fault is None and self._journal.damage is not None:
            return f"{self._journal.damage}; see `meshsat audit verify`"
        return self._fault

    def record(
        self,
        event: str,
        *,
        actor: Actor,
        object: str,  # noqa: A002 - the field's name in the log
        outcome: Outcome,
        reason: str = "",
    ) -> None:
        if len(self._waiting) >= QUEUE:
            self._dropped += 1
            return
        about, why = object[: OBJECT_LIMIT + 1], reason[: REASON_LIMIT + 1]
        self._waiting.append(Entry(self._unix(), event, actor, about, outcome, why))
        self._news.set()

    async def run(self) -> None:
        """Write, until cancelled; what waits then is still written."""
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                while self._waiting:
                    if not await self._write():
                        await trio.sleep(RETRY_EVERY)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WORDS):
                while self._waiting and await self._write():
                    pass

    async def _write(self) -> bool:
        """Whether the next ones are written."""
        batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
        try:
            await trio.to_thread.run_sync(self._journal.append, batch)
        except JournalError as fault:
            self._take(fault.written)
            if self._fault is None:
                log.warning("the audit log is not written", problem=str(fault))
            self._fault = f"{fault}; what happens meanwhile waits, {QUEUE} entries at most"
            return False
        self._take(len(batch))
        self._fault = None
        if self._dropped:
            text, self._dropped = f"{self._dropped} entries found no room in the queue", 0
            self.record("audit.drop", actor=NODE, object="audit", outcome=FAILURE, reason=text)
        return True

    def _take(self, count: int) -> None:
        for _ in range(count):
            self._waiting.popleft()
