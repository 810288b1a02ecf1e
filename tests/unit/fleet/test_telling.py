"""Reports are told when they say something, and no more often than that is worth."""

from dataclasses import replace

from meshsat.fleet.report import Mark, Report, Stage
from meshsat.fleet.telling import MOVED, PROGRESS, Telling
from tests.brain import peer

INFINITE = float("inf")
FETCHING = Report(peer("a"), 1, 7, b"8 bytes!", marks=(Mark(Stage.FETCHING, percent=10),))
FURTHER = replace(FETCHING, at=2, marks=(Mark(Stage.FETCHING, percent=20),))
WHOLE = replace(FETCHING, at=3, marks=(Mark(Stage.WHOLE),))


def due(known: Report | None, report: Report, *, flipped: bool = False, members: int = 2) -> float:
    telling = Telling()
    telling.told(100.0)
    return telling.due(known, report, 100.1, flipped=flipped, members=members)


def test_the_first_and_a_change_of_a_tag_at_once() -> None:
    assert due(None, FETCHING) == 100.1
    assert due(FETCHING, WHOLE, flipped=True) == 100.1
    assert Telling().due(FETCHING, FURTHER, 5.0, flipped=False, members=2) == 5.0


def test_nothing_new_never() -> None:
    assert due(FETCHING, replace(FETCHING, at=9)) == INFINITE


def test_another_stage_soon_and_figures_now_and_then() -> None:
    assert due(FETCHING, WHOLE) == 100.0 + MOVED
    assert due(FETCHING, replace(WHOLE, marks=FETCHING.marks, version=8)) == 100.0 + MOVED
    assert due(FETCHING, FURTHER) == 100.0 + PROGRESS
    assert due(FETCHING, replace(FETCHING, room=5)) == 100.0 + PROGRESS


def test_a_large_site_talks_less() -> None:
    assert due(FETCHING, FURTHER, members=160) == 100.0 + 10 * PROGRESS
