"""Ed25519 keys and the peer ids that name them.

A node has one key; its peer id is libp2p's, so both planes and every record name a node alike: base58 of the
identity multihash of the key's protobuf (libp2p peer-ids specification), `12D3KooW...`. The public key can
be read back out of the peer id: whoever knows the name can check the signature, without asking anybody.

Keys are made from the operating system's randomness. Where they are kept is `mesh/identity.py`'s business.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NewType, Protocol, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from meshsat.errors import InvalidInputError

PeerId = NewType("PeerId", str)
"""A peer id in its text form, canonical: two are the same key exactly when the strings are equal."""

Verify = Callable[[PeerId, bytes, bytes], bool]
"""`verify`, or a simulation's twin of it: whether a peer signed, with this signature, these data."""

SIGNATURE_LENGTH = 64
PEER_ID_LENGTH = 52
"""Characters; the first bytes are fixed, so every Ed25519 peer id has the same length."""

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# Multihash: code 0x00 (identity), length 0x24; protobuf PublicKey: Type (1) = Ed25519 (1), Data (2) of 32
# bytes.
_PREFIX = bytes.fromhex("002408011220")
_PEM_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class NodeKey:
    """A private key. Its `repr` shows the peer id only."""

    private: Ed25519PrivateKey = field(repr=False, compare=False)
    peer_id: PeerId

    @classmethod
    def generate(cls) -> Self:
        return cls.from_private(Ed25519PrivateKey.generate())

    @classmethod
    def from_private(cls, private: Ed25519PrivateKey) -> Self:
        return cls(private, peer_id_of(private.public_key()))

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: bytes | None = None) -> Self:
        """Read a PKCS #8 PEM (RFC 8410), encrypted where there is a `passphrase`.

        Raises `InvalidInputError`; the text is never part of it.
        """
        try:
            private = load_pem_private_key(pem[:_PEM_LIMIT], password=passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            if passphrase is not None:
                raise InvalidInputError("not a private key in PEM, or another passphrase") from None
            raise InvalidInputError("not an unencrypted private key in PEM") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise InvalidInputError("the private key is not an Ed25519 key")
        return cls.from_private(private)

    def to_pem(self, passphrase: bytes | None = None) -> bytes:
        how = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)

    def sign(self, data: bytes) -> bytes:
        """64 bytes, RFC 8032. What is signed should begin with a context string: see `envelope.py`."""
        return self.private.sign(data)

    @property
    def public(self) -> Ed25519PublicKey:
        return self.private.public_key()


def is_encrypted(pem: bytes) -> bool:
    """Whether a private key in PEM takes a passphrase."""
    return b"BEGIN ENCRYPTED PRIVATE KEY" in pem[:_PEM_LIMIT]


class Signer(Protocol):
    """A `NodeKey`, as far as whoever seals a record needs it."""

    @property
    def peer_id(self) -> PeerId: ...

    def sign(self, data: bytes) -> bytes: ...


def peer_id_of(public: Ed25519PublicKey) -> PeerId:
    return PeerId(_base58(_PREFIX + public.public_bytes_raw()))


@lru_cache(maxsize=4096)
def public_key_of(peer: PeerId) -> Ed25519PublicKey:
    """The key in a peer id. Raises `InvalidInputError` where `peer` is none."""
    number = 0
    if len(peer) != PEER_ID_LENGTH:
        raise InvalidInputError("a peer id of an Ed25519 key has 52 characters")
    for character in peer:
        value = _BASE58.find(character)
        if value < 0:
            raise InvalidInputError("a peer id is written in base58")
        number = number * 58 + value
    length = len(_PREFIX) + 32
    # 52 digits can say more than 38 bytes hold; the leading zero byte is the leading "1".
    if number >> (8 * length):
        raise InvalidInputError("not the peer id of an Ed25519 key")
    raw = number.to_bytes(length, "big")
    if not raw.startswith(_PREFIX) or _base58(raw) != peer:
        raise InvalidInputError("not the peer id of an Ed25519 key")
    return Ed25519PublicKey.from_public_bytes(raw[len(_PREFIX) :])


def parse_peer_id_untrusted(text: object) -> PeerId:
    """A peer id out of text from outside. Raises `InvalidInputError`."""
    if not isinstance(text, str):
        raise InvalidInputError("a peer id is text")
    public_key_of(PeerId(text))
    return PeerId(text)


def verify(peer: PeerId, signature: bytes, data: bytes) -> bool:
    """Whether `peer` signed `data`."""
    try:
        public_key_of(peer).verify(signature, data)
    except (InvalidSignature, InvalidInputError):
        return False
    return True


def _base58(raw: bytes) -> str:
    number = int.from_bytes(raw, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))
