"""How fast a line is, from what it brought."""

import pytest

from meshsat.uplink.measured import Measured


def bring(measured: Measured, rate: int, seconds: float, start: float) -> float:
    now = start
    while now < start + seconds:
        now += 0.05
        measured.came(int(rate * 0.05), now)
    return now


def test_a_steady_line_is_as_fast_as_it_is() -> None:
    measured = Measured()
    bring(measured, 1_000_000, 10, 100.0)
    assert measured.rate == pytest.approx(1_000_000, rel=0.05)


def test_pauses_do_not_make_it_slow() -> None:
    measured, now = Measured(), 0.0
    for _ in range(10):
        now = bring(measured, 1_000_000, 1.0, now) + 600
    assert measured.rate == pytest.approx(1_000_000, rel=0.05)


def test_a_change_is_followed() -> None:
    measured = Measured()
    now = bring(measured, 1_000_000, 10, 0.0)
    bring(measured, 100_000, 60, now)
    assert measured.rate == pytest.approx(100_000, rel=0.3)


def test_a_few_bytes_tell_nothing() -> None:
    measured = Measured()
    bring(measured, 1_000, 100, 0.0)
    assert measured.rate == 0.0
