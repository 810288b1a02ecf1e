"""The shadow at work: each image that is wanted is weighed by its manifests alone, and counted.

Laws: no blob is fetched; a manifest is fetched once, and again only when a tag without a digest moves; one
image that can't be weighed holds back no other.
"""

from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from meshsat.errors import InvalidInputError, MeshsatError, StorageError
from meshsat.fleet.document import DesiredState
from meshsat.fleet.harbor_satellite.keeping import DIRECTORY, keep_file
from meshsat.fleet.harbor_satellite.ports import Artifacts
from meshsat.fleet.harbor_satellite.shadow import (
    BLOBS_LIMIT,
    FILE,
    FILE_LIMIT,
    Ledger,
    Weight,
    encode_ledger,
    parse_ledger_untrusted,
    weigh,
)
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest
from meshsat.oci.reference import Reference
from meshsat.status import ShadowReport
from meshsat.store.disk import Threads, storage_errors

log = structlog.get_logger(__name__)

AT_ONCE = 4
MANIFESTS_LIMIT = 1000
"""Behind one image."""


class Weighing:
    """`nodes` tells how many nodes of the site are live, `spent` how many bytes the shadow has fetched since
    the start."""

    def __init__(
        self,
        artifacts: Artifacts,
        data_dir: Path,
        *,
        nodes: Callable[[], int],
        spent: Callable[[], int],
        unix: Callable[[], float],
        threads: Threads,
    ) -> None:
        self._artifacts = artifacts
        self._data_dir = data_dir
        self._nodes = nodes
        self._spent = spent
        self._unix = unix
        self._threads = threads
        self._counted = 0
        self._ledger = Ledger()
        self.trouble: str | None = None

    async def recall(self) -> None:
        try:
            self._ledger = await self._threads.run(_load, self._data_dir)
        except (InvalidInputError, StorageError) as fault:
            log.warning("what the shadow counted before is lost", problem=str(fault))

    def report(self, nodes: int | None) -> ShadowReport:
        return self._ledger.report(nodes, self._nodes())

    async def count(self, state: DesiredState) -> None:
        """Weigh what is new, and write it down."""
        weights: dict[str, Weight] = {}
        unknown: dict[str, str] = {}
        limiter = trio.CapacityLimiter(AT_ONCE)

        async def one(reference: Reference, name: str) -> None:
            known = self._ledger.images.get(name)
            try:
                async with limiter:
                    weights[name] = await self._weigh(reference, known)
            except MeshsatError as fault:
                unknown[name] = str(fault)
                if known is not None:
                    weights[name] = known

        async with trio.open_nursery() as nursery:
            for image in state.images:
                nursery.start_soon(one, image.parsed, image.name)
        if sum(len(weight.parts) for weight in weights.values()) > BLOBS_LIMIT:
            self.trouble = f"the shadow does not count: the images have more than {BLOBS_LIMIT} blobs"
            return
        spent = self._spent()
        self._ledger.unknown = unknown
        self._ledger.update(weights, self._unix(), self._nodes(), spent - self._counted)
        self._counted = spent
        try:
            await self._threads.run(keep_file, self._data_dir, FILE, encode_ledger(self._ledger))
            self.trouble = None
        except StorageError as fault:
            self.trouble = f"the shadow's counts are not kept over a restart: {fault}"

    async def _weigh(self, reference: Reference, known: Weight | None) -> Weight:
        if known is not None and reference.digest == known.digest:
            return known
        asked = str(reference.digest) if reference.digest is not None else reference.tag or ""
        root = await self._artifacts.manifest(reference.registry, reference.repository, asked)
        if known is not None and root.digest == known.digest:
            return known
        below: dict[Digest, Manifest] = {}
        level = list(root.manifests)
        while level:
            child = level.pop()
            if child.digest in below:
                continue
            if len(below) >= MANIFESTS_LIMIT:
                raise InvalidInputError(f"more than {MANIFESTS_LIMIT} manifests")
            found = await self._artifacts.manifest(
                reference.registry, reference.repository, str(child.digest)
            )
            below[child.digest] = found
            level += found.manifests
        return weigh(root, below)


def _load(data_dir: Path) -> Ledger:
    path = data_dir / DIRECTORY / FILE
    with storage_errors("read", path):
        try:
            with path.open("rb") as file:
                raw = file.read(FILE_LIMIT + 1)
        except FileNotFoundError:
            return Ledger()
    return parse_ledger_untrusted(raw)
