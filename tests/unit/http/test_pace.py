import pytest
import trio
from trio.testing import MockClock

from meshsat.http.pace import UNIT, Pace, TooSlowError


async def test_who_moves_enough_may_take_for_ever(autojump_clock: MockClock) -> None:
    pace = Pace(10)
    for _ in range(100):
        await pace.wait(lambda: trio.sleep(9))
        pace.moved(UNIT)


async def test_who_moves_a_little_each_time_is_too_slow(autojump_clock: MockClock) -> None:
    async def drip(pace: Pace) -> None:
        for _ in range(99):
            await pace.wait(lambda: trio.sleep(1))
            pace.moved(UNIT // 100)

    with pytest.raises(TooSlowError):
        await drip(Pace(10))
    assert trio.current_time() == pytest.approx(10, abs=1.1)


async def test_what_others_take_their_time_for_does_not_count(autojump_clock: MockClock) -> None:
    pace = Pace(10)
    for _ in range(5):
        await pace.wait(lambda: trio.sleep(1))
        await trio.sleep(100)


async def test_one_wait_may_have_a_limit_of_its_own(autojump_clock: MockClock) -> None:
    with pytest.raises(TooSlowError):
        await Pace(10).wait(trio.sleep_forever, at_most=3)
    assert trio.current_time() == pytest.approx(3)


async def test_who_takes_enough_of_what_is_queued_is_in_time(autojump_clock: MockClock) -> None:
    """The kernel would wake us much later."""
    left = [4 * UNIT, 3 * UNIT, 2 * UNIT, UNIT + 1]
    with pytest.raises(TooSlowError):
        await Pace(10).wait(trio.sleep_forever, queued=lambda: left.pop(0))
    assert trio.current_time() == pytest.approx(30)
