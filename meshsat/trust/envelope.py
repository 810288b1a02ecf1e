"""Envelope: a payload sealed by a member's key, so that anybody may carry it and nobody can change it.

A context string is part of what is signed: a signature made for one purpose is worth nothing for another.
The envelope proves who wrote the payload, not that the author may say so: that is the caller's matter.
"""

from dataclasses import dataclass

import cbor2

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import InvalidInputError
from meshsat.trust.keys import PeerId, Signer, Verify, parse_peer_id_untrusted, verify

SIZE_LIMIT = 1 << 20
"""Bytes of an encoded envelope."""


class EnvelopeError(InvalidInputError):
    """Not an envelope, or not sealed by the author that it names."""


@dataclass(frozen=True, slots=True)
class Envelope:
    author: PeerId
    payload: bytes
    signature: bytes


def _signed(context: str, author: PeerId, payload: bytes) -> bytes:
    return b"meshsat/envelope/1\0" + cbor2.dumps([context, author, payload])


def seal(key: Signer, context: str, payload: bytes) -> bytes:
    """The encoded envelope of `payload`, signed by `key` for this context only."""
    signature = key.sign(_signed(context, key.peer_id, payload))
    return cbor2.dumps([key.peer_id, payload, signature])


def open_untrusted(data: bytes, context: str, check: Verify = verify) -> Envelope:
    """The envelope in these bytes, its signature checked by `check`. Raises `EnvelopeError`."""
    if len(data) > SIZE_LIMIT:
        raise EnvelopeError(f"an envelope of {len(data)} bytes is over the limit of {SIZE_LIMIT}")
    try:
        items = decode_cbor_untrusted(data)
    except InvalidInputError:
        raise EnvelopeError("an envelope is CBOR, and this is not") from None
    if type(items) is not list or [type(item) for item in items] != [str, bytes, bytes]:
        raise EnvelopeError("an envelope is an author, a payload and a signature")
    try:
        author = parse_peer_id_untrusted(items[0])
    except InvalidInputError:
        raise EnvelopeError("an envelope's author is a peer id, and this is not") from None
    if not check(author, items[2], _signed(context, author, items[1])):
        raise EnvelopeError(f"an envelope was not sealed by {author} for this purpose")
    return Envelope(author, items[1], items[2])
