"""What happened: the input of the machine, in the past tense."""

from dataclasses import dataclass
from enum import IntEnum

from meshsat.limits import Gate
from meshsat.oci.digest import Digest
from meshsat.protocol.gossip import ImageRecord
from meshsat.protocol.token_use import TokenUse
from meshsat.protocol.wire import Frame, Source
from meshsat.trust.keys import PeerId


class Priority(IntEnum):
    """Who waits for a blob; more urgent is larger."""

    FOLLOW = 0
    """Nobody on this node: it helps the site, and stops when nobody else wants it."""
    BACKGROUND = 1
    PULL = 2
    READER = 3


class Fault(IntEnum):
    """Why something could not be had."""

    NOT_FOUND = 1
    DENIED = 2
    UNAVAILABLE = 3
    WRONG_BYTES = 4
    STORAGE = 5


# --- peers ---


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A session with a member stands. `dialled`: by us."""

    peer: PeerId
    dialled: bool


@dataclass(frozen=True, slots=True)
class SessionClosed:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerSighted:
    """Discovery, a peer or the configuration told of a member's addresses (host:port)."""

    peer: PeerId
    control: tuple[str, ...]
    bulk: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DialFailed:
    peer: PeerId
    refused: bool
    """It answered, but without a valid pass of this fleet."""


@dataclass(frozen=True, slots=True)
class FrameReceived:
    peer: PeerId
    frame: Frame


@dataclass(frozen=True, slots=True)
class PayloadProgressed:
    """Bytes of a chunk that is not whole yet came from the peer. Told now and then, not for each read."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class ChunkSent:
    """A chunk that `SendChunk` asked for is on the wire, or could not be read (`failed`)."""

    peer: PeerId
    blob: Digest
    index: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class TokenUsed:
    """This node counted the use of a join token, or knows of it from before."""

    use: TokenUse


# --- content ---


@dataclass(frozen=True, slots=True)
class BlobWanted:
    """Somebody on this node wants a blob that the store does not hold."""

    blob: Digest
    size: int
    sources: tuple[Source, ...]
    priority: Priority


@dataclass(frozen=True, slots=True)
class TransferOpened:
    """There is room for the blob. `held` are the chunks that an earlier run left: index -> SHA-256."""

    blob: Digest
    held: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class BlobUnwanted:
    """One who wanted it with this priority does no longer."""

    blob: Digest
    priority: Priority


@dataclass(frozen=True, slots=True)
class ReaderMoved:
    """A client reads the blob at this byte offset; None: it went away."""

    blob: Digest
    reader: int
    offset: int | None


@dataclass(frozen=True, slots=True)
class ChunkStored:
    """A chunk was checked and written. `source` None: it came over our own uplink."""

    blob: Digest
    index: int
    digest: bytes
    source: PeerId | None


@dataclass(frozen=True, slots=True)
class ChunkRefused:
    """A peer's chunk did not have the digest that it was asked for under."""

    blob: Digest
    index: int
    source: PeerId


@dataclass(frozen=True, slots=True)
class BlobPublished:
    """The whole blob was checked and is held, by transfer or any other way."""

    blob: Digest
    size: int


@dataclass(frozen=True, slots=True)
class BlobMismatched:
    """All chunks fit the recipe, but the blob does not have its digest."""

    blob: Digest


@dataclass(frozen=True, slots=True)
class BlobDropped:
    """A blob held so far is gone from the store."""

    blob: Digest


@dataclass(frozen=True, slots=True)
class StorageFailed:
    """The disk does not take the chunks of this blob."""

    blob: Digest
    message: str


@dataclass(frozen=True, slots=True)
class RecipeLoaded:
    """The chunk digests of a blob that is held whole."""

    blob: Digest
    chunks: tuple[bytes, ...]


# --- uplink ---


@dataclass(frozen=True, slots=True)
class UplinkProgressed:
    """So many bytes more came for a run of `FetchUplink`. Told now and then, not for each read; who never
    tells it is judged by its chunks."""

    blob: Digest
    size: int


@dataclass(frozen=True, slots=True)
class UplinkEnded:
    """A run of `FetchUplink` is over. `fault` None: it brought all that it was to bring."""

    blob: Digest
    fault: Fault | None
    message: str = ""
    retry_after: float | None = None
    """Seconds, where the upstream named them."""


@dataclass(frozen=True, slots=True)
class UplinkProbed:
    """The answer to `ProbeUplink`: whether an upstream can be reached over our uplink now."""

    up: bool


@dataclass(frozen=True, slots=True)
class UplinkGated:
    """This node's limits let this much pass over its uplink from now on."""

    gate: Gate
    reason: str = ""
    """Why not all, for a person."""


@dataclass(frozen=True, slots=True)
class ReferenceWanted:
    registry: str
    repository: str
    reference: str
    max_age: float
    """Seconds for which an earlier answer will do."""


@dataclass(frozen=True, slots=True)
class UpstreamAnswered:
    """The answer to `ResolveUpstream`: the record, or why there is none."""

    registry: str
    repository: str
    reference: str
    record: ImageRecord | None
    fault: Fault | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class RecordMade:
    """This node says what a tag means: it was pushed here, or deleted, or came in a bundle."""

    record: ImageRecord


class Judgement(IntEnum):
    """What a record of a kind that the machine does not judge itself is worth."""

    NEWS = 0
    KNOWN = 1
    OUTDATED = 2
    """A younger one of its name is known."""
    LATER = 3
    """It can't be told now: it comes before what it builds on, or one of two clocks is wrong."""
    WRONG = 4
    """Whoever passed it on should have seen that."""


@dataclass(frozen=True, slots=True)
class ItemJudged:
    """The answer to `JudgeItem`; or with `source` None a record of this node's own, or from elsewhere."""

    kind: int
    """`spread.Kind`."""
    name: str
    """What it is kept under: a younger record of the name takes its place. Empty where it is not kept."""
    data: bytes
    source: PeerId | None
    judgement: Judgement
    reason: str = ""
    """Why it is wrong."""


@dataclass(frozen=True, slots=True)
class ItemDropped:
    """The record of that name is of no interest any more."""

    kind: int
    name: str


@dataclass(frozen=True, slots=True)
class ClockSet:
    """What time it is turned out to be another."""

    unix_offset: float
    """What to add to the machine's time to have Unix time."""
    right: bool
    """It is the time, and not only what has passed for certain."""


@dataclass(frozen=True, slots=True)
class PeersRevoked:
    """These, and nobody else, are no members any more."""

    peers: tuple[tuple[PeerId, float], ...]
    """Each with the Unix time from which on nothing counts that it sealed."""


@dataclass(frozen=True, slots=True)
class TimerExpired:
    """The time that `Machine.deadline` named has come."""


Event = (
    SessionOpened
    | SessionClosed
    | PeerSighted
    | DialFailed
    | FrameReceived
    | PayloadProgressed
    | ChunkSent
    | TokenUsed
    | BlobWanted
    | TransferOpened
    | BlobUnwanted
    | ReaderMoved
    | ChunkStored
    | ChunkRefused
    | BlobPublished
    | BlobMismatched
    | BlobDropped
    | StorageFailed
    | RecipeLoaded
    | UplinkProgressed
    | UplinkEnded
    | UplinkProbed
    | UplinkGated
    | ReferenceWanted
    | UpstreamAnswered
    | RecordMade
    | ItemJudged
    | ItemDropped
    | ClockSet
    | PeersRevoked
    | TimerExpired
)
