"""Recipe: a blob's ordered list of chunk digests, with how it was cut.

Law: a recipe from a peer is a promise, believed only as far as the blob's own digest proves it. Its encoding
is canonical: one recipe, one byte string.
"""

import hashlib
from dataclasses import dataclass
from typing import Self

import cbor2

from meshsat.cbor import decode_cbor_untrusted
from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.errors import InvalidInputError
from meshsat.oci.digest import SHA256, Digest
from meshsat.oci.fields import MAX_BLOB_SIZE

CHUNK_DIGEST_LENGTH = 32
"""Bytes of a chunk's name: raw SHA-256."""
RECIPE_LIMIT = CHUNK_DIGEST_LENGTH * Cut(FIXED_1, MAX_BLOB_SIZE).count + 1024
"""Bytes of the longest encoded recipe."""


@dataclass(frozen=True, slots=True)
class Recipe:
    blob: Digest
    cut: Cut
    chunks: tuple[bytes, ...]
    """The raw SHA-256 of every chunk, in order."""

    def __post_init__(self) -> None:
        if len(self.chunks) != self.cut.count:
            raise ValueError(f"{len(self.chunks)} chunk digests for {self.cut.count} chunks")

    @classmethod
    def of(cls, data: bytes | memoryview, algorithm: str = SHA256) -> Self:
        """The recipe of a blob in memory."""
        cut = Cut(FIXED_1, len(data))
        view = memoryview(data)
        spans = map(cut.span, range(cut.count))
        chunks = tuple(hashlib.sha256(view[offset : offset + length]).digest() for offset, length in spans)
        return cls(Digest.of(data, algorithm), cut, chunks)

    @classmethod
    def unpack(cls, blob: Digest, size: int, packed: bytes) -> Self:
        """From the chunk digests of a `fixed/1` cut, one after the other. Raises `ValueError`."""
        if len(packed) % CHUNK_DIGEST_LENGTH:
            raise ValueError(f"{len(packed)} bytes are no list of chunk digests")
        starts = range(0, len(packed), CHUNK_DIGEST_LENGTH)
        return cls(blob, Cut(FIXED_1, size), tuple(packed[at : at + CHUNK_DIGEST_LENGTH] for at in starts))

    def encode(self) -> bytes:
        fields = [self.cut.kind, str(self.blob), self.cut.blob_size, b"".join(self.chunks)]
        return cbor2.dumps(fields, canonical=True)


def self_evident(blob: Digest, size: int) -> tuple[bytes, ...] | None:
    """The chunk digests of a blob that needs no recipe: none when empty, its own when a single chunk."""
    cut = Cut(FIXED_1, size)
    if cut.count == 0:
        return ()
    return (blob.raw,) if cut.count == 1 and blob.algorithm == SHA256 else None


def decode_recipe_untrusted(data: bytes) -> Recipe:
    """A recipe as `Recipe.encode` wrote it, at most `RECIPE_LIMIT` bytes. Raises `InvalidInputError`."""
    if len(data) > RECIPE_LIMIT:
        raise InvalidInputError(f"recipe: {len(data)} bytes, more than {RECIPE_LIMIT}")
    try:
        fields = decode_cbor_untrusted(data)
    except InvalidInputError as fault:
        raise InvalidInputError(f"recipe: {fault}") from None
    match fields:
        case [str(kind), str(blob_text), int(size), bytes(packed)]:
            pass
        case _:
            raise InvalidInputError("recipe: not [cut, blob, size, chunk digests]")
    if kind != FIXED_1 or not 0 <= size <= MAX_BLOB_SIZE:
        raise InvalidInputError(f"recipe: no cut {kind[:40]!r} of {size} bytes")
    blob = Digest.parse_untrusted(blob_text)
    try:
        recipe = Recipe.unpack(blob, size, packed)
    except ValueError as fault:
        raise InvalidInputError(f"recipe: {fault}") from None
    evident = self_evident(blob, size)
    if recipe.encode() != data or (evident is not None and evident != recipe.chunks):
        raise InvalidInputError("recipe: not as we write it, or against its own blob digest")
    return recipe
