"""Keys for a simulation: real peer ids, made from names, and signatures that cost a microsecond.

They prove nothing to anybody outside of the world that they were made in.
"""

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meshsat.trust.keys import PeerId, peer_id_of


@dataclass(frozen=True, slots=True)
class CheapKey:
    """A `Signer`."""

    peer_id: PeerId

    @classmethod
    def of(cls, name: str) -> "CheapKey":
        raw = hashlib.sha256(name.encode()).digest()
        return cls(peer_id_of(Ed25519PublicKey.from_public_bytes(raw)))

    def sign(self, data: bytes) -> bytes:
        return _seal(self.peer_id, data)


def check(peer: PeerId, signature: bytes, data: bytes) -> bool:
    """A `Verify`."""
    return signature == _seal(peer, data)


def _seal(peer: str, data: bytes) -> bytes:
    return hashlib.blake2b(data, key=peer.encode(), digest_size=64).digest()
