"""What to do: the output of the machine, in the imperative."""

from dataclasses import dataclass

from meshsat.oci.digest import Digest
from meshsat.protocol.events import Fault
from meshsat.protocol.gossip import ImageRecord
from meshsat.protocol.token_use import TokenUse
from meshsat.protocol.wire import Frame, Source
from meshsat.trust.keys import PeerId


@dataclass(frozen=True, slots=True)
class Send:
    peer: PeerId
    frame: Frame


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Read the chunk from the store and send it; `ChunkSent` follows."""

    peer: PeerId
    blob: Digest
    index: int
    length: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Dial:
    peer: PeerId
    control: tuple[str, ...]
    bulk: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End the session at once, and say why in the log."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class FetchUplink:
    """Fetch the chunks from `start` up to, not including, `stop` over our uplink; `ChunkStored` for each, in
    about this order, `UplinkProgressed` now and then, and `UplinkEnded` at last."""

    blob: Digest
    size: int
    start: int
    stop: int
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class TrimUplink:
    """The run of this blob ends before the chunk `stop`, earlier than it was to: fetch nothing from there on.
    It may be ignored: when all before `stop` is there, `CancelUplink` follows, unless it ended before."""

    blob: Digest
    stop: int


@dataclass(frozen=True, slots=True)
class CancelUplink:
    """End the run of this blob; no `UplinkEnded` follows."""

    blob: Digest


@dataclass(frozen=True, slots=True)
class ProbeUplink:
    """See whether an upstream can be reached; `UplinkProbed` follows."""


@dataclass(frozen=True, slots=True)
class ResolveUpstream:
    """Ask the upstream what the reference means; `UpstreamAnswered` follows."""

    registry: str
    repository: str
    reference: str


@dataclass(frozen=True, slots=True)
class TellRecord:
    """A record of what a tag means is news to us."""

    record: ImageRecord


@dataclass(frozen=True, slots=True)
class CountUse:
    """A join token was used elsewhere."""

    use: TokenUse


@dataclass(frozen=True, slots=True)
class JudgeItem:
    """Say what a record is worth that a peer passed on; `ItemJudged` follows."""

    kind: int
    """`spread.Kind`."""
    data: bytes
    source: PeerId


@dataclass(frozen=True, slots=True)
class TellResolved:
    """Whoever on this node asked for the reference gets the answer."""

    registry: str
    repository: str
    reference: str
    record: ImageRecord | None
    fault: Fault | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Publish:
    """All chunks are there: check the whole and publish it; `BlobPublished` or `BlobMismatched` follows."""

    blob: Digest


@dataclass(frozen=True, slots=True)
class ForgetChunks:
    """These chunks stand on the word of one who proved wrong: drop them from the disk."""

    blob: Digest
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OpenTransfer:
    """Make room on the disk for a blob; `TransferOpened` (or `BlobPublished`, `StorageFailed`) follows."""

    blob: Digest
    size: int


@dataclass(frozen=True, slots=True)
class LoadRecipe:
    """`RecipeLoaded` follows."""

    blob: Digest


@dataclass(frozen=True, slots=True)
class TellFailed:
    """Whoever on this node waits for the blob learns that it can't be had now."""

    blob: Digest
    fault: Fault
    message: str


@dataclass(frozen=True, slots=True)
class CloseTransfer:
    """Nobody wants the blob any more; what is on the disk stays for later."""

    blob: Digest


Effect = (
    Send
    | SendChunk
    | Dial
    | Disconnect
    | FetchUplink
    | TrimUplink
    | CancelUplink
    | ProbeUplink
    | ResolveUpstream
    | TellRecord
    | CountUse
    | JudgeItem
    | TellResolved
    | Publish
    | ForgetChunks
    | OpenTransfer
    | LoadRecipe
    | TellFailed
    | CloseTransfer
)
