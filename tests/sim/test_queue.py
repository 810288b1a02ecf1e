import pytest

from sim.simulator.queue import EventQueue


def test_actions_come_in_the_order_of_their_times_and_of_their_making() -> None:
    queue, done = EventQueue(), list[str]()
    for name, time in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.0)):
        queue.post(time, lambda name=name: done.append(name))  # type: ignore[misc]  # a default is no argument
    queue.run()
    assert "".join(done) == "abcd"


def test_what_is_called_off_does_not_happen() -> None:
    queue, done = EventQueue(), list[float]()
    timers = [queue.after(delay, lambda: done.append(queue.now)) for delay in (1.0, 2.0)]
    timers[0].cancel()
    queue.run(3.0)
    assert done == [2.0]
    assert not any(timer.pending for timer in timers)
    assert queue.now == 3.0


def test_the_past_is_now() -> None:
    queue, done = EventQueue(), list[float]()
    queue.run(5.0)
    queue.at(1.0, lambda: done.append(queue.now))
    queue.run(6.0)
    assert done == [5.0]


def test_a_run_ends_where_it_is_told_to() -> None:
    queue, done = EventQueue(), list[float]()

    def again() -> None:
        done.append(queue.now)
        queue.after(1.0, again)

    queue.post(0.0, again)
    queue.run(2.5)
    assert done == [0.0, 1.0, 2.0]
    queue.run(10.0, stop=lambda: len(done) == 5)
    assert queue.now == pytest.approx(4.0)
