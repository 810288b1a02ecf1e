import os

import pytest

from meshsat.errors import StorageError, StoreLockedError
from meshsat.store.layout import Layout
from meshsat.store.lock import DirectoryLock


def test_one_holder_at_a_time(layout: Layout) -> None:
    lock = DirectoryLock.acquire(layout)
    assert layout.lock.read_text() == f"{os.getpid()}\n"
    with pytest.raises(StoreLockedError, match=f"process {os.getpid()}"):
        DirectoryLock.acquire(layout)
    lock.release()
    DirectoryLock.acquire(layout).release()


def test_a_stale_pid_does_not_matter(layout: Layout) -> None:
    layout.lock.write_text("999999999\n")
    lock = DirectoryLock.acquire(layout)
    layout.lock.write_text("nonsense")
    with pytest.raises(StoreLockedError, match="another process"):
        DirectoryLock.acquire(layout)
    lock.release()


def test_what_cannot_be_locked(layout: Layout) -> None:
    layout.lock.mkdir()
    with pytest.raises(StorageError, match="cannot lock"):
        DirectoryLock.acquire(layout)
