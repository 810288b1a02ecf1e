"""A node's disk: which blobs are whole, which chunks are there of others. It outlives the node's process."""

from dataclasses import dataclass, field

from meshsat.oci.digest import Digest
from sim.simulator.blobs import Synthetic, synthetic


@dataclass(slots=True)
class Disk:
    held: dict[Digest, int] = field(default_factory=dict)
    """Whole blobs, with their sizes."""
    partials: dict[Digest, dict[int, bytes]] = field(default_factory=dict)
    """Blobs on their way: index -> SHA-256."""
    sizes: dict[Digest, int] = field(default_factory=dict)
    """Of the blobs on their way."""

    def open(self, blob: Digest, size: int) -> tuple[tuple[int, bytes], ...]:
        """Make room, or find what was there: index and digest, in order."""
        if self.sizes.get(blob) != size:
            self.sizes[blob] = size
            self.partials[blob] = {}
        return tuple(sorted(self.partials[blob].items()))

    def whole(self, blob: Digest) -> Synthetic | None:
        """A blob that is here from end to end."""
        size = self.held.get(blob)
        return None if size is None else synthetic(blob, size)

    def chunk_length(self, blob: Digest, index: int) -> int | None:
        size = self.held.get(blob)
        if size is None:
            if index not in self.partials.get(blob, ()):
                return None
            size = self.sizes[blob]
        return synthetic(blob, size).cut.span(index)[1]

    def write(self, blob: Digest, index: int, digest: bytes) -> bool:
        """Keep a chunk of a blob on its way; False if it was there already."""
        chunks = self.partials[blob]
        if index in chunks:
            return False
        chunks[index] = digest
        return True

    def forget(self, blob: Digest, indexes: tuple[int, ...]) -> None:
        chunks = self.partials.get(blob, {})
        for index in indexes:
            chunks.pop(index, None)

    def publish(self, blob: Digest) -> bool:
        """Make a blob on its way a whole one. False: its chunks are not those of the digest."""
        true = synthetic(blob, self.sizes[blob])
        chunks = self.partials[blob]
        if any(chunks.get(index) != digest for index, digest in enumerate(true.chunks)):
            return False
        del self.partials[blob], self.sizes[blob]
        self.held[blob] = true.size
        return True

    def keep(self, blob: Digest, size: int) -> None:
        """A blob came whole, another way."""
        self.partials.pop(blob, None)
        self.sizes.pop(blob, None)
        self.held[blob] = size
