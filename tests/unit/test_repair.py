"""What is rotten comes back: from a peer where one has it, from upstream where none does; and is shown again."""

import time
from contextlib import aclosing

import pytest
import trio
from trio.abc import Clock

from meshsat.config import DiskSection
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.repair import Repair
from meshsat.upkeep.task import Rotten, Upkeep
from tests.images import build_image, random_bytes
from tests.mesh.full_node import POS, FullNode, full_site, hold

IMAGE = build_image([random_bytes(700_000)])
LAYER = Digest.of(random_bytes(700_000))
REFERENCE = "up.example/library/pos:42"


async def get_all(node: FullNode) -> None:
    """What a client does."""
    assert await node.fetcher.manifest(POS, "42") is not None
    for blob in IMAGE.blobs:
        reader = await node.fetcher.open_blob(POS, Digest.parse_untrusted(blob))
        assert reader is not None
        async with reader, aclosing(reader.stream(0, reader.size)) as parts:
            assert b"".join([part async for part in parts]) == IMAGE.blobs[blob]


async def rot(node: FullNode, nursery: trio.Nursery) -> None:
    """As upkeep does it."""
    repair = Repair(node.store, node.node.mesh, node.fetcher, lambda *_place: True)
    nursery.start_soon(repair.run)
    node.store.removal.on_dropped = node.node.driver.dropped
    (image,) = node.store.images()
    await node.store.retract_image(image.registry, image.repository, image.tag or "")
    await node.store.removal.quarantine(LAYER)
    assert node.store.images() == []
    repair.want(Rotten(LAYER, 700_000, (image,)))


@pytest.mark.parametrize("held_by_peer", [True, False])
async def test_it_comes_from_a_peer_first(autojump_clock: Clock, held_by_peer: bool) -> None:
    async with full_site("up", "dark") as (up, dark), trio.open_nursery() as nursery:
        hold(up.site.upstream, IMAGE, "42")
        for node in (up, dark) if held_by_peer else (dark,):
            await node.pull(REFERENCE)
        if not held_by_peer:
            assert up.store.blob_size(LAYER) is None or await up.store.removal.drop(LAYER, lambda: True)
            up.node.driver.dropped(LAYER)
        before = list(up.site.upstream.requests)
        await trio.sleep(1)
        await rot(dark, nursery)
        with trio.fail_after(60):
            while not dark.store.images():
                await trio.sleep(0.1)
        assert dark.store.blob_path(LAYER).read_bytes() == random_bytes(700_000)
        fetched = up.site.upstream.requests[len(before) :]
        assert bool(fetched) is not held_by_peer
        nursery.cancel_scope.cancel()


async def test_what_no_image_needs_is_not_asked_for(autojump_clock: Clock) -> None:
    async with full_site("up") as (up,), trio.open_nursery() as nursery:
        repair = Repair(up.store, up.node.mesh, up.fetcher, lambda *_place: True)
        nursery.start_soon(repair.run)
        repair.want(Rotten(LAYER, 700_000, ()))
        await trio.sleep(5)
        assert not up.node.mesh.wanted()
        nursery.cancel_scope.cancel()


async def test_an_evicted_image_is_served_and_shown_again_when_it_is_asked_for(autojump_clock: Clock) -> None:
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        await get_all(dark)
        dark.store.removal.on_dropped = dark.node.driver.dropped
        await trio.sleep(60)
        for digest in list(dark.store.blobs()):
            await dark.store.removal.drop(digest, lambda: True)
        await dark.store.retract_image("up.example", "library/pos", "42")
        assert dark.store.blobs() == {}
        await get_all(dark)
        await trio.sleep(1)
        assert [image.name for image in dark.store.images()] == [REFERENCE]


async def test_a_flipped_byte_is_found_by_the_scrub_and_mended_from_a_peer(autojump_clock: Clock) -> None:
    """All of it together: upkeep, the mesh and repair, under one clock."""
    async with full_site("up", "dark") as (up, dark), trio.open_nursery() as nursery:
        hold(up.site.upstream, IMAGE, "42")
        for node in (up, dark):
            await node.pull(REFERENCE)
        upkeep = Upkeep(
            dark.store,
            DiskSection(scrub_rate=10_000_000, scrub_interval=3600.0),
            Metrics(),
            held_elsewhere=dark.node.mesh.kept_elsewhere,
            wanted=dark.node.mesh.wanted,
            unix=lambda: time.time() + trio.current_time(),
            chance=lambda: 0.5,
        )
        repair = Repair(dark.store, dark.node.mesh, dark.fetcher, lambda *_place: True)
        upkeep.on_rotten = repair.want
        dark.store.removal.on_dropped = dark.node.driver.dropped
        nursery.start_soon(repair.run)
        nursery.start_soon(upkeep.run)
        path = dark.store.blob_path(LAYER)
        path.chmod(0o600)
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(data)
        with trio.fail_after(3 * 3600):
            while upkeep.status().rotten == 0:
                await trio.sleep(10)
            while not dark.store.images():
                await trio.sleep(10)
        assert path.read_bytes() == random_bytes(700_000)
        assert upkeep.status().quarantined == 1
        assert len([one for one in up.site.upstream.requests if "manifest" not in one]) <= 2
        nursery.cancel_scope.cancel()
