"""What the two ends of a control stream say first: the pass, and the protocol that is wanted.

The caller speaks first; the called answers only a valid pass, so that a stranger learns nothing, not even
ours. Noise has proved the key of either side; the greeting proves that the key belongs to a member.

On the wire, numbers big-endian: length of the rest (2 bytes); number of certificates (1), each as length
(2) and DER, the pass first; the protocol's id to the end. An answer repeats the protocol, or leaves it empty:
not served here. The caller, content with the answer, says `CONTENT`; only then is the stream handled.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from meshsat.errors import InvalidInputError
from meshsat.mesh.transport import StreamBroken
from meshsat.trust.passes import CERTIFICATE_LIMIT, CHAIN_LIMIT

LENGTH = struct.Struct("!H")
CONTENT = b"\x01"
PROTOCOL_LIMIT = 64
"""Characters."""
GREETING_LIMIT = 1 + CHAIN_LIMIT * (LENGTH.size + CERTIFICATE_LIMIT) + PROTOCOL_LIMIT
"""Bytes, without the leading length."""


class Source(Protocol):
    async def receive_into(self, buffer: memoryview) -> int: ...


@dataclass(frozen=True, slots=True)
class Greeting:
    chain: tuple[bytes, ...]
    """DER, the pass first. Not verified."""
    protocol: str


def encode_greeting(chain: Sequence[bytes], protocol: str) -> bytes:
    """The whole greeting, its length in front."""
    certificates = b"".join(LENGTH.pack(len(der)) + der for der in chain)
    body = bytes([len(chain)]) + certificates + protocol.encode("ascii")
    return LENGTH.pack(len(body)) + body


def greeting_length_untrusted(head: bytes) -> int:
    """How many bytes follow `head`, the first `LENGTH.size`. Raises `InvalidInputError`."""
    if len(head) != LENGTH.size:
        raise InvalidInputError("the stream ended before a greeting")
    length = int(LENGTH.unpack(head)[0])
    if not 0 < length <= GREETING_LIMIT:
        raise InvalidInputError(f"a greeting has 1 to {GREETING_LIMIT} bytes")
    return length


def parse_greeting_untrusted(body: bytes) -> Greeting:
    """Read a greeting, without its length. Raises `InvalidInputError`."""
    if not 0 < len(body) <= GREETING_LIMIT:
        raise InvalidInputError(f"a greeting has 1 to {GREETING_LIMIT} bytes")
    count, at = body[0], 1
    if not 1 <= count <= CHAIN_LIMIT:
        raise InvalidInputError(f"a greeting has 1 to {CHAIN_LIMIT} certificates")
    chain: list[bytes] = []
    for _ in range(count):
        head = body[at : at + LENGTH.size]
        if len(head) != LENGTH.size:
            raise InvalidInputError("a greeting ends within its certificates")
        length = int(LENGTH.unpack(head)[0])
        at += LENGTH.size
        if not 0 < length <= CERTIFICATE_LIMIT or len(body) - at < length:
            raise InvalidInputError("a greeting's certificate is too long")
        chain.append(body[at : at + length])
        at += length
    protocol = body[at:]
    if len(protocol) > PROTOCOL_LIMIT or not all(0x21 <= octet <= 0x7E for octet in protocol):
        raise InvalidInputError(f"a protocol id is up to {PROTOCOL_LIMIT} printable ASCII characters")
    return Greeting(tuple(chain), protocol.decode("ascii"))


async def read_greeting_untrusted(source: Source) -> Greeting:
    """The greeting at the front of a stream; the caller sets the deadline.

    Raises `InvalidInputError`, `StreamBroken`.
    """
    head = bytearray(LENGTH.size)
    await source.receive_into(memoryview(head))
    body = bytearray(greeting_length_untrusted(bytes(head)))
    if await source.receive_into(memoryview(body)) < len(body):
        raise StreamBroken("the stream ended within a greeting")
    return parse_greeting_untrusted(bytes(body))


async def read_content_untrusted(source: Source) -> None:
    """The caller's last word. Raises `InvalidInputError`, `StreamBroken`."""
    word = bytearray(len(CONTENT))
    if await source.receive_into(memoryview(word)) < len(CONTENT):
        raise StreamBroken("the caller did not accept our greeting")
    if word != CONTENT:
        raise InvalidInputError("a greeting is accepted in another way")
