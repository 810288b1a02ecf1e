"""A blob that is held whole goes to the client out of its file, and through no buffer of ours.

The server says whether it can (asgi.readthedocs.io, "Extensions", "Zero Copy Send"). It watches the client
and its pace itself, so that neither a task nor a nursery is needed here.
Laws: nothing is begun that the file can't finish; what was sent is counted as it goes.
"""

import os
from collections.abc import Callable
from pathlib import Path

from meshsat.http.asgi import Headers, Send
from meshsat.http.ranges import Span

ZERO_COPY = "http.response.zerocopysend"
COUNTED = 16 * 1024 * 1024
"""Bytes after which the metrics learn what was sent."""


async def send_whole_file(
    send: Send, path: Path, span: Span, head: tuple[int, Headers], count: Callable[[int], None]
) -> bool:
    """Send the response `head` and the bytes `span` of the file; False, and nothing sent, if it is not there
    in its full size. Raises what `send` raises."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if os.fstat(source).st_size != span.size:
            return False
        status, headers = head
        await send({"type": "http.response.start", "status": status, "headers": headers})
        at = span.start
        more = True
        while more:
            length = min(span.stop - at, COUNTED)
            more = at + length < span.stop
            await send({"type": ZERO_COPY, "file": source, "offset": at, "count": length, "more_body": more})
            at += length
            count(length)
    finally:
        os.close(source)
    return True
