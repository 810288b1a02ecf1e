"""A fleet that signs desired states, for tests: real keys, real signatures, whatever mistake is asked for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshsat.oci.digest import Digest
from meshsat.trust.dsse import Signed, encode_signed, sign
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import DAY
from meshsat.trust.state_documents import Document, Head, Role, Root, unsigned
from meshsat.trust.trusted_state import TrustedState

NOW = 1_800_000_000
GRACE = 30 * DAY
BODY = b'{"images":[]}'


def key_of(name: str) -> NodeKey:
    """The same key for the same name."""
    return NodeKey.from_private(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


def role(*names: str, threshold: int = 1) -> Role:
    return Role(frozenset(key_of(name).peer_id for name in names), threshold)


def sealed(document: Document, *signers: str) -> bytes:
    signed = unsigned(document)
    for name in signers:
        signed = sign(signed, key_of(name))
    return encode_signed(signed)


def resigned(signed: Signed, *signers: str) -> bytes:
    for name in signers:
        signed = sign(signed, key_of(name))
    return encode_signed(signed)


@dataclass
class Signers:
    """Whose names stand for keys: `anchor` is the fleet's root key. `root` and `state`: the roles."""

    fleet: str = "acme-" + "0" * 20
    anchor: str = "anchor"
    root: Role = field(default_factory=lambda: role("r1", "r2", threshold=2))
    state: Role = field(default_factory=lambda: role("s1", "s2", "s3", threshold=2))

    def trusted(self, grace: float = GRACE) -> TrustedState:
        return TrustedState(self.fleet, key_of(self.anchor).peer_id, grace)

    def root_of(self, version: int = 1, **changes: object) -> Root:
        one = Root(self.fleet, version, NOW, NOW + int(365 * DAY), self.root, self.state)
        return replace(one, **changes)  # type: ignore[arg-type]

    def head_of(self, version: int = 1, body: bytes = BODY, **changes: object) -> Head:
        one = Head(self.fleet, version, 1, NOW, NOW + int(90 * DAY), Digest.of(body), len(body))
        return replace(one, **changes)  # type: ignore[arg-type]

    def first(self) -> bytes:
        return sealed(self.root_of(), "anchor", "r1", "r2")

    def head(self, version: int = 1, by: Sequence[str] = ("s1", "s2"), **changes: object) -> bytes:
        return sealed(self.head_of(version, **changes), *by)  # type: ignore[arg-type]
