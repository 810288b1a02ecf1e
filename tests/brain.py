"""One machine of the mesh's brain, driven by hand: events in, effects out, under a clock that stands still.

Keys are made from names, so that the order of peer ids, and with it every decision, is the same in each run.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshsat.chunking.cut import FIXED_1, MIN_CHUNK, SEGMENT, Cut
from meshsat.oci.digest import Digest
from meshsat.protocol import bitset, effects, events, lease, wire
from meshsat.protocol.effects import Effect
from meshsat.protocol.events import Event, Priority
from meshsat.protocol.machine import BUSY_TICK, Machine, Settings
from meshsat.protocol.transfer import Transfer
from meshsat.trust.keys import NodeKey, PeerId, Verify, verify

SOURCE: wire.Source = ("up.example", "library/pos", False)
ADDRESS = ("10.0.0.1:4702",)
UNIX = 1_800_000_000.0
"""What the clock on the wall says when the machine's says 0."""

E = TypeVar("E", bound=Effect)
F = TypeVar("F", bound=wire.Frame)


@cache
def key(name: str) -> NodeKey:
    seed = hashlib.sha256(name.encode()).digest()
    return NodeKey.from_private(Ed25519PrivateKey.from_private_bytes(seed))


def peer(name: str) -> PeerId:
    return key(name).peer_id


class Blob:
    """What a blob of `chunks` chunks is called, and what its chunks are; nobody needs its bytes."""

    def __init__(self, name: str = "blob", chunks: int = 4) -> None:
        self.name = name
        self.size = chunks * MIN_CHUNK
        self.cut = Cut(FIXED_1, self.size)
        assert self.cut.count == chunks, "chunks of more than the least length: give fewer"
        self.chunks = tuple(hashlib.sha256(f"{name} {index}".encode()).digest() for index in range(chunks))
        self.digest = Digest.of(name.encode())

    def wanted(self, priority: Priority = Priority.PULL, size: int | None = None) -> events.BlobWanted:
        return events.BlobWanted(self.digest, size or self.size, (SOURCE,), priority)

    def want(
        self,
        priority: Priority = Priority.PULL,
        *,
        size: int | None = None,
        first: int = 0,
        sources: tuple[wire.Source, ...] = (SOURCE,),
    ) -> wire.Want:
        wish = (self.digest, self.size if size is None else size, int(priority), first)
        return wire.Want((wish,), sources)

    def holds(self) -> wire.Holds:
        return wire.Holds(((self.digest, self.size),))

    def have(self, *indexes: int) -> wire.Have:
        return wire.Have(self.digest, bitset.to_bytes(bitset.of(indexes), self.cut.count))

    def entries(
        self, author: str, first: int = 0, stop: int | None = None, *, lie: str | None = None
    ) -> wire.Entries:
        """The author's signed word for the chunks from `first` to `stop`; with `lie` not the true one."""
        chunks = self.chunks if lie is None else self.lie(lie)
        digests = b"".join(chunks[first : self.cut.count if stop is None else stop])
        signature = key(author).sign(wire.entries_message(self.digest, first, digests))
        return wire.Entries(self.digest, peer(author), first, digests, signature)

    def lie(self, name: str = "lie") -> tuple[bytes, ...]:
        return tuple(hashlib.sha256(f"{name} {chunk!r}".encode()).digest() for chunk in self.chunks)

    def stored(
        self, index: int, source: str | None = None, digest: bytes | None = None
    ) -> events.ChunkStored:
        return events.ChunkStored(
            self.digest, index, digest or self.chunks[index], None if source is None else peer(source)
        )

    def published(self) -> events.BlobPublished:
        return events.BlobPublished(self.digest, self.size)


def segments(name: str, count: int) -> Blob:
    """A blob of whole segments."""
    return Blob(name, count * (SEGMENT // MIN_CHUNK))


def led_by(leader: str, others: Iterable[str], chunks: int = 4) -> Blob:
    """A blob of one segment whose lease this node has, among all these."""
    candidates = [peer(leader), *map(peer, others)]
    for number in range(1000):
        blob = Blob(f"blob {number}", chunks)
        equal = dict.fromkeys(candidates, 1.0)
        if lease.holder(lease.segment_lease(str(blob.digest), 0), equal) == peer(leader):
            return blob
    raise AssertionError("no such blob")


class Brain:
    def __init__(
        self,
        name: str = "me",
        *,
        uplink: bool = False,
        seed: int = 0,
        settle: float = 0.0,
        sessions: int = 256,
        negative_age: float = 5.0,
        check: Verify = verify,
    ) -> None:
        self.name = name
        self.now = 100.0
        settings = Settings(
            peer(name),
            name,
            uplink=uplink,
            unix_offset=UNIX,
            settle=settle,
            max_sessions=sessions,
            negative_age=negative_age,
        )
        self.machine = Machine(settings, key(name).sign, random.Random(seed), check)
        self.machine.addresses = (ADDRESS, ADDRESS)

    def feed(self, *happened: Event) -> list[Effect]:
        return [effect for event in happened for effect in self.machine.handle(event, self.now)]

    def hear(self, name: str, *frames: wire.Frame) -> list[Effect]:
        return self.feed(*(events.FrameReceived(peer(name), frame) for frame in frames))

    def meet(self, *names: str, uplink: bool = False) -> list[Effect]:
        """Sessions with these, who greet us."""
        done: list[Effect] = []
        for name in names:
            done += self.feed(events.SessionOpened(peer(name), dialled=False))
            done += self.hear(name, wire.Hello(name, uplink, ADDRESS, (f"{name}:4703",)))
        return done

    def leave(self, name: str) -> list[Effect]:
        return self.feed(events.SessionClosed(peer(name)))

    def tick(self) -> list[Effect]:
        return self.feed(events.TimerExpired())

    def wait(self, seconds: float, *, hearing: Iterable[str] = ()) -> list[Effect]:
        """Let time pass, in ticks; those named send a sign of life meanwhile."""
        done: list[Effect] = []
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + BUSY_TICK)
            for name in hearing:
                done += self.hear(name, wire.Pong(0))
            done += self.tick()
        return done

    def pull(self, blob: Blob, *held: int, priority: Priority = Priority.PULL) -> list[Effect]:
        """Want the blob here, with room made for it and these chunks there already."""
        return self.feed(blob.wanted(priority), self.opened(blob, *held))

    def opened(self, blob: Blob, *held: int) -> events.TransferOpened:
        return events.TransferOpened(blob.digest, tuple((index, blob.chunks[index]) for index in held))

    def transfer(self, blob: Blob) -> Transfer:
        return self.machine.transfers[blob.digest]

    def seed(self, blob: Blob) -> list[Effect]:
        """Hold the blob whole, its recipe at hand."""
        return self.feed(blob.published(), events.RecipeLoaded(blob.digest, blob.chunks))


def only(done: Iterable[Effect], kind: type[E]) -> list[E]:
    return [effect for effect in done if isinstance(effect, kind)]


def sent(done: Iterable[Effect], kind: type[F], to: str | None = None) -> list[F]:
    """The frames of this kind that were sent, to this peer if it is named."""
    return [
        effect.frame
        for effect in done
        if isinstance(effect, effects.Send)
        and isinstance(effect.frame, kind)
        and (to is None or effect.peer == peer(to))
    ]


def requested(done: Iterable[Effect], of: str | None = None) -> list[int]:
    """The chunks that were asked for, in order."""
    return [index for frame in sent(done, wire.Request, of) for index, _ in frame.chunks]


def gone(done: Iterable[Effect]) -> dict[PeerId, str]:
    """Whose session was ended, and why."""
    return {effect.peer: effect.reason for effect in only(done, effects.Disconnect)}


def runs(done: Iterable[Effect]) -> list[tuple[int, int]]:
    """What was begun over the uplink: from chunk to chunk."""
    return [(effect.start, effect.stop) for effect in only(done, effects.FetchUplink)]


def chunks_of(done: Iterable[Effect]) -> Iterator[int]:
    return (effect.index for effect in only(done, effects.SendChunk))
