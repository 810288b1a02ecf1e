"""One process on one data directory, held by flock: the kernel lets go of it however the process ends."""

import fcntl
import os
from pathlib import Path
from typing import Self

from meshsat.errors import StoreLockedError
from meshsat.store.disk import storage_errors
from meshsat.store.layout import Layout


class DirectoryLock:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def acquire(cls, layout: Layout) -> Self:
        """Raises `StoreLockedError` when another process has it, `StorageError` when it cannot be tried."""
        with storage_errors("lock", layout.lock):
            fd = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            except BlockingIOError:
                holder = _holder(fd)
                os.close(fd)
                raise StoreLockedError(_explain(layout.data_dir, holder)) from None
            except OSError:
                os.close(fd)
                raise
        return cls(fd)

    def release(self) -> None:
        os.close(self._fd)


def _holder(fd: int) -> str:
    text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    return f"process {text}" if text.isdigit() else "another process"


def _explain(data_dir: Path, holder: str) -> str:
    return (
        f"data directory {data_dir} is in use by {holder}: stop that one first, "
        "or give this one a data directory of its own"
    )
