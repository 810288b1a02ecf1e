from collections.abc import Callable

import pytest

from meshsat.mesh.width import Width


class Line:
    """A line under a width: what so many connections bring a second, in steps of a quarter second."""

    def __init__(self, rate: Callable[[int], float], limit: int = 8) -> None:
        self.width = Width(limit)
        self.rate = rate
        self.now = 100.0
        self.seen: list[int] = []

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            self.seen.append(self.width.look(self.now))
            self.width.came(int(self.rate(self.seen[-1]) / 4))
            self.now += 0.25


def test_a_line_that_one_connection_fills_is_tried_for_a_moment() -> None:
    line = Line(lambda _: 6e6)
    line.run(20)
    assert line.seen[-1] == 1
    assert max(line.seen) == 2
    assert line.seen.count(2) < 20


def test_trials_that_bring_nothing_become_rare() -> None:
    line = Line(lambda _: 6e6)
    line.run(3600)
    assert line.seen[-1] == 1
    assert sum(before < after for before, after in zip(line.seen, line.seen[1:], strict=False)) < 12


def test_a_lossy_line_gets_as_many_as_help() -> None:
    line = Line(lambda connections: 0.2e6 * connections)
    line.run(20)
    assert line.seen[-1] == 8
    line.run(600)
    assert line.seen.count(8) > 0.9 * len(line.seen)


def test_not_more_than_help() -> None:
    line = Line(lambda connections: min(0.2e6 * connections, 0.8e6))
    line.run(30)
    assert line.seen[-1] == 4


def test_when_the_line_is_good_again_one_is_enough() -> None:
    line = Line(lambda connections: 0.2e6 * connections)
    line.run(30)
    line.rate = lambda _: 6e6
    line.run(900)
    assert line.seen[-1] == 1


@pytest.mark.parametrize("limit", [1, 3])
def test_the_limit_holds(limit: int) -> None:
    line = Line(lambda connections: 0.2e6 * connections, limit)
    line.run(120)
    assert max(line.seen) == limit


def test_what_helped_is_begun_with_after_a_pause() -> None:
    line = Line(lambda connections: 0.2e6 * connections)
    line.run(30)
    line.now += 60
    line.run(1)
    assert line.seen[-1] == 8


def test_an_upstream_that_refuses_some_gets_fewer_for_a_while() -> None:
    line = Line(lambda connections: 0.2e6 * connections)
    line.run(30)
    line.width.refused(line.now)
    line.run(20)
    assert set(line.seen[-80:]) == {4}
