"""Several brains in one room: what one sends the other hears, at once and in order; chunks take a step of time.

Nothing is real but the machines. A node's uplink brings `uplink_rate` chunks a step, its upload `upload_rate`.
"""

from collections import defaultdict, deque
from collections.abc import Iterable

from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events
from meshsat.protocol.effects import Effect
from meshsat.protocol.events import Event, Fault
from meshsat.protocol.machine import BUSY_TICK
from meshsat.trust.keys import PeerId
from tests.brain import Blob, Brain, peer


class Room:
    def __init__(self, names: Iterable[str], *, uplinks: Iterable[str] = (), seed: int = 0) -> None:
        self.brains = {name: Brain(name, uplink=name in uplinks, seed=seed) for name in names}
        self.names: dict[PeerId, str] = {peer(name): name for name in self.brains}
        self.blobs: dict[Digest, Blob] = {}
        self.upload_rate = 4
        self.uplink_rate = 4
        self.silent: set[str] = set()
        """Nodes that hear and say no more."""
        self.broken: set[str] = set()
        """Nodes that can not read what they hold."""
        self.liars: set[str] = set()
        """Nodes that send other bytes than they are asked for."""
        self.upstream: Fault | None = None
        self.log: list[tuple[str, Effect]] = []
        self.given: list[tuple[str, str, int]] = []
        """Chunks that went from node to node."""
        self.brought: list[tuple[str, int]] = []
        """Chunks that came over an uplink, and over whose."""
        self._inboxes: deque[tuple[str, Event]] = deque()
        self._uploads: defaultdict[str, deque[effects.SendChunk]] = defaultdict(deque)
        self._runs: dict[tuple[str, Digest], list[int]] = {}

    def add(self, blob: Blob) -> Blob:
        self.blobs[blob.digest] = blob
        return blob

    def introduce(self, *names: str) -> None:
        """Sessions between all, or all of these, who have none."""
        among = names or tuple(self.brains)
        for one in among:
            for other in among:
                if one < other and not self._met(one, other):
                    self.feed(one, events.SessionOpened(peer(other), dialled=True))
                    self.feed(other, events.SessionOpened(peer(one), dialled=False))
        self._settle()

    def _met(self, one: str, other: str) -> bool:
        return peer(other) in self.brains[one].machine.sessions

    def feed(self, name: str, *happened: Event) -> None:
        for event in happened:
            self._inboxes.append((name, event))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        self._settle()
        for brain in self.brains.values():
            brain.now += BUSY_TICK
        for name, queue in self._uploads.items():
            for _ in range(min(self.upload_rate, len(queue)) if name not in self.silent else 0):
                self._deliver(name, queue.popleft())
        for name, digest in list(self._runs):
            self._bring(name, digest)
        for name in self.brains:
            if name not in self.silent:
                self.feed(name, events.TimerExpired())
        self._settle()

    def count(self, name: str, kind: type[Effect]) -> int:
        return sum(isinstance(effect, kind) for who, effect in self.log if who == name)

    def holds(self, name: str, blob: Blob) -> bool:
        return any(who == name and effect == effects.Publish(blob.digest) for who, effect in self.log) and (
            blob.digest not in self.brains[name].machine.transfers
        )

    # --- what effects do ---

    def _settle(self) -> None:
        for _ in range(100_000):
            if not self._inboxes:
                return
            name, event = self._inboxes.popleft()
            brain = self.brains[name]
            for effect in brain.machine.handle(event, brain.now):
                self.log.append((name, effect))
                self._do(name, effect)
        raise AssertionError("they talk without end")

    def _do(self, name: str, effect: Effect) -> None:
        match effect:
            case effects.Send():
                other = self.names[effect.peer]
                if not {name, other} & self.silent:
                    self.feed(other, events.FrameReceived(peer(name), effect.frame))
            case effects.SendChunk():
                self._uploads[name].append(effect)
            case effects.Disconnect():
                self.part(name, self.names[effect.peer])
            case effects.OpenTransfer():
                self.feed(name, events.TransferOpened(effect.blob))
            case effects.LoadRecipe() if name not in self.broken:
                self.feed(name, events.RecipeLoaded(effect.blob, self.blobs[effect.blob].chunks))
            case effects.FetchUplink():
                self._runs[name, effect.blob] = [effect.start, effect.stop]
            case effects.ProbeUplink():
                self.feed(name, events.UplinkProbed(self.upstream is None))
            case effects.TrimUplink():
                self._runs[name, effect.blob][1] = effect.stop
            case effects.CancelUplink():
                self._runs.pop((name, effect.blob), None)
            case effects.Publish():
                self._publish(name, self.blobs[effect.blob])

    def part(self, one: str, other: str) -> None:
        """Their session ends."""
        for here, there in ((one, other), (other, one)):
            self.feed(here, events.SessionClosed(peer(there)))
            left = [effect for effect in self._uploads[here] if effect.peer != peer(there)]
            self._uploads[here] = deque(left)

    def _publish(self, name: str, blob: Blob) -> None:
        transfer = self.brains[name].machine.transfers[blob.digest]
        right = tuple(transfer.digests[index] for index in range(blob.cut.count)) == blob.chunks
        self.feed(name, blob.published() if right else events.BlobMismatched(blob.digest))

    def _deliver(self, name: str, effect: effects.SendChunk) -> None:
        other = self.names[effect.peer]
        blob = self.blobs[effect.blob]
        expected = self.brains[other].machine.expected(peer(name), effect.blob, effect.index)
        if name in self.liars:
            digest = blob.lie(name)[effect.index]
        else:
            transfer = self.brains[name].machine.transfers.get(effect.blob)
            digest = (blob.chunks if transfer is None else transfer.digests)[effect.index]
        self.feed(name, events.ChunkSent(peer(other), effect.blob, effect.index))
        self.given.append((name, other, effect.index))
        if expected is None:
            self.feed(other, events.PayloadProgressed(peer(name)))
        elif expected[1] == digest:
            self.feed(other, blob.stored(effect.index, name, digest))
        else:
            self.feed(other, events.ChunkRefused(effect.blob, effect.index, peer(name)))

    def _bring(self, name: str, digest: Digest) -> None:
        blob, run = self.blobs[digest], self._runs[name, digest]
        if self.upstream is not None:
            del self._runs[name, digest]
            self.feed(name, events.UplinkEnded(digest, self.upstream, "upstream said no"))
            return
        for _ in range(self.uplink_rate):
            self.brought.append((name, run[0]))
            self.feed(name, blob.stored(run[0]))
            run[0] += 1
            self._settle()
            if (name, digest) not in self._runs or self._runs[name, digest] is not run:
                return
            if run[0] == run[1]:
                del self._runs[name, digest]
                self.feed(name, events.UplinkEnded(digest, None))
                return
