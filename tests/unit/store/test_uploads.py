from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from meshsat.chunking.recipe import Recipe
from meshsat.errors import (
    BusyError,
    DigestMismatchError,
    NotFoundError,
    StorageError,
    StorageFullError,
    TooLongError,
)
from meshsat.oci.digest import Digest
from meshsat.store import disk
from meshsat.store.store import Store
from meshsat.store.uploads import JOINED, TURN_PATIENCE, Upload, UploadLimits
from tests.images import random_bytes

PLACE = "site.internal/team/app"
DATA = random_bytes(3 * 1024 * 1024 + 5, 7)
LIMITS = UploadLimits(open=3, timeout=60.0, size=len(DATA) + 10)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path, threads=0, uploads=LIMITS) as one:
        yield one


async def push(upload: Upload, data: bytes, part: int = 100_000) -> None:
    async with upload.turn():
        for start in range(0, len(data), part):
            await upload.write(data[start : start + part])


def left(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "store" / "uploads").iterdir()]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("told", ["sha256", "sha512"])
@pytest.mark.parametrize("length", [0, 1, 256 * 1024, 256 * 1024 + 1, len(DATA)])
async def test_what_was_pushed_is_a_blob_with_its_recipe(
    store: Store, tmp_path: Path, length: int, told: str, algorithm: str
) -> None:
    data = DATA[:length]
    digest = Digest.of(data, algorithm)
    upload = await store.uploads.begin(PLACE, told)
    await push(upload, data)
    assert upload.size == length
    assert await store.uploads.finish(upload, digest) == length
    assert await store.read(digest, 0, length) == data
    assert (await store.recipe(digest)).chunks == Recipe.of(data, algorithm).chunks
    assert left(tmp_path) == []
    assert store.uploads.find(PLACE, upload.id) is None


async def test_bytes_without_that_digest_are_thrown_away(store: Store, tmp_path: Path) -> None:
    upload = await store.uploads.begin(PLACE)
    await push(upload, DATA)
    wrong = Digest.of(b"other")
    with pytest.raises(DigestMismatchError, match=str(Digest.of(DATA))):
        await store.uploads.finish(upload, wrong)
    assert store.blob_size(wrong) is None
    assert left(tmp_path) == []
    with pytest.raises(NotFoundError):
        async with upload.turn():
            pytest.fail("it ended")


@pytest.mark.parametrize("cut", [1, 262_144, 2_000_001])
async def test_a_restart_goes_on_from_what_was_taken(tmp_path: Path, cut: int) -> None:
    async with await Store.open(tmp_path, threads=0, uploads=LIMITS) as store:
        begun = await store.uploads.begin(PLACE)
        await push(begun, DATA[:cut])
    async with await Store.open(tmp_path, threads=0, uploads=LIMITS) as store:
        upload = store.uploads.find(PLACE, begun.id)
        assert upload is not None
        assert upload.size == cut
        await push(upload, DATA[cut:])
        digest = Digest.of(DATA)
        await store.uploads.finish(upload, digest)
        assert (await store.recipe(digest)).chunks == Recipe.of(DATA).chunks
    async with await Store.open(tmp_path, threads=0, uploads=LIMITS) as store:
        assert len(store.uploads) == 0
        assert await store.read(digest, 0, len(DATA)) == DATA


async def test_files_and_rows_that_lack_the_other_are_forgotten_at_the_start(tmp_path: Path) -> None:
    async with await Store.open(tmp_path, threads=0) as store:
        begun = await store.uploads.begin(PLACE)
    directory = tmp_path / "store" / "uploads"
    (directory / begun.id).unlink()
    (directory / ("0" * 32)).write_bytes(b"nobody's")
    async with await Store.open(tmp_path, threads=0) as store:
        assert len(store.uploads) == 0
        assert left(tmp_path) == []


async def test_an_upload_is_found_by_its_own_repository_only(store: Store) -> None:
    upload = await store.uploads.begin(PLACE)
    assert store.uploads.find(PLACE, upload.id) is upload
    assert store.uploads.find("site.internal/other", upload.id) is None
    for wrong in ("", "..", "../../state.sqlite", "0" * 32, upload.id.upper() + "x"):
        assert store.uploads.find(PLACE, wrong) is None


async def test_requests_to_one_upload_take_turns(store: Store, autojump_clock: MockClock) -> None:
    upload = await store.uploads.begin(PLACE)
    async with trio.open_nursery() as nursery:

        async def slow(task_status: trio.TaskStatus[None]) -> None:
            async with upload.turn():
                await upload.write(b"first")
                task_status.started()
                await trio.sleep(TURN_PATIENCE + 1)

        await nursery.start(slow)
        with pytest.raises(BusyError):
            async with upload.turn():
                pytest.fail("two at once")
        async with upload.turn():
            await upload.write(b"second")
    await store.uploads.finish(upload, Digest.of(b"firstsecond"))


async def test_what_a_cancelled_request_brought_is_kept(store: Store, tmp_path: Path) -> None:
    upload = await store.uploads.begin(PLACE)
    with trio.CancelScope() as scope:
        async with upload.turn():
            await upload.write(b"kept")
            scope.cancel()
            await trio.sleep_forever()
    assert upload.size == 4
    assert (tmp_path / "store" / "uploads" / upload.id).read_bytes() == b"kept"


async def test_there_are_never_too_many_and_the_forgotten_make_room(
    store: Store, tmp_path: Path, autojump_clock: MockClock
) -> None:
    old = [await store.uploads.begin(PLACE) for _ in range(LIMITS.open)]
    await trio.sleep(LIMITS.timeout - 1)
    async with old[0].turn():
        await old[0].write(b"alive")
    await trio.sleep(0.5)
    with pytest.raises(BusyError, match="3 uploads"):
        await store.uploads.begin(PLACE)
    await trio.sleep(1)
    await store.uploads.begin(PLACE)
    assert store.uploads.find(PLACE, old[0].id) is old[0]
    assert store.uploads.find(PLACE, old[1].id) is None
    assert len(left(tmp_path)) == 2


async def test_one_that_is_forgotten_goes_by_itself(
    store: Store, tmp_path: Path, autojump_clock: MockClock
) -> None:
    await store.uploads.begin(PLACE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.uploads.run)
        await trio.sleep(LIMITS.timeout - 1)
        assert len(left(tmp_path)) == 1
        await trio.sleep(LIMITS.timeout + 1)
        assert left(tmp_path) == []
        nursery.cancel_scope.cancel()


async def test_no_blob_is_longer_than_the_limit(store: Store) -> None:
    upload = await store.uploads.begin(PLACE)
    async with upload.turn():
        await upload.write(DATA)
        with pytest.raises(TooLongError):
            await upload.write(b"x" * 11)
    await store.uploads.finish(upload, Digest.of(DATA))


async def test_a_full_disk_loses_nothing_that_was_taken(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await store.uploads.begin(PLACE)
    await push(upload, DATA[:JOINED])
    write = disk.write_span

    def full(path: Path, offset: int, data: disk.Buffer) -> None:
        write(path, offset, bytes(data)[:1000])  # a part came through
        raise StorageFullError("no space left")

    monkeypatch.setattr(disk, "write_span", full)
    with pytest.raises(StorageError):
        await push(upload, DATA[JOINED:])
    assert upload.size == JOINED
    monkeypatch.undo()
    await push(upload, DATA[JOINED : JOINED + 10])
    await store.uploads.finish(upload, Digest.of(DATA[: JOINED + 10]))


async def test_pushed_twice_it_is_kept_once(store: Store) -> None:
    digest = Digest.of(DATA)
    for _ in range(2):
        upload = await store.uploads.begin(PLACE)
        await push(upload, DATA)
        assert await store.uploads.finish(upload, digest) == len(DATA)
    assert store.blobs() == {digest: len(DATA)}
