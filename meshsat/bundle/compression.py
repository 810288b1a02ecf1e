"""Archives that are compressed: zstd and gzip read, zstd written.

Laws: what an archive is, its first bytes say, not its name; memory is bounded whatever it says of itself; one
that grows beyond all measure is refused (`GROWTH`); every fault of a decompressor is an `InvalidInputError`.
"""

import gzip
import io
import zlib
from typing import BinaryIO, Protocol, cast

import zstandard

from meshsat.bundle.place import PART, Stream
from meshsat.errors import InvalidInputError

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_MAGIC = b"\x1f\x8b"
LEVEL = 1
"""Layers are compressed already: more would cost time alone."""
WINDOW_LIMIT = 128 * 1024 * 1024
"""Bytes of memory that a zstd frame may ask for: as much as `zstd -d` gives without a flag."""
GROWTH = 200
"""An archive may expand to so many times its size, and to `GROWTH_FREE` in any case. Images do not: a layer
of zeros is the exception, and its archive can be decompressed before."""
GROWTH_FREE = 1 << 30


class Source(Protocol):
    """Where an archive's own bytes come from: a file, a pipe."""

    def read(self, size: int = -1, /) -> bytes: ...


class Counted(io.RawIOBase):
    """Counts what a decompressor takes."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self.taken = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(PART if size < 0 else size)
        self.taken += len(data)
        return data


class Expanded:
    """What a decompressor gives, as far as that is believable."""

    def __init__(self, source: Counted, stream: Stream) -> None:
        self._source = source
        self._stream = stream
        self._given = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Raises `InvalidInputError`."""
        try:
            count = self._stream.readinto(buffer)
        except (zstandard.ZstdError, gzip.BadGzipFile, zlib.error, EOFError) as fault:
            raise InvalidInputError(f"the archive is damaged or cut short: {fault}") from None
        self._given += count
        if self._given > max(GROWTH_FREE, GROWTH * self._source.taken):
            raise InvalidInputError(
                f"the archive expands to more than {GROWTH} times its size, which no image does;"
                " if you trust it, decompress it before"
            )
        return count


def is_compressed(head: bytes) -> bool:
    return head.startswith((ZSTD_MAGIC, GZIP_MAGIC))


def expanded_untrusted(source: Source, head: bytes) -> Expanded:
    """`head`: its first four bytes, which `source` gives as well."""
    counted = Counted(source)
    if head.startswith(ZSTD_MAGIC):
        unpacker = zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT)
        return Expanded(
            counted, unpacker.stream_reader(cast("BinaryIO", counted), PART, read_across_frames=True)
        )
    return Expanded(counted, io.BufferedReader(gzip.GzipFile(fileobj=counted), PART))


def skip(stream: Stream, count: int) -> None:
    """Pass over bytes by reading them. Raises `InvalidInputError` where there are not so many."""
    waste = memoryview(bytearray(min(count, PART)))
    while count:
        read = stream.readinto(waste[:count])
        if not read:
            raise InvalidInputError("the archive is cut short: copy it anew from where it was made")
        count -= read
