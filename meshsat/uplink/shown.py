"""What the uplink shows of itself: its limits, what is left of them, and what each byte was for."""

import time
from collections.abc import Callable

from meshsat.status import QuotaStatus, WanRow, WanStatus
from meshsat.uplink.client import Uplink

ROWS = 100
"""Images that are listed, the most costly first; the others are summed up."""


def wan_status(uplink: Uplink | None, unix: Callable[[], float] = time.time) -> WanStatus:
    if uplink is None:
        return WanStatus(enabled=False)
    meter = uplink.meter
    verdict = meter.allowance.look()
    accounts = meter.accounts
    accounts.roll(meter.allowance.now())
    rows = sorted(
        (
            WanRow(purpose.image, purpose.kind, tally.in_, tally.out, tally.day, tally.month)
            for purpose, tally in accounts.rows.items()
        ),
        key=lambda row: (-(row.bytes_in + row.bytes_out), row.image, row.purpose),
    )
    rest = rows[ROWS:]
    if rest:
        rows = rows[:ROWS]
        rows.append(
            WanRow(
                "(all others)",
                "",
                sum(row.bytes_in for row in rest),
                sum(row.bytes_out for row in rest),
                sum(row.day for row in rest),
                sum(row.month for row in rest),
            )
        )
    return WanStatus(
        enabled=True,
        gate=verdict.gate.name.lower(),
        reason=verdict.reason,
        opens_at=verdict.opens_at,
        rate=meter.allowance.rate,
        measured_rate=round(meter.measured.rate),
        quotas=tuple(
            QuotaStatus(
                one.period.value,
                one.cap,
                one.spent,
                max(0, one.cap - one.spent),
                unix() + one.ends_in,
                one.timezone,
            )
            for one in meter.allowance.quotas()
        ),
        since=accounts.since,
        rows=tuple(rows),
    )
