"""The in-memory twin of what the registry serves: images and tags in dicts, and every fault on request.

Not a test. Stands in for fetch.py behind `meshsat.registry.content.Content`.
"""

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from meshsat.errors import UnavailableError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.registry.content import BlobReader, Name, Served
from tests.images import Image

PIECE = 64 * 1024


class MemoryContent:
    """`asked` lists every call, so that a test can tell that nothing was looked up."""

    def __init__(self, piece: int = PIECE) -> None:
        self.piece = piece
        self.manifests: dict[str, tuple[bytes, str]] = {}
        """Digest -> bytes and media type."""
        self.blobs: dict[str, bytes] = {}
        self.tag_table: dict[Name, dict[str, str]] = {}
        self.holdings: dict[Name, set[str]] = {}
        """Digests that belong to a name."""
        self.resolved_at: float | None = None
        self.fresh = True
        self.asked: list[tuple[object, ...]] = []
        self.unsigned: list[bool] = []
        """Of each manifest that was asked for, whether it may be one that is yet to be signed."""
        self.readers: list[MemoryReader] = []
        self.fault: Exception | None = None
        """Raised by every call."""
        self.refused: BlobReader | None = None
        """Given in place of every blob."""
        self.hang = False
        """Every call waits for ever."""
        self.cut_at: int | None = None
        """A blob's stream fails before this offset."""
        self.file: Path | None = None
        """The file that every reader says to stand for its blob."""
        self.arrived: Callable[[int], trio.Event] | None = None
        """Given the offset of a piece: what to wait for before it is given out."""

    def add(self, name: Name, tag: str, image: Image) -> None:
        for digest, raw in image.manifests.items():
            self.manifests[digest] = (raw, image.media_types[digest])
        self.blobs.update(image.blobs)
        self.tag_table.setdefault(name, {})[tag] = image.root
        self.holdings.setdefault(name, set()).update(image.contents)

    def add_blob(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        self.blobs[str(digest)] = data
        return digest

    def manifest_at_hand(self, name: Name, reference: str | Digest) -> Served | None:
        """Nothing is told before it is asked for."""

    async def manifest(self, name: Name, reference: str | Digest, *, unsigned: bool = False) -> Served | None:
        self.unsigned.append(unsigned)
        await self._asked("manifest", name, reference)
        tagged = isinstance(reference, str)
        digest = self.tag_table.get(name, {}).get(reference) if isinstance(reference, str) else str(reference)
        if digest is None or digest not in self.manifests:
            return None
        raw, media_type = self.manifests[digest]
        resolved_at = self.resolved_at if tagged else None
        return Served(raw, media_type, Digest.parse_untrusted(digest), resolved_at, fresh=self.fresh)

    async def open_blob(self, name: Name, digest: Digest) -> BlobReader | None:
        await self._asked("blob", name, digest)
        data = self.blobs.get(str(digest))
        if data is None or self.refused is not None:
            return self.refused
        reader = MemoryReader(self, data)
        self.readers.append(reader)
        return reader

    async def belongs(self, name: Name, blob: Digest) -> bool:
        await self._asked("belongs", name, blob)
        return str(blob) in self.holdings.get(name, set())

    async def tags(self, name: Name) -> list[str] | None:
        await self._asked("tags", name)
        return list(self.tag_table[name]) if name in self.tag_table else None

    async def referrers(self, name: Name, subject: Digest) -> list[Descriptor]:
        await self._asked("referrers", name, subject)
        parsed = [parse_manifest_untrusted(raw, kind) for raw, kind in self.manifests.values()]
        return [one.referrer for one in parsed if one.subject is not None and one.subject.digest == subject]

    async def repositories(self) -> list[str]:
        await self._asked("repositories")
        return [str(name) for name in self.tag_table]

    async def _asked(self, *what: object) -> None:
        self.asked.append(what)
        if self.hang:
            await trio.sleep_forever()
        if self.fault is not None:
            raise self.fault


class MemoryReader:
    def __init__(self, content: MemoryContent, data: bytes) -> None:
        self._content = content
        self._data = data
        self.path: Path | None = content.file
        self.entered = self.left = False
        self.gave = 0
        """Bytes."""
        self.gone = trio.Event()
        """Set when the reader is left: the interest is withdrawn."""

    @property
    def size(self) -> int:
        return len(self._data)

    async def __aenter__(self) -> Self:
        self.entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left = True
        self.gone.set()

    async def stream(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        content = self._content
        for offset in range(start, stop, content.piece):
            if content.arrived is not None:
                await content.arrived(offset).wait()
            if content.cut_at is not None and offset >= content.cut_at:
                raise UnavailableError("the source went away")
            piece = self._data[offset : min(stop, offset + content.piece)]
            self.gave += len(piece)
            yield piece
