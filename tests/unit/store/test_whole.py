"""Blobs that come in one piece: what is durable together, and what one fault costs the others."""

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from meshsat.errors import DigestMismatchError, NotFoundError, StorageError
from meshsat.oci.digest import Digest
from meshsat.store import disk
from meshsat.store.database import Database
from meshsat.store.partial import State
from meshsat.store.store import Store
from meshsat.store.whole import BATCH, SmallBlob

BLOBS = [b"small %d" % number for number in range(300)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path) as opened:
        yield opened


async def put_all(store: Store, faults: dict[bytes, BaseException], blobs: list[bytes] = BLOBS) -> None:
    async def put(data: bytes) -> None:
        try:
            await store.put(data, Digest.of(data))
        except (StorageError, DigestMismatchError) as fault:
            faults[data] = fault

    async with trio.open_nursery() as nursery:
        for data in blobs:
            nursery.start_soon(put, data)


async def test_what_comes_at_once_is_made_durable_together(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    add_blobs = Database.add_blobs

    def counted(self: Database, rows: list[tuple[Digest, int, bytes]]) -> None:
        batches.append(len(rows))
        add_blobs(self, rows)

    monkeypatch.setattr(Database, "add_blobs", counted)
    faults: dict[bytes, BaseException] = {}
    await put_all(store, faults)
    assert faults == {}
    assert store.blobs() == {Digest.of(data): len(data) for data in BLOBS}
    assert sum(batches) == len(BLOBS)
    assert max(batches) <= BATCH[0]
    assert len(batches) < 10
    for data in BLOBS:
        assert await store.read(Digest.of(data), 0, 100) == data


async def test_one_that_cannot_be_written_costs_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file = disk.write_file

    def fail_on_seven(path: Path, data: bytes, mode: int = 0o600) -> None:
        if data == BLOBS[7]:
            with disk.storage_errors("write", path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_file(path, data, mode)

    monkeypatch.setattr(disk, "write_file", fail_on_seven)
    faults: dict[bytes, BaseException] = {}
    await put_all(store, faults)
    assert list(faults) == [BLOBS[7]]
    assert "free some space" in str(faults[BLOBS[7]])
    assert len(store.blobs()) == len(BLOBS) - 1
    monkeypatch.undo()
    await store.put(BLOBS[7], Digest.of(BLOBS[7]))


async def test_where_the_names_cannot_be_made_durable_none_is_published(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise StorageError(f"cannot sync {path}")

    monkeypatch.setattr(disk, "sync_directory", fail)
    faults: dict[bytes, BaseException] = {}
    await put_all(store, faults, BLOBS[:5])
    assert len(faults) == 5
    assert store.blobs() == {}


async def test_what_was_named_before_a_crash_and_not_recorded_is_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_self: Database, _rows: object) -> None:
        raise StorageError("killed here")

    monkeypatch.setattr(Database, "add_blobs", crash)
    faults: dict[bytes, BaseException] = {}
    async with await Store.open(tmp_path) as store:
        await put_all(store, faults, BLOBS[:5])
        assert store.blobs() == {}
    monkeypatch.undo()
    assert len(faults) == 5
    async with await Store.open(tmp_path) as store:
        assert store.blobs() == {Digest.of(data): len(data) for data in BLOBS[:5]}
        assert await store.read(Digest.of(BLOBS[0]), 0, 100) == BLOBS[0]


async def test_who_is_cancelled_while_it_waits_leaves_nothing_behind(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.put, BLOBS[0], Digest.of(BLOBS[0]))
        nursery.start_soon(store.put, BLOBS[1], Digest.of(BLOBS[1]))
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    async with await Store.open(tmp_path) as store:
        for data in BLOBS[:3]:
            await store.put(data, Digest.of(data))
            assert await store.read(Digest.of(data), 0, 100) == data


# --- a small blob on its way ---


async def test_a_small_blob_is_published_when_it_is_written(store: Store) -> None:
    data, blob = b"one chunk", Digest.of(b"one chunk")
    small = await store.partial(blob, len(data))
    assert isinstance(small, SmallBlob)
    assert await store.partial(blob, len(data)) is small
    with pytest.raises(NotFoundError):
        await small.read(0)
    with pytest.raises(StorageError, match="nothing of it is here"):
        await small.publish()
    assert store.partials() == {}
    assert await small.write(0, data, blob.raw) == blob.raw
    assert store.blob_size(blob) == len(data)
    await small.publish()
    assert await small.read(0, 4) == b"chunk"
    assert await small.write(0, data) == blob.raw  # once more
    assert small.have_bytes == len(data)
    with pytest.raises(DigestMismatchError):
        await small.write(0, b"on3 chunk")


@pytest.mark.parametrize("wrong", [b"one", b"0ne chunk"])
async def test_of_wrong_bytes_nothing_is_kept(store: Store, wrong: bytes) -> None:
    blob = Digest.of(b"one chunk")
    small = await store.partial(blob, 9)
    with pytest.raises(DigestMismatchError, match="not that blob"):
        await small.write(0, wrong)
    with pytest.raises(DigestMismatchError):
        await small.write(0, b"one chunk", bytes(32))
    with pytest.raises(IndexError):
        await small.write(1, b"one chunk")
    await small.forget([0])
    assert small.have_bytes == 0
    assert store.blobs() == {}
    await small.write(0, b"one chunk")
    assert store.blobs() == {blob: 9}


async def test_one_that_was_let_go_of_is_begun_anew(store: Store) -> None:
    blob = Digest.of(b"one chunk")
    small = await store.partial(blob, 9)
    await small.aclose()
    assert small.state is State.CLOSED
    with pytest.raises(StorageError, match="closed"):
        await small.write(0, b"one chunk")
    again = await store.partial(blob, 9)
    assert again is not small
    await again.write(0, b"one chunk")
    assert store.blob_size(blob) == 9


async def test_small_blobs_are_read_together(store: Store) -> None:
    await put_all(store, {}, BLOBS[:3])
    spans = [(Digest.of(data), 1, len(data)) for data in BLOBS[:3]]
    assert await store.read_many(spans) == [data[1:] for data in BLOBS[:3]]
    gone = Digest.of(b"gone")
    first, second = await store.read_many([(gone, 0, 4), spans[0]])
    assert isinstance(first, StorageError)
    assert second == BLOBS[0][1:]
