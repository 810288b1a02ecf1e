"""What belongs to which repository, where it is ours to say: of site content, what was pushed there; of every
registry, which manifests refer to which (distribution-spec, "Listing Referrers")."""

from collections.abc import Callable, Collection, Iterable

import trio

from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest
from meshsat.oci.reference import SITE
from meshsat.store.database import Contents
from meshsat.store.partial import Backing

REFERRERS_LIMIT = 10_000
"""Of one subject."""


class Repositories:
    """Every coroutine raises `StorageError`. `turn`: database and mirror change in the same order."""

    def __init__(self, backing: Backing, contents: Contents, turn: trio.Lock) -> None:
        self._backing = backing
        self._contents = contents
        self._turn = turn

    # Site content

    def holds(self, repository: str, digest: Digest) -> bool:
        """Whether the blob or manifest belongs to this repository of site content."""
        return digest in self._contents.holdings.get(repository, ())

    def holding(self, digest: Digest) -> str | None:
        """A repository of site content that it belongs to."""
        return next((name for name, held in self._contents.holdings.items() if digest in held), None)

    def names(self) -> Collection[str]:
        """The repositories of site content that something belongs to."""
        return self._contents.holdings.keys()

    def held_in(self, repository: str) -> set[Digest]:
        """What belongs to this repository of site content."""
        return set(self._contents.holdings.get(repository, ()))

    async def add(self, repository: str, digests: Iterable[Digest]) -> None:
        """They were pushed there, or mounted."""
        async with self._turn:
            await self._add(repository, digests)

    async def _add(self, repository: str, digests: Iterable[Digest]) -> None:
        held = self._contents.holdings.get(repository, set())
        news = [digest for digest in digests if digest not in held and not self._is_gone(repository, digest)]
        if news:
            await self._backing.threads.run(self._backing.database.add_holdings, repository, news)
            self._contents.changes += 1
            self._contents.holdings.setdefault(repository, set()).update(news)
            self._contents.dropped.difference_update((repository, digest) for digest in news)

    def _is_gone(self, repository: str, digest: Digest) -> bool:
        """A manifest that was deleted does not come back because an index lists it."""
        record = self._contents.tags.get((SITE, repository, str(digest)))
        return record is not None and record.is_gone

    async def drop(self, repository: str, digest: Digest) -> bool:
        """It belongs to the repository no longer; False if it did not. The bytes stay in the store."""
        async with self._turn:
            held = self._contents.holdings.get(repository, set())
            if digest not in held:
                return False
            await self._backing.threads.run(self._backing.database.drop_holding, repository, digest)
            await self._drop_referrer(SITE, repository, digest)
            held.discard(digest)
            self._contents.dropped.add((repository, digest))
            if not held:
                self._contents.holdings.pop(repository, None)
            return True

    async def release(self, repository: str, digests: Collection[Digest], holds: Callable[[], bool]) -> None:
        """Nothing refers to them there any more, if `holds()` is still true."""
        async with self._turn:
            held = self._contents.holdings.get(repository)
            if held is not None and holds():
                await self._backing.threads.run(
                    self._backing.database.release_holdings, repository, list(digests)
                )
                held.difference_update(digests)
                if not held:
                    self._contents.holdings.pop(repository, None)

    async def lost(self, digest: Digest) -> None:
        """A manifest is no longer here: outside of site content it refers to nothing then. Within `turn`."""
        for registry, repository in {
            key[:2] for key, known in self._contents.referrers.items() if digest in known and key[0] != SITE
        }:
            await self._drop_referrer(registry, repository, digest)

    # What manifests tell

    async def take_in(self, manifest: Manifest, registry: str, repository: str) -> None:
        """Remember what a manifest of the repository tells."""
        if registry == SITE or manifest.subject is not None:
            async with self._turn:
                if registry == SITE:
                    dropped = self._contents.dropped
                    children = [child.digest for child in manifest.children]
                    kept = [digest for digest in children if (repository, digest) not in dropped]
                    await self._add(repository, [manifest.digest, *kept])
                if manifest.subject is not None:
                    await self._add_referrer(registry, repository, manifest.subject.digest, manifest.referrer)

    async def _add_referrer(
        self, registry: str, repository: str, subject: Digest, referrer: Descriptor
    ) -> None:
        known = self._contents.referrers.setdefault((registry, repository, subject), {})
        if referrer.digest not in known and len(known) < REFERRERS_LIMIT:
            await self._backing.threads.run(
                self._backing.database.add_referrer, registry, repository, subject, referrer
            )
            self._contents.changes += 1
            known[referrer.digest] = referrer

    async def _drop_referrer(self, registry: str, repository: str, digest: Digest) -> None:
        places = [
            key
            for key, known in self._contents.referrers.items()
            if key[:2] == (registry, repository) and digest in known
        ]
        if places:
            await self._backing.threads.run(
                self._backing.database.drop_referrer, registry, repository, digest
            )
        for key in places:
            del self._contents.referrers[key][digest]
            if not self._contents.referrers[key]:
                del self._contents.referrers[key]

    def referrers(self, registry: str, repository: str, subject: Digest) -> list[Descriptor]:
        """Manifests of the repository that refer to this one, in the order in which they came."""
        return list(self._contents.referrers.get((registry, repository, subject), {}).values())
