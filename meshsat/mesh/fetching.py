"""Fetching: what the machine asks of our uplink: runs of a blob's chunks, tags, and whether it works.

A run goes over one connection, asked for in one piece; where more bring more (`width`), over several, a
stripe each, in order. A connection that fails among several gives its stripe back. It decides nothing about
whose turn it is: that is `protocol.runs`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog
import trio

from meshsat.errors import DeniedError, DigestMismatchError, MeshsatError, NotFoundError, UnavailableError
from meshsat.mesh.sources import OpenBlob, UplinkPort, fault_of
from meshsat.mesh.width import Width
from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, wire
from meshsat.protocol.events import Event

log = structlog.get_logger(__name__)

STRIPE = 1 << 20
"""Bytes that one of several connections fetches at a time, at least a chunk."""
LOOK = 0.25
"""Seconds between two words about bytes that came, and between two looks at the width."""


@dataclass(slots=True)
class Leg:
    """What one connection brings: the chunks from `next` up to `stop`."""

    next: int
    stop: int


@dataclass(slots=True)
class Run:
    """A `FetchUplink` on its way."""

    effect: effects.FetchUplink
    stop: int
    at: int
    """The first chunk that no leg has taken yet."""
    stripe: int
    """In chunks."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    legs: list[Leg] = field(default_factory=list)
    returned: list[Leg] = field(default_factory=list)
    untold: int = 0
    """Bytes that came and were not told."""
    brought: bool = False
    """Something came of it."""
    fault: MeshsatError | None = None
    done: trio.Event = field(default_factory=trio.Event)

    @property
    def through(self) -> bool:
        """All of it came."""
        return self.at >= self.stop and not self.returned and all(leg.next >= leg.stop for leg in self.legs)

    def take(self, width: int) -> Leg | None:
        """The next stripe, or for a single connection all that is left."""
        if self.returned:
            leg = self.returned.pop()
            leg.stop = min(leg.stop, self.stop)
        else:
            leg = Leg(self.at, self.stop if width == 1 else min(self.at + self.stripe, self.stop))
            self.at = max(self.at, leg.stop)
        if leg.next >= leg.stop:
            return None
        self.legs.append(leg)
        return leg

    def trim(self, stop: int) -> None:
        self.stop = min(self.stop, stop)
        for leg in self.legs:
            leg.stop = min(leg.stop, self.stop)

    def share(self) -> None:
        """There are to be several: a single connection that has it all keeps two stripes."""
        leg = self.legs[0] if len(self.legs) == 1 else None
        if leg is not None and leg.stop == self.at == self.stop:
            leg.stop = self.at = min(leg.stop, leg.next + 2 * self.stripe)


class Fetching:
    def __init__(
        self,
        uplink: UplinkPort | None,
        partials: Mapping[Digest, OpenBlob],
        feed: Callable[[Event], None],
        moved: Callable[[Digest], None],
        connections: int,
    ) -> None:
        """`connections`: the most at once for blobs. `moved` is called with each blob that got a chunk."""
        self.uplink = uplink
        self._partials = partials
        self._feed = feed
        self._moved = moved
        self._width = Width(connections)
        self._runs: dict[Digest, Run] = {}

    def prepare(self, effect: effects.FetchUplink) -> Run:
        """To be called at once, before anything else is said of this blob's run."""
        run = self._runs[effect.blob] = Run(effect, effect.stop, effect.start, 1)
        return run

    def trim(self, effect: effects.TrimUplink) -> None:
        run = self._runs.get(effect.blob)
        if run is not None:
            run.trim(effect.stop)

    def cancel(self, blob: Digest) -> None:
        run = self._runs.pop(blob, None)
        if run is not None and not run.through:  # else it ends on its own: its connection can serve again
            run.scope.cancel()

    async def run(self, run: Run) -> None:
        """To its end, and tell how it went."""
        effect = run.effect
        fault: MeshsatError | None = UnavailableError("no upstream is known to have it")
        with run.scope:
            for source in effect.sources:
                try:
                    await self._from(run, source)
                except MeshsatError as failed:
                    fault = failed
                    if isinstance(failed, NotFoundError | DeniedError):
                        continue  # another source may have it
                else:
                    fault = None
                break
        if run.scope.cancel_called or self._runs.get(effect.blob) is not run:
            return
        del self._runs[effect.blob]
        if fault is None:
            self._feed(events.UplinkEnded(effect.blob, None))
            return
        log.warning("uplink fetch failed", blob=str(effect.blob), problem=str(fault))
        retry_after = getattr(fault, "retry_after", None)
        self._feed(events.UplinkEnded(effect.blob, fault_of(fault), str(fault), retry_after))

    async def _from(self, run: Run, source: wire.Source) -> None:
        registry, repository, as_manifest = source
        blob, partial = run.effect.blob, self._partials.get(run.effect.blob)
        if self.uplink is None or partial is None:
            raise UnavailableError("this node has no uplink")
        if not as_manifest:
            run.stripe = max(1, STRIPE // partial.cut.chunk_length)
            await self._connections(run, source, partial)
            return
        manifest = await self.uplink.manifest(registry, repository, str(blob))
        if len(manifest.raw) != run.effect.size:
            raise DigestMismatchError(f"{blob} has {len(manifest.raw)} bytes, not {run.effect.size}")
        for index in range(run.effect.start, run.stop):
            offset, length = partial.cut.span(index)
            await self._keep(partial, index, bytearray(manifest.raw[offset : offset + length]))

    async def _connections(self, run: Run, source: wire.Source, partial: OpenBlob) -> None:
        """As many legs at a time as help, until all is there or the last of them fails."""
        run.fault, run.done = None, trio.Event()
        run.at, run.legs, run.returned = self._first_missing(run, partial), [], []
        async with trio.open_nursery() as nursery:
            while not run.done.is_set():
                width = self._legs(source)
                if width > 1:
                    run.share()
                while len(run.legs) < width and (leg := run.take(width)) is not None:
                    nursery.start_soon(self._work, run, leg, source, partial)
                if not run.legs:
                    break
                with trio.move_on_after(LOOK):
                    await run.done.wait()
                self._tell(run)
            nursery.cancel_scope.cancel()
        if run.fault is not None:
            raise run.fault

    @staticmethod
    def _first_missing(run: Run, partial: OpenBlob) -> int:
        """Another source may have brought some of it."""
        at = run.effect.start
        while at < run.stop and run.brought and at in partial.chunks:
            at += 1
        return at

    def _legs(self, source: wire.Source) -> int:
        """How many connections for one run: all runs share what helps."""
        if self.uplink is None or self.uplink.ignores_ranges(source[0]):
            return 1
        return max(1, self._width.look(trio.current_time()) // max(1, len(self._runs)))

    async def _work(self, run: Run, leg: Leg, source: wire.Source, partial: OpenBlob) -> None:
        """Bring one leg after the other; the last to end says that all is done."""
        todo: Leg | None = leg
        while todo is not None:
            try:
                await self._bring(run, todo, source, partial)
            except MeshsatError as failed:
                run.legs.remove(todo)
                if run.legs and isinstance(failed, UnavailableError):
                    log.info(
                        "one of several connections failed", blob=str(partial.digest), problem=str(failed)
                    )
                    run.returned.append(todo)
                    self._width.refused(trio.current_time())
                else:
                    run.fault = failed
                    run.done.set()
                return
            run.legs.remove(todo)
            width = self._legs(source)
            todo = run.take(width) if len(run.legs) < width else None
        if not run.legs:
            run.done.set()

    async def _bring(self, run: Run, leg: Leg, source: wire.Source, partial: OpenBlob) -> None:
        if self.uplink is None:
            raise UnavailableError("this node has no uplink")
        start, _ = partial.cut.span(leg.next)
        last, length = partial.cut.span(leg.stop - 1)
        chunk, filled = bytearray(partial.cut.span(leg.next)[1]), 0
        stop = leg.stop
        asked = (source[0], source[1], partial.digest, start, last + length, partial.size)
        async with self.uplink.blob(*asked) as pieces:
            async for piece in pieces:
                view = memoryview(piece)
                run.untold += len(view)
                self._width.came(len(view))
                while view:
                    taken = min(len(view), len(chunk) - filled)
                    chunk[filled : filled + taken] = view[:taken]
                    view = view[taken:]
                    filled += taken
                    if filled == len(chunk):
                        self._tell(run)
                        leg.next += 1
                        await self._keep(partial, leg.next - 1, chunk)
                        run.brought = True
                        if leg.next >= leg.stop:
                            break
                        chunk, filled = bytearray(partial.cut.span(leg.next)[1]), 0
                if leg.next >= leg.stop and leg.stop < stop:
                    return  # it was cut short; else the answer ends here too
        if leg.next >= leg.stop:
            return
        raise UnavailableError(f"{source[0]}/{source[1]} ended {partial.digest} early")

    def _tell(self, run: Run) -> None:
        if run.untold and self._runs.get(run.effect.blob) is run:
            size, run.untold = run.untold, 0
            self._feed(events.UplinkProgressed(run.effect.blob, size))

    async def _keep(self, partial: OpenBlob, index: int, chunk: bytearray) -> None:
        digest = await partial.write(index, chunk)
        self._feed(events.ChunkStored(partial.digest, index, digest, None))
        self._moved(partial.digest)

    async def probe(self) -> None:
        up = self.uplink is not None
        if self.uplink is not None:
            try:
                await self.uplink.probe()
            except UnavailableError as failed:
                log.debug("the uplink does not work", problem=str(failed))
                up = False
        self._feed(events.UplinkProbed(up))

    async def resolve(self, effect: effects.ResolveUpstream) -> None:
        key = (effect.registry, effect.repository, effect.reference)
        try:
            if self.uplink is None:
                raise UnavailableError("this node has no uplink")
            record = await self.uplink.resolve(*key)
        except MeshsatError as failed:
            self._feed(events.UpstreamAnswered(*key, None, fault_of(failed), str(failed)))
        else:
            self._feed(events.UpstreamAnswered(*key, record))
