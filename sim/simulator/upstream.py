"""The registry behind the uplinks, and one node's way to it: the twin of `uplink/`.

A run is one flow over the node's line, the site's and the registry's, chunk by chunk. Runs at once share.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from meshsat.oci.digest import Digest
from meshsat.oci.media_types import OCI_MANIFEST
from meshsat.protocol import effects, events
from meshsat.protocol.events import Event, Fault
from meshsat.protocol.gossip import seal
from meshsat.trust.keys import Signer
from sim.simulator.blobs import digest_of, synthetic
from sim.simulator.counters import Counters
from sim.simulator.fluid import Flow, Fluid, Link
from sim.simulator.physics import Physics
from sim.simulator.queue import EventQueue, Timer

PROGRESS = 0.25
"""Seconds between two reports of a chunk's progress."""


@dataclass(slots=True)
class Upstream:
    """`blobs` by digest, with their sizes."""

    link: Link
    blobs: dict[Digest, int] = field(default_factory=dict)
    tags: dict[str, tuple[Digest, int]] = field(default_factory=dict)
    """What they mean: digest and size of a manifest, which is a blob like others."""
    requests: int = 0

    def add(self, name: str, size: int) -> Digest:
        """A blob of `size` bytes that is called so."""
        blob = digest_of(name)
        self.blobs[blob] = size
        return blob


class Fetcher(Protocol):
    """What an uplink asks of its node."""

    counters: Counters

    def feed(self, event: Event) -> None: ...

    def probed(self, life: int, *, up: bool) -> None: ...

    def chunk_fetched(self, blob: Digest, index: int, digest: bytes) -> None: ...


@dataclass(slots=True, eq=False)
class Run:
    blob: Digest
    size: int
    next: int
    stop: int
    left: float = 0.0
    """Bytes of the chunk under way that have yet to come."""
    told: int = 0
    """Bytes of that chunk whose coming was told, and when."""
    told_at: float = 0.0
    flow: Flow | None = None
    timer: Timer | None = None
    """What comes next where nothing flows: the first byte, or the fault."""


class SimUplink:
    """`line`: the node's own; `beyond`: what it shares with others, up to the registry."""

    def __init__(
        self,
        node: Fetcher,
        upstream: Upstream,
        line: Link,
        beyond: tuple[Link, ...],
        fluid: Fluid,
        queue: EventQueue,
        physics: Physics,
    ) -> None:
        self.line = line
        self.up = True
        self._node = node
        self._upstream = upstream
        self._links = (*beyond, line)
        self._fluid, self._queue, self._physics = fluid, queue, physics
        self._runs: dict[Digest, Run] = {}

    def set_up(self, *, up: bool) -> None:
        """The line comes or goes. What is under way stands still, fails after a stall, or goes on."""
        if up == self.up:
            return
        self.up = up
        for run in list(self._runs.values()):
            if up:
                self._resume(run)
            else:
                if run.flow is not None:
                    run.left -= self._fluid.cancel(run.flow)
                    run.flow = None
                self._fail_later(run)

    def fetch(self, wanted: effects.FetchUplink) -> None:
        self.cancel(wanted.blob)
        run = self._runs[wanted.blob] = Run(wanted.blob, wanted.size, wanted.start, wanted.stop)
        if self.up:
            self._upstream.requests += 1
            self._resume(run)
        else:
            self._fail_later(run)

    def trim(self, blob: Digest, stop: int) -> None:
        """The run ends before the chunk `stop`, or behind the one under way."""
        run = self._runs.get(blob)
        if run is not None:
            run.stop = min(run.stop, max(stop, run.next + 1))

    def progress(self) -> list[events.UplinkProgressed]:
        """What came of chunks that are not whole yet, since it was last told."""
        now = self._queue.now
        news = []
        for run in self._runs.values():
            if run.flow is not None and now - run.told_at > PROGRESS:
                came = int(run.flow.moved(now) / self._physics.overhead)
                if came > run.told:
                    news.append(events.UplinkProgressed(run.blob, came - run.told))
                    run.told, run.told_at = came, now
        return news

    def cancel(self, blob: Digest) -> None:
        run = self._runs.pop(blob, None)
        if run is not None:
            if run.flow is not None:
                self._fluid.cancel(run.flow)
            if run.timer is not None:
                run.timer.cancel()

    def probe(self, life: int) -> None:
        """Ask the registry whether it is there, for this life of the node."""

        def tell() -> None:
            self._node.probed(life, up=self.up)

        delay = self._physics.uplink_delay if self.up else self._physics.uplink_stall
        self._queue.post(self._queue.now + delay, tell)

    def resolve(self, wanted: effects.ResolveUpstream, key: Signer, unix: float) -> events.UpstreamAnswered:
        """What the registry says a tag means, sealed by this node."""
        name = (wanted.registry, wanted.repository, wanted.reference)
        if not self.up:
            return events.UpstreamAnswered(*name, None, Fault.UNAVAILABLE, "the uplink is down")
        self._upstream.requests += 1
        meaning = self._upstream.tags.get(wanted.reference)
        if meaning is None:
            return events.UpstreamAnswered(*name, None, Fault.NOT_FOUND, "the registry has no such tag")
        digest, size = meaning
        record = seal(
            key,
            registry=wanted.registry,
            repository=wanted.repository,
            reference=wanted.reference,
            media_type=OCI_MANIFEST,
            digest=digest,
            size=size,
            resolved_at=unix,
        )
        return events.UpstreamAnswered(*name, record)

    def abandon(self) -> None:
        """The node is gone."""
        for blob in list(self._runs):
            self.cancel(blob)

    def _resume(self, run: Run) -> None:
        if run.timer is not None:
            run.timer.cancel()
        if run.left:
            self._carry(run)
        else:
            run.timer = self._queue.after(self._physics.uplink_delay, partial(self._answer, run))

    def _fail_later(self, run: Run) -> None:
        if run.timer is not None:
            run.timer.cancel()
        fail = partial(self._end, run, Fault.UNAVAILABLE, "the uplink is down")
        run.timer = self._queue.after(self._physics.uplink_stall, fail)

    def _answer(self, run: Run) -> None:
        if self._upstream.blobs.get(run.blob) != run.size:
            self._end(run, Fault.NOT_FOUND, f"the registry has no {run.blob} of {run.size} bytes")
        else:
            self._carry(run)

    def _end(self, run: Run, fault: Fault | None, message: str = "") -> None:
        del self._runs[run.blob]
        self._node.feed(events.UplinkEnded(run.blob, fault, message))

    def _carry(self, run: Run) -> None:
        """Carry the chunk that is next, or the rest of it."""
        run.told, run.told_at = 0, self._queue.now
        if not run.left:
            run.left = synthetic(run.blob, run.size).cut.span(run.next)[1] * self._physics.overhead
        if run.flow is not None and run.flow.alive:
            self._fluid.push(run.flow, run.left, partial(self._carried, run))
        else:
            run.flow = self._fluid.start(self._links, run.left, partial(self._carried, run))

    def _carried(self, run: Run) -> None:
        true = synthetic(run.blob, run.size)
        index = run.next
        run.next, run.left = index + 1, 0.0
        self._node.counters.uplink += true.cut.span(index)[1]
        self._node.chunk_fetched(run.blob, index, true.chunks[index])
        if self._runs.get(run.blob) is not run or not self.up:
            return  # the machine has had enough of it
        if run.next < run.stop:
            self._carry(run)
        else:
            self._end(run, None)
