"""Images that become whole while clients pull them: shown in the layout's index as soon as they are."""

import structlog
import trio

from meshsat.errors import DeniedError, InvalidInputError, NotFoundError, StorageError
from meshsat.manifests import Manifests
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest
from meshsat.signatures import Verifier
from meshsat.store.records import ImageRow
from meshsat.store.store import Store

KEPT = 512
"""Images that are waited for, and that were shown lately."""
QUEUE = 1024

log = structlog.get_logger(__name__)


class Completion:
    """`blob_published` is to be called with whatever comes into the store."""

    def __init__(self, store: Store, manifests: Manifests, verifier: Verifier) -> None:
        self._store = store
        self._manifests = manifests
        self._verifier = verifier
        store.on_retracted = self._retracted
        self._published, self._to_check = trio.open_memory_channel[Digest](QUEUE)
        self._incomplete: dict[tuple[str, str, str | None, Digest], set[Digest]] = {}
        self._shown: dict[tuple[str, str, str | None], Digest] = {}
        """What the layout's index was last told under a name: clients ask for it again and again."""

    def knows(self, registry: str, repository: str, tag: str | None, digest: Digest) -> bool:
        """`remember` would have nothing to do."""
        shown = self._shown.get((registry, repository, tag)) == digest
        return shown or (registry, repository, tag, digest) in self._incomplete

    async def remember(self, registry: str, repository: str, tag: str | None, manifest: Manifest) -> None:
        """Show the image in the layout's index as soon as it is whole."""
        key = (registry, repository, tag, manifest.digest)
        if self.knows(*key):
            return
        lacking = await self._manifests.lacking(manifest)
        while len(self._incomplete) >= KEPT:  # one of which a client wants a part only
            del self._incomplete[next(iter(self._incomplete))]
        self._incomplete[key] = lacking
        self.blob_published(manifest.digest)

    async def show(self, registry: str, repository: str, tag: str | None, root: Digest) -> None:
        """Put it into the layout's index. Raises `NotFoundError`, `InvalidInputError`, `StorageError`, and
        `DeniedError` where it is not signed as it must be."""
        facts = self._store.facts(root)
        descriptor = Descriptor("" if facts is None else facts.media_type, root, 0)
        if not self._verifier.is_idle and (manifest := await self._manifests.held(descriptor)) is not None:
            await self._verifier.require(registry, repository, tag or root, manifest)
        await self._store.publish_image(registry, repository, tag, root)
        while len(self._shown) >= KEPT:
            del self._shown[next(iter(self._shown))]
        self._shown[registry, repository, tag] = root

    async def hide(self, registry: str, repository: str, reference: str) -> None:
        """Take it out of the layout's index. Raises `StorageError`."""
        for key in [key for key in self._incomplete if key[:3] == (registry, repository, reference)]:
            del self._incomplete[key]
        self._shown.pop((registry, repository, reference), None)
        await self._store.retract_image(registry, repository, reference)

    def _retracted(self, image: ImageRow) -> None:
        self._shown.pop((image.registry, image.repository, image.tag), None)

    def blob_published(self, blob: Digest) -> None:
        try:
            self._published.send_nowait(blob)
        except (trio.WouldBlock, trio.BrokenResourceError):
            log.debug("not looked at: too many blobs at once", blob=str(blob))

    async def run(self) -> None:
        """Run until cancelled."""
        async for _blob in self._to_check:
            for key, lacking in list(self._incomplete.items()):
                if all(self._store.blob_size(digest) is not None for digest in lacking):
                    await self._check_whole(key)

    async def _check_whole(self, key: tuple[str, str, str | None, Digest]) -> None:
        self._incomplete.pop(key, None)
        try:
            await self.show(*key)
        except (NotFoundError, InvalidInputError) as incomplete:
            log.debug("an image is not whole yet", digest=str(key[3]), problem=str(incomplete))
            manifest = self._manifests.parsed(key[3])
            lacking = await self._manifests.lacking(manifest) if manifest is not None else set()
            if lacking:
                self._incomplete[key] = lacking
        except DeniedError as refused:
            log.info("an image is not in the index", digest=str(key[3]), problem=str(refused))
        except StorageError as full:
            log.warning("an image is not in the index", digest=str(key[3]), problem=str(full))
