"""Limits as values."""

import pytest

from meshsat.limits import Period, Quota, WanLimits, lowest_rate


def test_only_periods_with_a_cap_count() -> None:
    assert Quota().caps() == {}
    assert Quota(hour=1, month=3).caps() == {Period.HOUR: 1, Period.MONTH: 3}


@pytest.mark.parametrize(("rates", "lowest"), [((), 0), ((0, 0), 0), ((0, 7), 7), ((9, 7), 7), ((5,), 5)])
def test_the_lowest_rate_holds_and_none_is_no_rate(rates: tuple[int, ...], lowest: int) -> None:
    assert lowest_rate(tuple(map(WanLimits, rates))) == lowest
