"""What a set of records amounts to, part by part, so that two nodes find where theirs differ with few bytes.

Each record is a leaf: eight bytes for its key, eight for what it says. A part is named by the first
hexadecimal digits of the keys in it; its sum is the exclusive or of its leaves, kept up to date for short
names. Equal sums are taken for equal parts: members could make theirs collide, and would keep records from
nobody but themselves.
"""

import hashlib
from collections.abc import Mapping

KEY = 8
"""Bytes of a key, and of a version."""
DIGITS = 2 * KEY
_KEPT = 2
"""Digits of the longest name whose sum is kept; longer ones are computed from one such part's leaves."""


def leaf_key(*fields: str) -> bytes:
    """What a record is found under."""
    return hashlib.blake2b("\0".join(fields).encode(), digest_size=KEY).digest()


def leaf_version(data: bytes) -> bytes:
    """What it says."""
    return hashlib.blake2b(data, digest_size=KEY).digest()


def _leaf(key: bytes, version: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key + version, digest_size=KEY).digest())


class Sums:
    def __init__(self) -> None:
        self._parts: dict[str, dict[bytes, bytes]] = {}
        self._sums: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    def put(self, key: bytes, version: bytes) -> None:
        part = self._parts.setdefault(key.hex()[:_KEPT], {})
        old = part.get(key)
        if old != version:
            part[key] = version
            self._count(key, (0 if old is None else _leaf(key, old)) ^ _leaf(key, version), int(old is None))

    def drop(self, key: bytes) -> None:
        old = self._parts.get(key.hex()[:_KEPT], {}).pop(key, None)
        if old is not None:
            self._count(key, _leaf(key, old), -1)

    def _count(self, key: bytes, change: int, more: int) -> None:
        name = key.hex()
        for digits in range(_KEPT + 1):
            part = name[:digits]
            self._sums[part] = self._sums.get(part, 0) ^ change
            self._counts[part] = self._counts.get(part, 0) + more

    def version(self, key: bytes) -> bytes | None:
        return self._parts.get(key.hex()[:_KEPT], {}).get(key)

    def leaves(self, part: str) -> Mapping[bytes, bytes]:
        """Keys and versions of all whose key begins with these digits."""
        if len(part) == _KEPT:
            return self._parts.get(part, {})
        if len(part) > _KEPT:
            leaves = self._parts.get(part[:_KEPT], {})
            return {key: version for key, version in leaves.items() if key.hex().startswith(part)}
        parts = (leaves for name, leaves in self._parts.items() if name.startswith(part))
        return {key: version for leaves in parts for key, version in leaves.items()}

    def count(self, part: str) -> int:
        return self._counts.get(part, 0) if len(part) <= _KEPT else len(self.leaves(part))

    def sum(self, part: str) -> int:
        if len(part) <= _KEPT:
            return self._sums.get(part, 0)
        total = 0
        for key, version in self.leaves(part).items():
            total ^= _leaf(key, version)
        return total


def children(part: str) -> tuple[str, ...]:
    return tuple(f"{part}{digit:x}" for digit in range(16))
