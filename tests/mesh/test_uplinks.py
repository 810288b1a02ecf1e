"""Several uplinks fill a site together, and the loss of one at any moment costs little."""

import random
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from meshsat.chunking.cut import chunk_length
from meshsat.limits import Gate
from meshsat.oci.digest import Digest
from meshsat.protocol import events
from tests.mesh.site import Node, Site

MIB = 1 << 20
MBIT = 125_000
DATA = random.Random(11).randbytes(12 * MIB)
RATES = (25, 25)
LIMIT = len(DATA) / (sum(RATES) * MBIT)
SLACK = MIB
"""What faults may cost the WAN: far below a segment."""

Happening = Callable[[Site], Awaitable[None]]


def make(rates: tuple[int, ...], data: bytes = DATA) -> tuple[Site, Digest]:
    """Nodes with uplinks of so many Mbit/s each, and two without."""
    site = Site()
    for number, rate in enumerate(rates):
        site.add(f"u{number}", lan=200 * MBIT, uplink=rate * MBIT)
    for number in range(2):
        site.add(f"dark{number}", lan=200 * MBIT)
    return site, site.upstream.add(data)


async def fill(site: Site, blob: Digest, happening: Happening | None = None, size: int = len(DATA)) -> float:
    """The dark ones want it; returns the seconds until the last has it."""
    dark = site.nodes[-2:]
    async with site.running():
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for node in dark:
                nursery.start_soon(node.fetch, blob, size)
            if happening is not None:
                nursery.start_soon(happening, site)
        taken = max(node.completed_at or 0.0 for node in dark) - began
    assert all(len(node.store.data[blob]) == size for node in dark)
    return taken


def brought(node: Node) -> int:
    assert node.uplink is not None
    return node.uplink.bytes


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(25, 25), (40, 10), (10, 15, 25)])
async def test_uplinks_add_up_and_every_byte_crosses_once(
    autojump_clock: trio.testing.MockClock, rates: tuple[int, ...]
) -> None:
    data = DATA * 2
    site, blob = make(rates, data)
    seconds = await fill(site, blob, size=len(data))
    last_chunk = chunk_length(len(data)) / (min(rates) * MBIT)  # of which no uplink can take a part
    assert seconds <= 1.02 * len(data) / (sum(rates) * MBIT) + last_chunk
    assert site.upstream.bytes <= 1.02 * len(data)
    for node, rate in zip(site.nodes, rates, strict=False):
        assert brought(node) == pytest.approx(len(data) * rate / sum(rates), rel=0.25)


def killed(site: Site) -> None:
    site.kill(site.nodes[0])


def cut(site: Site) -> None:
    assert site.nodes[0].uplink is not None
    site.nodes[0].uplink.down = True


def hung(site: Site) -> None:
    assert site.nodes[0].uplink is not None
    site.nodes[0].uplink.hangs = True


def frozen(site: Site) -> None:
    """Its uplink hangs, and it goes on saying that it brings something."""
    hung(site)
    site.nodes[0].machine._runs.tick = lambda now: None  # type: ignore[method-assign]  # a defect, made up


def mute(site: Site) -> None:
    """It says that it has an uplink, and never fetches."""
    runs = site.nodes[0].machine._runs
    runs.start = lambda transfer, now: None  # type: ignore[method-assign]  # a defect, made up


@pytest.mark.parametrize(
    ("how", "at"),
    [
        (killed, 0.9),
        (hung, 0.9),
        *(
            pytest.param(how, at, marks=pytest.mark.slow)
            for how in (killed, cut, hung, frozen)
            for at in (0.02, 0.4, 1.7)
        ),
    ],
)
async def test_the_loss_of_one_costs_seconds_and_no_verified_byte(
    autojump_clock: trio.testing.MockClock, how: Callable[[Site], None], at: float
) -> None:
    site, blob = make(RATES)

    async def lose(site: Site) -> None:
        await trio.sleep(at)
        how(site)

    seconds = await fill(site, blob, lose)
    left = len(DATA) - 2 * at * RATES[0] * MBIT  # when it was lost, and then over one
    assert seconds <= at + left / (RATES[1] * MBIT) + 5.0
    assert site.upstream.bytes <= len(DATA) + SLACK


@pytest.mark.slow
async def test_who_says_it_has_an_uplink_and_never_fetches_is_passed_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    site, blob = make(RATES)
    mute(site)
    seconds = await fill(site, blob)
    assert seconds <= len(DATA) / (RATES[1] * MBIT) + 5.0
    assert site.upstream.bytes == len(DATA)


@pytest.mark.slow
async def test_one_that_hung_and_resumes_does_not_fight(autojump_clock: trio.testing.MockClock) -> None:
    site, blob = make(RATES)

    async def hang(site: Site) -> None:
        await trio.sleep(0.5)
        hung(site)
        await trio.sleep(3.5)
        assert site.nodes[0].uplink is not None
        site.nodes[0].uplink.hangs = False

    await fill(site, blob, hang)
    assert site.upstream.bytes <= len(DATA) + SLACK


@pytest.mark.slow
async def test_a_flapping_uplink_loses_what_was_in_flight(autojump_clock: trio.testing.MockClock) -> None:
    data = DATA * 4
    site, blob = make((8, 4), data)

    async def flap(site: Site) -> None:
        uplink = site.nodes[0].uplink
        assert uplink is not None
        for _ in range(2):
            await trio.sleep(10)
            uplink.down = True
            await trio.sleep(10)
            uplink.down = False

    seconds = await fill(site, blob, flap, len(data))
    while_up = len(data) - 10 * 2 * 4 * MBIT  # two times ten seconds with the slower one alone
    assert seconds <= 20 + while_up / (12 * MBIT) + 2 * 5.0
    assert site.upstream.bytes <= 1.02 * len(data)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2, 30])
async def test_each_half_with_an_uplink_has_its_own_copy_and_what_heals_refetches_nothing(
    autojump_clock: trio.testing.MockClock, seconds: float
) -> None:
    site, blob = make(RATES)
    halves = (["u0", "dark0"], ["u1", "dark1"])
    at_heal = 0

    async def part(site: Site) -> None:
        nonlocal at_heal
        await trio.sleep(0.5)
        site.network.partition(*halves)
        await trio.sleep(seconds)
        at_heal = site.upstream.bytes
        site.network.heal_all()

    await fill(site, blob, part)
    missing = sum(len(DATA) - brought(node) for node in site.nodes[:2]) if seconds < 10 else 0
    assert site.upstream.bytes <= at_heal + max(0, missing) + SLACK
    assert site.upstream.bytes <= 2 * len(DATA)


@pytest.mark.slow
async def test_eight_uplinks_do_not_get_into_each_others_way(autojump_clock: trio.testing.MockClock) -> None:
    data = DATA * 3
    site, blob = make((5,) * 8, data)
    seconds = await fill(site, blob, size=len(data))
    assert seconds <= 1.15 * len(data) / (40 * MBIT)
    assert site.upstream.bytes <= 1.02 * len(data)
    assert len(site.upstream.requests) < 64


async def test_an_uplink_whose_quota_is_spent_ends_at_a_chunk_and_the_other_brings_the_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    site, blob = make(RATES)
    first = site.nodes[0]

    async def spent(_: Site) -> None:
        await trio.sleep(1.0)
        first.driver.feed(events.UplinkGated(Gate.SHUT, "the quota of the day is spent"))
        await trio.sleep(0.5)
        had = brought(first)
        await trio.sleep(10)
        assert brought(first) == had
        assert not first.machine.uplink_up

    taken = await fill(site, blob, spent)
    assert site.upstream.bytes == len(DATA), "no chunk was thrown away"
    assert taken <= 1.5 + (len(DATA) - MBIT * 25 * 2) / (RATES[1] * MBIT) * 1.15


async def test_where_all_quotas_are_spent_it_goes_on_when_the_first_opens(
    autojump_clock: trio.testing.MockClock,
) -> None:
    site, blob = make(RATES)

    async def spent(_: Site) -> None:
        await trio.sleep(1.0)
        for node in site.nodes[:2]:
            node.driver.feed(events.UplinkGated(Gate.SHUT, "the quota of the hour is spent"))
        await trio.sleep(1.0)
        had = site.upstream.bytes
        asked = len(site.upstream.requests)
        await trio.sleep(600)
        assert (site.upstream.bytes, len(site.upstream.requests)) == (had, asked)
        site.nodes[1].driver.feed(events.UplinkGated(Gate.OPEN))

    taken = await fill(site, blob, spent)
    assert site.upstream.bytes == len(DATA)
    assert 602 < taken < 602 + 2 * LIMIT * 1.15
