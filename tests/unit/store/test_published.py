"""What is whole is read, whatever becomes of its name; and what can't be is told."""

from pathlib import Path

import pytest

from meshsat.errors import NotFoundError, StorageError
from meshsat.oci.digest import Digest
from meshsat.store.store import Store
from tests.images import random_bytes

DATA = random_bytes(700_000)
DIGEST = Digest.of(DATA)


async def test_a_reader_that_has_it_open_goes_on(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        await store.put(DATA, DIGEST)
        async with store.hold(DIGEST) as read:
            first = await read(0, 1000)
            await store.removal.drop(DIGEST, lambda: True)
            assert first + await read(1000, len(DATA)) == DATA
        with pytest.raises(NotFoundError):
            async with store.hold(DIGEST):
                pass


async def test_what_fails_to_be_read_is_told_as_suspect(tmp_path: Path) -> None:
    suspects: list[Digest] = []
    async with await Store.open(tmp_path) as store:
        store.on_suspect = suspects.append
        await store.put(DATA, DIGEST)
        path = store.blob_path(DIGEST)
        path.chmod(0o600)
        path.write_bytes(DATA[:-1])
        with pytest.raises(StorageError):
            await store.read(DIGEST, 0, len(DATA))
        async with store.hold(DIGEST) as read:
            with pytest.raises(StorageError):
                await read(len(DATA) - 10, len(DATA))
        path.unlink()
        (fault,) = await store.read_many([(DIGEST, 0, 10)])
        assert isinstance(fault, StorageError)
        with pytest.raises(StorageError):
            async with store.hold(DIGEST):
                pass
        assert suspects == [DIGEST] * 4
        assert await store.removal.survey() == [DIGEST]
        assert not await store.removal.is_right(DIGEST)
