import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.cli.units import duration, parse_duration_untrusted, size
from meshsat.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604800), ("1h30m", 5400)]
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration_untrusted(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1.5h", "0s", "1w", "9999999d", "1h " * 20, "٣h"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_duration_untrusted(text)


@given(st.text(max_size=40))
def test_a_duration_or_the_documented_error(text: str) -> None:
    with contextlib.suppress(InvalidInputError):
        assert parse_duration_untrusted(text) > 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (40_100_000, "40.1 MB"),
        (999_960, "1.0 MB"),
        (3.2e12, "3.2 TB"),
    ],
)
def test_sizes_are_decimal(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2 s"),
        (42, "42 s"),
        (119.6, "2 min"),
        (3600, "60 min"),
        (12_000, "3 h 20 min"),
        (435_600, "5 d 1 h"),
    ],
)
def test_durations_read_like_speech(seconds: float, text: str) -> None:
    assert duration(seconds) == text
