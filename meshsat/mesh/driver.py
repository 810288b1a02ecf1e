"""Runs the protocol machine: events from sessions, the store and the uplink in, effects out.

It owns every session, every fetch over the uplink and every partial blob. It decides nothing about the mesh:
that is `protocol/`. No fault of a peer, of the upstream or of the disk leaves it.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import structlog
import trio

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.errors import (
    DigestMismatchError,
    MeshsatError,
    NotFoundError,
    StorageError,
)
from meshsat.mesh.demand import Demand, Question
from meshsat.mesh.fetching import Fetching
from meshsat.mesh.link import Link
from meshsat.mesh.sources import BlobStore, OpenBlob, UplinkPort
from meshsat.mesh.transport import DialError, ServeStatus, Stream, Transport
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, wire
from meshsat.protocol.events import Event
from meshsat.protocol.gossip import ImageRecord
from meshsat.protocol.machine import Machine
from meshsat.protocol.token_use import TokenUse
from meshsat.trust.keys import PeerId

log = structlog.get_logger(__name__)

DIAL_TIMEOUT = 5.0
"""Seconds for one plane of one peer."""
SMALL = 64
"""Blobs of one chunk that came and are not durable yet (16 MiB at most)."""


Judge = Callable[[bytes, PeerId], events.ItemJudged]
"""Takes a record and who passed it on. Never waits, never raises."""


class Driver:
    """`transports` in order of preference; each is dialled at the addresses of its plane."""

    def __init__(
        self,
        machine: Machine,
        store: BlobStore,
        uplink: UplinkPort | None,
        transports: Sequence[Transport],
        metrics: Metrics,
        uplink_connections: int = 1,
    ) -> None:
        """`uplink_connections`: the most at once for the ranges of blobs."""
        self.machine = machine
        self.links: dict[PeerId, Link] = {}
        self.demands: dict[Digest, list[Demand]] = {}
        self.questions: dict[tuple[str, str, str], list[Question]] = {}
        self.on_record: Callable[[ImageRecord], None] = lambda _record: None
        """Called with what an upstream said a reference means, however it came."""
        self.on_use: Callable[[TokenUse], None] = lambda _use: None
        """Called with the use of a join token that another node counted."""
        self.judges: dict[int, Judge] = {}
        """Who judges the records of a kind (`spread.Kind`), with the peer that passed one on."""
        self.on_published: Callable[[Digest], None] = lambda _blob: None
        self.on_served: Callable[[Digest], None] = lambda _blob: None
        """Called when a peer was given something of a blob."""
        self._store = store
        self._transports = transports
        self._metrics = metrics
        metrics.blobs.set_function(lambda: len(store.blobs()))
        metrics.blob_bytes.set_function(lambda: sum(store.blobs().values()))
        self._partials: dict[Digest, OpenBlob] = {}
        self._small = trio.Semaphore(SMALL)
        self._opening: dict[Digest, trio.Lock] = {}
        self._forgetting: dict[Digest, list[trio.Event]] = {}
        self._publishing: dict[Digest, trio.Event] = {}
        self.fetching = Fetching(uplink, self._partials, self.feed, self._moved, uplink_connections)
        self._nursery: trio.Nursery | None = None
        self._feeding = False
        self._backlog: list[Event] = []
        self._woken = trio.Event()
        self._wakes_at = float("-inf")

    async def run(self, *, task_status: ServeStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        for blob, size in self._store.blobs().items():
            self.feed(events.BlobPublished(blob, size))
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                try:
                    while True:
                        self._woken = trio.Event()
                        self._wakes_at = self.machine.deadline(trio.current_time())
                        with trio.move_on_at(self._wakes_at):
                            await self._woken.wait()
                        now = trio.current_time()
                        if now >= self.machine.deadline(now):
                            self.feed(events.TimerExpired())
                finally:
                    self._nursery = None  # sessions of the planes may end later than we do
        finally:
            with trio.CancelScope(shield=True):
                for partial in self._partials.values():
                    await partial.aclose()

    # --- events in, effects out ---

    def feed(self, event: Event) -> None:
        """Give the machine an event and do what it says. Never waits; safe to call from an effect."""
        self._backlog.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._backlog:
                for effect in self.machine.handle(self._backlog.pop(0), trio.current_time()):
                    self._do(effect)
        finally:
            self._feeding = False
        if self.machine.news_at < self._wakes_at:  # news waits for a moment, not for the next tick
            self._wakes_at = self.machine.news_at
            self._woken.set()
        self._metrics.transfers.set(len(self.machine.transfers))

    def _do(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Send():
                link = self.links.get(effect.peer)
                if link is not None:
                    link.send(effect.frame)
            case effects.SendChunk():
                link = self.links.get(effect.peer)
                if link is not None:
                    link.send_chunk(effect.blob, effect.index, effect.length)
            case effects.Disconnect():
                link = self.links.get(effect.peer)
                if link is not None:
                    link.abort(effect.reason)
            case effects.Dial():
                self._start(self._dial, effect)
            case effects.OpenTransfer():
                self._start(self._open, effect.blob, effect.size)
            case effects.CloseTransfer():
                self._start(self._close, effect.blob)
            case effects.FetchUplink():
                self._start(self.fetching.run, self.fetching.prepare(effect))
            case effects.TrimUplink():
                self.fetching.trim(effect)
            case effects.CancelUplink():
                self.fetching.cancel(effect.blob)
            case effects.ProbeUplink():
                self._start(self.fetching.probe)
            case effects.Publish():
                self._start(self._publish, effect.blob)
            case effects.ForgetChunks():
                self._start(self._forget, effect)
            case effects.LoadRecipe():
                self._start(self._load_recipe, effect.blob)
            case effects.ResolveUpstream():
                self._start(self.fetching.resolve, effect)
            case effects.TellResolved():
                key = (effect.registry, effect.repository, effect.reference)
                if effect.record is not None:
                    self.on_record(effect.record)
                for question in self.questions.pop(key, []):
                    question.answered(effect.record, effect.fault, effect.message)
            case effects.TellFailed():
                for demand in self.demands.get(effect.blob, []):
                    demand.failed(effect.fault, effect.message)
            case effects.TellRecord():
                self.on_record(effect.record)
            case effects.CountUse():
                self.on_use(effect.use)
            case effects.JudgeItem():
                judge = self.judges.get(effect.kind)
                if judge is not None:
                    self.feed(judge(effect.data, effect.source))

    def _start(self, task: Callable[..., object], *args: object) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(task, *args)  # type: ignore[arg-type]  # every task is an async def

    # --- sessions ---

    async def accept(self, protocol: str, stream: Stream, plane: str) -> None:
        """Run an inbound session to its end."""
        if protocol == wire.PROTOCOL:
            await self._session(stream, dialled=False, plane=plane)

    async def _session(self, stream: Stream, *, dialled: bool, plane: str) -> None:
        peer = stream.peer
        link = Link(stream, self, dialled=dialled, plane=plane)
        old = self.links.get(peer)
        if old is not None:
            if self._prefers(old, link):
                await stream.aclose()
                return
            old.abort("a newer session with it takes over")
            self._ended(old)
        self.links[peer] = link
        self._metrics.peers.set(len(self.links))
        self.feed(events.SessionOpened(peer, dialled))
        try:
            reason = await link.run()
            log.info("session ended", peer=peer, reason=reason)
        finally:
            self._ended(link)

    def _ended(self, link: Link) -> None:
        if self.links.get(link.peer) is link:
            del self.links[link.peer]
            self._metrics.peers.set(len(self.links))
            self.feed(events.SessionClosed(link.peer))

    def _prefers(self, old: Link, new: Link) -> bool:
        """Of two sessions with one peer, both sides keep the one that the smaller peer id dialled; of two the
        same way, the newer, since a peer that lost the older one dials again."""
        if old.dialled == new.dialled:
            return False
        session = self.machine.sessions.get(old.peer)
        if session is None or trio.current_time() - session.last_heard > self.machine.silence_limit / 2:
            return False
        me_smaller = self.machine.me < old.peer
        return old.dialled == me_smaller

    async def _dial(self, effect: effects.Dial) -> None:
        problems: list[str] = []
        for transport in self._transports:
            addresses = effect.control if transport.name == "libp2p" else effect.bulk
            if not addresses:
                continue
            try:
                stream = await transport.open_stream(effect.peer, addresses, wire.PROTOCOL, DIAL_TIMEOUT)
            except DialError as failed:
                problems.append(f"{transport.name}: {failed}")
                continue
            await self._session(stream, dialled=True, plane=transport.name)
            return
        log.debug("dial failed", peer=effect.peer, problems=problems)
        self.feed(events.DialFailed(effect.peer, refused=False))

    async def _upgrade(self, peer: PeerId, bulk: tuple[str, ...]) -> None:
        """We found the peer by its control address: now that we know the bulk one, move over to it."""
        for transport in self._transports:
            if transport.name != "libp2p":
                try:
                    stream = await transport.open_stream(peer, bulk, wire.PROTOCOL, DIAL_TIMEOUT)
                except DialError as failed:
                    log.info("bulk plane out of reach, staying on libp2p", peer=peer, problem=str(failed))
                else:
                    await self._session(stream, dialled=True, plane=transport.name)
                return

    # --- what links tell ---

    def frame_received(self, link: Link, frame: wire.Frame) -> None:
        if self.links.get(link.peer) is link:
            self.feed(events.FrameReceived(link.peer, frame))
            if isinstance(frame, wire.Hello) and link.dialled and link.plane == "libp2p" and frame.bulk:
                self._start(self._upgrade, link.peer, frame.bulk)

    def payload_progressed(self, link: Link) -> None:
        self.feed(events.PayloadProgressed(link.peer))

    def expected(self, link: Link, frame: wire.Chunk) -> tuple[int, bytes] | None:
        return self.machine.expected(link.peer, frame.blob, frame.index)

    async def chunk_received(self, link: Link, frame: wire.Chunk, digest: bytes, payload: bytearray) -> None:
        partial = self._partials.get(frame.blob)
        if not digest or partial is None:
            self._metrics.chunks_in.labels("unasked").inc()
            self._metrics.duplicate_bytes.inc(len(payload))
            self.feed(events.PayloadProgressed(link.peer))
            return
        if partial.cut.count == 1:  # others that come meanwhile are made durable along with it
            await self._small.acquire()
            self._start(self._keep_small, link.peer, frame, digest, payload, partial)
        else:
            await self._keep(link.peer, frame, digest, payload, partial)

    async def _keep_small(
        self, peer: PeerId, frame: wire.Chunk, digest: bytes, payload: bytearray, partial: OpenBlob
    ) -> None:
        try:
            await self._keep(peer, frame, digest, payload, partial)
        finally:
            self._small.release()

    async def _keep(
        self, peer: PeerId, frame: wire.Chunk, digest: bytes, payload: bytearray, partial: OpenBlob
    ) -> None:
        try:
            while self._forgetting.get(frame.blob):
                await self._forgetting[frame.blob][-1].wait()
            await partial.write(frame.index, payload, digest)
        except DigestMismatchError:
            self._metrics.chunks_in.labels("wrong").inc()
            self.feed(events.ChunkRefused(frame.blob, frame.index, peer))
        except StorageError as full:
            self._storage_failed(frame.blob, partial, full)
        else:
            self._metrics.chunks_in.labels("stored").inc()
            self.feed(events.ChunkStored(frame.blob, frame.index, digest, peer))
            self._moved(frame.blob)

    def _storage_failed(self, blob: Digest, partial: OpenBlob, error: StorageError) -> None:
        if self._partials.get(blob) is partial:  # else it was closed under us, and that is no fault
            log.error("cannot store", blob=str(blob), problem=str(error))
            self.feed(events.StorageFailed(blob, str(error)))

    async def read_chunks(self, chunks: Sequence[tuple[Digest, int]]) -> list[bytes | None]:
        """Of each its bytes; None for one that can't be read."""
        if len(chunks) == 1:
            return [await self._read_chunk(*chunks[0])]
        found: dict[tuple[Digest, int], bytes | None] = {}
        spans: dict[tuple[Digest, int], tuple[Digest, int, int]] = {}
        for blob, index in chunks:
            size = self._store.blob_size(blob)
            if size is None or blob in self._publishing:
                found[blob, index] = await self._read_chunk(blob, index)
            else:
                offset, length = Cut(FIXED_1, size).span(index)
                spans[blob, index] = blob, offset, offset + length
        read = await self._store.read_many(list(spans.values()))
        for (blob, index), data in zip(spans, read, strict=True):
            if isinstance(data, StorageError):
                log.warning("cannot read a chunk", blob=str(blob), index=index, problem=str(data))
            else:
                found[blob, index] = data
        return [found.get(chunk) for chunk in chunks]

    async def _read_chunk(self, blob: Digest, index: int) -> bytes | None:
        try:
            return await self._read(blob, index)
        except (StorageError, NotFoundError, DigestMismatchError) as lost:
            log.warning("cannot read a chunk", blob=str(blob), index=index, problem=str(lost))
            return None

    async def _read(self, blob: Digest, index: int) -> bytes | None:
        partial = self._partials.get(blob)
        if partial is not None and index in partial.chunks:
            try:
                return await partial.read(index)
            except StorageError:
                published = self._publishing.get(blob)
                if published is None and self._store.blob_size(blob) is None:
                    raise
                if published is not None:  # the file is being renamed under our hands
                    await published.wait()
        size = self._store.blob_size(blob)
        if size is None:
            return None
        offset, length = Cut(FIXED_1, size).span(index)
        return await self._store.read(blob, offset, offset + length)

    def chunk_sent(self, link: Link, blob: Digest, index: int, *, failed: bool) -> None:
        if not failed:
            self._metrics.chunks_out.inc()
            self.on_served(blob)
        if self.links.get(link.peer) is link:
            self.feed(events.ChunkSent(link.peer, blob, index, failed))

    # --- the store ---

    async def _open(self, blob: Digest, size: int) -> None:
        async with self._turn(blob):
            if blob not in self.machine.transfers:
                return
            held = self._store.blob_size(blob)
            if held is not None:
                self._published(blob, held)
                return
            partial = self._partials.get(blob)  # left open where it is wanted again at once
            if partial is not None and partial.size != size:
                await self._partials.pop(blob).aclose()
                partial = None
            if partial is None:
                try:
                    partial = await self._store.partial(blob, size)
                except MeshsatError as failed:
                    log.warning("cannot open a transfer", blob=str(blob), problem=str(failed))
                    self.feed(events.StorageFailed(blob, str(failed)))
                    return
                self._partials[blob] = partial
            self.feed(events.TransferOpened(blob, tuple(sorted(partial.chunks.items()))))
            self._moved(blob)

    @asynccontextmanager
    async def _turn(self, blob: Digest) -> AsyncIterator[None]:
        """Opening and closing of one blob, in the order in which they were begun."""
        lock = self._opening.setdefault(blob, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():  # nor does anybody wait: they would have it
                self._opening.pop(blob, None)

    async def _close(self, blob: Digest) -> None:
        async with self._turn(blob):
            if blob in self.machine.transfers:
                return  # wanted again meanwhile: the open partial serves
            partial = self._partials.pop(blob, None)
            if partial is not None:
                await partial.aclose()

    async def _publish(self, blob: Digest) -> None:
        partial = self._partials.get(blob)
        if partial is None:
            return
        done = self._publishing[blob] = trio.Event()
        try:
            await partial.publish()
        except DigestMismatchError:
            log.warning("a blob proved wrong", blob=str(blob))
            self.feed(events.BlobMismatched(blob))
        except StorageError as failed:
            self._storage_failed(blob, partial, failed)
        else:
            self._partials.pop(blob, None)
            self._published(blob, partial.size)
        finally:
            done.set()
            del self._publishing[blob]

    def _published(self, blob: Digest, size: int) -> None:
        self.feed(events.BlobPublished(blob, size))
        if blob in self._partials:  # it came another way while it was on its way
            self._start(self._close, blob)
        for demand in self.demands.get(blob, []):
            demand.publish()
        self.on_published(blob)

    def stored(self, blob: Digest, size: int) -> None:
        """A blob came into the store another way (a manifest)."""
        self._published(blob, size)

    def dropped(self, blob: Digest) -> None:
        """A blob is no longer in the store."""
        self.feed(events.BlobDropped(blob))

    async def _forget(self, effect: effects.ForgetChunks) -> None:
        partial = self._partials.get(effect.blob)
        if partial is not None:
            done, under_way = trio.Event(), self._forgetting.setdefault(effect.blob, [])
            under_way.append(done)
            try:
                await partial.forget(effect.indexes)
            except StorageError as failed:
                self._storage_failed(effect.blob, partial, failed)
            finally:
                done.set()
                under_way.remove(done)
                if not under_way:
                    del self._forgetting[effect.blob]

    async def _load_recipe(self, blob: Digest) -> None:
        try:
            recipe = await self._store.recipe(blob)
        except MeshsatError as lost:
            log.warning("cannot read a recipe", blob=str(blob), problem=str(lost))
            return
        self.feed(events.RecipeLoaded(blob, recipe.chunks))

    def partial(self, blob: Digest) -> OpenBlob | None:
        """The blob on its way, for readers."""
        return self._partials.get(blob)

    def _moved(self, blob: Digest) -> None:
        for demand in self.demands.get(blob, []):
            demand.move()
