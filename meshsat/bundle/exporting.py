"""The order of an export: what tells about the rest, manifests from the root down, then configs and layers.

So an importer knows what it wants before the first layer comes, and can read from a pipe. Laws: every byte is
checked against its digest on its way; the same content gives the same bytes.
"""

import io
from collections.abc import Callable, Iterator

from meshsat.bundle.gather import Gathered
from meshsat.bundle.layout import Index, encode_index, encode_referrers
from meshsat.bundle.place import Count, Origin, Stream
from meshsat.bundle.sinks import Sink
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.media_types import OCI_INDEX

OVERHEAD = 2048
"""Bytes that a file costs beside its content, at most."""

Tell = Callable[[int, int], None]
"""Bytes that are in the bundle, of how many."""


class Counted:
    def __init__(self, stream: Stream, count: Count) -> None:
        self._stream = stream
        self._count = count

    def readinto(self, buffer: memoryview, /) -> int:
        read = self._stream.readinto(buffer)
        self._count(read)
        return read


def export(origin: Origin, gathered: Gathered, sink: Sink, tell: Tell) -> int:
    """Bytes of all that is in the bundle now. Raises what `origin` and `sink` raise."""
    small = list(_small(gathered))
    large = [(repository, blob) for repository, blob in gathered.blobs.values()]
    total = sum(blob.size for blob, _ in small) + sum(blob.size for _, blob in large)
    done = 0

    def count(moved: int) -> None:
        nonlocal done
        done += moved
        tell(done, total)

    with sink:
        new_small = [(blob, raw) for blob, raw in small if not sink.has(blob)]
        new_large = [(repository, blob) for repository, blob in large if not sink.has(blob)]
        new = [blob.size for blob, _ in new_small] + [blob.size for _, blob in new_large]
        sink.begin(_index(gathered, small[0][0].digest), sum(new) + OVERHEAD * (len(new) + 4))
        count(total - sum(new))
        for blob, raw in new_small:
            sink.put(blob, Counted(io.BytesIO(raw), count))
        for repository, blob in new_large:
            with origin.open_blob(repository, blob) as stream:
                sink.put(blob, Counted(stream, count))
        sink.finish()
    return total


def _small(gathered: Gathered) -> Iterator[tuple[Descriptor, bytes]]:
    """The list of what refers to the images, if anything does, then all manifests."""
    if gathered.beside:
        raw = encode_referrers(gathered.beside)
        yield Descriptor(OCI_INDEX, Digest.of(raw), len(raw)), raw
    for manifest in gathered.manifests.values():
        yield manifest.descriptor, manifest.raw


def _index(gathered: Gathered, first: Digest) -> bytes:
    return encode_index(
        Index(
            entries=gathered.images,
            left_out=frozenset(gathered.left_out),
            since=gathered.since,
            referrers=first if gathered.beside else None,
        )
    )
