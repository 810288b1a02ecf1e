"""Ages: when each blob was last claimed, last found right, and each image last pulled.

To claim a blob is to say that somebody is about to rely on its being here: it was published, pushed again,
mounted, asked for by a client. Collection leaves alone what was claimed lately.

Laws: within one run of the process ages are measured by its own clock, which nobody can set; only what an
earlier run left is judged by Unix time, and never counts as older than that says nor as younger than now. The
order of pulls holds whatever the clock does. Nothing is written at a pull: `flush` writes what changed.
"""

from collections.abc import Callable

import trio

from meshsat.oci.digest import Digest
from meshsat.oci.media_types import MANIFEST_TYPES
from meshsat.store.database import Contents
from meshsat.store.partial import Backing

NEWS = 15.0
"""Seconds since the last claim, after which another is a reason to think again about what to keep."""
TICK = 1e-3
"""Seconds by which a pull is later than the one before it, whatever the clock says."""


class Ages:
    """`unix` gives Unix time."""

    def __init__(self, backing: Backing, contents: Contents, unix: Callable[[], float]) -> None:
        self._backing = backing
        self._contents = contents
        self._unix = unix
        now, here = unix(), trio.current_time()
        self._claimed = {
            digest: here - max(0.0, now - claimed_at) for digest, claimed_at in contents.claimed.items()
        }
        self._last_use = max(contents.used.values(), default=0.0)
        self._claims: set[Digest] = set()
        self._uses: set[Digest] = set()

    def published(self, digest: Digest) -> None:
        """The blob came into the store, and was checked on its way; the database knows."""
        self._claimed[digest] = trio.current_time()
        self._contents.checked[digest] = self._unix()

    def claim(self, digest: Digest) -> None:
        """Somebody relies on the blob being here, if it is."""
        if digest not in self._contents.blobs:
            return
        if self.age(digest) > NEWS:
            self._contents.changes += 1
        self._claimed[digest] = trio.current_time()
        self._claims.add(digest)

    def age(self, digest: Digest) -> float:
        """Seconds since the blob was last claimed."""
        claimed = self._claimed.get(digest)
        return float("inf") if claimed is None else trio.current_time() - claimed

    def claimed_within(self, seconds: float) -> set[Digest]:
        """The blobs that were claimed lately."""
        due = trio.current_time() - seconds
        return {digest for digest, at in self._claimed.items() if at > due}

    def use(self, digest: Digest) -> None:
        """Something was pulled from here, by a client or a peer. What is no manifest does not count."""
        facts = self._contents.facts.get(digest)
        if facts is not None and facts.media_type in MANIFEST_TYPES:
            self._last_use = self._contents.used[digest] = max(self._unix(), self._last_use + TICK)
            self._uses.add(digest)

    def used_at(self, digest: Digest) -> float:
        """When it was last pulled, in Unix seconds as far as the clock was right; 0: never."""
        return self._contents.used.get(digest, 0.0)

    def due_since(self, digest: Digest) -> float:
        """Unix seconds at which its bytes were last found right. A time that is still to come counts as 0:
        the clock was wrong then, or is now."""
        checked = self._contents.checked.get(digest, 0.0)
        return checked if checked <= self._unix() else 0.0

    async def found_right(self, digest: Digest) -> None:
        """The bytes of the blob were read and have its digest. Raises `StorageError`."""
        now = self._contents.checked[digest] = self._unix()
        await self._backing.threads.run(self._backing.database.put_checked, digest, now)

    def dropped(self, digest: Digest) -> None:
        self._claimed.pop(digest, None)
        self._claims.discard(digest)
        self._uses.discard(digest)
        for known in (self._contents.claimed, self._contents.checked, self._contents.used):
            known.pop(digest, None)

    async def flush(self) -> None:
        """Write down what changed. Raises `StorageError`."""
        claims, uses, self._claims, self._uses = self._claims, self._uses, set(), set()
        if claims or uses:
            now, here = self._unix(), trio.current_time()
            claimed = {one: now - (here - at) for one in claims if (at := self._claimed.get(one)) is not None}
            used = {one: at for one in uses if (at := self._contents.used.get(one)) is not None}
            await self._backing.threads.run(self._backing.database.put_claims, claimed, used)
