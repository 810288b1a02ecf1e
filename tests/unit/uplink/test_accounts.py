"""What bytes were for: bounded, complete, and by period."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from meshsat.errors import InvalidInputError
from meshsat.uplink.accounts import OTHER, ROWS, Accounts, Purpose

NOON = datetime(2026, 6, 30, 12, tzinfo=UTC).timestamp()
DAY = 86400.0
POS = Purpose("up.example/pos", "blob")


def test_days_and_months_begin_anew_and_the_rest_adds_up() -> None:
    accounts = Accounts()
    accounts.add(POS, 10, 1, NOON)
    accounts.add(POS, 20, 2, NOON + 3600)
    row = accounts.rows[POS]
    assert (row.in_, row.out, row.day, row.month) == (30, 3, 33, 33)
    accounts.add(POS, 1, 0, NOON + DAY)  # July
    assert (row.in_, row.out, row.day, row.month) == (31, 3, 1, 1)
    accounts.roll(NOON + 2 * DAY)
    assert (row.day, row.month) == (0, 1)
    assert accounts.since == NOON


def test_there_are_never_more_rows_and_no_byte_is_lost() -> None:
    accounts = Accounts()
    total = 0
    for number in range(5 * ROWS):
        size = 1000 if number == 3 else number % 7
        accounts.add(Purpose(f"up.example/{number}", ("blob", "manifest")[number % 2]), size, 1, NOON)
        total += size
    assert len(accounts.rows) <= ROWS + 2
    assert sum(tally.in_ for tally in accounts.rows.values()) == total
    assert sum(in_ for in_, _ in accounts.by_kind().values()) == total
    assert accounts.rows[Purpose("up.example/3", "manifest")].in_ == 1000
    assert accounts.rows[Purpose(OTHER, "blob")].out > 1


def test_they_outlive_the_process() -> None:
    accounts, later = Accounts(), Accounts()
    accounts.add(POS, 10, 1, NOON)
    later.restore_untrusted(json.loads(json.dumps(accounts.as_json())))
    assert (later.rows, later.since) == (accounts.rows, NOON)
    later.roll(NOON + DAY)
    assert later.rows[POS].day == 0


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"rows": [["a", "blob", 1]], "ends": {}, "since": None},
        {"rows": [["a", "blob", 1, 1, 1, -1]], "ends": {}, "since": None},
        {"rows": [["a", "blob", 1, 1, 1, True]], "ends": {}, "since": None},
        {"rows": [[1, "blob", 1, 1, 1, 1]], "ends": {}, "since": None},
        {"rows": [[["a"], "blob", 1, 1, 1, 1]], "ends": {}, "since": None},
        {"rows": [], "ends": {"year": 1.0}, "since": None},
        {"rows": [], "ends": [], "since": None},
        {"rows": [], "ends": {}, "since": "x"},
    ],
)
def test_what_is_none_is_not_taken(kept: dict[str, Any]) -> None:
    accounts = Accounts()
    accounts.add(POS, 10, 1, NOON)
    with pytest.raises(InvalidInputError):
        accounts.restore_untrusted(kept)
    assert accounts.rows[POS].in_ == 10
