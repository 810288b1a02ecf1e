"""Cut: where the chunks and segments of a blob begin and end.

`fixed/1` is a function of the size alone: every node derives the same cut from a descriptor, any range can be
cut by itself, and several uplinks work on one blob at once. Law: these numbers never change; another cut is
another kind.
"""

from dataclasses import dataclass, field

FIXED_1 = "fixed/1"
MIN_CHUNK = 256 * 1024
MAX_CHUNK = 4 * 1024 * 1024
MANY_CHUNKS = 4096
"""Chunks grow until there are no more than these, or until they are `MAX_CHUNK` long."""
SEGMENT = 16 * 1024 * 1024
"""Bytes of what one uplink fetches under one lease. A whole number of chunks, whatever their length."""


def chunk_length(blob_size: int) -> int:
    """Bytes of every chunk but the last in a blob of `blob_size` bytes."""
    length = MIN_CHUNK
    while length < MAX_CHUNK and length * MANY_CHUNKS < blob_size:
        length *= 2
    return length


@dataclass(frozen=True, slots=True)
class Cut:
    kind: str
    blob_size: int
    """Bytes."""
    chunk_length: int = field(init=False)
    count: int = field(init=False)
    """Number of chunks; an empty blob has none."""

    def __post_init__(self) -> None:
        if self.kind != FIXED_1 or self.blob_size < 0:
            raise ValueError(f"no cut {self.kind!r} of {self.blob_size} bytes")
        length = chunk_length(self.blob_size)
        object.__setattr__(self, "chunk_length", length)
        object.__setattr__(self, "count", -(-self.blob_size // length))

    @property
    def segments(self) -> int:
        """Number of segments."""
        return -(-self.blob_size // SEGMENT)

    def span(self, index: int) -> tuple[int, int]:
        """Offset and length in bytes of a chunk. Raises `IndexError`."""
        if not 0 <= index < self.count:
            raise IndexError(f"chunk {index} of {self.count}")
        offset = index * self.chunk_length
        return offset, min(self.chunk_length, self.blob_size - offset)

    def covering(self, start: int, stop: int) -> range:
        """The chunks that hold any of the bytes from `start` up to `stop`."""
        start, stop = max(start, 0), min(stop, self.blob_size)
        if start >= stop:
            return range(0)
        return range(start // self.chunk_length, -(-stop // self.chunk_length))

    def segment_of(self, index: int) -> int:
        """The segment that a chunk lies in. Raises `IndexError`."""
        return self.span(index)[0] // SEGMENT

    def segment(self, number: int) -> range:
        """The chunks of a segment. Raises `IndexError`."""
        if not 0 <= number < self.segments:
            raise IndexError(f"segment {number} of {self.segments}")
        return self.covering(number * SEGMENT, (number + 1) * SEGMENT)
