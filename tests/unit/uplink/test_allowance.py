"""What may pass, by quotas, windows and clocks together; every clock is given."""

from datetime import UTC, datetime

import pytest

from meshsat.errors import UplinkShutError
from meshsat.limits import Gate, Quota, WanLimits, Window, margin
from meshsat.uplink.allowance import Allowance

HOUR, DAY, GB = 3600.0, 86400.0, 10**9


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOON = at("2026-06-10 12:00")
NIGHT = Window("0 2 * * *", 2 * HOUR)


class Clocks:
    def __init__(self, wall: float = NOON) -> None:
        self.wall, self.passed = wall, 0.0

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds


def allow(limits: WanLimits, clocks: Clocks, urgent: str = "never") -> Allowance:
    return Allowance(limits, urgent, lambda: clocks.wall, lambda: clocks.passed)


def test_without_limits_all_may_pass() -> None:
    allowance = allow(WanLimits(), Clocks())
    allowance.spend(10**15)
    assert allowance.look().gate is Gate.OPEN
    assert allowance.left() is None
    allowance.check()
    allowance.check_spent()


def test_a_spent_quota_shuts_until_its_period_ends() -> None:
    clocks = Clocks()
    allowance = allow(WanLimits(quota=Quota(day=GB)), clocks)
    allowance.spend(GB - margin(GB) - 1)
    assert allowance.look().gate is Gate.OPEN
    allowance.spend(1)
    verdict = allowance.look()
    assert (verdict.gate, verdict.opens_at) == (Gate.SHUT, at("2026-06-11 00:00"))
    assert str(verdict) == (
        "the uplink's quota of the day (1000000000 bytes) is spent; opens at 2026-06-11 00:00:00 UTC"
    )
    with pytest.raises(UplinkShutError, match="quota of the day"):
        allowance.check()
    allowance.check_spent()  # what is under way may use the rest
    allowance.spend(margin(GB))
    with pytest.raises(UplinkShutError):
        allowance.check_spent()
    clocks.go(12 * HOUR)
    assert allowance.look().gate is Gate.OPEN


def test_of_several_quotas_each_is_kept_and_the_last_to_end_is_told() -> None:
    clocks = Clocks()
    allowance = allow(WanLimits(quota=Quota(hour=GB, month=2 * GB)), clocks)
    allowance.spend(GB)
    assert allowance.look().opens_at == NOON + HOUR
    clocks.go(HOUR)
    assert allowance.look().gate is Gate.OPEN
    assert allowance.left() == GB
    allowance.spend(GB)
    assert allowance.look().opens_at == at("2026-07-01 00:00")


def test_a_day_is_one_of_the_zone() -> None:
    allowance = allow(WanLimits(quota=Quota(day=GB, timezone="Europe/Berlin")), Clocks())
    allowance.spend(GB)
    assert allowance.look().opens_at == at("2026-06-10 22:00")


@pytest.mark.parametrize(
    ("wall", "gate", "opens_at"),
    [
        ("2026-06-10 12:00", Gate.SHUT, at("2026-06-11 02:00")),
        ("2026-06-10 02:00", Gate.OPEN, None),
        ("2026-06-10 04:00", Gate.SHUT, at("2026-06-11 02:00")),
    ],
)
def test_windows(wall: str, gate: Gate, opens_at: float | None) -> None:
    verdict = allow(WanLimits(windows=(NIGHT,)), Clocks(at(wall))).look()
    assert (verdict.gate, verdict.opens_at) == (gate, opens_at)


def test_a_window_opens_and_closes_as_time_passes_and_when_the_clock_is_set() -> None:
    clocks = Clocks()
    allowance = allow(WanLimits(windows=(NIGHT,)), clocks)
    gates = []
    for wall in (
        "06-10 12:00",
        "06-11 01:59:59",
        "06-11 02:00",
        "06-11 03:59:59",
        "06-11 04:00",
        "06-10 03:00",
    ):
        clocks.wall = at(f"2026-{wall}")
        gates.append(allowance.look().gate)
    assert gates == [Gate.SHUT, Gate.SHUT, Gate.OPEN, Gate.OPEN, Gate.SHUT, Gate.OPEN]


def test_outside_windows_what_is_urgent_may_pass_but_past_no_quota() -> None:
    allowance = allow(WanLimits(quota=Quota(day=GB), windows=(NIGHT,)), Clocks(), urgent="clients")
    assert allowance.look().gate is Gate.URGENT
    allowance.check()
    allowance.spend(GB)
    assert allowance.look().gate is Gate.SHUT


def test_a_spent_quota_opens_in_the_next_window_after_its_end() -> None:
    allowance = allow(WanLimits(quota=Quota(day=GB), windows=(NIGHT,)), Clocks())
    allowance.spend(GB)
    assert allowance.look().opens_at == at("2026-06-11 02:00")


def test_a_clock_that_was_never_set_opens_no_window() -> None:
    clocks = Clocks(wall=2.5 * HOUR)  # 02:30 on the first of January 1970
    allowance = allow(WanLimits(windows=(NIGHT,)), clocks)
    verdict = allowance.look()
    assert (verdict.gate, verdict.opens_at) == (Gate.SHUT, None)
    assert "clock says 1970-01-01 02:30:00 UTC" in verdict.reason
    clocks.wall = at("2026-06-10 02:30")
    assert allowance.look().gate is Gate.OPEN


def test_a_clock_set_back_frees_no_quota_and_tells_when_it_opens() -> None:
    clocks = Clocks()
    allowance = allow(WanLimits(quota=Quota(day=GB)), clocks)
    allowance.spend(GB)
    clocks.wall = 0.0
    assert allowance.look().gate is Gate.SHUT
    clocks.go(12 * HOUR - 1)
    assert allowance.look().gate is Gate.SHUT
    clocks.go(1)
    assert allowance.look().gate is Gate.OPEN, "a day is over when its seconds have passed"


def test_both_the_configuration_and_the_desired_state_are_kept() -> None:
    clocks = Clocks(at("2026-06-10 03:00"))
    allowance = allow(WanLimits(rate=1000, quota=Quota(day=GB), windows=(NIGHT,)), clocks)
    allowance.set_fleet(WanLimits(rate=500, quota=Quota(day=2 * GB, hour=GB // 2)))
    assert (allowance.rate, allowance.least_cap, allowance.left()) == (500, GB // 2, GB // 2)
    allowance.set_fleet(WanLimits(rate=5000, windows=(Window("0 3 * * *", 1800.0),)))
    assert allowance.rate == 1000
    assert allowance.look().gate is Gate.OPEN
    clocks.go(1800)
    verdict = allowance.look()
    assert (verdict.gate, verdict.opens_at) == (Gate.SHUT, at("2026-06-11 03:00"))
    allowance.set_fleet(None)
    assert allowance.look().gate is Gate.OPEN


def test_other_limits_count_what_was_spent_before() -> None:
    allowance = allow(WanLimits(), Clocks())
    allowance.spend(GB)
    allowance.set_local(WanLimits(quota=Quota(month=GB, timezone="Asia/Tokyo")), "never")
    assert allowance.look().gate is Gate.SHUT
    allowance.set_local(WanLimits(quota=Quota(month=2 * GB)), "never")
    assert (allowance.look().gate, allowance.left()) == (Gate.OPEN, GB)


def test_never_both_shut_and_silent() -> None:
    impossible = WanLimits(windows=(Window("0 2 * * *", HOUR),))
    allowance = allow(impossible, Clocks())
    allowance.set_fleet(WanLimits(windows=(Window("0 5 * * *", HOUR),)))
    verdict = allowance.look()
    assert (verdict.gate, verdict.opens_at) == (Gate.SHUT, None)
    assert str(verdict) == "no window of the uplink is open"
