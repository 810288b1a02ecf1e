"""Medians, spreads, and JSON to and fro."""

import json

import pytest

from sim.benchmark.figures import Report, Spread, ordered, summarise
from sim.benchmark.world import Case
from tests.benchmark.results import LARGE, SMALL, figures, report, result


def test_a_spread_is_the_median_the_least_and_the_most() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)


def test_a_summary_is_of_the_runs_that_went_well_and_tells_of_the_others() -> None:
    (summary,) = summarise(
        [
            result(number=1, of=figures(1.06, cpu=(2.0, 4.0), again=0.01)),
            result(number=2, failure="the cache does not come up"),
            result(number=3, of=figures(1.10, cpu=(1.0, 1.0), again=0.05)),
        ]
    )
    assert summary.runs == 3
    assert summary.failures == ("the cache does not come up",)
    assert summary.last == Spread((1.06 + 1.10) / 2, 1.06, 1.10)
    assert summary.cpu == Spread(2.0, 1.0, 3.0)
    assert summary.duplicates == Spread((0.01 + 0.05) / 2, 0.01, 0.05)


def test_a_summary_of_failures_has_no_figures() -> None:
    (summary,) = summarise([result(failure="no")])
    assert (summary.last, summary.wan, summary.cpu, summary.duplicates) == (None, None, None, None)


def test_worlds_cases_and_systems_are_kept_apart() -> None:
    assert len(summarise(report().results)) == 6


def test_results_are_put_in_order() -> None:
    mixed = [
        result("direct", Case.COLD, LARGE),
        result("meshsat", Case.WARM, SMALL),
        result("meshsat", Case.COLD, LARGE, 2),
        result("meshsat", Case.COLD, LARGE, 1),
    ]
    told = [(one.system, one.case, one.number) for one in ordered(mixed, ["meshsat", "direct"])]
    assert told == [
        ("meshsat", Case.COLD, 1),
        ("meshsat", Case.COLD, 2),
        ("direct", Case.COLD, 1),
        ("meshsat", Case.WARM, 1),
    ]


def test_a_report_goes_through_json_and_back() -> None:
    told = json.loads(json.dumps(report().to_json()))
    assert Report.from_json(told) == report()
    assert told.keys() == {"format", "machine", "settings", "summary", "runs"}
    assert told["runs"][0]["world"] == {"nodes": 4, "uplink_mbit": 50, "lan_mbit": 200, "megabytes": 200}
    assert told["runs"][0]["figures"]["cpu_seconds"] == [2.0, 1.0]


@pytest.mark.parametrize("spoilt", [{}, {"format": 0}, {"format": 1, "machine": {}, "settings": {}}])
def test_what_is_no_report_is_refused(spoilt: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"format|no benchmark"):
        Report.from_json(spoilt)
