"""Meter: what every connection of the uplink asks before it takes bytes, and tells when they came.

It joins the rate (`budget`), the quotas and windows (`allowance`), what is kept of both (`books`), and what
each byte was for (`accounts`).
"""

import time
from collections.abc import Callable
from pathlib import Path

import trio

from meshsat.limits import WanLimits
from meshsat.metrics import Metrics
from meshsat.store.disk import Threads
from meshsat.uplink.accounts import PURPOSE, Accounts
from meshsat.uplink.allowance import Allowance, Verdict
from meshsat.uplink.books import Books
from meshsat.uplink.budget import Budget, Flow
from meshsat.uplink.measured import Measured
from meshsat.uplink.sockets import TcpWire


class Meter:
    def __init__(
        self,
        limits: WanLimits,
        metrics: Metrics,
        *,
        urgent: str = "never",
        directory: Path | None = None,
        wall_clock: Callable[[], float] = time.time,
        threads: Threads | None = None,
    ) -> None:
        """`directory`: where the books are kept; None: nowhere."""
        self.metrics = metrics
        self.allowance = Allowance(limits, urgent, wall_clock, trio.current_time)
        self.budget = Budget(limits.rate)
        self.accounts = Accounts(limits.quota.timezone)
        self.measured = Measured()
        self.books = Books(directory, self.allowance, self.accounts, self.measured, threads)
        self.changed = trio.Event()
        """Set when it may be that the gate shuts."""

    def apply(self) -> None:
        """The allowance's limits are other ones."""
        self.budget.set_rate(self.allowance.rate)
        self.changed.set()

    def show(self, verdict: Verdict) -> None:
        """Bring the gauges up to date."""
        self.metrics.wan_gate.set(int(verdict.gate))
        self.metrics.wan_rate.set(self.measured.rate)
        self.metrics.wan_quota_left.clear()
        left: dict[str, int] = {}
        for one in self.allowance.quotas():
            rest = max(0, one.cap - one.spent)
            left[one.period.value] = min(rest, left.get(one.period.value, rest))
        for period, rest in left.items():
            self.metrics.wan_quota_left.labels(period).set(rest)

    def open(self, stream: trio.SocketStream, window: int | None) -> "Counted":
        """`window`: what `connect` was given."""
        return Counted(self, TcpWire(stream.socket), window or 0)

    def spend(self, in_: int, out: int) -> None:
        """Bytes on the wire, for what the task is at."""
        if not in_ and not out:
            return
        purpose = PURPOSE.get()
        self.allowance.spend(in_ + out)
        self.accounts.add(purpose, in_, out, self.allowance.ledger.now)
        for direction, size in (("in", in_), ("out", out)):
            if size:
                self.metrics.wan_bytes.labels(purpose.kind, direction).inc(size)
        if purpose.kind == "blob":
            self.measured.came(in_, trio.current_time())
        if self.allowance.least_cap:
            self.changed.set()


class Counted:
    """One connection's bytes."""

    def __init__(self, meter: Meter, wire: TcpWire, window: int) -> None:
        self._meter = meter
        self._wire = wire
        self._flow = Flow(wire, window)
        self._told = (0, 0)
        meter.budget.add(self._flow)

    async def before_asking(self) -> None:
        """Raises `UplinkShutError`."""
        self._meter.allowance.check_spent()
        await self._meter.books.cover()
        await self._meter.budget.begin(self._flow)

    async def before_reading(self, size: int) -> None:
        """Raises `UplinkShutError`."""
        self._meter.allowance.check_spent()
        await self._meter.books.cover()
        await self._meter.budget.ready(size)

    def read(self, size: int) -> None:
        """So many bytes of payload were read."""
        self._meter.budget.took(self._flow, size)
        self._meter.budget.poll(self._flow)
        self.settle()

    def settle(self) -> None:
        """Count what is new on the wire."""
        total = (self._flow.counted, self._wire.sent())
        in_, out = (max(0, one - told) for one, told in zip(total, self._told, strict=True))
        self._told = total
        self._meter.spend(in_, out)

    def rest(self) -> None:
        """All that was asked for is here."""
        self._meter.budget.rest(self._flow)
        self.settle()

    def close(self) -> None:
        """Before the socket is closed: what came and was not read has been paid for."""
        self._meter.budget.remove(self._flow)
        self.settle()
