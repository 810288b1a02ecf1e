"""The task: rounds in their time, room made before something comes, what is rotten put away, and what it tells."""

import pytest
import trio
from trio.abc import Clock

from meshsat.cli.faults import culprit
from meshsat.errors import StorageError, StorageFullError
from meshsat.oci.digest import Digest
from meshsat.upkeep.marking import Stock
from meshsat.upkeep.task import QUIET, Upkeep
from tests.images import Image, build_image, random_bytes
from tests.unit.upkeep.conftest import Disk, unix

GRACE = 3600.0
SIZE = 100_000


def image(seed: int) -> Image:
    return build_image([random_bytes(SIZE, seed)])


IMAGES = [image(seed) for seed in range(5)]


async def fill(disk: Disk, count: int = 3) -> None:
    """Images a, b, c..., each pulled after the one before."""
    for number in range(count):
        root = await disk.hold(IMAGES[number], "abcde"[number])
        disk.store.ages.use(root)
    await trio.sleep(60)


def names(disk: Disk) -> str:
    return "".join(one.repository for one in disk.store.images())


# Room


async def test_room_is_made_before_something_comes(autojump_clock: Clock, disk: Disk) -> None:
    await fill(disk)
    upkeep = disk.upkeep(budget=350_000, low=0.9)
    disk.elsewhere = {Digest.parse_untrusted(text) for text in IMAGES[1].contents}
    layer = random_bytes(SIZE, 99)
    await disk.store.put(layer, Digest.of(layer))
    assert names(disk) == "ac", "the one that a peer holds too, though it was pulled after the first"
    assert disk.store.room.used <= 350_000
    status = upkeep.status()
    assert (status.evicted_images, status.intake_stopped) == (1, None)
    assert status.evicted_bytes == IMAGES[1].size
    assert (status.used, status.budget, status.low) == (disk.store.room.used, 350_000, 315_000)
    more = random_bytes(SIZE, 98)
    await disk.store.put(more, Digest.of(more))
    assert names(disk) == "c", "then the one that was pulled longest ago"


async def test_what_is_pinned_or_desired_stays_and_intake_stops(autojump_clock: Clock, disk: Disk) -> None:
    await fill(disk)
    upkeep = disk.upkeep(budget=350_000, low=0.9)
    await disk.store.pin(Digest.parse_untrusted(IMAGES[0].root), "asked for")
    disk.desired = tuple(Digest.parse_untrusted(one.root) for one in IMAGES[1:3])
    data = random_bytes(SIZE, 99)
    for _ in range(3):
        with pytest.raises(StorageFullError, match=r"no room for 100000 bytes more.*raise disk\.budget"):
            await disk.store.put(data, Digest.of(data))
    assert names(disk) == "abc"
    assert all(disk.holds(one) for one in IMAGES[:3])
    assert upkeep.status().intake_stopped is not None
    assert "raise disk.budget" in (upkeep.trouble() or "")
    disk.desired = ()
    await trio.sleep(10)
    await disk.store.put(data, Digest.of(data))
    assert upkeep.status().intake_stopped is None
    assert upkeep.trouble() is None
    assert names(disk) == "ac"


async def test_more_than_the_budget_evicts_nothing_in_vain(autojump_clock: Clock, disk: Disk) -> None:
    await fill(disk)
    disk.upkeep(budget=400_000)
    with pytest.raises(StorageFullError):
        await disk.store.partial(Digest.of(b"huge"), 500_000)
    assert names(disk) == "abc"


async def test_many_at_once_are_not_let_in_on_the_same_room(autojump_clock: Clock, disk: Disk) -> None:
    disk.upkeep(budget=350_000)
    outcomes: list[str] = []

    async def begin(number: int) -> None:
        try:
            await disk.store.partial(Digest.of(bytes([number])), 300_000)
            outcomes.append("in")
        except StorageFullError:
            outcomes.append("out")

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(begin, number)
    assert sorted(outcomes) == ["in", "out", "out", "out", "out"]


async def test_a_push_larger_than_the_room_ends_and_breaks_nothing(autojump_clock: Clock, disk: Disk) -> None:
    await fill(disk, 1)
    disk.upkeep(budget=1_000_000)
    await disk.store.pin(Digest.parse_untrusted(IMAGES[0].root), "asked for")
    upload = await disk.store.uploads.begin("site.internal/app")
    async with upload.turn():
        for _ in range(3):
            await upload.write(random_bytes(300_000))
        with pytest.raises(StorageFullError):
            await upload.write(random_bytes(600_000))
    assert upload.size <= 1_000_000
    await disk.store.uploads.cancel(upload)
    assert disk.store.room.used == IMAGES[0].size
    assert disk.holds(IMAGES[0])


async def test_some_of_the_disk_stays_free(
    autojump_clock: Clock, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(disk)
    left = 150_000
    monkeypatch.setattr(
        "meshsat.store.disk.available", lambda _path: left + 3 * IMAGES[0].size - disk.store.room.used
    )
    upkeep = disk.upkeep(free=100_000)
    upkeep._budget.available = lambda: left + 3 * IMAGES[0].size - disk.store.room.used
    data = random_bytes(SIZE, 99)
    await disk.store.put(data, Digest.of(data))
    assert names(disk) == "bc"


# Rounds


async def running(nursery: trio.Nursery, upkeep: Upkeep) -> None:
    nursery.start_soon(upkeep.run)
    await trio.testing.wait_all_tasks_blocked()


async def test_nothing_goes_in_the_first_minute_and_then_what_is_to(
    autojump_clock: Clock, disk: Disk
) -> None:
    await fill(disk, 2)
    await disk.hold(IMAGES[2], "a")  # its tag moved on
    await trio.sleep(GRACE)
    upkeep = disk.upkeep()
    async with trio.open_nursery() as nursery:
        await running(nursery, upkeep)
        await trio.sleep(QUIET - 1)
        assert disk.holds(IMAGES[0])
        await trio.sleep(2)
        assert not disk.held(IMAGES[0])
        status = upkeep.status()
        assert status.last_gc == pytest.approx(unix(), abs=2)
        assert (status.last_gc_freed, status.collected_bytes) == (IMAGES[0].size, IMAGES[0].size)
        assert status.collected_blobs == len(IMAGES[0].contents)
        await disk.hold(IMAGES[3], "b")
        await trio.sleep(GRACE + upkeep._budget.section.gc_interval)
        assert not disk.held(IMAGES[1])
        nursery.cancel_scope.cancel()


async def test_above_the_high_watermark_images_go_without_being_waited_for(
    autojump_clock: Clock, disk: Disk
) -> None:
    await fill(disk)
    upkeep = disk.upkeep(budget=420_000, high=0.9, low=0.6)
    async with trio.open_nursery() as nursery:
        await running(nursery, upkeep)
        await trio.sleep(QUIET + 1)
        assert names(disk) == "abc"
        data = random_bytes(SIZE, 99)
        await disk.store.put(data, Digest.of(data))
        await disk.store.put(b"one more", Digest.of(b"one more"))
        await trio.sleep(5)
        assert names(disk) == "c"
        assert disk.store.room.used <= 0.6 * 420_000
        nursery.cancel_scope.cancel()


async def test_a_round_that_cannot_know_says_so_and_lets_nothing_go(
    autojump_clock: Clock, disk: Disk
) -> None:
    await fill(disk, 2)
    await disk.hold(IMAGES[2], "a")
    await trio.sleep(GRACE)
    upkeep = disk.upkeep()
    disk.desired = None
    collected = await upkeep.gc()
    assert collected.refused is not None
    assert collected.swept.blobs == {}
    assert disk.holds(IMAGES[0])
    assert "desired state is not known" in (upkeep.status().gc_refused or "")
    assert "nothing is collected" in (upkeep.trouble() or "")
    disk.desired = ()
    assert (await upkeep.gc()).refused is None
    assert upkeep.trouble() is None


async def test_a_dry_run_tells_what_a_round_does(autojump_clock: Clock, disk: Disk) -> None:
    await fill(disk)
    await disk.hold(IMAGES[3], "c")
    await trio.sleep(GRACE)
    upkeep = disk.upkeep(budget=300_000, high=0.9, low=0.8)
    dry = await upkeep.gc(dry_run=True)
    assert names(disk) == "abc"
    assert disk.holds(IMAGES[2])
    assert upkeep.status().collected_blobs == 0
    done = await upkeep.gc()
    assert (dry.swept.blobs, dry.swept.images) == (done.swept.blobs, done.swept.images)
    assert done.swept.images == ["reg.test/a:1"]
    assert done.swept.freed == IMAGES[0].size + IMAGES[2].size
    assert names(disk) == "bc"


async def test_retired_images_go_as_soon_as_they_can(autojump_clock: Clock, disk: Disk) -> None:
    await fill(disk)
    upkeep = disk.upkeep()
    first = Digest.parse_untrusted(IMAGES[0].root)
    disk.desired = (first,)
    assert await upkeep.retire(["reg.test/a:1"]) == 0
    disk.desired = ()
    disk.wanted = {first}
    await upkeep.gc()
    assert names(disk) == "abc"
    disk.wanted = set()
    await upkeep.gc()
    assert names(disk) == "bc"
    assert not disk.held(IMAGES[0])
    assert await upkeep.retire(["reg.test/b:1", "reg.test/never:1"]) == IMAGES[1].size
    await disk.hold(IMAGES[1], "b")
    await trio.sleep(60)
    await upkeep.gc()
    assert names(disk) == "bc", "what came back later is not retired"


# What is rotten


@pytest.mark.parametrize("how", ["read", "scrub", "deleted by hand"])
async def test_what_is_rotten_is_put_away_told_and_shown_no_longer(
    autojump_clock: Clock, disk: Disk, how: str
) -> None:
    await fill(disk)
    layer = Digest.of(random_bytes(SIZE, 1))
    path = disk.store.blob_path(layer)
    path.chmod(0o600)
    upkeep = disk.upkeep(scrub_rate=1_000_000, scrub_interval=1.0)
    async with trio.open_nursery() as nursery:
        await running(nursery, upkeep)
        match how:
            case "read":
                path.write_bytes(b"short")
                with pytest.raises(StorageError):
                    await disk.store.read(layer, 0, SIZE)
                await trio.sleep(1)
            case "scrub":
                path.write_bytes(bytes(SIZE))
                await trio.sleep(QUIET + 60)
            case "deleted by hand":
                path.unlink()
                await trio.sleep(QUIET + 1)
        assert disk.store.blob_size(layer) is None
        (rotten,) = disk.rotten
        assert (rotten.digest, rotten.size) == (layer, SIZE)
        assert [one.name for one in rotten.images] == ["reg.test/b:1"]
        assert names(disk) == "ac"
        assert layer in disk.dropped
        assert upkeep.status().rotten == 1
        assert upkeep.status().quarantined == (0 if how == "deleted by hand" else 1)
        assert "1 blobs proved rotten" in (upkeep.trouble() or "")
        nursery.cancel_scope.cancel()


async def test_scrubbing_goes_on_for_ever_and_tells_how_far_it_is(autojump_clock: Clock, disk: Disk) -> None:
    await fill(disk, 1)
    upkeep = disk.upkeep(scrub_rate=1_000_000, scrub_interval=24 * 3600.0)
    async with trio.open_nursery() as nursery:
        await running(nursery, upkeep)
        await trio.sleep(10 * 24 * 3600.0 + 3600)
        status = upkeep.status()
        assert status.scrubbed_bytes == pytest.approx(10 * IMAGES[0].size, rel=0.11)
        assert status.scrub_due == 0
        assert status.scrub_oldest is not None
        assert unix() - status.scrub_oldest < 25 * 3600
        nursery.cancel_scope.cancel()


# The database


async def test_a_database_that_breaks_ends_the_process(autojump_clock: Clock, disk: Disk) -> None:
    upkeep = disk.upkeep()
    disk.store._backing.database.on_rotten("malformed")
    with pytest.raises(BaseExceptionGroup) as ended, trio.fail_after(5):
        await upkeep.run()
    assert "is rebuilt at the next start" in str(culprit(ended.value))
    assert (disk.store.path / "state.sqlite.rotten").exists()


async def test_settings_change_while_it_runs(autojump_clock: Clock, disk: Disk) -> None:
    await fill(disk)
    upkeep = disk.upkeep()
    async with trio.open_nursery() as nursery:
        await running(nursery, upkeep)
        await trio.sleep(QUIET + 1)
        assert names(disk) == "abc"
        upkeep.apply(upkeep._budget.section.model_copy(update={"budget": 210_000, "high": 1.0, "low": 1.0}))
        await trio.sleep(5)
        assert names(disk) == "bc"
        nursery.cancel_scope.cancel()


async def test_where_nothing_can_be_evicted_that_is_told_and_tried_again_now_and_then(
    autojump_clock: Clock, disk: Disk
) -> None:
    await fill(disk)
    for one in IMAGES[:3]:
        await disk.store.pin(Digest.parse_untrusted(one.root), "asked for")
    upkeep = disk.upkeep(budget=350_000, high=0.8, low=0.5)
    taken = 0
    take = upkeep._stocktaking.take

    async def counted() -> Stock:
        nonlocal taken
        taken += 1
        return await take()

    upkeep._stocktaking.take = counted  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        await running(nursery, upkeep)
        await trio.sleep(QUIET + 1)
        before = taken
        for number in range(100):
            await disk.store.put(bytes([number]), Digest.of(bytes([number])))
            await trio.sleep(1)
        assert taken - before < 10
        assert "nothing can be evicted" in (upkeep.trouble() or "")
        assert upkeep.leaves() == 350_000 - sum(one.size for one in IMAGES[:3])
        nursery.cancel_scope.cancel()
