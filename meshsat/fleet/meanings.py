"""What desired tags mean on this node now, and meant before: kept over restarts, because the running version
of an image is found by it when nobody else can be asked.

Kept in `DATA/fleet/meanings.json`, replaced whole. What is lost with a damaged file is learned again: a tag
then means what the state says as soon as that can be had.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest

MEANINGS_LIMIT = 16 * 1024 * 1024
"""Bytes of the file."""
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Meaning:
    """Of one desired tag."""

    digest: Digest
    since: float
    """Unix seconds."""
    platforms: tuple[str, ...] = ()
    """That are held of it; empty: all."""
    before: tuple[Digest, ...] = ()
    """Earlier ones that are kept, the latest first."""
    dropped_at: int | None = None
    """The revision of the state from which on the tag is not desired any more; None: it is."""
    keep: int = 1

    def becomes(self, digest: Digest, now: float, platforms: tuple[str, ...], keep: int) -> "Meaning":
        before = tuple(one for one in (self.digest, *self.before) if one != digest)[:keep]
        return Meaning(digest, now, platforms, before, None, keep)


Key = tuple[str, str, str]
"""Registry, repository, tag."""


@dataclass(slots=True)
class Meanings:
    of: dict[Key, Meaning] = field(default_factory=dict)

    def encode(self) -> bytes:
        rows = [
            {
                "name": list(key),
                "digest": str(one.digest),
                "since": one.since,
                "platforms": list(one.platforms),
                "before": [str(digest) for digest in one.before],
                "dropped_at": one.dropped_at,
                "keep": one.keep,
            }
            for key, one in sorted(self.of.items())
        ]
        return json.dumps({"format": FORMAT, "meanings": rows}, indent=1).encode()


def decode_meanings_untrusted(raw: bytes) -> Meanings:
    """Raises `InvalidInputError`."""
    if len(raw) > MEANINGS_LIMIT:
        raise InvalidInputError(f"meanings of tags have at most {MEANINGS_LIMIT} bytes")
    try:
        document = json.loads(raw)
        if document["format"] != FORMAT:
            raise InvalidInputError("meanings of tags of another version of meshsat")
        return Meanings(dict(_row(row) for row in document["meanings"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as wrong:
        raise InvalidInputError(f"meanings of tags cannot be read: {type(wrong).__name__}") from None


def _row(row: Mapping[str, Any]) -> tuple[Key, Meaning]:
    registry, repository, tag = (str(word) for word in row["name"])
    dropped_at, since = row["dropped_at"], float(row["since"])
    if not 0 <= since < float("inf"):
        raise ValueError("no time")
    return (registry, repository, tag), Meaning(
        Digest.parse_untrusted(row["digest"]),
        since,
        tuple(str(word) for word in row["platforms"]),
        tuple(Digest.parse_untrusted(digest) for digest in row["before"]),
        None if dropped_at is None else int(dropped_at),
        int(row["keep"]),
    )
