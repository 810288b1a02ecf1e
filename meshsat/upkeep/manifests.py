"""What the manifests on the disk refer to, each read once.

Laws: a manifest is read whole and has its digest before a word of it counts. One that is here and can't be
read, or is not what it is named, makes the whole answer void: what it refers to is not known.
"""

from collections.abc import Collection, Iterable

import structlog

from meshsat.errors import InvalidInputError, NotFoundError, StorageError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import MANIFEST_LIMIT, parse_manifest_untrusted
from meshsat.oci.media_types import MANIFEST_TYPES
from meshsat.store.store import Store
from meshsat.upkeep.marking import Links

log = structlog.get_logger(__name__)


class RefusedError(Exception):
    """Nothing may be let go now; the text says why."""


class Graph:
    def __init__(self, store: Store) -> None:
        self.links: dict[Digest, Links] = {}
        self._store = store
        self._senseless: set[Digest] = set()
        """Held under a manifest's name, with the right digest, and no manifest: they refer to nothing."""

    async def load(self, roots: Collection[Digest], trusted: Collection[Digest]) -> None:
        """Read `roots`, all that is known to be a manifest, and whatever these call one.

        Raises `RefusedError` when one can't be read, or one of `trusted` is no manifest: those were when they
        became a reason to keep something. Of others anybody may have said that they are.
        """
        known = [digest for digest in self._store.blobs() if self._is_manifest(digest)]
        due = [*roots, *known]
        while due:
            digest = due.pop()
            if digest not in self.links and digest not in self._senseless:
                await self._read(digest)
                found = self.links.get(digest)
                if found is not None:
                    due.extend(found.manifests)
        for digest in trusted:
            if digest in self._senseless and self._store.blob_size(digest) is not None:
                raise RefusedError(f"{digest} is to be kept as a manifest and can't be understood as one")

    def _is_manifest(self, digest: Digest) -> bool:
        facts = self._store.facts(digest)
        return facts is not None and facts.media_type in MANIFEST_TYPES

    async def _read(self, digest: Digest) -> None:
        size = self._store.blob_size(digest)
        if size is None:
            return
        if size > MANIFEST_LIMIT:
            self._senseless.add(digest)
            return
        try:
            raw = await self._store.read(digest, 0, size)
        except NotFoundError:  # removed meanwhile
            return
        except StorageError as unreadable:
            raise RefusedError(f"a manifest can't be read: {unreadable}") from None
        if not digest.matches(raw):
            self._store.on_suspect(digest)
            raise RefusedError(f"the manifest {digest} is rotten")
        facts = self._store.facts(digest)
        try:
            media_type = facts.media_type if facts is not None else None
            manifest = parse_manifest_untrusted(raw, media_type, algorithm=digest.algorithm)
        except InvalidInputError as senseless:
            log.debug("called a manifest, and is none", digest=str(digest), problem=str(senseless))
            self._senseless.add(digest)
            return
        self.links[digest] = Links(
            tuple(child.digest for child in manifest.manifests),
            tuple(child.digest for child in manifest.blobs),
            manifest.subject.digest if manifest.subject is not None else None,
        )

    def forget(self, kept: Iterable[Digest]) -> None:
        """All but these: what is no longer here, and nothing refers to."""
        keep = set(kept)
        self.links = {digest: found for digest, found in self.links.items() if digest in keep}
        self._senseless &= keep
