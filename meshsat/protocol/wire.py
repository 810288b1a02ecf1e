"""The frames of a swap session, and their bytes. `/meshsat/swap/1`.

A frame is two big-endian 32-bit lengths, a CBOR header and a raw payload. The header is a list: a type
number, then the fields in the order of the dataclass. Only a chunk has a payload, so that bulk bytes never
pass through CBOR. Whatever does not decode to exactly one of these frames within its limits is a
`FrameError`, and costs its sender the session.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import cbor2

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.protocol.sums import DIGITS, KEY

PROTOCOL = "/meshsat/swap/1"
PREFIX = struct.Struct("!II")
HEADER_LIMIT = 1 << 20
"""Bytes of CBOR in a frame."""
PAYLOAD_LIMIT = 4 << 20
"""Bytes of a chunk; the cut has no larger one."""
BLOB_LIMIT = 1 << 40
"""Bytes of the largest blob that is spoken of."""
LIST_LIMIT = 4096
"""Items in a list of a frame."""
SECONDS_LIMIT = 1e12
TEXT_LIMIT = 512
"""Characters of a name or a message."""
KINDS_LIMIT = 15
"""The highest number of a kind of record; what is not known here is passed over."""
ITEM_LIMIT = 8192
"""Bytes of a record."""
ITEMS_LIMIT = 256
"""Records in a frame."""
PARTS_LIMIT = 64
"""Parts in a comparison."""
LEAVES_LIMIT = 16 * 256
"""Bytes of the keys and versions of one part."""
CHUNK_DIGEST = 32
"""Bytes of a SHA-256."""
SIGNATURE = 64
"""Bytes of an Ed25519 signature."""


class FrameError(InvalidInputError):
    """Not a frame of this protocol."""


Item = tuple[int, bytes]
"""A record as gossip carries it: what kind it is (`spread.Kind`), and its bytes."""
Source = tuple[str, str, bool]
"""Where upstream has a blob: registry, repository, and whether it is asked for as a manifest."""
Wish = tuple[Digest, int, int, int]
"""A blob that is wanted: its digest and size, how urgently (`events.Priority`), and the chunk from which on
it is read."""


@dataclass(frozen=True, slots=True)
class Frame:
    type: ClassVar[int] = -1


@dataclass(frozen=True, slots=True)
class Hello(Frame):
    """The first frame of both sides."""

    type: ClassVar[int] = 0
    name: str
    uplink: bool
    control: tuple[str, ...]
    bulk: tuple[str, ...]
    clock: int = 0
    """Unix seconds by the sender's clock; 0: it does not know."""


@dataclass(frozen=True, slots=True)
class Ping(Frame):
    type: ClassVar[int] = 1
    token: int


@dataclass(frozen=True, slots=True)
class Pong(Frame):
    type: ClassVar[int] = 2
    token: int


@dataclass(frozen=True, slots=True)
class Peers(Frame):
    """Members that hold the blob, or want it too: peer id, control addresses, bulk addresses."""

    type: ClassVar[int] = 3
    blob: Digest
    peers: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Uplink(Frame):
    """Whether the sender can fetch from upstream now, and at how many bytes a second it did lately (0: not
    known)."""

    type: ClassVar[int] = 4
    up: bool
    rate: int = 0


@dataclass(frozen=True, slots=True)
class Holds(Frame):
    """Blobs that the sender holds whole, with their sizes."""

    type: ClassVar[int] = 5
    blobs: tuple[tuple[Digest, int], ...]


@dataclass(frozen=True, slots=True)
class Drops(Frame):
    """Blobs that the sender holds no longer."""

    type: ClassVar[int] = 6
    blobs: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Want(Frame):
    """The sender wants these blobs, and every have of them; upstream has them at these places."""

    type: ClassVar[int] = 7
    blobs: tuple[Wish, ...]
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Unwant(Frame):
    """The sender wants these blobs no longer. Of one that it has, `Holds` says so too."""

    type: ClassVar[int] = 8
    blobs: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Have(Frame):
    """Chunks that the sender holds of a blob on its way: bit i of the little-endian bytes is chunk i."""

    type: ClassVar[int] = 9
    blob: Digest
    bits: bytes


@dataclass(frozen=True, slots=True)
class Entries(Frame):
    """What `author` says that the chunks from `first` on are: their SHA-256, one behind the other, signed."""

    type: ClassVar[int] = 10
    blob: Digest
    author: str
    first: int
    digests: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class AskEntries(Frame):
    """The sender lacks the entries of these chunks."""

    type: ClassVar[int] = 11
    blob: Digest
    size: int
    bits: bytes


@dataclass(frozen=True, slots=True)
class Request(Frame):
    """Send me these chunks, by index and digest."""

    type: ClassVar[int] = 12
    blob: Digest
    chunks: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Cancel(Frame):
    type: ClassVar[int] = 13
    blob: Digest
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chunk(Frame):
    """Announces the payload that follows it in the frame."""

    type: ClassVar[int] = 14
    blob: Digest
    index: int


@dataclass(frozen=True, slots=True)
class Reject(Frame):
    """The sender will not send this chunk: it has no chunk of that digest, or too much to do."""

    type: ClassVar[int] = 15
    blob: Digest
    index: int


@dataclass(frozen=True, slots=True)
class Failed(Frame):
    """The upstream does not give the sender this blob: `fault` is a `Fault`."""

    type: ClassVar[int] = 16
    blob: Digest
    fault: int
    message: str


@dataclass(frozen=True, slots=True)
class Resolve(Frame):
    """What does the reference mean? An answer younger than `max_age` seconds will do."""

    type: ClassVar[int] = 17
    registry: str
    repository: str
    reference: str
    max_age: float


@dataclass(frozen=True, slots=True)
class Resolved(Frame):
    """The sealed image record, or none and why."""

    type: ClassVar[int] = 18
    registry: str
    repository: str
    reference: str
    record: bytes
    fault: int
    message: str


@dataclass(frozen=True, slots=True)
class Lease(Frame):
    """The sender's uplink is bringing the chunks from `first` up to, not including, `stop`; so many bytes
    came since it began. `first` = `stop`: it no longer does."""

    type: ClassVar[int] = 19
    blob: Digest
    first: int
    stop: int
    brought: int


@dataclass(frozen=True, slots=True)
class News(Frame):
    """Records that the receiver may lack. `more`: and there are others; compare again when these are taken
    in."""

    type: ClassVar[int] = 23
    items: tuple[Item, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Compare(Frame):
    """What parts of the sender's records amount to: kind, the part's name, its sum (`sums`)."""

    type: ClassVar[int] = 24
    sums: tuple[tuple[int, str, int], ...]


@dataclass(frozen=True, slots=True)
class Summary(Frame):
    """All that the sender has of these parts: kind, the part's name, keys and versions one behind the other.

    `answer`: to a summary; it calls for no other one.
    """

    type: ClassVar[int] = 25
    parts: tuple[tuple[int, str, bytes], ...]
    answer: bool


@dataclass(frozen=True, slots=True)
class Find(Frame):
    """Who holds this blob, or wants it too? `Peers` answers."""

    type: ClassVar[int] = 26
    blob: Digest
    size: int


# --- fields: each has one encoder and one total decoder ---


def _integer(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise FrameError("a number is missing or out of range")
    return value


def _count(value: Any) -> int:
    return _integer(value, BLOB_LIMIT)


def _token(value: Any) -> int:
    return _integer(value, (1 << 64) - 1)


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > TEXT_LIMIT:
        raise FrameError("a text is missing or too long")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise FrameError("a truth value is missing")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= SECONDS_LIMIT:
        raise FrameError("a time in seconds is missing or out of range")
    return float(value)


def _octets(value: Any) -> bytes:
    if type(value) is not bytes:
        raise FrameError("bytes are missing")
    return value


def _digest(value: Any) -> Digest:
    try:
        return Digest.parse_untrusted(_text(value))
    except InvalidInputError as malformed:
        raise FrameError(str(malformed)) from None


def _chunk_digest(value: Any) -> bytes:
    if len(_octets(value)) != CHUNK_DIGEST:
        raise FrameError("a chunk's digest has 32 bytes")
    return bytes(value)


def _chunk_digests(value: Any) -> bytes:
    if not _octets(value) or len(value) % CHUNK_DIGEST:
        raise FrameError("chunk digests have 32 bytes each")
    return bytes(value)


def _signature(value: Any) -> bytes:
    if len(_octets(value)) != SIGNATURE:
        raise FrameError("a signature has 64 bytes")
    return bytes(value)


def _listed(item: Callable[[Any], Any], limit: int = LIST_LIMIT) -> Callable[[Any], tuple[Any, ...]]:
    def decode(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > limit:
            raise FrameError("a list is missing or too long")
        return tuple(item(one) for one in value)

    return decode


def _record(*items: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def decode(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(items):
            raise FrameError("a record has the wrong number of fields")
        return tuple(item(one) for item, one in zip(items, value, strict=True))

    return decode


def _kind(value: Any) -> int:
    return _integer(value, KINDS_LIMIT)


def _item(value: Any) -> bytes:
    if len(_octets(value)) > ITEM_LIMIT:
        raise FrameError("a record is too large")
    return bytes(value)


def _part(value: Any) -> str:
    if len(_text(value)) > DIGITS or not set(value) <= set("0123456789abcdef"):
        raise FrameError("a part is named by up to 16 hexadecimal digits")
    return str(value)


def _leaves(value: Any) -> bytes:
    if len(_octets(value)) % (2 * KEY) or len(value) > LEAVES_LIMIT:
        raise FrameError("keys and versions have 8 bytes each")
    return bytes(value)


_addresses = _listed(_text, 16)
_source = _record(_text, _text, _flag)

_DECODERS: dict[int, tuple[type[Frame], tuple[Callable[[Any], Any], ...]]] = {
    kind.type: (kind, decoders)
    for kind, decoders in (
        (Hello, (_text, _flag, _addresses, _addresses, _count)),
        (Ping, (_token,)),
        (Pong, (_token,)),
        (Peers, (_digest, _listed(_record(_text, _addresses, _addresses), 64))),
        (Uplink, (_flag, _count)),
        (Holds, (_listed(_record(_digest, _count)),)),
        (Drops, (_listed(_digest),)),
        (Want, (_listed(_record(_digest, _count, _token, _count)), _listed(_source, 16))),
        (Unwant, (_listed(_digest),)),
        (Have, (_digest, _octets)),
        (Entries, (_digest, _text, _count, _chunk_digests, _signature)),
        (AskEntries, (_digest, _count, _octets)),
        (Request, (_digest, _listed(_record(_count, _chunk_digest), 256))),
        (Cancel, (_digest, _listed(_count))),
        (Chunk, (_digest, _count)),
        (Reject, (_digest, _count)),
        (Failed, (_digest, _token, _text)),
        (Resolve, (_text, _text, _text, _seconds)),
        (Resolved, (_text, _text, _text, _octets, _token, _text)),
        (Lease, (_digest, _count, _count, _count)),
        (News, (_listed(_record(_kind, _item), ITEMS_LIMIT), _flag)),
        (Compare, (_listed(_record(_kind, _part, _token), PARTS_LIMIT),)),
        (Summary, (_listed(_record(_kind, _part, _leaves), PARTS_LIMIT), _flag)),
        (Find, (_digest, _count)),
    )
}


def _plain(value: Any) -> Any:
    if isinstance(value, Digest):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def encode(frame: Frame, payload_length: int = 0) -> bytes:
    """The frame's bytes up to its payload, which the caller sends right behind them."""
    header = cbor2.dumps([frame.type, *(_plain(getattr(frame, field.name)) for field in fields(frame))])
    return PREFIX.pack(len(header), payload_length) + header


def decode_lengths_untrusted(prefix: bytes) -> tuple[int, int]:
    """Header and payload length of the frame that `prefix` (8 bytes) begins. Raises `FrameError`."""
    if len(prefix) != PREFIX.size:
        raise FrameError(f"a frame begins with {PREFIX.size} bytes of lengths")
    header, payload = PREFIX.unpack(prefix)
    if not 0 < header <= HEADER_LIMIT or payload > PAYLOAD_LIMIT:
        raise FrameError(f"a frame of {header} + {payload} bytes is over the limit")
    return header, payload


def decode_header_untrusted(header: bytes) -> Frame:
    """The frame in these CBOR bytes. Raises `FrameError`, and nothing else, whatever they are."""
    try:
        items = decode_cbor_untrusted(header)
    except InvalidInputError as malformed:
        raise FrameError(f"a header is {malformed}") from None
    if type(items) is not list or not items or type(items[0]) is not int or items[0] not in _DECODERS:
        raise FrameError("a frame of unknown type")
    kind, decoders = _DECODERS[items[0]]
    if len(items) != len(decoders) + 1:
        raise FrameError(f"a {kind.__name__} frame has the wrong number of fields")
    return kind(*(decode(item) for decode, item in zip(decoders, items[1:], strict=True)))


def entries_message(blob: Digest, first: int, digests: bytes) -> bytes:
    """What an author signs: these entries, for this blob, under this protocol's name."""
    return b"meshsat/entries/1\0" + cbor2.dumps([str(blob), first, digests])
