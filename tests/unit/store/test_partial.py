"""What the contract suite cannot see: faults of the disk in the middle of a step."""

import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio

from meshsat.chunking.cut import MIN_CHUNK
from meshsat.errors import NotFoundError, StorageError
from meshsat.oci.digest import Digest
from meshsat.store import disk
from meshsat.store.database import Database
from meshsat.store.partial import CATCH_UP, Partial, State
from meshsat.store.store import Store
from tests.images import random_bytes

DATA = random_bytes(6 * MIN_CHUNK)
DIGEST = Digest.of(DATA)


def chunk(index: int) -> bytes:
    return DATA[index * MIN_CHUNK : (index + 1) * MIN_CHUNK]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path) as opened:
        yield opened


@pytest.fixture
async def partial(store: Store) -> Partial:
    opened = await store.partial(DIGEST, len(DATA))
    assert isinstance(opened, Partial)
    return opened


def no_space(*_: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_database(*_: Any) -> NoReturn:
    raise StorageError("database or disk is full")


@pytest.mark.parametrize("step", ["file", "database"])
async def test_a_chunk_that_could_not_be_kept_is_not_there(
    partial: Partial, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patch:
        if step == "file":
            patch.setattr(os, "pwrite", no_space)
        else:
            patch.setattr(Database, "add_chunk", no_database)
        with pytest.raises(StorageError, match=r"full|No space"):
            await partial.write(0, chunk(0))
    assert not partial.chunks
    with pytest.raises(NotFoundError):
        await partial.read(0)
    for index in range(6):
        await partial.write(index, chunk(index))
    await partial.publish()


@pytest.mark.parametrize("step", ["fsync", "rename", "database"])
async def test_publishing_that_failed_can_be_tried_again(
    store: Store, partial: Partial, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    for index in range(6):
        await partial.write(index, chunk(index))
    with monkeypatch.context() as patch:
        if step == "database":
            patch.setattr(Database, "finish_partial", no_database)
        elif step == "fsync":
            patch.setattr(os, "fsync", no_space)
        else:
            patch.setattr(Path, "rename", no_space)
        with pytest.raises(StorageError):
            await partial.publish()
    assert store.blob_size(DIGEST) is None
    assert await partial.read(5) == chunk(5)
    await partial.publish()
    assert await store.read(DIGEST, 0, len(DATA)) == DATA


async def test_discarding_that_failed_leaves_a_partial_to_begin_anew(
    store: Store, partial: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    await partial.write(0, chunk(0))
    with monkeypatch.context() as patch:
        patch.setattr(Database, "drop_partial", no_database)
        with pytest.raises(StorageError):
            await partial.discard()
    assert partial.state is State.CLOSED
    again = await store.partial(DIGEST, len(DATA))
    assert not again.chunks
    await again.write(0, chunk(0))


async def test_publishing_after_chunks_in_order_reads_nothing_back(
    partial: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(6):
        await partial.write(index, chunk(index))
    monkeypatch.setattr("meshsat.store.disk.read_span", no_database)
    await partial.publish()


async def test_a_write_reads_back_a_bounded_amount(partial: Partial, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(5, 0, -1):
        await partial.write(index, chunk(index))
    read: list[int] = []
    pread = os.pread

    def spy(fd: int, length: int, offset: int) -> bytes:
        read.append(length)
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", spy)
    await partial.write(0, chunk(0))
    assert sum(read) == CATCH_UP < 5 * MIN_CHUNK


async def test_two_writers_of_one_chunk_leave_one_chunk(
    partial: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    pwrite = os.pwrite

    def spy(fd: int, data: bytes, offset: int) -> int:
        written.append(offset)
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", spy)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(partial.write, 3, chunk(3))
    assert written == [3 * MIN_CHUNK]


async def test_ending_waits_for_chunks_that_are_being_written(store: Store, partial: Partial) -> None:
    outcomes: list[str] = []

    async def write(index: int) -> None:
        try:
            await partial.write(index, chunk(index))
            outcomes.append("written")
        except StorageError:
            outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        for index in range(6):
            nursery.start_soon(write, index)
        await trio.testing.wait_all_tasks_blocked()
        await partial.aclose()
    assert len(outcomes) == 6
    again = await store.partial(DIGEST, len(DATA))
    assert len(again.chunks) == outcomes.count("written")


async def test_a_chunk_can_be_read_while_the_blob_gets_its_final_name(
    partial: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed, go_on = threading.Event(), threading.Event()
    really = disk.publish

    def publish(*arguments: Any, **options: Any) -> None:
        really(*arguments, **options)
        renamed.set()
        assert go_on.wait(10)

    monkeypatch.setattr(disk, "publish", publish)
    for index in range(6):
        await partial.write(index, chunk(index))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial.publish)
            await trio.to_thread.run_sync(renamed.wait)
            try:
                assert await partial.read(3) == chunk(3)
            finally:
                go_on.set()
