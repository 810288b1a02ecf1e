"""Which of many entries go when there are too many: the oldest of who has more than a share, else the oldest.

So nobody's flood displaces what others told, as long as all have room together. Given the same entries in any
order, the same ones stay. Pure.
"""

import heapq
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SLACK = 64
"""Entries of a heap that others replaced since, beyond as many as it has good ones."""


class Shares(Generic[K]):
    """At most `limit` keys, and `share` of them from one owner. Versions are of one type, with an order."""

    def __init__(self, limit: int, share: int) -> None:
        self._limit = limit
        self._share = share
        self._held: dict[K, tuple[Any, Hashable]] = {}
        """Key -> version, owner."""
        self._counts: dict[Hashable, int] = {}
        self._oldest: dict[Hashable, list[tuple[Any, K]]] = {}
        """By owner: a heap, with some entries of versions that others replaced since."""
        self._all: list[tuple[Any, K]] = []

    def __len__(self) -> int:
        return len(self._held)

    def count(self, owner: Hashable) -> int:
        return self._counts.get(owner, 0)

    def put(self, key: K, version: Any, owner: Hashable) -> K | None:
        """Take it in, in place of what the key had; the key that has to go for it, be it the same."""
        self.drop(key)
        self._held[key] = version, owner
        self._counts[owner] = self.count(owner) + 1
        heap = self._oldest.setdefault(owner, [])
        heapq.heappush(heap, (version, key))
        heapq.heappush(self._all, (version, key))
        if self.count(owner) > self._share:
            return self._drop_first(heap)
        if len(self._held) > self._limit:
            return self._drop_first(self._all)
        return None

    def drop(self, key: K) -> None:
        held = self._held.pop(key, None)
        if held is None:
            return
        owner = held[1]
        self._counts[owner] -= 1
        if not self._counts[owner]:
            del self._counts[owner], self._oldest[owner]
        else:
            self._tidy(self._oldest[owner], self._counts[owner])
        self._tidy(self._all, len(self._held))

    def _drop_first(self, heap: list[tuple[Any, K]]) -> K:
        while True:
            version, key = heapq.heappop(heap)
            if self._is(key, version):
                self.drop(key)
                return key

    def _tidy(self, heap: list[tuple[Any, K]], good: int) -> None:
        if len(heap) > 2 * good + _SLACK:
            heap[:] = sorted({entry for entry in heap if self._is(entry[1], entry[0])})

    def _is(self, key: K, version: Any) -> bool:
        return key in self._held and self._held[key][0] == version
