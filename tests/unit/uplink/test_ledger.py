"""The ledger under clocks that are set: each calendar period's quota is spent once."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.limits import Period
from meshsat.uplink.ledger import GRAIN, KEPT, Ledger

HOUR, DAY = 3600.0, 86400.0
NOON = datetime(2026, 6, 10, 12, tzinfo=UTC).timestamp()


def spent(ledger: Ledger) -> tuple[int, int, int]:
    hour, day, month = (ledger.spent(period, "UTC") for period in Period)
    return hour, day, month


def test_periods_add_up_and_begin_anew() -> None:
    ledger = Ledger()
    for after, size in ((0.0, 1), (HOUR, 10), (DAY, 100)):
        ledger.tick(NOON + after, after)
        ledger.add(size)
    assert spent(ledger) == (100, 100, 111)
    assert ledger.ends(Period.DAY, "UTC") == NOON + 1.5 * DAY
    ledger.tick(NOON + 20.5 * DAY, 20.5 * DAY)
    assert spent(ledger) == (0, 0, 0)


def test_a_zone_of_its_own_is_counted_from_the_same_slots() -> None:
    ledger = Ledger()
    ledger.tick(NOON + 10.5 * HOUR, 0.0)  # 22:30 UTC, 00:30 in Berlin, 04:15 in Kathmandu
    ledger.add(5)
    ledger.tick(NOON + 12.5 * HOUR, 2 * HOUR)
    ledger.add(1)
    assert ledger.spent(Period.DAY, "UTC") == 1
    assert ledger.spent(Period.DAY, "Europe/Berlin") == 6
    assert ledger.spent(Period.DAY, "Asia/Kathmandu") == 6


def test_a_clock_set_back_within_a_period_frees_nothing() -> None:
    ledger = Ledger()
    ledger.tick(NOON, 0.0)
    ledger.add(7)
    for back in (60.0, HOUR, 5 * HOUR, DAY, 40 * DAY, NOON):
        ledger.tick(NOON - back, 1.0)
        assert spent(ledger) == (7, 7, 7)


def test_after_a_step_back_its_time_goes_on_by_what_passes() -> None:
    ledger = Ledger()
    ledger.tick(NOON, 0.0)
    ledger.add(7)
    wrong = NOON - 10 * DAY
    assert ledger.tick(wrong, 10.0) == NOON + 10
    assert ledger.tick(wrong + HOUR, HOUR + 10) == NOON + HOUR + 10
    assert spent(ledger) == (0, 7, 7)
    assert ledger.tick(NOON + 2 * DAY, HOUR + 11) == NOON + 2 * DAY, "the clock caught up, and is believed"


def test_a_small_step_back_is_sat_out() -> None:
    ledger = Ledger()
    ledger.tick(NOON, 0.0)
    assert ledger.tick(NOON - 600, 5.0) == NOON
    assert ledger.tick(NOON + 1, 606.0) == NOON + 1


def test_a_clock_that_was_far_ahead_for_once_is_right_again_after_a_month() -> None:
    ledger = Ledger()
    ledger.tick(NOON + 4000 * DAY, 0.0)
    ledger.add(7)
    passed = 0.0
    while passed <= KEPT + DAY:
        passed += DAY
        ledger.tick(NOON + passed, passed)
    assert ledger.now == NOON + passed
    assert spent(ledger) == (0, 0, 0)


def test_a_machine_that_wakes_in_1970_has_no_new_quota() -> None:
    before = Ledger()
    before.tick(NOON, 0.0)
    before.add(7)
    ledger = Ledger()
    ledger.restore(before.now, before.slots)
    ledger.tick(12.0, 0.0)
    ledger.add(1)
    assert spent(ledger) == (8, 8, 8)
    ledger.tick(NOON + 60, 30.0)  # the network told it the time
    assert spent(ledger) == (8, 8, 8)


@given(
    st.lists(
        st.tuples(st.floats(-60 * DAY, 60 * DAY), st.floats(0, 2 * DAY), st.integers(0, 1000)), max_size=40
    )
)
def test_no_period_is_spent_twice_however_the_clock_is_set(steps: list[tuple[float, float, int]]) -> None:
    """With a cap of 1000 a day, and a spender who takes all that is left, no day of the ledger has more."""
    ledger, passed, wall = Ledger(), 0.0, NOON
    by_day: dict[float, int] = {}
    for step, went, size in steps:
        passed, wall = passed + went, wall + step
        now = ledger.tick(wall, passed)
        take = min(size, 1000 - ledger.spent(Period.DAY, "UTC"))
        ledger.add(take)
        if passed <= KEPT:  # then it may begin anew
            by_day[now // DAY] = by_day.get(now // DAY, 0) + take
    assert all(sum_ <= 1000 for sum_ in by_day.values())


@given(st.lists(st.tuples(st.floats(0, 5 * DAY), st.integers(0, 100)), max_size=60))
def test_sums_that_are_kept_are_those_of_the_slots(steps: list[tuple[float, int]]) -> None:
    ledger, passed = Ledger(), 0.0
    for went, size in steps:
        passed += went
        ledger.tick(NOON + passed, passed)
        ledger.add(size)
        fresh = Ledger()
        fresh.restore(ledger.now, ledger.slots)
        fresh.tick(NOON + passed, 0.0)
        assert spent(ledger) == spent(fresh)
    assert len(ledger.slots) <= KEPT / GRAIN + 1


@pytest.mark.parametrize("wall", [-1e18, 1e18])
def test_absurd_clocks_are_survived(wall: float) -> None:
    ledger = Ledger()
    ledger.tick(wall, 0.0)
    ledger.add(1)
    assert ledger.spent(Period.MONTH, "UTC") == 1
