"""Repair: what proved rotten on this disk is brought back, from peers first, and its images are shown again.

It is asked for as anything else is; what no image here was whole with is not asked for at all.
"""

from collections.abc import Callable

import structlog
import trio

from meshsat.errors import MeshsatError
from meshsat.fetch import Fetcher
from meshsat.mesh.demand import Signal
from meshsat.mesh.service import Mesh
from meshsat.oci.media_types import MANIFEST_TYPES
from meshsat.protocol.events import Priority
from meshsat.protocol.wire import Source
from meshsat.store.store import Store
from meshsat.upkeep.task import Rotten

log = structlog.get_logger(__name__)

QUEUE = 4096
AT_ONCE = 4
"""Blobs that are asked for at a time."""
GIVE_UP = 24 * 3600.0
"""Seconds for which a blob is asked for."""
LOOK = 60.0
"""Seconds between two looks whether it came by another way."""


class Repair:
    """`allows`: whether an upstream may be asked for what belongs to (registry, repository)."""

    def __init__(
        self, store: Store, mesh: Mesh, fetcher: Fetcher, allows: Callable[[str, str], bool]
    ) -> None:
        self._store = store
        self._mesh = mesh
        self._fetcher = fetcher
        self._allows = allows
        self._put, self._take = trio.open_memory_channel[Rotten](QUEUE)

    def want(self, rotten: Rotten) -> None:
        """Have it brought back, soon."""
        if not rotten.images:
            return
        try:
            self._put.send_nowait(rotten)
        except trio.WouldBlock:
            log.warning(
                "too much is rotten at once: this comes when it is asked for", digest=str(rotten.digest)
            )

    async def run(self) -> None:
        """Run until cancelled."""
        seats = trio.Semaphore(AT_ONCE)
        async with trio.open_nursery() as nursery:
            async for rotten in self._take:
                await seats.acquire()
                nursery.start_soon(self._bring, rotten, seats)

    async def _bring(self, rotten: Rotten, seats: trio.Semaphore) -> None:
        try:
            with trio.move_on_after(GIVE_UP) as patience:
                await self._fetch(rotten)
            if patience.cancelled_caught:
                log.warning("a rotten blob could not be had anew", digest=str(rotten.digest))
                return
        finally:
            seats.release()
        log.info("a rotten blob is whole again", digest=str(rotten.digest))
        for image in rotten.images:
            try:
                await self._fetcher.completion.show(
                    image.registry, image.repository, image.tag, image.descriptor.digest
                )
            except MeshsatError as failed:  # something else of it is lacking, and on its way
                log.info("an image is not whole yet", image=image.name, problem=str(failed))

    async def _fetch(self, rotten: Rotten) -> None:
        signal = Signal()
        asked = (rotten.digest, rotten.size, self._sources(rotten), Priority.BACKGROUND, signal)
        with self._mesh.demand(*asked):
            while self._store.blob_size(rotten.digest) is None:
                with trio.move_on_after(LOOK):
                    await signal.wait()

    def _sources(self, rotten: Rotten) -> tuple[Source, ...]:
        facts = self._store.facts(rotten.digest)
        places = facts.sources if facts is not None else ()
        manifest = facts is not None and facts.media_type in MANIFEST_TYPES
        return tuple((*place, manifest) for place in places if self._allows(*place))[:16]
