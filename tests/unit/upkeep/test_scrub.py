"""What is on the disk is read again: at its rate, when nothing else is to do, the oldest first."""

from pathlib import Path

import pytest
import trio
from trio.abc import Clock

from meshsat.errors import StorageError
from meshsat.oci.digest import Digest
from meshsat.store.store import Store
from meshsat.upkeep.scrub import Scrub
from tests.images import random_bytes
from tests.unit.upkeep.conftest import Disk, unix

DATA = [random_bytes(3_000_000, seed) for seed in range(3)]
DIGESTS = [Digest.of(data) for data in DATA]
DAY = 24 * 3600.0


class Found:
    """`looked` lists what was read; `rotten` what was told."""

    def __init__(self, store: Store) -> None:
        self.idle = True
        self.looked: list[Digest] = []
        self.rotten: list[Digest] = []
        self.scrub = Scrub(store, lambda: self.idle, self.tell, unix)
        self.scrub.rate, self.scrub.interval = 1_000_000, DAY
        check = self.scrub.check

        async def watched(digest: Digest, *, paced: bool) -> bool:
            self.looked.append(digest)
            return await check(digest, paced=paced)

        self.scrub.check = watched  # type: ignore[method-assign]

    async def tell(self, digest: Digest) -> None:
        self.rotten.append(digest)


async def fill(store: Store) -> None:
    for data, digest in zip(DATA, DIGESTS, strict=True):
        await store.put(data, digest)
        await trio.sleep(10)


def harm(path: Path) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


async def test_it_reads_at_its_rate_and_only_what_is_due(autojump_clock: Clock, disk: Disk) -> None:
    await fill(disk.store)
    found = Found(disk.store)
    assert found.scrub.due() == []
    await trio.sleep(DAY - 15)  # the first two are due
    with trio.move_on_after(100):
        await found.scrub.run(1000.0)
    assert found.looked == DIGESTS[:2]
    assert found.scrub.checked_bytes == 6_000_000
    assert found.rotten == []
    assert found.scrub.due() == DIGESTS[2:]


async def test_a_megabyte_takes_its_second(autojump_clock: Clock, disk: Disk) -> None:
    await disk.store.put(DATA[0], DIGESTS[0])
    found = Found(disk.store)
    began = trio.current_time()
    assert await found.scrub.check(DIGESTS[0], paced=True)
    assert trio.current_time() - began == pytest.approx(3.0)
    assert await found.scrub.check(DIGESTS[0], paced=False)
    assert trio.current_time() - began == pytest.approx(3.0)


async def test_it_waits_while_something_is_on_its_way(autojump_clock: Clock, disk: Disk) -> None:
    await fill(disk.store)
    found = Found(disk.store)
    found.idle = False
    await trio.sleep(2 * DAY)
    with trio.move_on_after(1000):
        await found.scrub.run(1000.0)
    assert found.scrub.checked_bytes == 3_000_000, "it stands before the first byte"
    assert len(found.scrub.due()) == 3
    found.idle = True
    with trio.move_on_after(30):
        await found.scrub.run(1000.0)
    assert found.scrub.due() == []


async def test_progress_outlives_a_restart_and_wrong_clocks(autojump_clock: Clock, disk: Disk) -> None:
    await fill(disk.store)
    await trio.sleep(2 * DAY)
    found = Found(disk.store)
    await found.scrub.check(DIGESTS[1], paced=False)
    directory = disk.store.path.parent
    await disk.store.aclose()
    async with await Store.open(directory, threads=0, unix=unix) as again:
        assert Found(again).scrub.due() == [DIGESTS[0], DIGESTS[2]]
        assert Found(again).scrub.oldest() == pytest.approx(unix() - 2 * DAY, abs=100)
    async with await Store.open(directory, threads=0, unix=lambda: 1000.0) as past:
        past_scrub = Scrub(past, lambda: True, Found(past).tell, lambda: 1000.0)
        past_scrub.rate, past_scrub.interval = 1, DAY
        assert len(past_scrub.due()) == 0, "all of it counts as never checked, a day after 1970"
        assert past_scrub.oldest() == 0.0


@pytest.mark.parametrize("fault", ["flipped", "short", "long", "gone"])
async def test_what_is_not_right_is_told(autojump_clock: Clock, disk: Disk, fault: str) -> None:
    await fill(disk.store)
    path = disk.store.blob_path(DIGESTS[1])
    path.chmod(0o600)
    match fault:
        case "flipped":
            harm(path)
        case "short":
            path.write_bytes(DATA[1][:-1])
        case "long":
            path.write_bytes(DATA[1] + b"1")
        case "gone":
            path.unlink()
    found = Found(disk.store)
    await trio.sleep(DAY)
    with trio.move_on_after(60):
        await found.scrub.run(1000.0)
    assert set(found.rotten) == {DIGESTS[1]}
    assert DIGESTS[0] in found.looked
    assert DIGESTS[2] in found.looked


async def test_a_disk_that_is_away_is_no_rot(autojump_clock: Clock, disk: Disk) -> None:
    """As when it is unmounted under us: nothing is put away for that."""
    await fill(disk.store)
    found = Found(disk.store)
    directory = disk.store.blob_path(DIGESTS[0]).parent
    directory.rename(directory.with_name("away"))
    with pytest.raises(StorageError):
        await found.scrub.check(DIGESTS[0], paced=False)
    with pytest.raises(StorageError):
        await disk.store.removal.survey()
    directory.with_name("away").rename(directory)
    assert await found.scrub.check(DIGESTS[0], paced=False)


async def test_a_lack_of_descriptors_is_no_rot(
    autojump_clock: Clock, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(disk.store)
    found = Found(disk.store)

    def none_left(path: Path) -> int:
        raise StorageError(f"cannot open {path}") from OSError(24, "Too many open files")

    monkeypatch.setattr("meshsat.store.disk.open_read", none_left)
    with pytest.raises(StorageError):
        await found.scrub.check(DIGESTS[0], paced=False)
    assert found.rotten == []
