"""Blobs without bytes: a name makes the digest, the digest makes the chunks' digests.

Every node of a world sees the same chunks, and a chunk is right or wrong by its digest alone.
"""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.oci.digest import Digest
from meshsat.protocol.wire import Source

SOURCE: Source = ("registry.example", "library/synthetic", False)


def digest_of(name: str) -> Digest:
    return Digest.of(name.encode())


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A blob as every node would find it."""

    digest: Digest
    cut: Cut
    chunks: tuple[bytes, ...] = field(repr=False)

    @property
    def size(self) -> int:
        return self.cut.blob_size


@lru_cache(maxsize=4096)
def synthetic(digest: Digest, size: int) -> Synthetic:
    """A blob of this digest and so many bytes. One of a single chunk is that chunk."""
    cut = Cut(FIXED_1, size)
    raw = digest.raw
    if cut.count == 1:
        return Synthetic(digest, cut, (raw,))
    chunks = tuple(hashlib.sha256(raw + index.to_bytes(4, "big")).digest() for index in range(cut.count))
    return Synthetic(digest, cut, chunks)
