"""The bucket alone, on trio's virtual clock."""

import pytest
import trio
from trio.testing import MockClock

from meshsat.uplink.budget import BURST, READ_SIZE, TokenBucket

RATE = 2_500_000  # 20 Mbit/s


async def take(bucket: TokenBucket, total: int) -> None:
    while total > 0:
        await bucket.ready()
        size = min(total, bucket.read_size)
        bucket.spend(size)
        total -= size


async def test_rate_is_kept_within_two_percent(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    await take(TokenBucket(RATE), 10 * RATE)
    assert trio.current_time() - began == pytest.approx(10.0, rel=0.02)


async def test_connections_share_one_rate(autojump_clock: MockClock) -> None:
    bucket, began, ends = TokenBucket(RATE), trio.current_time(), []

    async def connection() -> None:
        await take(bucket, 2 * RATE)
        ends.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(connection)
    assert ends[-1] == pytest.approx(10.0, rel=0.02)
    assert ends[0] > 9.0, "one connection was preferred"


async def test_silence_earns_a_small_burst_only(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(RATE)
    await take(bucket, RATE)
    await trio.sleep(60)
    began = trio.current_time()
    await take(bucket, RATE)
    assert trio.current_time() - began == pytest.approx(1.0 - BURST, abs=0.03)


async def test_a_reader_that_waits_for_its_sender_holds_up_nobody(autojump_clock: MockClock) -> None:
    bucket = TokenBucket(RATE)
    await bucket.ready()  # and then its sender stalls
    began = trio.current_time()
    await take(bucket, RATE)
    assert trio.current_time() - began == pytest.approx(1.0, rel=0.05)


async def test_no_cap(autojump_clock: MockClock) -> None:
    bucket, began = TokenBucket(0), trio.current_time()
    await take(bucket, 10**9)
    assert trio.current_time() == began
    assert bucket.receive_buffer is None
    assert bucket.read_size == READ_SIZE


@pytest.mark.parametrize("rate", [1_000, 100_000, RATE, 10**9])
def test_reads_stay_small_beside_the_rate(rate: int) -> None:
    bucket = TokenBucket(rate)
    assert bucket.read_size <= max(4096, rate * BURST)
    assert bucket.receive_buffer is not None
    assert 128 * 1024 <= bucket.receive_buffer <= 4 * 1024 * 1024
