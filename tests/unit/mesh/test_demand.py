"""Who waits hears of every step, and sees the state of things afterwards."""

import trio
import trio.testing

from meshsat.mesh.demand import Demand, Question, Signal
from meshsat.oci.digest import Digest
from meshsat.protocol.events import Fault

BLOB = Digest.of(b"blob")


async def test_a_signal_wakes_all_who_wait_and_nobody_who_comes_later() -> None:
    signal = Signal()
    woken: list[int] = []

    async def wait(number: int) -> None:
        await signal.wait()
        woken.append(number)

    async with trio.open_nursery() as nursery:
        signal.fire()  # nobody is there
        nursery.start_soon(wait, 1)
        nursery.start_soon(wait, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == []
        signal.fire()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(woken) == [1, 2]
        nursery.start_soon(wait, 3)
        await trio.testing.wait_all_tasks_blocked()
        assert len(woken) == 2
        nursery.cancel_scope.cancel()


async def test_demands_that_share_a_signal_wake_together() -> None:
    signal = Signal()
    one, other = Demand(BLOB, 4, signal), Demand(Digest.of(b"other"), 4, signal)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.changed)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            other.move()


async def test_what_went_wrong_holds_until_something_comes() -> None:
    demand = Demand(BLOB, 4)
    for step in (demand.move, demand.publish):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(demand.changed)
            await trio.testing.wait_all_tasks_blocked()
            demand.failed(Fault.UNAVAILABLE, "no route")
        assert (demand.fault, demand.message, demand.published) == (Fault.UNAVAILABLE, "no route", False)
        step()
        assert demand.fault is None
    assert demand.published


async def test_a_question_waits_for_its_answer_and_keeps_it() -> None:
    question = Question()
    assert not question.done
    async with trio.open_nursery() as nursery:
        nursery.start_soon(question.wait)
        await trio.testing.wait_all_tasks_blocked()
        question.answered(None, Fault.NOT_FOUND, "no such tag")
    assert question.done
    await question.wait()
    assert (question.record, question.fault, question.message) == (None, Fault.NOT_FOUND, "no such tag")
