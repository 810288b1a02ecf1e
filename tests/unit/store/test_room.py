"""What counts as taken, from the moment on that something is begun."""

from pathlib import Path

import pytest

from meshsat.errors import StorageFullError
from meshsat.oci.digest import Digest
from meshsat.store.partial import AlreadyPublishedError
from meshsat.store.store import Store
from tests.images import random_bytes

DATA = random_bytes(700_000)
DIGEST = Digest.of(DATA)
CHUNK = 256 * 1024


async def test_a_blob_on_its_way_counts_whole_while_it_is_open(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        partial = await store.partial(DIGEST, len(DATA))
        assert (store.room.used, store.room.promised) == (len(DATA), len(DATA))
        await partial.write(0, DATA[:CHUNK])
        assert (store.room.used, store.room.promised) == (len(DATA), len(DATA) - CHUNK)
        await partial.aclose()
        assert (store.room.used, store.room.promised) == (CHUNK, 0)
    async with await Store.open(tmp_path) as store:
        assert CHUNK <= store.room.used < 2 * CHUNK
        partial = await store.partial(DIGEST, len(DATA))
        for index in (1, 2):
            await partial.write(index, DATA[index * CHUNK : (index + 1) * CHUNK])
        await partial.publish()
        assert (store.room.used, store.room.promised) == (len(DATA), 0)


async def test_pushes_count_once(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        upload = await store.uploads.begin("site.internal/app")
        async with upload.turn():
            await upload.write(DATA)
            assert store.room.used == len(DATA)
            await store.uploads.finish(upload, DIGEST)
        assert store.room.used == len(DATA)


async def test_without_room_nothing_is_begun_and_what_is_begun_goes_on(tmp_path: Path) -> None:
    asked: list[int] = []

    async def full(size: int) -> None:
        asked.append(size)
        raise StorageFullError("no room")

    async with await Store.open(tmp_path) as store:
        partial = await store.partial(DIGEST, len(DATA))
        small = Digest.of(b"small")
        await store.put(b"small", small)
        upload = await store.uploads.begin("site.internal/app")
        store.room.admit = full
        assert await store.partial(DIGEST, len(DATA)) is partial
        await partial.write(0, DATA[:CHUNK])
        await store.put(b"small", small)
        with pytest.raises(AlreadyPublishedError):
            await store.partial(small, 5)
        assert asked == []
        for begin in (store.put(b"other", Digest.of(b"other")), store.partial(Digest.of(b"third"), 5)):
            with pytest.raises(StorageFullError):
                await begin
        assert asked == [5, 5]
        async with upload.turn():
            await upload.write(b"1234")
            with pytest.raises(StorageFullError):
                await upload.write(DATA)
            assert upload.size == 0, "what was not written is not kept"
        await partial.aclose()
        with pytest.raises(StorageFullError):
            await store.partial(DIGEST, len(DATA))
        assert asked[-1] == len(DATA) - CHUNK, "what is there needs no more room"
        assert store.room.used == CHUNK + 5
