"""Ranges and conditions of requests (RFC 9110, 13 and 14), for representations that have a strong entity tag.

Laws: pure; total. What is malformed, of another unit, or asks for several ranges at once is answered with the
whole (RFC 9110 14.2 lets a server ignore Range); only a range that selects nothing is an error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from meshsat.errors import InvalidInputError

_RANGE = re.compile(rb"bytes[ \t]*=[ \t]*([0-9]{0,100})[ \t]*-[ \t]*([0-9]{0,100})", re.IGNORECASE)
_TAGS = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class RangeNotSatisfiableError(InvalidInputError):
    """No byte of the representation lies in the range: 416."""


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes [start, stop) of a representation of `size` bytes."""

    start: int
    stop: int
    size: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def content_range(self) -> bytes:
        """RFC 9110 14.4; only of a span that is not empty."""
        return b"bytes %d-%d/%d" % (self.start, self.stop - 1, self.size)


def parse_range_untrusted(
    lines: Sequence[bytes], if_range: Sequence[bytes], etag: bytes, size: int
) -> Span | None:
    """The one range to send, clipped to `size`; None for the whole.

    `lines` and `if_range`: the values of the request's Range and If-Range fields. Raises
    `RangeNotSatisfiableError`. A last byte before the first counts as such (the distribution conformance
    suite wants it so), although RFC 9110 14.1.1 would let us ignore it.
    """
    if len(lines) != 1 or (if_range and list(if_range) != [etag]):
        # If-Range needs a strong match; a date never matches, for we send no Last-Modified (RFC 9110 13.1.5).
        return None
    match = _RANGE.fullmatch(lines[0].strip(b" \t"))
    if match is None or match[1] == match[2] == b"":
        return None
    if not match[1]:
        start, stop = max(0, size - int(match[2])), size
    else:
        start = int(match[1])
        stop = min(size, int(match[2]) + 1) if match[2] else size
    if start >= stop:
        raise RangeNotSatisfiableError(f"no byte of {size} lies in the range asked for")
    return Span(start, stop, size)


def none_match_untrusted(lines: Sequence[bytes], etag: bytes) -> bool:
    """True if If-None-Match holds, so that the representation is to be sent (RFC 9110 13.1.2)."""
    value = b",".join(lines)
    return value.strip() != b"*" and etag not in _TAGS.findall(value)
