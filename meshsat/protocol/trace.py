"""What a machine was told and when, as bytes: a trace that another machine can be run over.

A trace is `MAGIC`, then entries, each a big-endian 32-bit length and CBOR. First the settings, the seed of
the random generator and the version; then each event with its time, what the key signed for it (whoever
replays has not the key) and a running hash of all effects so far; at last why it ends. Between them stands
what else the machine was given: its own addresses, and records that came by gossip.

It holds names of images, peers and addresses. It holds no key, token, credential or content: none of these
ever enters the machine. What is signed, by this node or by others, is public among the fleet's members.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import cbor2

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import InvalidInputError
from meshsat.protocol.effects import Effect
from meshsat.protocol.events import Event
from meshsat.protocol.gossip import ImageRecord
from meshsat.protocol.machine import Settings
from meshsat.protocol.plain import form_of, outline
from meshsat.trust.keys import SIGNATURE_LENGTH

MAGIC = b"meshsat trace 1\n"
ENTRY_LIMIT = 16 << 20
"""Bytes of one entry."""
HASH_LENGTH = 6
LENGTH = struct.Struct("!I")

KINDS: tuple[type, ...] = get_args(Event)
_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}
_EVENT_FORMS = [form_of(kind) for kind in KINDS]
_EFFECT_FORMS = {kind: (number, form_of(kind)) for number, kind in enumerate(get_args(Effect))}
_SCHEMA = hashlib.sha256(outline((*KINDS, *get_args(Effect), Settings)).encode()).digest()[:8]
"""Changes when an event, an effect or a setting does: a trace means nothing to another set of them."""


class TraceError(InvalidInputError):
    """Not a trace that this version can read."""


@dataclass(frozen=True, slots=True)
class Started:
    """The first entry."""

    version: str
    """Of meshsat."""
    seed: bytes
    """Of the machine's random generator: `random.Random(seed)`."""
    settings: Settings


@dataclass(frozen=True, slots=True)
class Happened:
    """The machine was given `event` at `at` (monotonic seconds)."""

    at: float
    event: Event
    effects: bytes
    """The running hash behind it; empty where the machine failed."""
    signatures: tuple[bytes, ...] = ()
    """What the node's key signed meanwhile, in that order."""


@dataclass(frozen=True, slots=True)
class Addressed:
    """The shell set the machine's own addresses."""

    control: tuple[str, ...]
    bulk: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Learned:
    """Records came to the machine beside its events: from the disk, or by gossip."""

    records: tuple[ImageRecord, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The last entry."""

    reason: str


Entry = Started | Happened | Addressed | Learned | Ended

_STARTED, _HAPPENED, _ADDRESSED, _LEARNED, _ENDED = range(5)
_SETTINGS = form_of(Settings)
_ADDRESSED_FORM = form_of(Addressed)
_LEARNED_FORM = form_of(Learned)
CUT = Ended("the trace ends in the middle of an entry: the node was killed, or the disk was full")
OPEN = Ended("the trace has no end: the node was killed, or still runs")


class EffectsHash:
    """The running hash of what a machine did."""

    def __init__(self) -> None:
        self.value = bytes(HASH_LENGTH)

    def add(self, done: Iterable[Effect]) -> bytes:
        rows = [_row(effect) for effect in done]
        if rows:
            whole = self.value + cbor2.dumps(rows)
            self.value = hashlib.blake2b(whole, digest_size=HASH_LENGTH).digest()
        return self.value


def _row(effect: Effect) -> list[Any]:
    number, form = _EFFECT_FORMS[type(effect)]
    return [number, form.write(effect)]


def encode(entry: Entry) -> bytes:
    """The bytes of one entry. `Started` begins a trace, and has `MAGIC` before it."""
    match entry:
        case Started():
            row = [_STARTED, entry.version, _SCHEMA, entry.seed, _SETTINGS.write(entry.settings)]
            body = cbor2.dumps(row)
            return MAGIC + LENGTH.pack(len(body)) + body
        case Happened():
            number = _NUMBERS[type(entry.event)]
            event, signed = _EVENT_FORMS[number].write(entry.event), b"".join(entry.signatures)
            row = [_HAPPENED, entry.at, number, event, entry.effects, signed]
        case Addressed():
            row = [_ADDRESSED, _ADDRESSED_FORM.write(entry)]
        case Learned():
            row = [_LEARNED, _LEARNED_FORM.write(entry)]
        case Ended():
            row = [_ENDED, entry.reason]
    body = cbor2.dumps(row)
    return LENGTH.pack(len(body)) + body


def decode_untrusted(data: bytes) -> Iterator[Entry]:
    """The entries of a trace, `Started` first and `Ended` last; where the trace just stops, `CUT` or `OPEN`.

    Raises `TraceError`, at the entry that is wrong.
    """
    if not data.startswith(MAGIC):
        raise TraceError("not a trace: it does not begin as `meshsat node --record` begins one")
    offset, number = len(MAGIC), 0
    while offset + LENGTH.size <= len(data):
        (length,) = LENGTH.unpack_from(data, offset)
        start = offset + LENGTH.size
        if length > ENTRY_LIMIT:
            raise TraceError(f"entry {number} has {length} bytes, over the limit of {ENTRY_LIMIT}")
        if start + length > len(data):
            break
        entry = _entry(data[start : start + length], number)
        offset = start + length
        if isinstance(entry, Ended) and offset != len(data):
            raise TraceError(f"entry {number} says that the trace ends, but more follows")
        yield entry
        if isinstance(entry, Ended):
            return
        number += 1
    if number == 0:
        raise TraceError("the trace has no first entry")
    yield OPEN if offset == len(data) else CUT


def _entry(body: bytes, number: int) -> Entry:
    try:
        return _read(decode_cbor_untrusted(body), first=number == 0)
    except InvalidInputError as malformed:
        raise TraceError(f"entry {number} of the trace: {malformed}") from None


def _read(row: Any, *, first: bool) -> Entry:
    entry: Entry
    match row:
        case [int(kind), *_] if (kind == _STARTED) != first:
            raise InvalidInputError("the settings stand first, and only there")
        case [0, str(version), bytes(schema), bytes(seed), settings]:
            if schema != _SCHEMA:
                raise InvalidInputError(
                    f"meshsat {version[:40]} recorded it, with other events than this version has: "
                    "replay it with the version that recorded it"
                )
            entry = Started(version, seed, _SETTINGS.read(settings))
        case [1, float(at), int(number), event, bytes(done), bytes(signed)]:
            if not float("-inf") < at < float("inf") or not 0 <= number < len(KINDS):
                raise InvalidInputError("an event has no time, or is of no known kind")
            if len(done) not in (0, HASH_LENGTH):
                raise InvalidInputError(f"a hash of effects has {HASH_LENGTH} bytes")
            if len(signed) % SIGNATURE_LENGTH:
                raise InvalidInputError(f"a signature has {SIGNATURE_LENGTH} bytes")
            starts = range(0, len(signed), SIGNATURE_LENGTH)
            signatures = tuple(signed[start : start + SIGNATURE_LENGTH] for start in starts)
            entry = Happened(at, _EVENT_FORMS[number].read(event), done, signatures)
        case [2, addressed]:
            entry = _ADDRESSED_FORM.read(addressed)
        case [3, learned]:
            entry = _LEARNED_FORM.read(learned)
        case [4, str(reason)]:
            entry = Ended(reason)
        case _:
            raise InvalidInputError("it is of no known kind, or has the wrong fields")
    return entry
