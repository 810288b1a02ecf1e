"""CBOR from outside: simple values, numbers, texts, bytes, lists, maps with textual keys; no more (RFC 8949).

cbor2 does more than that by itself: it compiles a regular expression for tag 35, builds integers without end
for tag 2, and a map whose integer keys collide costs it a minute for half a megabyte. What peers send needs
none of it.
"""

from io import BytesIO
from typing import Any, NoReturn

import cbor2

from meshsat.errors import InvalidInputError

DEPTH = 6
"""Containers within containers."""
_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
"""What cbor2 gives a meaning of its own."""


def _refuse(_decoder: object, _tag: object = None) -> NoReturn:
    raise ValueError("a tag")


_REFUSED = dict.fromkeys(_TAGS, _refuse)


def decode_cbor_untrusted(data: bytes) -> Any:
    """The one value that these bytes are, in time proportional to them. Raises `InvalidInputError`."""
    try:
        decoder = cbor2.CBORDecoder(
            stream := BytesIO(data),
            max_depth=DEPTH,
            allow_indefinite=False,
            strict_hashable_types=True,
            semantic_decoders=_REFUSED,
            tag_hook=_refuse,
        )
        value = decoder.decode()
    except (cbor2.CBORError, ValueError, OverflowError, MemoryError, TypeError) as malformed:
        raise InvalidInputError(f"not plain CBOR: {type(malformed).__name__}") from None
    if stream.tell() != len(data):
        raise InvalidInputError("more than one CBOR value")
    return value
