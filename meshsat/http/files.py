"""Files straight from the page cache into a connection (sendfile(2)), without stalling the event loop.

sendfile waits for the disk where the cache lacks a page, and no flag forbids it. So each stretch is probed
first: reading a byte with RWF_NOWAIT (preadv2(2)) tells whether it is in memory. If it is, sending it takes a
fraction of a millisecond; if not (or if the file system cannot tell), a thread makes the same call.
"""

import os

import trio

from meshsat.http.wire import PlainWire

STRETCH = 256 * 1024
"""Bytes sent at once, and probed at both ends: of such lengths is what the cache forgets and reads ahead."""
AHEAD = 4 * 1024 * 1024
"""Bytes that the disk is told to bring when something was lacking."""
THREADS = trio.CapacityLimiter(4)
"""Who waits for disks. At most so many at once, whatever the number of clients."""


def read_cached(source: int, offset: int, count: int) -> bytes | None:
    """`count` bytes, if the kernel has them in memory and the file has so many."""
    buffer = bytearray(count)
    try:
        found = os.preadv(source, [buffer], offset, os.RWF_NOWAIT)
    except OSError:
        return None
    return bytes(buffer) if found == count else None


async def read(source: int, offset: int, count: int) -> bytes:
    """Up to `count` bytes; none at the file's end. Raises `OSError`."""
    data = read_cached(source, offset, count)
    if data is None:
        data = await trio.to_thread.run_sync(os.pread, source, count, offset, limiter=THREADS)
    return data


async def send(wire: PlainWire, source: int, offset: int, count: int) -> int | None:
    """As `PlainWire.send_file`, for at most `STRETCH` bytes. Raises `ClientGoneError`, `OSError`."""
    count = min(count, STRETCH)
    if _cached(source, offset) and _cached(source, offset + count - 1):
        return wire.send_file(source, offset, count)
    # Never given up half-way: who is cancelled waits for this one stretch to come from the disk.
    return await trio.to_thread.run_sync(_send_cold, wire, source, offset, count, limiter=THREADS)


def _cached(source: int, offset: int) -> bool:
    try:
        os.preadv(source, [bytearray(1)], offset, os.RWF_NOWAIT)
    except OSError:
        return False
    return True  # also beyond the file's end, where there is nothing to wait for


def _send_cold(wire: PlainWire, source: int, offset: int, count: int) -> int | None:
    os.posix_fadvise(source, offset, AHEAD, os.POSIX_FADV_WILLNEED)
    return wire.send_file(source, offset, count)
