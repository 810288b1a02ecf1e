"""One direction of a session: the twin of `mesh/link.py` on links that are only arithmetic.

Frames go out in one write an instant and overtake the chunks that wait, but not the one under way;
neighbouring haves of a blob become one. Chunks go out one at a time, as one flow for as long as there are
some. A lane that is held up (the LAN is cut, or the other end has no power) keeps what it was given, as TCP
does, and says nothing.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from meshsat.oci.digest import Digest
from meshsat.protocol import wire
from meshsat.protocol.joining import next_frame
from meshsat.trust.keys import PeerId
from sim.simulator.counters import Counters
from sim.simulator.fluid import Flow, Fluid, Link
from sim.simulator.physics import Physics
from sim.simulator.queue import EventQueue
from sim.simulator.sizes import encoded_length

GOSSIP = frozenset(kind for kind in wire.Frame.__subclasses__() if 23 <= kind.type <= 26)
"""Frames that carry records of images, and not the exchange of blobs."""
Expected = tuple[int, bytes]
"""Length and digest of a chunk, as its receiver asked for it."""
Coming = tuple[Digest, int, int, Expected | None]
"""A chunk on the wire: blob, index, bytes, and as what it was asked for when it set out."""


class End(Protocol):
    """What a lane asks of the nodes at its ends."""

    peer: PeerId
    counters: Counters
    up: Link
    down: Link
    owed: float
    """Bytes of frames that its line has yet to carry: they go with the next chunk."""
    arriving: dict["Lane", None]
    """The lanes on which a chunk is coming in."""

    def chunk_length(self, blob: Digest, index: int) -> int | None:
        """Bytes of a chunk that it has; None if it has not."""
        ...

    def expected(self, peer: PeerId, blob: Digest, index: int) -> Expected | None: ...

    def chunk_sent(self, lane: "Lane", blob: Digest, index: int, *, failed: bool) -> None: ...

    def chunk_arrived(
        self, lane: "Lane", blob: Digest, index: int, length: int, expected: Expected | None
    ) -> None: ...

    def frame_arrived(self, lane: "Lane", frame: wire.Frame) -> None: ...

    def ended(self, lane: "Lane") -> None: ...


class Lane:
    __slots__ = (
        "_chunks",
        "_flow",
        "_fluid",
        "_frames",
        "_held",
        "_held_up",
        "_left",
        "_physics",
        "_queue",
        "_under_way",
        "_write",
        "_write_at",
        "back",
        "dialled",
        "open",
        "receiver",
        "sender",
        "told",
    )

    back: "Lane"
    """The other direction."""

    def __init__(
        self, sender: End, receiver: End, fluid: Fluid, queue: EventQueue, physics: Physics, *, dialled: bool
    ) -> None:
        self.sender = sender
        self.receiver = receiver
        self.dialled = dialled
        """By the sender."""
        self.open = True
        """The sender keeps the session."""
        self.told = 0.0
        """When its receiver was last told that a chunk moves."""
        self._fluid, self._queue, self._physics = fluid, queue, physics
        self._held_up = False
        self._frames: list[wire.Frame] = []
        """What waits for the chunk under way."""
        self._write: list[wire.Frame] = []
        self._write_at = -1.0
        """The write of this instant, whose arrival is queued already."""
        self._chunks: deque[tuple[Digest, int]] = deque()
        self._under_way: Coming | None = None
        """The chunk on the wire."""
        self._left = 0.0
        """Bytes of it that have yet to pass, headers included, as of when its flow began."""
        self._flow: Flow | None = None
        self._held: list[Callable[[], None]] = []
        """Arrivals that a cut holds up."""

    # --- out ---

    def send(self, frame: wire.Frame) -> None:
        if not self.open:
            return
        if self._under_way is not None or self._held_up:
            self._frames.append(frame)
            return
        if self._write_at != self._queue.now:
            self._write, self._write_at = [], self._queue.now
            self._depart(self._write, None)
        self._write.append(frame)

    def send_chunk(self, blob: Digest, index: int) -> None:
        """Queue a chunk; bounded by the machine, which hands over few at a time."""
        self._chunks.append((blob, index))
        self._next()

    def _next(self) -> None:
        while self.open and self._chunks and self._under_way is None and not self._held_up:
            blob, index = self._chunks.popleft()
            length = self.sender.chunk_length(blob, index)
            if length is None:
                self.sender.chunk_sent(self, blob, index, failed=True)
                continue
            expected = self.receiver.expected(self.sender.peer, blob, index)
            self._left = length * self._physics.overhead + self.sender.owed
            self.sender.owed = 0.0
            self._under_way = (blob, index, length, expected)
            self.told = self._queue.now
            self.receiver.arriving[self] = None
            self._carry()

    def _carry(self) -> None:
        if self._flow is not None and self._flow.alive:
            self._fluid.push(self._flow, self._left, self._carried)
        else:
            self._flow = self._fluid.start((self.sender.up, self.receiver.down), self._left, self._carried)

    def _carried(self) -> None:
        """The last byte of the chunk has left."""
        coming, self._under_way = self._under_way, None
        if coming is None:
            raise AssertionError("a chunk has left that never set out")
        self.receiver.arriving.pop(self, None)
        self._write, self._write_at = self._frames, self._queue.now
        self._frames = []
        self._depart(self._write, coming)
        self.sender.chunk_sent(self, coming[0], coming[1], failed=False)
        self._next()

    def _depart(self, frames: list[wire.Frame], chunk: Coming | None) -> None:
        self._queue.post(self._queue.now + self._physics.latency, partial(self._arrive, frames, chunk))

    # --- in ---

    def _arrive(self, frames: list[wire.Frame], chunk: Coming | None) -> None:
        if self._held_up:
            self._held.append(partial(self._arrive, frames, chunk))
            return
        if frames is self._write:
            self._write_at = -1.0  # what is sent at this instant is another write
        back = self.back
        if chunk is not None and back.open:
            self.receiver.chunk_arrived(back, *chunk)
        if frames:
            joined = _joined(frames)
            self._account(joined)
            arrived = self.receiver.frame_arrived
            for frame in joined:
                if not back.open:
                    return
                arrived(back, frame)

    def _account(self, frames: list[wire.Frame]) -> None:
        length = gossip = 0
        for frame in frames:
            size = encoded_length(frame)
            length += size
            if type(frame) in GOSSIP:
                gossip += size
        sent, got = self.sender.counters, self.receiver.counters
        on_wire = self._physics.write_overhead + self._physics.overhead * length
        self.sender.owed += on_wire
        if gossip:
            spent = on_wire * gossip / length
            sent.gossip_out += spent
            got.gossip_in += spent
            on_wire -= spent
        sent.frames_out += on_wire
        got.frames_in += on_wire
        got.frames += len(frames)

    def ended(self) -> None:
        """Tell the sender that the other side has ended the session."""
        self.sender.ended(self)

    @property
    def moves(self) -> bool:
        """Whether bytes of a chunk pass now."""
        return self._flow is not None and self._flow.rate > 0

    # --- cuts and ends ---

    @property
    def held_up(self) -> bool:
        return self._held_up

    def hold_up(self) -> None:
        """Nothing passes any more, and nobody is told."""
        if self._held_up:
            return
        self._held_up = True
        if self._under_way is not None and self._flow is not None:
            self._left -= self._fluid.cancel(self._flow)

    def release(self) -> None:
        """What was held up goes on."""
        if not self._held_up:
            return
        self._held_up = False
        if not self.back.open:
            self._queue.post(self._queue.now + self._physics.latency, self.ended)
        held, self._held = self._held, []
        for arrival in held:
            self._queue.post(self._queue.now + self._physics.latency, arrival)
        if not self.open:
            return
        if self._under_way is not None:
            self._carry()
        elif self._frames:
            frames, self._frames = self._frames, []
            self._depart(frames, None)
        self._next()

    def close(self) -> None:
        """The sender is done with the session. What is in the air still arrives."""
        self.open = False
        self.receiver.arriving.pop(self, None)
        self._frames.clear()
        self._chunks.clear()
        if self._flow is not None:
            self._fluid.cancel(self._flow)
        self._under_way = None


def _joined(frames: list[wire.Frame]) -> list[wire.Frame]:
    """As `Link` does before it writes."""
    if len(frames) == 1:
        return frames
    queue, joined = deque(frames), []
    while queue:
        joined.append(next_frame(queue))
    return joined
