"""Members that lie, stall, flood or die cost the site themselves, and nothing else."""

import random
from collections.abc import Sequence
from contextlib import suppress

import pytest
import trio
import trio.testing

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.chunking.recipe import Recipe
from meshsat.mesh.transport import DialError, StreamBroken
from meshsat.oci.digest import Digest
from meshsat.protocol import events, wire
from meshsat.protocol.wire import PROTOCOL
from tests.mesh.site import Node, Site

MIB = 1 << 20
MBIT = 125_000


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def three_and_a_bad_one(*, uplink: bool = True) -> tuple[Site, Node]:
    """Nodes n0 (with the uplink) to n2, and one that will misbehave."""
    site = Site()
    for number in range(3):
        site.add(f"n{number}", lan=200 * MBIT, uplink=50 * MBIT if uplink and number == 0 else None)
    return site, site.add("bad", lan=200 * MBIT)


async def complete(site: Site, nodes: list[Node], blob: Digest, data: bytes, patience: float = 120.0) -> None:
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(_fetch, node, blob, len(data), patience)
    assert [node.name for node in nodes if node.store.data.get(blob) != data] == []


async def _fetch(node: Node, blob: Digest, size: int, patience: float) -> None:
    await node.fetch(blob, size, patience=patience)


async def test_wrong_bytes_end_the_session_and_come_from_another(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, bad = three_and_a_bad_one()
    data = content(8 * MIB)
    blob = site.upstream.add(data)
    bad.store.keep(data, blob)

    async def corrupt(chunks: Sequence[tuple[Digest, int]]) -> list[bytes]:
        return [bytes(Cut(FIXED_1, len(data)).span(index)[1]) for _, index in chunks]

    monkeypatch.setattr(bad.driver, "read_chunks", corrupt)
    async with site.running():
        await complete(site, site.nodes[:3], blob, data)
        assert all(bad.peer not in node.machine.sessions for node in site.nodes[:3])
    assert site.upstream.bytes == len(data)


def forge_recipe(bad: Node, blob: Digest, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bad` says it holds the blob, and has a recipe and chunks that fit each other but not the blob."""
    other = content(len(data), 99)

    async def recipe(_digest: Digest) -> Recipe:
        return Recipe(blob, Cut(FIXED_1, len(data)), Recipe.of(other).chunks)

    async def read(chunks: Sequence[tuple[Digest, int]]) -> list[bytes]:
        spans = [Cut(FIXED_1, len(data)).span(index) for _, index in chunks]
        return [other[offset : offset + length] for offset, length in spans]

    bad.store.data[blob] = data
    monkeypatch.setattr(bad.store, "recipe", recipe)
    monkeypatch.setattr(bad.driver, "read_chunks", read)


async def test_a_wrong_recipe_is_found_out_and_the_uplink_brings_the_truth_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, bad = three_and_a_bad_one()
    data = content(8 * MIB)
    blob = site.upstream.add(data)
    forge_recipe(bad, blob, data, monkeypatch)
    async with site.running():
        await complete(site, site.nodes[:3], blob, data)
    assert site.upstream.bytes <= 1.02 * len(data)


async def test_a_wrong_recipe_beside_a_right_one_costs_the_liar_its_sessions(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, bad = three_and_a_bad_one(uplink=False)
    data = content(8 * MIB)
    blob = site.upstream.add(data)
    site.nodes[0].store.keep(data, blob)
    forge_recipe(bad, blob, data, monkeypatch)
    async with site.running():
        await complete(site, site.nodes[1:3], blob, data)


async def test_one_that_takes_requests_and_never_answers_is_left_alone(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, bad = three_and_a_bad_one(uplink=False)
    data = content(8 * MIB)
    blob = site.upstream.add(data)
    site.nodes[0].store.keep(data, blob)
    bad.store.keep(data, blob)

    async def never(_chunks: Sequence[tuple[Digest, int]]) -> list[bytes]:
        await trio.sleep_forever()
        return []

    monkeypatch.setattr(bad.driver, "read_chunks", never)
    async with site.running():
        began = trio.current_time()
        await complete(site, site.nodes[1:3], blob, data)
        assert trio.current_time() - began < 10


async def test_one_that_says_it_holds_all_and_tells_no_recipe_is_left_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    site, bad = three_and_a_bad_one()
    data = content(8 * MIB)
    blob = site.upstream.add(data)
    async with site.running():
        bad.machine._state.held[blob] = len(data)  # it has neither the blob nor a recipe
        for node in site.nodes[:3]:
            bad.driver.links[node.identity.key.peer_id].send(wire.Holds(((blob, len(data)),)))
        began = trio.current_time()
        await complete(site, site.nodes[:3], blob, data)
        assert trio.current_time() - began < 10
    assert site.upstream.bytes == len(data)


async def test_a_flood_of_frames_ends_the_session(autojump_clock: trio.testing.MockClock) -> None:
    site, bad = three_and_a_bad_one()
    victim = site.nodes[1]
    async with site.running():
        link = bad.driver.links[victim.identity.key.peer_id]
        for number in range(19_000):
            link.send(wire.Unwant((Digest.of(b"%d" % number),)))
        await trio.sleep(1)
        for number in range(19_000):
            if not link.reason:
                link.send(wire.Unwant((Digest.of(b"%d" % number),)))
        await trio.sleep(2)
        assert bad.peer not in victim.machine.sessions
        await trio.sleep(30)
        assert bad.peer not in victim.machine.sessions  # and it may not come back at once
        data = content(MIB)
        await complete(site, site.nodes[:3], site.upstream.add(data), data)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 64,
        wire.PREFIX.pack(5, 0) + b"\x81\x18\x63xx",
        wire.PREFIX.pack(1 << 30, 0),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_garbage_ends_the_session(autojump_clock: trio.testing.MockClock, garbage: bytes) -> None:
    site, bad = three_and_a_bad_one()
    victim = site.nodes[1]
    async with site.running():
        bad.scope.cancel()
        await trio.sleep(5)
        stream = await bad.transport.open_stream(
            victim.identity.key.peer_id, victim.transport.addresses, PROTOCOL, 5
        )
        await stream.send_all(garbage)
        with suppress(StreamBroken):
            while await stream.receive_some():
                pass
        await trio.sleep(1)
        assert bad.peer not in victim.machine.sessions
        assert len(victim.machine.sessions) == 2


async def test_one_without_power_is_noticed_within_three_seconds_and_replaced(
    autojump_clock: trio.testing.MockClock,
) -> None:
    site, bad = three_and_a_bad_one(uplink=False)
    data = content(16 * MIB)
    blob = site.upstream.add(data)
    bad.store.keep(data, blob)
    site.nodes[0].store.keep(data, blob)
    async with site.running(), trio.open_nursery() as nursery:
        for node in site.nodes[1:3]:
            nursery.start_soon(node.fetch, blob, len(data))
        await trio.sleep(0.3)
        site.network.silence("bad")
        began = trio.current_time()
        while any(bad.peer in node.machine.sessions for node in site.nodes[1:3]):
            await trio.sleep(0.1)
        assert trio.current_time() - began <= 4.0
        while bad.peer in site.nodes[0].machine.sessions:  # which waits for nothing of it
            await trio.sleep(0.1)
        assert trio.current_time() - began <= 29.0


async def test_a_want_of_a_wrong_size_does_not_keep_the_right_one_from_coming(
    autojump_clock: trio.testing.MockClock,
) -> None:
    site, bad = three_and_a_bad_one()
    data = content(4 * MIB)
    blob = site.upstream.add(data)
    async with site.running():
        with trio.move_on_after(2):
            await bad.fetch(blob, 3 * MIB)
        await complete(site, site.nodes[:3], blob, data)


async def test_an_upstream_that_serves_wrong_bytes_is_told_and_not_asked_in_a_hot_loop(
    autojump_clock: trio.testing.MockClock,
) -> None:
    site, _ = three_and_a_bad_one()
    data = content(4 * MIB)
    blob = Digest.of(data)
    site.upstream.blobs[blob] = content(4 * MIB, 5)
    async with site.running():
        with trio.move_on_after(60):
            await complete(site, site.nodes[:3], blob, data)
        assert len(site.upstream.requests) < 10
        assert all(blob not in node.store.data for node in site.nodes)
        site.upstream.blobs[blob] = data
        await complete(site, site.nodes[:3], blob, data, patience=600)


async def test_a_stranger_learns_nothing(autojump_clock: trio.testing.MockClock) -> None:
    site, _ = three_and_a_bad_one()
    other = Site()
    stranger = other.fleet.member("stranger")
    site.network.add_host("stranger")
    node = Node(site, stranger, "stranger", None, 5)
    site.nodes[0].store.keep(b"secret", Digest.of(b"secret"))
    async with site.running():
        await site.start(node)
        for member in site.nodes[:3]:
            with pytest.raises(DialError):
                await node.transport.open_stream(
                    member.identity.key.peer_id, member.transport.addresses, PROTOCOL, 5
                )
            member.driver.feed(events.PeerSighted(stranger.key.peer_id, (), node.transport.addresses))
        await trio.sleep(60)
        assert not node.machine.sessions
        assert all(stranger.key.peer_id not in member.machine.sessions for member in site.nodes[:3])
