"""How many bytes a frame takes on the wire, without encoding those that are sent most.

Law: the number is the length of `wire.encode(frame)`; a test holds the short cuts to it.
"""

from collections.abc import Callable
from typing import Any

from meshsat.protocol import wire

PREFIX = wire.PREFIX.size
LIST_AND_TYPE = 2
"""A header's first two bytes, where it has fewer than 24 items and its type is below 24."""


def head(number: int) -> int:
    """Bytes of a CBOR number, or of the length in front of a text, bytes or a list (RFC 8949, 3)."""
    if number < 24:
        return 1
    if number < 1 << 8:
        return 2
    if number < 1 << 16:
        return 3
    return 5 if number < 1 << 32 else 9


def text(length: int) -> int:
    return head(length) + length


def _digest(digest: Any) -> int:
    return text(len(digest.algorithm) + 1 + len(digest.hex))


def _have(frame: wire.Have) -> int:
    return PREFIX + LIST_AND_TYPE + _digest(frame.blob) + text(len(frame.bits))


def _request(frame: wire.Request) -> int:
    chunks = sum(1 + head(index) + text(len(digest)) for index, digest in frame.chunks)
    return PREFIX + LIST_AND_TYPE + _digest(frame.blob) + head(len(frame.chunks)) + chunks


def _entries(frame: wire.Entries) -> int:
    said = (
        text(len(frame.author.encode()))
        + head(frame.first)
        + text(len(frame.digests))
        + text(len(frame.signature))
    )
    return PREFIX + LIST_AND_TYPE + _digest(frame.blob) + said


def _token(frame: wire.Ping | wire.Pong) -> int:
    return PREFIX + LIST_AND_TYPE + head(frame.token)


_SHORT_CUTS: dict[type[wire.Frame], Callable[[Any], int]] = {
    wire.Have: _have,
    wire.Request: _request,
    wire.Entries: _entries,
    wire.Ping: _token,
    wire.Pong: _token,
}


_last: list[tuple[wire.Frame, int]] = [(wire.Ping(0), _token(wire.Ping(0)))]


def encoded_length(frame: wire.Frame) -> int:
    """Bytes. A frame that goes to many peers is asked for many times in a row."""
    last, length = _last[0]
    if frame is not last:
        known = _SHORT_CUTS.get(type(frame))
        length = len(wire.encode(frame)) if known is None else known(frame)
        _last[0] = (frame, length)
    return length
