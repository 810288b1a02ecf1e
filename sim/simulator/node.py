"""A node of the simulated world: the twin of `mesh/driver.py`, its disk and its uplink.

It runs `meshsat.protocol.machine.Machine` as it is shipped, without a thread or a wait. Like the driver it
decides nothing about the mesh.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Protocol

from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, wire
from meshsat.protocol.events import Event, Fault, Priority
from meshsat.protocol.gossip import ImageRecord
from meshsat.protocol.machine import Machine, Settings
from meshsat.trust.keys import PeerId
from sim.simulator.blobs import SOURCE, synthetic
from sim.simulator.counters import Counters
from sim.simulator.disk import Disk
from sim.simulator.fluid import Fluid, Link
from sim.simulator.keys import CheapKey, check
from sim.simulator.lane import Expected, Lane
from sim.simulator.physics import Physics
from sim.simulator.queue import EventQueue
from sim.simulator.upstream import SimUplink

UNIX = 1_800_000_000.0
"""What the clock on the wall says when the world's says 0."""
PROGRESS = 0.25
"""Seconds between two reports of a chunk's progress, as in `mesh/link.py`."""


@dataclass(slots=True, eq=False)
class Completion:
    """A blob that somebody on the node waits for."""

    blob: Digest
    size: int
    priority: Priority
    wanted_at: float
    time: float | None = None
    """When it was whole."""
    fault: Fault | None = None
    """Why it can't be had now, as the node was last told."""

    @property
    def done(self) -> bool:
        return self.time is not None


class Place(Protocol):
    """A site, as far as a node knows one."""

    name: str


class Surroundings(Protocol):
    """What a node asks of its world."""

    seed: int
    queue: EventQueue
    fluid: Fluid
    physics: Physics

    def dial(self, node: "SimNode", peer: PeerId) -> None: ...

    def started(self, node: "SimNode") -> None: ...

    def move(self, node: "SimNode", site: Any) -> None: ...

    def published(self, node: "SimNode", blob: Digest) -> None: ...


class SimNode:
    def __init__(self, world: Surroundings, name: str, up: Link, down: Link) -> None:
        self.name = name
        self.key = CheapKey.of(f"{world.seed} {name}")
        self.peer = self.key.peer_id
        self.up, self.down = up, down
        self.uplink: SimUplink | None = None
        self.counters = Counters()
        self.disk = Disk()
        self.lanes: dict[PeerId, Lane] = {}
        """The sessions that stand: what we send to whom."""
        self.arriving: dict[Lane, None] = {}
        self.owed = 0.0
        self.alive = False
        self.listens = False
        """Its host answers; while the node is not alive it answers that nobody listens."""
        self.wants: dict[Digest, list[Completion]] = {}
        self.knows: dict[str, ImageRecord] = {}
        """What tags mean, as it was told."""
        self._world = world
        self.life = 0
        """How often it was started."""
        self._machine: Machine | None = None
        self._backlog: deque[Event] = deque()
        self._feeding = False
        self.todo: dict[type, Callable[[Any], None]] = {
            effects.Send: self._send,
            effects.SendChunk: self._send_chunk,
            effects.Disconnect: lambda effect: self.leave(effect.peer),
            effects.Dial: lambda effect: world.dial(self, effect.peer),
            effects.OpenTransfer: self._open,
            effects.CloseTransfer: _nothing,
            effects.FetchUplink: self._fetch,
            effects.TrimUplink: self._trim,
            effects.CancelUplink: self._cancel,
            effects.ProbeUplink: self._probe,
            effects.Publish: self._publish,
            effects.ForgetChunks: lambda effect: self.disk.forget(effect.blob, effect.indexes),
            effects.LoadRecipe: self._load,
            effects.ResolveUpstream: self._resolve,
            effects.TellResolved: self._told_resolved,
            effects.TellFailed: self._told_failed,
            effects.TellRecord: self._told_record,
            effects.CountUse: _nothing,
            effects.JudgeItem: _nothing,
        }

    def __repr__(self) -> str:
        return f"<node {self.name}>"

    @property
    def machine(self) -> Machine:
        """The machine of a node that was started."""
        if self._machine is None:
            raise ValueError(f"{self.name} was never started")
        return self._machine

    @property
    def wan_bytes(self) -> float:
        """Bytes that its uplink has carried, with headers."""
        return 0.0 if self.uplink is None else self.uplink.line.bytes

    # --- what a scenario does ---

    def start(self) -> None:
        """Power on: a new process, with what the disk holds."""
        if self.alive:
            return
        self.alive = self.listens = True
        self.life += 1
        settings: dict[str, Any] = {
            "uplink": self.uplink is not None,
            "unix_offset": UNIX,
            **self._world.physics.settings,
        }
        rng = Random(f"{self._world.seed} {self.name} {self.life}")  # noqa: S311 - a simulation's chance
        self._machine = Machine(Settings(self.peer, self.name, **settings), self.key.sign, rng, check)
        self._machine.addresses = ((), (f"{self.name}:4703",))
        for blob, size in self.disk.held.items():
            self.feed(events.BlobPublished(blob, size))
        for completions in self.wants.values():
            for completion in completions:
                self._want(completion)
        self._sleep()
        self._world.started(self)

    def kill(self) -> None:
        """Power off: nobody is told."""
        self._end()
        self.listens = False
        for lane in self.lanes.values():
            lane.close()
            lane.back.hold_up()
        self.lanes.clear()

    def stop(self) -> None:
        """An orderly end: the sessions are closed."""
        self._end()
        for peer in list(self.lanes):
            self._hang_up(peer)

    def restart(self) -> None:
        """Off at once, as by a power cut, and on again: the disk keeps what it has."""
        self.kill()
        self.start()

    def _end(self) -> None:
        self.alive = False
        self.life += 1
        self._backlog.clear()
        self.arriving.clear()
        self.owed = 0.0
        if self.uplink is not None:
            self.uplink.abandon()

    def move(self, site: Place) -> None:
        """Leave the site without a word, and be at another (a train). Its uplink goes with it."""
        self._world.move(self, site)

    def set_uplink(self, up: bool) -> None:
        """Its line to the upstream comes or goes. Raises `ValueError` for a node that never had one."""
        if self.uplink is None:
            raise ValueError(f"{self.name} has no uplink")
        self.uplink.set_up(up=up)

    def hold(self, blob: Digest, size: int) -> None:
        """It has the blob, however it came by it."""
        self.disk.keep(blob, size)
        if self.alive:
            self.feed(events.BlobPublished(blob, size))
        self._complete(blob)

    def drop(self, blob: Digest) -> None:
        """The blob goes from its disk."""
        if self.disk.held.pop(blob, None) is not None and self.alive:
            self.feed(events.BlobDropped(blob))

    def want(self, blob: Digest, size: int, priority: Priority = Priority.PULL) -> Completion:
        """Somebody on the node wants the blob, until it is here."""
        completion = Completion(blob, size, priority, self._world.queue.now)
        if blob in self.disk.held:
            completion.time = self._world.queue.now
            return completion
        self.wants.setdefault(blob, []).append(completion)
        if self.alive:
            self._want(completion)
        return completion

    def ask(self, tag: str, max_age: float = 0.0) -> None:
        """Ask what a tag means; the answer, if any, comes to `knows`."""
        registry, repository, _ = SOURCE
        self.feed(events.ReferenceWanted(registry, repository, tag, max_age))

    def unwant(self, completion: Completion) -> None:
        """Who wanted it does no longer."""
        waiting = self.wants.get(completion.blob, [])
        if completion in waiting:
            waiting.remove(completion)
            if not waiting:
                del self.wants[completion.blob]
            if self.alive:
                self.feed(events.BlobUnwanted(completion.blob, completion.priority))

    def _want(self, completion: Completion) -> None:
        self.feed(events.BlobWanted(completion.blob, completion.size, (SOURCE,), completion.priority))

    # --- events in, effects out ---

    def feed(self, event: Event) -> None:
        """Give the machine an event and do what it says."""
        if not self.alive:
            return
        self._backlog.append(event)
        if self._feeding:
            return
        self._feeding = True
        backlog, todo, life = self._backlog, self.todo, self.life
        now, handle = self._world.queue.now, self.machine.handle
        try:
            while backlog:
                for effect in handle(backlog.popleft(), now):
                    todo[type(effect)](effect)
                    if self.life != life:
                        return
        finally:
            self._feeding = False

    def _sleep(self) -> None:
        queue = self._world.queue
        queue.post(self.machine.deadline(queue.now), partial(self._wake, self.life))

    def _wake(self, life: int) -> None:
        if life != self.life:
            return
        now = self._world.queue.now
        for lane in list(self.arriving):
            if now - lane.told > PROGRESS and lane.moves:
                lane.told = now
                self.feed(events.PayloadProgressed(lane.sender.peer))
        if self.uplink is not None:
            for event in self.uplink.progress():
                self.feed(event)
        self.feed(events.TimerExpired())
        if life == self.life:
            self._sleep()

    def _later(self, action: Callable[[], None]) -> None:
        """When the disk is done."""
        delay = self._world.physics.disk_delay
        if delay:
            life = self.life
            queue = self._world.queue
            queue.post(queue.now + delay, lambda: action() if life == self.life else None)
        else:
            action()

    # --- sessions ---

    def opened(self, lane: Lane) -> None:
        """A session stands: `lane` is ours."""
        peer = lane.receiver.peer
        self.lanes[peer] = lane
        self.feed(events.SessionOpened(peer, lane.dialled))

    def leave(self, peer: PeerId) -> None:
        """End the session, and let the other side know."""
        if peer in self.lanes:
            self._hang_up(peer)
            self.feed(events.SessionClosed(peer))

    def _hang_up(self, peer: PeerId) -> None:
        lane = self.lanes.pop(peer)
        lane.close()
        if not lane.held_up:
            queue = self._world.queue
            queue.post(queue.now + self._world.physics.latency, lane.back.ended)

    def ended(self, lane: Lane) -> None:
        """The other side has ended the session."""
        peer = lane.receiver.peer
        if self.lanes.get(peer) is lane:
            del self.lanes[peer]
            lane.close()
            self.feed(events.SessionClosed(peer))

    def _send(self, effect: effects.Send) -> None:
        lane = self.lanes.get(effect.peer)
        if lane is not None:
            lane.send(effect.frame)

    def _send_chunk(self, effect: effects.SendChunk) -> None:
        lane = self.lanes.get(effect.peer)
        if lane is not None:
            lane.send_chunk(effect.blob, effect.index)

    # --- what lanes tell ---

    def chunk_length(self, blob: Digest, index: int) -> int | None:
        return self.disk.chunk_length(blob, index)

    def expected(self, peer: PeerId, blob: Digest, index: int) -> Expected | None:
        return self.machine.expected(peer, blob, index)

    def chunk_sent(self, lane: Lane, blob: Digest, index: int, *, failed: bool) -> None:
        peer = lane.receiver.peer
        if not failed:
            self.counters.payload_out += self.disk.chunk_length(blob, index) or 0
        if self.lanes.get(peer) is lane:
            self.feed(events.ChunkSent(peer, blob, index, failed))

    def frame_arrived(self, lane: Lane, frame: wire.Frame) -> None:
        self.feed(events.FrameReceived(lane.receiver.peer, frame))

    def chunk_arrived(
        self, lane: Lane, blob: Digest, index: int, length: int, expected: Expected | None
    ) -> None:
        self.counters.payload_in += length
        peer = lane.receiver.peer
        if expected is None or blob not in self.disk.partials:
            self.counters.duplicate += length
            self.feed(events.PayloadProgressed(peer))
        else:
            self._later(partial(self._keep, blob, index, expected[1], peer))

    def _keep(self, blob: Digest, index: int, digest: bytes, source: PeerId | None) -> None:
        size = self.disk.sizes.get(blob)
        if size is None:  # it came whole another way meanwhile
            return
        true = synthetic(blob, size)
        if source is not None and digest != true.chunks[index]:
            self.feed(events.ChunkRefused(blob, index, source))
            return
        if not self.disk.write(blob, index, digest) and source is not None:
            self.counters.duplicate += true.cut.span(index)[1]
        self.feed(events.ChunkStored(blob, index, digest, source))

    # --- disk ---

    def _open(self, effect: effects.OpenTransfer) -> None:
        held = self.disk.held.get(effect.blob)
        if held is not None:
            self.feed(events.BlobPublished(effect.blob, held))
        else:
            self.feed(events.TransferOpened(effect.blob, self.disk.open(effect.blob, effect.size)))

    def _publish(self, effect: effects.Publish) -> None:
        self._later(partial(self._publish_now, effect.blob))

    def _publish_now(self, blob: Digest) -> None:
        if blob not in self.disk.partials:
            return
        if not self.disk.publish(blob):
            self.feed(events.BlobMismatched(blob))
            return
        self.feed(events.BlobPublished(blob, self.disk.held[blob]))
        self._complete(blob)

    def _complete(self, blob: Digest) -> None:
        for completion in self.wants.pop(blob, []):
            completion.time = self._world.queue.now
            if self.alive:
                self.feed(events.BlobUnwanted(blob, completion.priority))
        self._world.published(self, blob)

    def _load(self, effect: effects.LoadRecipe) -> None:
        true = self.disk.whole(effect.blob)
        if true is not None:
            self._later(partial(self.feed, events.RecipeLoaded(effect.blob, true.chunks)))

    # --- uplink ---

    def _fetch(self, effect: effects.FetchUplink) -> None:
        if self.uplink is None:
            raise AssertionError("the machine fetches over an uplink that it was told there is not")
        self.uplink.fetch(effect)

    def _trim(self, effect: effects.TrimUplink) -> None:
        if self.uplink is not None:
            self.uplink.trim(effect.blob, effect.stop)

    def _cancel(self, effect: effects.CancelUplink) -> None:
        if self.uplink is not None:
            self.uplink.cancel(effect.blob)

    def _probe(self, _effect: effects.ProbeUplink) -> None:
        if self.uplink is None:
            raise AssertionError("the machine probes an uplink that it was told there is not")
        self.uplink.probe(self.life)

    def probed(self, life: int, *, up: bool) -> None:
        if life == self.life:
            self.feed(events.UplinkProbed(up))

    def chunk_fetched(self, blob: Digest, index: int, digest: bytes) -> None:
        self._later(partial(self._keep, blob, index, digest, None))

    def _resolve(self, effect: effects.ResolveUpstream) -> None:
        if self.uplink is None:
            raise AssertionError("the machine asks over an uplink that it was told there is not")
        queue = self._world.queue
        answer = self.uplink.resolve(effect, self.key, UNIX + queue.now)
        delay = self._world.physics.uplink_delay
        queue.post(queue.now + delay, partial(self._answered, self.life, answer))

    def _answered(self, life: int, answer: events.UpstreamAnswered) -> None:
        if life == self.life:
            self.feed(answer)

    def _told_resolved(self, effect: effects.TellResolved) -> None:
        if effect.record is not None:
            self.knows[effect.reference] = effect.record

    def _told_record(self, effect: effects.TellRecord) -> None:
        self.knows[effect.record.reference] = effect.record

    def _told_failed(self, effect: effects.TellFailed) -> None:
        for completion in self.wants.get(effect.blob, []):
            completion.fault = effect.fault


def _nothing(_effect: effects.Effect) -> None:
    """Nobody here waits for that."""
