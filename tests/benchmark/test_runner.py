"""The order of runs, what makes a failed one, and what is told of it. No namespaces: systems are made up."""

import threading

import pytest

from sim.benchmark import runner
from sim.benchmark.figures import Figures
from sim.benchmark.stage import StageError
from sim.benchmark.system import System
from sim.benchmark.world import Case, World
from tests.benchmark.results import LARGE, SMALL, figures


def system(name: str, *, line_bound: bool = False, fails: Exception | None = None) -> System:
    def measure(world: World, case: Case) -> Figures:
        if fails:
            raise fails
        return figures()

    return System(
        name,
        tuple(Case),
        measure,
        expected=lambda world, _: world.nodes if line_bound else 1.0,
        line_bound=line_bound,
    )


def test_those_that_need_the_cores_run_alone_and_in_turn() -> None:
    ours, theirs, line = system("ours"), system("theirs"), system("line", line_bound=True)
    alone, together = runner.plan([ours, theirs, line], [Case.COLD], [SMALL, LARGE], 2)
    assert [(job.number, job.world, job.system.name) for job in alone[:5]] == [
        (1, SMALL, "ours"),
        (1, SMALL, "theirs"),
        (1, LARGE, "ours"),
        (1, LARGE, "theirs"),
        (2, SMALL, "ours"),
    ]
    assert [job.world for job in together] == [LARGE, LARGE, SMALL, SMALL]


def test_a_case_that_a_system_does_not_have_is_not_run() -> None:
    cold = System("cold", (Case.COLD,), lambda world, case: figures(), lambda world, case: 1.0)
    alone, together = runner.plan([cold], list(Case), [SMALL], 3)
    assert [job.case for job in alone] == [Case.COLD] * 3
    assert not together


def test_all_results_come_alone_and_together() -> None:
    jobs = runner.plan([system("ours"), system("line", line_bound=True)], list(Case), [SMALL, LARGE], 3)
    results = [result for result in runner.run(*jobs) if result]
    assert sorted((one.system, one.case, one.world, one.number) for one in results) == sorted(
        (job.system.name, job.case, job.world, job.number) for part in jobs for job in part
    )
    assert all(one.figures for one in results)


@pytest.mark.parametrize(
    "fault", [StageError("not in time"), OSError("not in time"), KeyError("not in time")]
)
def test_a_fault_makes_a_failed_run_and_the_others_go_on(fault: Exception) -> None:
    alone, together = runner.plan([system("bad", fails=fault), system("good")], [Case.COLD], [SMALL], 1)
    bad, good = (result for result in runner.run(alone, together) if result)
    assert bad.figures is None
    assert "not in time" in str(bad.failure)
    assert good.figures


def test_broken_off_it_ends_the_processes_of_the_runs_that_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def measure(world: World, case: Case) -> Figures:
        assert ended.wait(30)
        raise StageError("its worker was ended")

    monkeypatch.setattr(runner, "end_own_processes", ended.set)
    stuck = System("stuck", (Case.COLD,), measure, lambda world, case: 1.0, line_bound=True)
    results = runner.run(*runner.plan([stuck], [Case.COLD], [SMALL], 2))
    assert next(results) is None
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)  # type: ignore[attr-defined]  # it is a generator
    assert ended.is_set()


def test_a_reason_is_one_line_without_the_names_of_this_machine() -> None:
    fault = StageError(
        "node n3 in meshsat-12.345-0-n3 ended: /var/x/node.log: full\n--- end of /var/x/node.log"
    )
    assert runner.reason(fault) == "node n3 in n3 ended: ...: full"
    assert runner.reason(StageError()) == "StageError"
    assert len(runner.reason(StageError("x" * 500))) == runner.REASON_LENGTH


def test_the_time_it_takes_is_that_of_the_turns_and_of_the_longest_together() -> None:
    alone, together = runner.plan([system("ours"), system("line", line_bound=True)], [Case.COLD], [SMALL], 2)
    assert runner.seconds(alone, together) == 2 * (5 + 32) + (5 + 4 * 32)
