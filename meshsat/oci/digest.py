"""Digest: `ALGORITHM:HEX`, the name of a blob (OCI image-spec 1.1, descriptor.md, "Digests").

Law: one content has one spelling a digest; upper-case hex, other algorithms and other lengths are refused at
the edge.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol, Self

from meshsat.errors import InvalidInputError

SHA256 = "sha256"
SHA512 = "sha512"
ALGORITHMS = (SHA256, SHA512)

_HEX_LENGTH = {SHA256: 64, SHA512: 128}
_LOWER_HEX = re.compile(r"[0-9a-f]+")


class Hasher(Protocol):
    """What `hashlib` gives: fed in pieces, asked at the end."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    algorithm: str
    hex: str

    @classmethod
    def parse_untrusted(cls, text: object) -> Self:
        """`sha256:<64 lower-case hex>` or `sha512:<128>`. Raises `InvalidInputError`."""
        if not isinstance(text, str) or len(text) > 256:
            raise InvalidInputError("digest: not a text of at most 256 characters")
        algorithm, colon, digits = text.partition(":")
        if not colon or algorithm not in _HEX_LENGTH:
            raise InvalidInputError(f"digest {text!r}: must begin with sha256: or sha512:")
        if len(digits) != _HEX_LENGTH[algorithm] or not _LOWER_HEX.fullmatch(digits):
            raise InvalidInputError(f"digest {text!r}: needs {_HEX_LENGTH[algorithm]} lower-case hex digits")
        return cls(algorithm, digits)

    @classmethod
    def of(cls, data: bytes | memoryview, algorithm: str = SHA256) -> Self:
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    @classmethod
    def of_sha256(cls, raw: bytes) -> Self:
        """The digest whose 32 raw bytes are known already."""
        return cls(SHA256, raw.hex())

    @property
    def raw(self) -> bytes:
        return bytes.fromhex(self.hex)

    def hasher(self) -> Hasher:
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes | memoryview) -> bool:
        return hashlib.new(self.algorithm, data).hexdigest() == self.hex

    def __hash__(self) -> int:
        return hash(self.hex)  # a text keeps its hash, a tuple of two does not

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
