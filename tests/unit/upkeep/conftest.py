from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from meshsat.config import DiskSection
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.store.records import TagRecord
from meshsat.store.store import Store
from meshsat.upkeep.task import Rotten, Upkeep
from tests.images import Image

UNIX = 1_800_000_000.0
REGISTRY = "reg.test"


def unix() -> float:
    return UNIX + trio.current_time()


@dataclass
class Disk:
    """A store with its upkeep, and all that decides about what stays."""

    store: Store
    metrics: Metrics = field(default_factory=Metrics)
    elsewhere: set[Digest] = field(default_factory=set)
    wanted: set[Digest] = field(default_factory=set)
    desired: Collection[Digest] | None = ()
    rotten: list[Rotten] = field(default_factory=list)
    dropped: list[Digest] = field(default_factory=list)

    def upkeep(self, **settings: object) -> Upkeep:
        section = DiskSection(**{"scrub_rate": 0, **settings})  # type: ignore[arg-type]
        made = Upkeep(
            self.store,
            section,
            self.metrics,
            held_elsewhere=lambda digest: digest in self.elsewhere,
            wanted=lambda: self.wanted,
            unix=unix,
            chance=lambda: 0.5,
        )
        made.desired = lambda: self.desired
        made.on_rotten = self.rotten.append
        self.store.removal.on_dropped = self.dropped.append
        return made

    async def hold(
        self,
        image: Image,
        repository: str,
        tag: str | None = "1",
        *,
        registry: str = REGISTRY,
        whole: bool = True,
    ) -> Digest:
        """As a pull leaves it: blobs, facts, tag, and the image shown."""
        store, root = self.store, Digest.parse_untrusted(image.root)
        for text, data in image.contents.items():
            await store.put(data, Digest.parse_untrusted(text))
        for text, raw in image.manifests.items():
            manifest = parse_manifest_untrusted(raw, image.media_types[text])
            await store.learn(manifest, registry, repository)
        if tag is not None:
            target = parse_manifest_untrusted(image.raw).descriptor
            await store.put_tag(TagRecord(registry, repository, tag, target, unix(), "author"))
        if whole:
            await store.publish_image(registry, repository, tag, root)
        return root

    def holds(self, image: Image) -> bool:
        return all(self.store.blob_size(Digest.parse_untrusted(text)) is not None for text in image.contents)

    def held(self, image: Image) -> set[str]:
        return {
            text for text in image.contents if self.store.blob_size(Digest.parse_untrusted(text)) is not None
        }


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    async with await Store.open(tmp_path, threads=0, unix=unix) as store:
        yield Disk(store)
