"""Windows and calendar periods: where clocks change, where months end, where windows overlap."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.limits import Period, Window
from meshsat.schedule import Opening, opening, parse_window_untrusted, parse_zone_untrusted, span

BERLIN = "Europe/Berlin"
HOUR = 3600.0


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def window(cron: str, hours: float, zone: str = "UTC") -> Window:
    return parse_window_untrusted(cron, hours * HOUR, zone)


NIGHT = window("0 2 * * *", 3)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-06-01 01:59:59", Opening(False, at("2026-06-01 02:00"))),
        ("2026-06-01 02:00", Opening(True, at("2026-06-01 05:00"))),
        ("2026-06-01 04:59:59.5", Opening(True, at("2026-06-01 05:00"))),
        ("2026-06-01 05:00", Opening(False, at("2026-06-02 02:00"))),
    ],
)
def test_a_window_is_open_from_its_moment_for_its_duration(now: str, expected: Opening) -> None:
    assert opening([[NIGHT]], at(now)) == expected


def test_without_windows_it_is_always_open() -> None:
    assert opening([], 0.0) == opening([[]], 0.0) == Opening(True, None)


@pytest.mark.parametrize(
    ("sets", "now", "expected"),
    [
        # They meet, overlap, and lie within each other: one opening.
        (
            [[window("0 2 * * *", 1), window("0 3 * * *", 1), window("30 3 * * *", 2)]],
            "2026-06-01 02:30",
            Opening(True, at("2026-06-01 05:30")),
        ),
        (
            [[window("0 2 * * *", 5), window("0 3 * * *", 1)]],
            "2026-06-01 06:30",
            Opening(True, at("2026-06-01 07:00")),
        ),
        # As long as the interval, and longer: it never closes.
        ([[window("0 2 * * *", 24)]], "2026-06-01 12:00", Opening(True, None)),
        ([[window("0 2 * * *", 30)]], "2026-06-01 01:00", Opening(True, None)),
        # Across midnight, the end of a month and of a year.
        ([[window("0 23 * * *", 4)]], "2026-12-31 23:30", Opening(True, at("2027-01-01 03:00"))),
        ([[window("0 0 31 * *", 2)]], "2026-02-27 00:00", Opening(False, at("2026-03-31 00:00"))),
        ([[window("0 0 L * *", 2)]], "2026-02-27 00:00", Opening(False, at("2026-02-28 00:00"))),
        ([[window("0 0 29 2 *", 2)]], "2026-01-01 00:00", Opening(False, None)),
        # Two sets: open where both are.
        ([[NIGHT], [window("0 4 * * *", 9)]], "2026-06-01 02:30", Opening(False, at("2026-06-01 04:00"))),
        ([[NIGHT], [window("0 4 * * *", 9)]], "2026-06-01 04:30", Opening(True, at("2026-06-01 05:00"))),
        ([[NIGHT], [window("0 4 * * 1", 9)]], "2026-06-02 02:30", Opening(False, at("2026-06-08 04:00"))),
        ([[NIGHT], [window("0 6 * * *", 1)]], "2026-06-02 02:30", Opening(False, None)),
        ([[NIGHT], []], "2026-06-01 02:30", Opening(True, at("2026-06-01 05:00"))),
    ],
)
def test_several_windows(sets: Sequence[Sequence[Window]], now: str, expected: Opening) -> None:
    assert opening(sets, at(now)) == expected


@pytest.mark.parametrize(
    ("cron", "now", "fold", "opens"),
    [
        # 02:30 is skipped on 29 March 2026: it comes right after the gap.
        ("30 2 * * *", "2026-03-29 01:00", 0, at("2026-03-29 03:00", BERLIN)),
        # On 25 October 2026 it is shown twice, and comes once.
        ("30 2 * * *", "2026-10-25 01:00", 0, at("2026-10-25 02:30", BERLIN)),
        ("30 2 * * *", "2026-10-25 02:45", 1, at("2026-10-26 02:30", BERLIN)),
        # By the minute it goes on through both.
        ("*/30 * * * *", "2026-03-29 01:45", 0, at("2026-03-29 03:00", BERLIN)),
        ("*/30 * * * *", "2026-10-25 02:45", 0, at("2026-10-25 02:00", BERLIN, fold=1)),
    ],
)
def test_where_clocks_change(cron: str, now: str, fold: int, opens: float) -> None:
    found = opening([[window(cron, 1 / 60, BERLIN)]], at(now, BERLIN, fold))
    assert found == Opening(False, opens)


def test_a_duration_is_what_passes_and_not_what_clocks_show() -> None:
    spring, autumn = at("2026-03-29 01:00", BERLIN), at("2026-10-25 01:00", BERLIN)
    early = window("0 1 * * *", 3, BERLIN)
    assert opening([[early]], spring).until == spring + 3 * HOUR == at("2026-03-29 05:00", BERLIN)
    assert opening([[early]], autumn).until == autumn + 3 * HOUR == at("2026-10-25 03:00", BERLIN)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["0 2 * * *", "*/20 3-5 * * 1-5", "30 2 * * *", "15 0 1,15 * *", "5 * * * *"]),
            st.floats(60, 2 * 86400),
            st.sampled_from(["UTC", BERLIN, "America/St_Johns", "Australia/Lord_Howe"]),
        ),
        min_size=1,
        max_size=3,
    ),
    st.floats(at("2026-01-01"), at("2027-01-01")),
)
def test_it_stays_as_it_is_until_the_moment_that_it_tells(
    kinds: list[tuple[str, float, str]], now: float
) -> None:
    windows = [parse_window_untrusted(*kind) for kind in kinds]
    found = opening([windows], now)
    if found.until is None:
        return
    assert found.until > now
    for share in (0.1, 0.5, 0.99):
        between = now + share * (found.until - now)
        assert opening([windows], between).open == found.open
    if found.until - now < 20 * 86400:  # what never closes is followed for a bounded time
        assert opening([windows], found.until + 0.001).open != found.open


@pytest.mark.parametrize("now", [-1e300, -1.0, 0.0, 1e300])
def test_absurd_clocks_are_survived(now: float) -> None:
    assert opening([[NIGHT]], now).until is not None
    assert span(Period.MONTH, now, BERLIN)[1] > 0


@pytest.mark.parametrize(
    ("period", "now", "zone", "start", "length"),
    [
        (Period.DAY, "2026-06-01 12:00", BERLIN, "2026-06-01 00:00", 24),
        (Period.DAY, "2026-03-29 12:00", BERLIN, "2026-03-29 00:00", 23),
        (Period.DAY, "2026-10-25 12:00", BERLIN, "2026-10-25 00:00", 25),
        (Period.MONTH, "2026-03-31 23:59", BERLIN, "2026-03-01 00:00", 31 * 24 - 1),
        (Period.MONTH, "2028-02-29 23:59", "UTC", "2028-02-01 00:00", 29 * 24),
        (Period.HOUR, "2026-06-01 12:59", BERLIN, "2026-06-01 12:00", 1),
        (Period.HOUR, "2026-06-01 12:59", "Asia/Kathmandu", "2026-06-01 12:00", 1),
    ],
)
def test_calendar_periods(period: Period, now: str, zone: str, start: str, length: int) -> None:
    assert span(period, at(now, zone), zone) == (at(start, zone), at(start, zone) + length * HOUR)


@given(
    st.sampled_from(list(Period)),
    st.floats(at("2020-01-01"), at("2040-01-01")),
    st.sampled_from(["UTC", BERLIN, "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe"]),
)
def test_periods_follow_each_other_without_gap(period: Period, now: float, zone: str) -> None:
    start, end = span(period, now, zone)
    assert start <= now < end
    assert span(period, end, zone)[0] == end
    assert (datetime.fromtimestamp(start, UTC) - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(
        minutes=15
    ) == timedelta(0)


@pytest.mark.parametrize(
    ("cron", "duration", "zone", "told"),
    [
        ("0 2 * *", 60.0, "UTC", "five fields"),
        ("0 0 2 * * *", 60.0, "UTC", "five fields"),
        ("61 2 * * *", 60.0, "UTC", "no cron expression"),
        ("0 2 * * x" + " " * 200, 60.0, "UTC", "five fields"),
        ("0 0 30 2 *", 60.0, "UTC", "no cron expression|ever comes"),
        ("0 2 * * *", 0.0, "UTC", "duration"),
        ("0 2 * * *", float("nan"), "UTC", "duration"),
        ("0 2 * * *", 32 * 86400.0, "UTC", "duration"),
        ("0 2 * * *", 60.0, "Europe/Nowhere", "not known"),
        ("0 2 * * *", 60.0, "../../etc/passwd", "no time zone"),
        ("0 2 * * *", 60.0, "", "no time zone"),
    ],
)
def test_what_is_no_window_is_told(cron: str, duration: float, zone: str, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        parse_window_untrusted(cron, duration, zone)


def test_a_directory_of_zones_is_no_zone() -> None:
    with pytest.raises(InvalidInputError):
        parse_zone_untrusted("Europe")
