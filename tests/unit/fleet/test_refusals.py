"""What is refused is told once, and whoever goes on is told of seldom."""

import pytest
from structlog.testing import capture_logs

from meshsat.fleet.refusals import MEMORY, QUIET, SHOWN, Refusals
from meshsat.trust.state_documents import Refused, StateError

FORGED = StateError(Refused.FORGED, "nobody signed it")
OLDER = StateError(Refused.ROLLBACK, "it is older")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_same_document_is_told_once() -> None:
    refusals = Refusals(Clock())
    with capture_logs() as logs:
        for _ in range(5):
            refusals.refuse(b"one", "a", FORGED)
            refusals.refuse(b"one", "b", FORGED)
    assert len(logs) == refusals.count == 1
    assert logs[0]["source"] == "a"


def test_a_source_that_goes_on_is_told_of_once_an_hour() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    with capture_logs() as logs:
        for number in range(100):
            refusals.refuse(b"%d" % number, "a", FORGED)
        refusals.refuse(b"x", "a", OLDER)
        refusals.refuse(b"y", "b", FORGED)
        clock.now += QUIET
        refusals.refuse(b"z", "a", FORGED)
    assert [(one["source"], one["reason"]) for one in logs] == [
        ("a", "nobody signed it"),
        ("a", "it is older"),
        ("b", "nobody signed it"),
        ("a", "nobody signed it"),
    ]
    assert refusals.count == 103


def test_a_clock_that_is_set_back_silences_nobody() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    refusals.refuse(b"1", "a", FORGED)
    clock.now -= 500
    refusals.refuse(b"2", "a", FORGED)
    assert len(refusals.last) == 2


@pytest.mark.parametrize("sources", [1, 3 * MEMORY])
def test_memory_is_bounded(sources: int) -> None:
    refusals = Refusals(Clock())
    for number in range(3 * MEMORY):
        refusals.refuse(b"%d" % number, f"source {number % sources}", FORGED)
    assert len(refusals._documents) <= MEMORY
    assert len(refusals._told) <= MEMORY
    assert len(refusals.last) <= SHOWN
    assert refusals.last[-1].reason == "not signed by a key that may"
