"""What is rotten comes back: from a peer where one has it, from upstream where none does; and is shown again."""

import pytest
import trio
from trio.abc import Clock

from meshsat.oci.digest import Digest
from meshsat.repair import Repair
from meshsat.upkeep.task import Rotten
from tests.images import build_image, random_bytes
from tests.mesh.full_node import FullNode, full_site, hold

IMAGE = build_image([random_bytes(700_000)])
LAYER = Digest.of(random_bytes(700_000))
REFERENCE = "up.example/library/pos:42"


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
