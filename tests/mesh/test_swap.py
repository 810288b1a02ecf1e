"""A site swaps blobs: completely, once over the uplink, in the same way for a seed."""

import random
from collections.abc import Callable
from functools import partial

import pytest
import trio
import trio.testing

from meshsat.errors import NotFoundError, UnavailableError
from meshsat.oci.digest import Digest
from meshsat.protocol.events import Fault, Priority
from tests.deterministic import deterministic_order
from tests.images import build_image
from tests.mesh.site import SOURCE, Node, Site

MIB = 1 << 20
MBIT = 125_000


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def fetch_all(nodes: list[Node], blob: Digest, size: int, patience: float = 600.0) -> float:
    """All want it at once; returns the seconds until the last has it."""
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(partial(node.fetch, blob, size, patience=patience))
    return trio.current_time() - began


def assert_held(nodes: list[Node], blob: Digest, data: bytes) -> None:
    assert [node.name for node in nodes if node.store.data.get(blob) != data] == []


def large_site(seed: int) -> tuple[list[float], int]:
    """32 nodes, one uplink; when each was done, and what went over the uplink."""
    data = content(4 * MIB)

    async def run() -> tuple[list[float], int]:
        site = Site(seed=seed, keepalive=5.0, silence_limit=15.0)
        for number in range(32):
            site.add(f"n{number}", uplink=40 * MBIT if number == 0 else None)
        blob = site.upstream.add(data)
        async with site.running():
            await fetch_all(site.nodes, blob, len(data))
        assert_held(site.nodes, blob, data)
        return [node.completed_at or 0.0 for node in site.nodes], site.upstream.bytes

    with deterministic_order(seed):
        return trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.slow
def test_thirty_two_nodes_complete_and_every_byte_crosses_the_uplink_once() -> None:
    times, wan = large_site(seed=7)
    assert wan == 4 * MIB
    limit = 4 * MIB / (40 * MBIT)
    assert max(times) - 3.0 < 1.15 * limit  # 3 s: the site is given time to meet


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run() -> None:
    assert large_site(seed=3) == large_site(seed=3)


@pytest.mark.slow
async def test_a_cold_site_fills_at_the_uplinks_rate(autojump_clock: trio.testing.MockClock) -> None:
    data = content(12 * 1000 * 1000)
    site = Site()
    for number in range(8):
        site.add(f"n{number}", lan=100 * MBIT, uplink=25 * MBIT if number == 0 else None)
    blob = site.upstream.add(data)
    async with site.running():
        seconds = await fetch_all(site.nodes, blob, len(data))
    assert_held(site.nodes, blob, data)
    assert site.upstream.bytes == len(data)
    assert seconds <= 1.08 * len(data) / (25 * MBIT)
    assert sum(node.metrics.duplicate_bytes._value.get() for node in site.nodes) <= 0.01 * 8 * len(data)


@pytest.mark.slow
async def test_a_warm_site_fills_from_one_seed_without_the_uplink(
    autojump_clock: trio.testing.MockClock,
) -> None:
    data = content(12 * 1000 * 1000)
    site = Site()
    for number in range(8):
        site.add(f"n{number}", lan=200 * MBIT)
    blob = site.upstream.add(data)
    site.nodes[3].store.keep(data, blob)
    async with site.running():
        seconds = await fetch_all(site.nodes, blob, len(data))
    assert_held(site.nodes, blob, data)
    assert site.upstream.requests == []
    assert seconds <= 1.5 * len(data) / (200 * MBIT)


@pytest.mark.slow
async def test_two_uplinks_fetch_different_parts_and_add_up(autojump_clock: trio.testing.MockClock) -> None:
    data = content(64 * MIB)
    site = Site()
    for number in range(4):
        site.add(f"n{number}", uplink=50 * MBIT if number < 2 else None)
    blob = site.upstream.add(data)
    async with site.running():
        seconds = await fetch_all(site.nodes, blob, len(data))
    assert_held(site.nodes, blob, data)
    assert site.upstream.bytes <= 1.02 * len(data)
    assert seconds < 0.85 * len(data) / (50 * MBIT)


async def test_the_loss_of_the_fetching_node_costs_little_and_no_verified_byte(
    autojump_clock: trio.testing.MockClock,
) -> None:
    data = content(20 * MIB)
    site = Site()
    for number in range(4):
        site.add(f"n{number}", lan=200 * MBIT, uplink=50 * MBIT if number < 2 else None)
    blob = site.upstream.add(data)
    async with site.running(), trio.open_nursery() as nursery:
        for node in site.nodes[2:]:
            nursery.start_soon(node.fetch, blob, len(data))
        await trio.sleep(1.2)
        fetching = max(site.nodes[:2], key=lambda node: node.uplink.bytes if node.uplink else 0)
        assert fetching.uplink is not None
        assert 0 < fetching.uplink.bytes < len(data)
        site.kill(fetching)
    assert_held(site.nodes[2:], blob, data)
    assert site.upstream.bytes <= len(data) + MIB


async def test_a_dark_reader_gets_its_first_chunk_long_before_the_uplinked_node_has_the_blob(
    autojump_clock: trio.testing.MockClock,
) -> None:
    data = content(40 * MIB)
    site = Site()
    uplinked = site.add("up", lan=200 * MBIT, uplink=20 * MBIT)
    dark = site.add("dark", lan=200 * MBIT)
    blob = site.upstream.add(data)
    async with site.running():
        with (
            dark.mesh.demand(blob, len(data), (SOURCE,), Priority.READER) as demand,
            dark.mesh.reader(blob) as move,
        ):
            move(0)
            while 0 not in getattr(dark.mesh.partial(blob), "chunks", {}):
                await demand.changed()
        held = uplinked.machine.transfers[blob].have_bytes
        assert held < 0.1 * len(data)


async def test_a_reader_in_the_middle_is_served_from_there(autojump_clock: trio.testing.MockClock) -> None:
    data = content(64 * MIB)
    site = Site()
    site.add("up", uplink=20 * MBIT)
    dark = site.add("dark")
    blob = site.upstream.add(data)
    async with site.running():
        began = trio.current_time()
        with (
            dark.mesh.demand(blob, len(data), (SOURCE,), Priority.READER) as demand,
            dark.mesh.reader(blob) as move,
        ):
            move(48 * MIB)
            while 48 * 4 not in getattr(dark.mesh.partial(blob), "chunks", {}):
                await demand.changed()
        assert trio.current_time() - began < 2.0


@pytest.mark.slow
async def test_who_stops_wanting_stops_the_uplink(autojump_clock: trio.testing.MockClock) -> None:
    data = content(40 * MIB)
    site = Site()
    site.add("up", uplink=20 * MBIT)
    dark = site.add("dark")
    blob = site.upstream.add(data)
    async with site.running():
        with trio.move_on_after(3):
            await dark.fetch(blob, len(data))
        await trio.sleep(1)
        fetched = site.upstream.bytes
        assert 0 < fetched < len(data) / 2
        await trio.sleep(30)
        assert site.upstream.bytes == fetched
        await fetch_all(site.nodes, blob, len(data))  # wanted again: it goes on where it stopped
    assert site.upstream.bytes <= len(data) + 2 * MIB


async def test_what_a_restart_finds_on_the_disk_is_not_fetched_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    data = content(10 * MIB)
    site = Site()
    uplinked = site.add("up", uplink=20 * MBIT)
    site.add("dark")
    blob = site.upstream.add(data)
    uplinked.store.left[blob] = {
        index: data[index * MIB // 4 : (index + 1) * MIB // 4] for index in range(20)
    }
    async with site.running():
        await fetch_all(site.nodes, blob, len(data))
    assert_held(site.nodes, blob, data)
    assert site.upstream.bytes == len(data) - 5 * MIB


@pytest.mark.slow
async def test_a_thousand_small_blobs_reach_everybody_quickly(autojump_clock: trio.testing.MockClock) -> None:
    site = Site()
    for number in range(8):
        site.add(f"n{number}", lan=200 * MBIT)
    small = [content(10 * 1024, seed) for seed in range(1000)]
    for data in small:
        site.nodes[0].store.keep(data, Digest.of(data))
    async with site.running():
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for node in site.nodes[1:]:
                for data in small:
                    nursery.start_soon(node.fetch, Digest.of(data), len(data))
        assert trio.current_time() - began < 2.0


@pytest.mark.slow
async def test_a_partition_heals_without_fetching_again(autojump_clock: trio.testing.MockClock) -> None:
    data = content(20 * MIB)
    site = Site()
    for number in range(6):
        site.add(f"n{number}", lan=200 * MBIT, uplink=50 * MBIT if number == 0 else None)
    blob = site.upstream.add(data)
    async with site.running(), trio.open_nursery() as nursery:
        for node in site.nodes:
            nursery.start_soon(node.fetch, blob, len(data))
        await trio.sleep(1)
        site.network.partition([f"n{one}" for one in range(3)], [f"n{one}" for one in range(3, 6)])
        await trio.sleep(10)
        assert_held(site.nodes[:3], blob, data)
        site.network.heal_all()
    assert_held(site.nodes, blob, data)
    assert site.upstream.bytes == len(data)


async def test_a_full_disk_stops_its_node_and_nobody_else(autojump_clock: trio.testing.MockClock) -> None:
    data = content(5 * MIB)
    site = Site()
    for number in range(4):
        site.add(f"n{number}", uplink=50 * MBIT if number == 0 else None)
    full = site.nodes[2]
    full.store.full = True
    blob = site.upstream.add(data)
    async with site.running():
        with full.mesh.demand(blob, len(data), (SOURCE,), Priority.PULL) as demand:
            others = [node for node in site.nodes if node is not full]
            await fetch_all(others, blob, len(data))
            while demand.fault is None:
                await demand.changed()
            assert demand.fault is Fault.STORAGE
            assert "no space" in demand.message
    assert_held(others, blob, data)


# --- references ---


def upstream_image(site: Site) -> Digest:
    image = build_image([b"layer"])
    for digest, raw in image.contents.items():
        site.upstream.blobs[Digest.parse_untrusted(digest)] = raw
    site.upstream.tags["up.example", "library/pos", "42"] = image.raw
    return Digest.parse_untrusted(image.root)


async def test_many_askers_cause_one_question_upstream(autojump_clock: trio.testing.MockClock) -> None:
    site = Site()
    for number in range(8):
        site.add(f"n{number}", uplink=50 * MBIT if number < 3 else None)
    root = upstream_image(site)
    answers: list[Digest] = []

    async def ask(node: Node) -> None:
        record = await node.mesh.resolve("up.example", "library/pos", "42", max_age=10, patience=5)
        answers.append(record.digest)

    async with site.running(), trio.open_nursery() as nursery:
        for node in site.nodes:
            nursery.start_soon(ask, node)
    assert answers == [root] * 8
    assert site.upstream.requests == ["resolve 42"]


async def test_a_late_joiner_learns_the_tags_by_gossip(autojump_clock: trio.testing.MockClock) -> None:
    site = Site()
    for number in range(3):
        site.add(f"n{number}", uplink=50 * MBIT if number == 0 else None)
    root = upstream_image(site)
    async with site.running():
        await site.nodes[1].mesh.resolve("up.example", "library/pos", "42", max_age=10, patience=5)
        late = site.add("late")
        await site.start(late)
        site.introduce(site.nodes)
        await trio.sleep(5)
        record = late.machine.records.get(("up.example", "library/pos", "42"))
    assert record is not None
    assert record.digest == root
    assert [one.digest for one in late.news] == [root]


async def expect_fault(node: Node, kind: type[Exception], match: Callable[[str], bool]) -> None:
    with pytest.raises(kind) as told:
        await node.mesh.resolve("up.example", "library/pos", "nope", max_age=10, patience=30)
    assert match(str(told.value))


async def test_what_the_upstream_does_not_have_is_told_as_such(
    autojump_clock: trio.testing.MockClock,
) -> None:
    site = Site()
    site.add("up", uplink=50 * MBIT)
    dark = site.add("dark")
    async with site.running():
        await expect_fault(dark, NotFoundError, lambda text: "library/pos:nope" in text)


async def test_an_unreachable_upstream_is_told_as_such_and_not_asked_in_a_hot_loop(
    autojump_clock: trio.testing.MockClock,
) -> None:
    site = Site()
    site.add("up", uplink=50 * MBIT)
    dark = site.add("dark")
    site.upstream.fault = UnavailableError("no route to up.example")
    data = content(MIB)
    blob = site.upstream.add(data)
    async with site.running():
        await expect_fault(dark, UnavailableError, lambda text: "no route" in text or "no node" in text)
        with trio.move_on_after(120):
            await dark.fetch(blob, len(data))
        assert len(site.upstream.requests) < 20
        site.upstream.fault = None
        await dark.fetch(blob, len(data), patience=90)
    assert_held([dark], blob, data)
