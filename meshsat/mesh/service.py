"""The mesh as the rest of the node sees it: demand a blob, ask what a reference means, look who is there."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog
import trio

from meshsat.errors import DeniedError, MeshsatError, NotFoundError, UnavailableError
from meshsat.mesh.demand import Demand, Question, Signal
from meshsat.mesh.discovery import Discovery, Sighting
from meshsat.mesh.driver import Driver
from meshsat.mesh.sources import OpenBlob
from meshsat.mesh.token_ledger import TokenLedger
from meshsat.mesh.transport import ServeStatus, Stream, Transport
from meshsat.oci.digest import Digest
from meshsat.protocol import events
from meshsat.protocol.events import Fault, Priority
from meshsat.protocol.gossip import ImageRecord
from meshsat.protocol.machine import Machine
from meshsat.protocol.token_use import TokenUse
from meshsat.protocol.wire import Source
from meshsat.trust.keys import PeerId

log = structlog.get_logger(__name__)


class Mesh:
    """Owns the driver, the planes and discovery. `planes`: the transports, the preferred for bulk first.
    `ledger`: whose uses of join tokens travel along with gossip. `site`: ours; None: whoever is sighted is
    a peer.

    `discoveries` is called when the planes listen, and their ports can be announced.
    """

    def __init__(
        self,
        machine: Machine,
        driver: Driver,
        planes: Sequence[Transport],
        discoveries: Callable[[], Sequence[Discovery]],
        ledger: TokenLedger | None = None,
        *,
        site: str | None = None,
    ) -> None:
        self.machine = machine
        self.driver = driver
        self.planes = planes
        self._discoveries = discoveries
        self._ledger = ledger
        self._site = site
        self._readers = 0

    async def run(self, *, task_status: ServeStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled: listen, find peers, swap, gossip."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.driver.run)
            for plane in self.planes:
                await nursery.start(plane.serve, self._handler(plane))
            self._tell_addresses()
            if self._ledger is not None:
                self.driver.on_use = self._ledger.take
                nursery.start_soon(self._ledger.run, self._used)
            for discovery in self._discoveries():
                nursery.start_soon(discovery.run, self._sighted)
            task_status.started()

    def _tell_addresses(self) -> None:
        control = [address for plane in self.planes if plane.name == "libp2p" for address in plane.addresses]
        bulk = [address for plane in self.planes if plane.name != "libp2p" for address in plane.addresses]
        self.machine.addresses = (tuple(control[:8]), tuple(bulk[:8]))

    def _handler(self, plane: Transport) -> Callable[[str, Stream], object]:
        async def handle(protocol: str, stream: Stream) -> None:
            await self.driver.accept(protocol, stream, plane.name)

        return handle

    def _used(self, use: TokenUse) -> None:
        self.driver.feed(events.TokenUsed(use))

    def _sighted(self, sighting: Sighting) -> None:
        if self._site is not None and sighting.site not in ("", self._site):
            return  # of another site on the same LAN: no peer
        self.driver.feed(events.PeerSighted(sighting.peer, sighting.control, sighting.bulk))

    # --- blobs ---

    @contextmanager
    def demand(
        self,
        blob: Digest,
        size: int,
        sources: tuple[Source, ...],
        priority: Priority,
        signal: Signal | None = None,
    ) -> Iterator[Demand]:
        """Want a blob for as long as the context lasts."""
        demand = Demand(blob, size, signal)
        waiting = self.driver.demands.setdefault(blob, [])
        waiting.append(demand)
        try:
            self.driver.feed(events.BlobWanted(blob, size, sources, priority))
            yield demand
        finally:
            waiting.remove(demand)
            if not waiting and self.driver.demands.get(blob) is waiting:
                del self.driver.demands[blob]
            self.driver.feed(events.BlobUnwanted(blob, priority))

    @contextmanager
    def reader(self, blob: Digest) -> Iterator[Callable[[int], None]]:
        """Gives a function to tell at which byte of the blob a client reads."""
        self._readers += 1
        me = self._readers
        try:
            yield lambda offset: self.driver.feed(events.ReaderMoved(blob, me, offset))
        finally:
            self.driver.feed(events.ReaderMoved(blob, me, None))

    def partial(self, blob: Digest) -> OpenBlob | None:
        return self.driver.partial(blob)

    def obtainable(self, blob: Digest, *, elsewhere: bool = True) -> bool:
        """Whether a blob that we do not hold can be had now, as far as we know. `elsewhere`: an upstream may
        have it."""
        return self.machine.held_by_peers(blob) is not None or (elsewhere and self.machine.site_has_uplink())

    def wanted(self) -> set[Digest]:
        """The blobs that this node waits for, or fetches for others."""
        return {*self.driver.demands, *self.machine.transfers}

    def kept_elsewhere(self, blob: Digest) -> bool:
        """Whether a peer holds it whole that is to keep its copy when all who hold it must let go of theirs.
        Every holder thinks of the same one, so that they do not all rely on each other."""
        ours = _rank(blob, self.machine.me)
        sessions = self.machine.sessions.items()
        return any(blob in session.holds and _rank(blob, peer) < ours for peer, session in sessions)

    # --- references ---

    async def resolve(
        self, registry: str, repository: str, reference: str, *, max_age: float, patience: float
    ) -> ImageRecord:
        """What the reference means; the site's uplinks are asked if what we know is older than `max_age` s.

        Raises `NotFoundError`, `DeniedError` or `UnavailableError`.
        """
        with self.question(registry, repository, reference, max_age=max_age) as question:
            with trio.move_on_after(patience):
                await question.wait()
            if question.record is not None:
                return question.record
            if question.done:
                raise error_of(question.fault, question.message)
        raise UnavailableError(
            f"nobody told in {patience:g} s what {registry}/{repository} {reference} means"
        )

    @contextmanager
    def question(
        self, registry: str, repository: str, reference: str, *, max_age: float
    ) -> Iterator[Question]:
        """Ask as `resolve` does; whoever asks waits for the answer, as long as the context lasts."""
        key = (registry, repository, reference)
        question = Question()
        self.driver.questions.setdefault(key, []).append(question)
        try:
            self.driver.feed(events.ReferenceWanted(*key, max_age))
            yield question
        finally:
            asked = self.driver.questions.get(key, [])
            if question in asked:
                asked.remove(question)
                if not asked:
                    del self.driver.questions[key]


def _rank(blob: Digest, peer: PeerId) -> bytes:
    return hashlib.sha256(f"{blob} {peer}".encode()).digest()


def error_of(fault: Fault | None, message: str) -> MeshsatError:
    match fault:
        case Fault.NOT_FOUND:
            return NotFoundError(message)
        case Fault.DENIED:
            return DeniedError(message)
        case _:
            return UnavailableError(message)
