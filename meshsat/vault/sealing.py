"""How a secret is sealed: bytes that only the machine's key opens, and only as what they were sealed as.

    MAGIC  16 bytes  names this format
    key    8         which machine key it is for, told without telling the key
    salt   16        by chance, for HKDF
    nonce  12        by chance
    AES-256-GCM (NIST SP 800-38D) of the plaintext, its tag behind it

HKDF-SHA256 (RFC 5869) makes the cipher's key of the machine's, the salt, the purpose and the name, so no two
seals share one. Everything before the ciphertext, purpose and name are its associated data: what was sealed
for one registry does not open for another, whatever file it is moved to.
Law: no secret is in an error or in a repr.
"""

import os
import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from meshsat.errors import InvalidInputError

MAGIC = b"meshsat sealed 1"
KEY_LENGTH = 32
"""Bytes of a machine key at least."""
KEY_LIMIT = 4096
"""Bytes of a machine key at most."""
SEALED_LIMIT = 64 * 1024
"""Bytes of what is sealed, header and tag with it."""

_ID, _SALT, _NONCE, _TAG = 8, 16, 12, 16
_HEADER = len(MAGIC) + _ID + _SALT + _NONCE


class UnsealError(InvalidInputError):
    """Nothing that this key opens as what was asked for."""


@dataclass(frozen=True, slots=True)
class MachineKey:
    """A key of this machine's. `source` says where it is from, for people."""

    secret: bytes = field(repr=False)
    source: str

    @property
    def id(self) -> bytes:
        return _derive(self.secret, b"", b"meshsat machine key's id", _ID)


def seal(key: MachineKey, purpose: str, name: str, plaintext: bytes) -> bytes:
    """`purpose` and `name` are needed to open it, and are not in it. Raises `UnsealError`: too long."""
    if len(plaintext) + _HEADER + _TAG > SEALED_LIMIT:
        raise UnsealError(f"a secret of {len(plaintext)} bytes is too long")
    header = MAGIC + key.id + os.urandom(_SALT + _NONCE)
    cipher = AESGCM(_cipher_key(key, header, purpose, name))
    return header + cipher.encrypt(header[-_NONCE:], plaintext, _associated(header, purpose, name))


def key_id_untrusted(sealed: bytes) -> bytes:
    """The id of the key that it is for. Raises `UnsealError`."""
    if not sealed.startswith(MAGIC):
        raise UnsealError("it is nothing that was sealed by this version of meshsat")
    if not _HEADER + _TAG <= len(sealed) <= SEALED_LIMIT:
        raise UnsealError("it is cut short, or longer than it can be")
    return sealed[len(MAGIC) : len(MAGIC) + _ID]


def open_untrusted(key: MachineKey, purpose: str, name: str, sealed: bytes) -> bytes:
    """The plaintext. Raises `UnsealError`."""
    if key_id_untrusted(sealed) != key.id:
        raise UnsealError("it was sealed with another machine key")
    header = sealed[:_HEADER]
    cipher = AESGCM(_cipher_key(key, header, purpose, name))
    try:
        return cipher.decrypt(header[-_NONCE:], sealed[_HEADER:], _associated(header, purpose, name))
    except InvalidTag:
        raise UnsealError("it was changed, or sealed for something else") from None


def _cipher_key(key: MachineKey, header: bytes, purpose: str, name: str) -> bytes:
    return _derive(key.secret, header[-_SALT - _NONCE : -_NONCE], _associated(MAGIC, purpose, name), 32)


def _associated(header: bytes, purpose: str, name: str) -> bytes:
    parts = (header, purpose.encode(), name.encode())
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _derive(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(secret)
