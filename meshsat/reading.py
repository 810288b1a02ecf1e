"""Readers of one blob, whole or on its way: what a client of the registry reads from.

Laws: what is read was verified, chunk by chunk; whoever leaves withdraws its interest; nothing waits for
ever.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import trio

from meshsat.errors import DeniedError, NotFoundError, UnavailableError
from meshsat.mesh.demand import Demand
from meshsat.mesh.service import Mesh, error_of
from meshsat.oci.digest import Digest
from meshsat.protocol.events import Fault, Priority
from meshsat.protocol.wire import Source
from meshsat.store.store import Store

READ = 1 << 20
"""Bytes that a reader is given at once."""
NO_SOURCE_LIMIT = 15.0
"""Seconds for which nobody may be there who could deliver, before a pull or a reader gives up."""
STALL_LIMIT = 90.0
"""Seconds without a byte of progress before a pull or a reader gives up."""
FINAL = (Fault.NOT_FOUND, Fault.DENIED, Fault.STORAGE, Fault.WRONG_BYTES)


@dataclass(slots=True)
class Part:
    """A manifest or blob behind a reference."""

    size: int
    sources: tuple[Source, ...]
    """Empty: no upstream has it."""
    media_type: str | None = None
    """Where it is known."""


class Patience:
    """Gives up when nothing moves for too long."""

    def __init__(self, can_be_had: Callable[[], bool]) -> None:
        self._can_be_had = can_be_had
        self._moved_at = self._sourced_at = trio.current_time()
        self._progress = -1

    def check(self, progress: int, faults: Iterable[tuple[Fault | None, str]]) -> None:
        """Raises a `MeshsatError` when it is over; `progress` is any number that grows."""
        now = trio.current_time()
        told = [(fault, message) for fault, message in faults if fault is not None]
        if progress != self._progress:
            self._progress, self._moved_at = progress, now
        if self._can_be_had():
            self._sourced_at = now
        for fault, message in told:
            if fault in FINAL:
                raise error_of(fault, message)
        because = f": {told[0][1]}" if told else ""
        if now - self._sourced_at > NO_SOURCE_LIMIT:
            raise UnavailableError(f"no node of this site holds it, and none has a working uplink{because}")
        if now - self._moved_at > STALL_LIMIT:
            raise UnavailableError(f"nothing came for {STALL_LIMIT:g} s{because}")


class RefusedBlob:
    """One that is there, and is not given: who pushes may learn that, who reads gets the reason."""

    path = None

    def __init__(self, size: int, reason: str) -> None:
        self.size = size
        self._reason = reason

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        raise DeniedError(self._reason)

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It is never entered."""

    async def stream(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        del start, stop
        raise DeniedError(self._reason)
        yield b""


class StoredBlob:
    """A reader of a blob that is held whole."""

    def __init__(self, store: Store, digest: Digest, size: int) -> None:
        self.size = size
        self.path = store.blob_path(digest)
        self._store = store
        self._digest = digest
        self._held = AsyncExitStack()
        self._read: Callable[[int, int], Awaitable[bytes]]

    async def __aenter__(self) -> Self:
        self._read = await self._held.enter_async_context(self._store.hold(self._digest))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._held.aclose()

    async def stream(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        while start < stop:
            piece = await self._read(start, min(start + READ, stop))
            start += len(piece)
            yield piece


class ArrivingBlob:
    """A reader of a blob that is on its way, or will be as soon as this is entered."""

    path = None

    def __init__(self, store: Store, mesh: Mesh, digest: Digest, part: Part) -> None:
        self.size = part.size
        self._store = store
        self._mesh = mesh
        self._digest = digest
        self._sources = part.sources
        self._interest = ExitStack()
        self._demand: Demand | None = None
        self._move: Callable[[int], None] = lambda _offset: None

    async def __aenter__(self) -> Self:
        with ExitStack() as stack:
            self._demand = stack.enter_context(
                self._mesh.demand(self._digest, self.size, self._sources, Priority.READER)
            )
            self._move = stack.enter_context(self._mesh.reader(self._digest))
            self._interest = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._interest.__exit__(kind, error, traceback)

    async def stream(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        patience = Patience(lambda: self._mesh.obtainable(self._digest, elsewhere=bool(self._sources)))
        while start < stop:
            self._move(start)
            piece = await self._read(start, stop)
            if piece:
                start += len(piece)
                yield piece
                continue
            demand = self._demand
            if demand is None:
                raise UnavailableError("the reader was closed")
            patience.check(start, [(demand.fault, demand.message)])
            with trio.move_on_after(1.0):
                await demand.changed()

    async def _read(self, start: int, stop: int) -> bytes:
        """What is there at `start` now; nothing if it is still to come."""
        if self._store.blob_size(self._digest) is not None:
            return await self._store.read(self._digest, start, min(start + READ, stop))
        partial = self._mesh.partial(self._digest)
        if partial is None:
            return b""
        index = start // partial.cut.chunk_length
        if index not in partial.chunks:
            return b""
        offset, length = partial.cut.span(index)
        begin = start - offset
        try:
            return await partial.read(index, begin, min(length, begin + READ, stop - offset))
        except NotFoundError:  # its source proved wrong meanwhile: another will bring it
            return b""
