"""Room: the bytes that the store takes on its disk, and has promised to take.

A blob on its way counts with all its bytes from the moment it is begun, so that what was begun can end. Who
decides about room (`upkeep`) is asked through `admit` before anything is begun; by default all is let in.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from meshsat.oci.digest import Digest
from meshsat.store.database import Contents


class Sized(Protocol):
    @property
    def size(self) -> int: ...

    @property
    def have_bytes(self) -> int: ...


async def _let_in(_size: int) -> None:
    await trio.lowlevel.checkpoint()


class Room:
    """`left`: the bytes of blobs on their way that nobody has open. Both mappings are the store's own."""

    def __init__(self, contents: Contents, open_: Mapping[Digest, Sized], left: Mapping[Digest, int]) -> None:
        self.admit: Callable[[int], Awaitable[None]] = _let_in
        """Returns when there is room for so many bytes more; raises `StorageFullError`."""
        self.uploads: Callable[[], int] = lambda: 0
        """Gives the bytes of pushes under way."""
        self.quarantined = 0
        """Bytes that are kept for whoever asks what went wrong."""
        self._contents = contents
        self._open = open_
        self._left = left
        self._pending = 0

    @property
    def used(self) -> int:
        return (
            sum(self._contents.blobs.values())
            + sum(partial.size for partial in self._open.values())
            + sum(size for digest, size in self._left.items() if digest not in self._open)
            + self.uploads()
            + self.quarantined
            + self._pending
        )

    @property
    def promised(self) -> int:
        """Of those, bytes that are still to be written."""
        return self._pending + sum(partial.size - partial.have_bytes for partial in self._open.values())

    @asynccontextmanager
    async def reserved(self, size: int) -> AsyncIterator[None]:
        """Room for so many bytes, until they count as what they are for. Raises `StorageFullError`."""
        if size:
            await self.admit(size)
        self._pending += size
        try:
            yield
        finally:
            self._pending -= size
