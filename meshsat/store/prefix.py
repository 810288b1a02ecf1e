"""PrefixDigest: the digest of a blob's first chunks, kept up as they arrive, so that publishing needs not
read the blob again.

A hash can only be fed in order. A chunk that is next is hashed from memory; chunks that came early are read
back once the gap before them closes, a bounded number at a time. Called from worker threads, several at once.
"""

import threading
from collections.abc import Callable, Container

from meshsat.chunking.cut import Cut
from meshsat.oci.digest import Digest
from meshsat.store.disk import Buffer


class PrefixDigest:
    def __init__(self, digest: Digest, cut: Cut, read_chunk: Callable[[int], bytes]) -> None:
        self._digest = digest
        self._cut = cut
        self._read_chunk = read_chunk
        self._lock = threading.Lock()
        self._hasher = digest.hasher()
        self._next = 0

    def take(self, index: int, data: Buffer) -> None:
        """A chunk was recorded. It is hashed now if it is the next one."""
        with self._lock:
            if index == self._next:
                self._hasher.update(memoryview(data))
                self._next += 1

    def catch_up(self, recorded: Container[int], budget: int) -> bool:
        """Hash what follows the prefix and is recorded, reading at most `budget` bytes (and one chunk more).

        True when the whole blob is hashed.
        """
        with self._lock:
            while budget > 0 and self._next < self._cut.count and self._next in recorded:
                data = self._read_chunk(self._next)
                self._hasher.update(data)
                self._next += 1
                budget -= len(data)
            return self._next == self._cut.count

    def restart(self) -> None:
        """A chunk of the prefix is no longer what it was."""
        with self._lock:
            self._hasher = self._digest.hasher()
            self._next = 0

    def matches(self) -> bool:
        """True when the whole blob is hashed and has the digest that it is named by."""
        with self._lock:
            return self._next == self._cut.count and self._hasher.hexdigest() == self._digest.hex
