"""What was chosen goes, in an order that leaves nothing half there; what is needed meanwhile stays."""

from typing import Any

import pytest
import trio
from trio.abc import Clock

from meshsat.oci.digest import Digest
from meshsat.oci.reference import SITE
from meshsat.store.store import Store
from meshsat.upkeep.stock import Stocktaking
from meshsat.upkeep.sweep import Sweep, Swept
from tests.images import build_image, random_bytes
from tests.unit.upkeep.conftest import Disk, unix

GRACE = 3600.0
IMAGE = build_image([random_bytes(5000, 1)])
OTHER = build_image([random_bytes(5000, 2)])
LARGE = random_bytes(600_000, 3)


def sweep(disk: Disk) -> Sweep:
    stocktaking = Stocktaking(disk.store, lambda: disk.desired, lambda: disk.wanted, GRACE)
    disk.store.removal.on_dropped = disk.dropped.append
    return Sweep(disk.store, stocktaking, disk.elsewhere.__contains__, 7200.0, unix)


async def test_what_nothing_refers_to_goes_and_is_told(autojump_clock: Clock, disk: Disk) -> None:
    await disk.hold(IMAGE, "pos")
    await disk.hold(OTHER, "pos")
    await trio.sleep(GRACE + 1)
    dry, swept = Swept(), Swept()
    await sweep(disk).collect(dry, dry=True)
    assert disk.holds(IMAGE)
    await sweep(disk).collect(swept)
    assert dry.blobs == swept.blobs
    assert swept.freed == IMAGE.size
    assert not disk.held(IMAGE)
    assert disk.holds(OTHER)
    assert {str(digest) for digest in disk.dropped} == set(IMAGE.contents)
    assert all(not disk.store.blob_path(digest).exists() for digest in disk.dropped)
    assert disk.dropped[0] == Digest.parse_untrusted(IMAGE.root), "nobody is promised what is going"
    await sweep(disk).collect(again := Swept())
    assert again.blobs == {}


async def test_a_round_can_be_interrupted_anywhere(autojump_clock: Clock, disk: Disk) -> None:
    await disk.hold(IMAGE, "pos")
    await disk.hold(OTHER, "pos")
    await trio.sleep(GRACE + 1)
    with trio.CancelScope() as scope:
        disk_sweep = sweep(disk)
        disk.store.removal.on_dropped = lambda _digest: scope.cancel()
        await disk_sweep.collect(Swept())
    assert len(disk.held(IMAGE)) == len(IMAGE.contents) - 1
    await sweep(disk).collect(Swept())
    assert not disk.held(IMAGE)
    assert disk.holds(OTHER)


@pytest.mark.parametrize("how", ["tag", "pin", "claim", "put", "demand", "desired"])
async def test_what_is_needed_while_a_round_goes_on_stays(
    autojump_clock: Clock, disk: Disk, how: str
) -> None:
    """As soon as the first blob is gone, somebody wants the other image."""
    await disk.hold(OTHER, "pos", None, whole=False)
    first = Digest.of(b"a")
    await disk.store.put(b"a", first)
    await trio.sleep(GRACE + 1)
    root = Digest.parse_untrusted(OTHER.root)
    done = trio.Event()

    async def need() -> None:
        match how:
            case "tag":
                await disk.hold(OTHER, "pos", whole=False)
            case "pin":
                await disk.store.pin(root, "asked for")
            case "claim":
                disk.store.ages.claim(root)
            case "put":
                await disk.store.put(OTHER.raw, root)
            case "demand":
                disk.wanted = {Digest.parse_untrusted(text) for text in OTHER.contents}
            case "desired":
                disk.desired = (root,)
        done.set()

    working = sweep(disk)
    drop = disk.store.removal.drop
    order: list[Digest] = []

    async def slow(digest: Digest, holds: Any) -> int:
        if not order:
            nursery.start_soon(need)
            await done.wait()
        order.append(digest)
        return await drop(digest, holds)

    disk.store.removal.drop = slow  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        await working.collect(Swept())
    assert disk.store.blob_size(first) is None
    assert disk.holds(OTHER)


async def test_content_of_what_was_deleted_from_the_site_is_freed(autojump_clock: Clock, disk: Disk) -> None:
    await disk.hold(IMAGE, "app", None, registry=SITE, whole=False)
    await disk.store.repositories.drop("app", Digest.parse_untrusted(IMAGE.root))
    await sweep(disk).collect(Swept())
    assert disk.holds(IMAGE)
    await trio.sleep(GRACE + 1)
    await sweep(disk).collect(Swept())
    assert not disk.held(IMAGE)
    assert "app" not in disk.store.repositories.names()


async def test_an_evicted_image_is_shown_no_longer_and_comes_back_whole(
    autojump_clock: Clock, disk: Disk
) -> None:
    await disk.hold(IMAGE, "pos")
    await disk.hold(OTHER, "till")
    await trio.sleep(60)
    retracted: list[str] = []
    disk.store.on_retracted = lambda image: retracted.append(image.name)
    disk.store.ages.use(Digest.parse_untrusted(IMAGE.root))
    left = [1]
    await sweep(disk).evict(lambda: left.pop() if left else 0, swept := Swept())
    assert retracted == swept.images == ["reg.test/till:1"]
    assert [image.name for image in disk.store.images()] == ["reg.test/pos:1"]
    assert not disk.held(OTHER)
    assert disk.holds(IMAGE)
    assert "till" not in disk.store.path.joinpath("index.json").read_text()
    assert disk.store.tag("reg.test", "till", "1") is not None, "what a tag means is known all the same"
    await disk.hold(OTHER, "till")
    assert len(disk.store.images()) == 2


async def test_the_order_of_pulls_outlives_a_restart_and_a_clock_that_goes_back(
    autojump_clock: Clock, disk: Disk
) -> None:
    roots = [await disk.hold(image, name) for image, name in ((IMAGE, "a"), (OTHER, "b"))]
    for root in roots:
        disk.store.ages.use(root)
    await disk.store.aclose()
    async with await Store.open(disk.store.path.parent, threads=0, unix=lambda: 5.0) as again:
        await trio.sleep(400)
        await again.ages.flush()
        again.ages.use(roots[0])
        assert again.ages.used_at(roots[0]) > again.ages.used_at(roots[1]) > 0
        disk.store = again
        left = [1]
        await sweep(disk).evict(lambda: left.pop() if left else 0, swept := Swept())
        assert swept.images == ["reg.test/b:1"]


async def test_what_came_of_a_blob_that_nobody_wants_goes_after_a_while(
    autojump_clock: Clock, disk: Disk
) -> None:
    digest = Digest.of(LARGE)
    partial = await disk.store.partial(digest, len(LARGE))
    await partial.write(0, LARGE[: partial.cut.chunk_length])
    working = sweep(disk)
    await working.discard_partials(-1e12, Swept())
    assert disk.store.partials(), "it is open"
    await partial.aclose()
    await working.discard_partials(1e12, Swept())
    disk.wanted = {digest}
    await working.discard_partials(-1e12, Swept())
    assert disk.store.partials()
    assert disk.store.room.used >= partial.cut.chunk_length
    disk.wanted = set()
    await working.discard_partials(-1e12, swept := Swept())
    assert swept.freed == partial.cut.chunk_length
    assert not disk.store.partials()
    assert not list(disk.store.partial_path(digest).parent.iterdir())
    assert disk.store.room.used == 0
    partial = await disk.store.partial(digest, len(LARGE))
    assert partial.have_bytes == 0


async def test_a_layer_that_a_push_mounted_stays_when_its_image_is_evicted(
    autojump_clock: Clock, disk: Disk
) -> None:
    """The push's manifest is still to come: the layer belongs to its repository already."""
    layer = Digest.of(random_bytes(5000, 1))
    await disk.hold(IMAGE, "pos")
    await trio.sleep(GRACE + 1)
    disk.store.ages.claim(layer)
    await disk.store.repositories.add("app", [layer])
    await trio.sleep(60)
    await sweep(disk).evict(lambda: 1_000_000, Swept())
    assert disk.held(IMAGE) == {str(layer)}
