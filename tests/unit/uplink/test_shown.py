"""The accounts as they are shown: the most costly first, the rest summed up."""

import trio

from meshsat.config import QuotaSection, UplinkSection
from meshsat.metrics import Metrics
from meshsat.uplink.accounts import PURPOSE, Purpose
from meshsat.uplink.client import Uplink
from meshsat.uplink.shown import ROWS, wan_status

NOON = 1_781_092_800.0  # 2026-06-10 12:00 UTC


async def test_the_most_costly_come_first_and_nothing_is_left_out() -> None:
    uplink = Uplink(
        UplinkSection(rate=1000, quota=QuotaSection(day=100_000)),
        Metrics(),
        environ={},
        wall_clock=lambda: NOON,
    )
    for number in range(ROWS + 50):
        PURPOSE.set(Purpose(f"up.example/{number}", "blob"))
        uplink.meter.spend(number, 1)
    await trio.lowlevel.checkpoint()
    shown = wan_status(uplink, lambda: NOON)
    assert len(shown.rows) == ROWS + 1
    assert shown.rows[0].image == f"up.example/{ROWS + 49}"
    assert shown.rows[-1].image == "(all others)"
    total = sum(range(ROWS + 50)) + ROWS + 50
    assert sum(row.bytes_in + row.bytes_out for row in shown.rows) == total
    (quota,) = shown.quotas
    assert (quota.period, quota.cap, quota.spent, quota.left) == ("day", 100_000, total, 100_000 - total)
    assert quota.ends_at == NOON + 12 * 3600
    assert (shown.gate, shown.rate, shown.reason) == ("open", 1000, "")
