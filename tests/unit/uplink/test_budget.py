"""The budget alone, on trio's virtual clock, against senders that use every byte that they were given leave for."""

import random
from collections.abc import Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from meshsat.uplink.budget import BURST, LEAST_WINDOW, READ_SIZE, SPAN, Budget, Flow

RATE = 2_500_000  # 20 Mbit/s
HEADERS = 1.036
"""Bytes on the wire for each of payload."""


class Sender:
    """The other side of a connection, its kernel and ours: `budget.Wire`."""

    def __init__(self, arrivals: list[tuple[float, float]], window: int, trip: float = 0.0) -> None:
        self.arrivals = arrivals
        self.window = window
        self.trip = trip
        self.sent = 0
        self.read = 0
        self.edge = window
        self.left = 0
        """Bytes that it still has to send."""
        self.paused = False
        self.silent = False
        """The kernel tells nothing."""

    def count(self) -> tuple[int, int]:
        return (0, 0) if self.silent else (self.sent, int(self.sent * HEADERS))

    def round_trip(self) -> float:
        return self.trip

    def allow(self, window: int) -> None:
        self.window = window
        self.edge = max(self.edge, self.read + window)

    def send(self) -> None:
        size = 0 if self.paused else min(self.left, self.edge - self.sent)
        if size > 0:
            self.sent += size
            self.left -= size
            self.arrivals.append((trio.current_time(), size * HEADERS))

    def take(self, most: int) -> int:
        size = min(most, self.sent - self.read)
        self.read += size
        self.edge = max(self.edge, self.read + self.window)
        return size


class Line:
    """A budget, and connections over which so much is to come."""

    def __init__(self, rate: int) -> None:
        self.budget = Budget(rate)
        self.arrivals: list[tuple[float, float]] = []
        self.silent = False

    async def fetch(self, sizes: list[int], pause: Callable[[], float] = lambda: 0.0) -> None:
        """One request after the other on one connection; the sender dawdles as `pause` says, in seconds."""
        budget = self.budget
        window = budget.first_window or 1 << 20
        sender = Sender(self.arrivals, window)
        sender.silent = self.silent
        flow = Flow(sender, window if budget.rate else 0)
        budget.add(flow)
        for size in sizes:
            await budget.begin(flow)
            sender.left, due = size, size
            while due:
                await trio.sleep(pause())
                sender.send()
                if sender.sent == sender.read:
                    await trio.sleep(0.01)
                    continue
                await budget.ready(budget.read_size)
                sender.send()
                taken = sender.take(budget.read_size)
                due -= taken
                budget.took(flow, taken)
                budget.poll(flow)
                sender.send()
            budget.rest(flow)
        budget.remove(flow)

    def worst(self) -> float:
        """The most that any `SPAN` seconds brought, in terms of the rate's worth."""
        most, first, within = 0.0, 0, 0.0
        for at, size in self.arrivals:
            within += size
            while self.arrivals[first][0] < at - SPAN:
                within -= self.arrivals[first][1]
                first += 1
            most = max(most, within)
        return most / (SPAN * self.budget.rate)


async def test_rate_is_kept_and_used(autojump_clock: MockClock) -> None:
    line, began = Line(RATE), trio.current_time()
    await line.fetch([10 * RATE])
    assert trio.current_time() - began == pytest.approx(10 * HEADERS, rel=0.03)
    assert line.worst() <= 1.05


async def test_connections_share_one_rate(autojump_clock: MockClock) -> None:
    line, began = Line(RATE), trio.current_time()
    ends: list[float] = []

    async def one() -> None:
        await line.fetch([2 * RATE])
        ends.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)
    assert ends[-1] == pytest.approx(10.0 * HEADERS, rel=0.04)
    assert ends[0] > 8.0, "one connection was preferred"
    assert line.worst() <= 1.05


@settings(max_examples=25)
@given(
    st.integers(0, 1 << 32),
    st.sampled_from([100_000, 400_000, 2_500_000, 50_000_000]),
    st.integers(1, 12),
    st.sampled_from(["steady", "bursts", "stalls"]),
)
def test_no_five_seconds_bring_more_whatever_senders_do(
    seed: int, rate: int, count: int, manner: str
) -> None:
    count = min(count, rate // 2 // LEAST_WINDOW)
    rng = random.Random(seed)
    line = Line(rate)

    def pause() -> float:
        match manner:
            case "steady":
                return 0.0
            case "bursts":
                return rng.choice([0.0, 0.0, 0.0, rng.uniform(0, 2)])
            case _:
                return rng.choice([0.0] * 20 + [rng.uniform(2, 7)])

    async def main() -> None:
        with trio.move_on_after(25):
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    sizes = [rng.randrange(1, 4 * rate) for _ in range(rng.randrange(1, 5))]
                    nursery.start_soon(line.fetch, sizes, pause)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert line.arrivals
    assert line.worst() <= 1.05


async def test_windows_that_fill_all_at_once_are_within_the_rate(autojump_clock: MockClock) -> None:
    """On a line with much delay they are wide: as many bytes may come as half a second's worth and more."""
    line = Line(RATE)
    waiting: list[tuple[Sender, Flow]] = []
    for _ in range(4):
        sender = Sender(line.arrivals, line.budget.first_window or 0, trip=0.6)
        flow = Flow(sender, sender.window)
        line.budget.add(flow)
        waiting.append((sender, flow))
        await line.budget.begin(flow)
        sender.left = 1000
        sender.send()
        await line.budget.ready(1000)
        line.budget.poll(flow)
        line.budget.took(flow, sender.take(1000))
    assert sum(flow.exposure for _, flow in waiting) > RATE / 4
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.fetch, [20 * RATE])
        await trio.sleep(8)
        for sender, _ in waiting:
            sender.left = RATE
            sender.send()
        await trio.sleep(8)
        nursery.cancel_scope.cancel()
    assert line.worst() <= 1.05


async def test_silence_earns_a_small_burst_only(autojump_clock: MockClock) -> None:
    line = Line(RATE)
    await line.fetch([RATE])
    await trio.sleep(60)
    began = trio.current_time()
    await line.fetch([RATE])
    assert trio.current_time() - began == pytest.approx(HEADERS - BURST, abs=0.08)


async def test_a_sender_that_stalls_holds_up_nobody_for_long(autojump_clock: MockClock) -> None:
    line = Line(RATE)
    for _ in range(6):
        stalled = Flow(Sender(line.arrivals, 1 << 16), 1 << 16)
        line.budget.add(stalled)
        await line.budget.begin(stalled)  # and then it says nothing
    began = trio.current_time()
    await line.fetch([5 * RATE])
    assert trio.current_time() - began < 5 * HEADERS + 4.0


async def test_another_rate_holds_at_once_for_open_connections(autojump_clock: MockClock) -> None:
    line = Line(RATE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.fetch, [20 * RATE])
        await trio.sleep(6)
        line.budget.set_rate(RATE // 10)
        at = trio.current_time()
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    late = sum(size for when, size in line.arrivals if when > at + SPAN)
    assert late <= 1.05 * 15 * RATE / 10 + RATE / 10


async def test_a_cap_that_is_lifted_lets_waiters_go(autojump_clock: MockClock) -> None:
    line = Line(1000)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.fetch, [10_000_000])
            await trio.sleep(3)
            line.budget.set_rate(0)


async def test_the_slowest_rate_gets_there(autojump_clock: MockClock) -> None:
    line, began = Line(100), trio.current_time()
    await line.fetch([20_000])
    assert trio.current_time() - began == pytest.approx(200 * HEADERS, rel=0.2)


async def test_no_cap(autojump_clock: MockClock) -> None:
    line = Line(0)
    began = trio.current_time()
    await line.fetch([10**8])
    assert trio.current_time() == began
    assert line.budget.first_window is None
    assert line.budget.read_size == READ_SIZE


async def test_a_line_with_delay_gets_windows_for_it(autojump_clock: MockClock) -> None:
    budget = Budget(RATE)
    near, far = (Flow(Sender([], 1, trip), 1) for trip in (0.001, 0.5))
    for flow in (near, far):
        budget.add(flow)
        await budget.begin(flow)
        budget.took(flow, 1)
        budget.rest(flow)
        budget.remove(flow)
    assert near.window == pytest.approx(0.15 * RATE, rel=0.01)
    assert far.window == pytest.approx(0.625 * RATE, rel=0.01)


@pytest.mark.parametrize("rate", [1_000, 100_000, RATE, 10**9])
def test_reads_and_windows_stay_small_beside_the_rate(rate: int) -> None:
    budget = Budget(rate)
    assert budget.read_size <= max(512, rate * BURST)
    assert budget.first_window is not None
    assert LEAST_WINDOW <= budget.first_window <= 4 * 1024 * 1024


async def test_a_kernel_that_tells_nothing_does_not_lift_the_cap(autojump_clock: MockClock) -> None:
    line, began = Line(RATE), trio.current_time()
    line.silent = True
    await line.fetch([10 * RATE])
    assert trio.current_time() - began == pytest.approx(10, rel=0.05)
