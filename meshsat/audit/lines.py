"""The form of the audit log: one JSON object a line, each with the hash of the line before it.

    {"time":"2026-08-01T10:11:12.345Z","seq":7,"event":"credential.create",
     "actor":{"kind":"operator","id":"uid:0","address":"pid:4711"},
     "object":"harbor.example.com","outcome":"success","prev":"<64 hex>"}

`prev` is the SHA-256 of the bytes of the line before, without its end; of the first line ever, 64 zeros. So a
line that was changed, taken out or put in between shows, unless all lines behind it are written anew too.
Everything outside printable ASCII is escaped: no field can begin a line, or move a terminal's cursor.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from meshsat.audit.event import Actor, Entry
from meshsat.errors import InvalidInputError

LINE_LIMIT = 16 * 1024
"""Bytes of a line; the limits below keep each one under it."""
EVENT_LIMIT, ID_LIMIT, ADDRESS_LIMIT, OBJECT_LIMIT, REASON_LIMIT = 64, 256, 128, 512, 512
"""Characters."""
FIRST_PREV = "0" * 64

_HASH = re.compile(r"[0-9a-f]{64}")
_KINDS = frozenset({"operator", "client", "peer", "node", "upstream"})
_OUTCOMES = frozenset({"success", "failure"})


@dataclass(frozen=True, slots=True)
class Line:
    """One that was read."""

    seq: int
    prev: str
    time: str
    entry: Entry
    """Its `at` is not read back: 0."""


def encode(entry: Entry, seq: int, prev: str) -> bytes:
    """The line, without its end."""
    actor = {
        "kind": entry.actor.kind,
        "id": _cut(entry.actor.id, ID_LIMIT),
        "address": _cut(entry.actor.address, ADDRESS_LIMIT),
    }
    told: dict[str, Any] = {
        "time": when(entry.at),
        "seq": seq,
        "event": _cut(entry.event, EVENT_LIMIT),
        "actor": {key: value for key, value in actor.items() if value},
        "object": _cut(entry.object, OBJECT_LIMIT),
        "outcome": entry.outcome,
    }
    if entry.reason:
        told["reason"] = _cut(entry.reason, REASON_LIMIT)
    told["prev"] = prev
    return json.dumps(told, separators=(",", ":")).encode("ascii")


def hash_of(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def parse_line_untrusted(line: bytes) -> Line:
    """Raises `InvalidInputError`."""
    if len(line) > LINE_LIMIT:
        raise InvalidInputError(f"longer than {LINE_LIMIT} bytes")
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidInputError("not JSON") from None
    match told:
        case {
            "time": str(time),
            "seq": int(seq),
            "event": str(event),
            "actor": {"kind": str(kind), **who},
            "object": str(target),
            "outcome": str(outcome),
            "prev": str(prev),
        } if kind in _KINDS and outcome in _OUTCOMES and seq > 0 and _HASH.fullmatch(prev):
            reason = told.get("reason", "")
            known = who.get("id", ""), who.get("address", "")
            if not all(isinstance(text, str) for text in (reason, *known)):
                raise InvalidInputError("not a line of an audit log")
            actor = Actor(kind, *known)  # type: ignore[arg-type]  # one of _KINDS
            entry = Entry(0.0, event, actor, target, outcome, reason)  # type: ignore[arg-type]
            return Line(seq, prev, time, entry)
    raise InvalidInputError("not a line of an audit log")


def when(at: float) -> str:
    """RFC 3339, UTC, milliseconds. A time that no calendar has is told as its beginning."""
    try:
        moment = datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        moment = datetime.fromtimestamp(0, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def readable(line: Line) -> str:
    """For people, on one line of printable characters."""
    entry = line.entry
    who = " ".join(part for part in (entry.actor.kind, entry.actor.id, entry.actor.address) if part)
    reason = f"  ({entry.reason})" if entry.reason else ""
    text = f"{line.time}  {entry.event}  {entry.outcome}  {entry.object}  by {who}{reason}"
    return "".join(character if character.isprintable() else "?" for character in text)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
