"""A bound on callers who have not proved yet who they are.

Members prove it in milliseconds. So where too many are half-open, the oldest of the source with too many is
dropped, and not the newcomer: someone who opens connections and says nothing takes places from nobody but
itself.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import trio

TOTAL = 128
PER_SOURCE = 32
"""Of one address; a site's nodes behind one address (a test, a NAT) may all call at once."""


class HalfOpen:
    def __init__(self, total: int = TOTAL, per_source: int = PER_SOURCE) -> None:
        self._total = total
        self._per_source = per_source
        self._waiting: dict[trio.CancelScope, str] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._waiting)

    @contextmanager
    def admit(self, source: str, scope: trio.CancelScope) -> Iterator[None]:
        """Hold a place for a caller at address `source`; whoever must make room has its scope cancelled."""
        counts = Counter(self._waiting.values())
        if counts[source] >= self._per_source:
            self._drop_oldest(source)
        elif len(self._waiting) >= self._total:
            self._drop_oldest(counts.most_common(1)[0][0])
        self._waiting[scope] = source
        try:
            yield
        finally:
            self._waiting.pop(scope, None)

    def _drop_oldest(self, source: str) -> None:
        for scope, holder in self._waiting.items():
            if holder == source:
                del self._waiting[scope]
                scope.cancel()
                return
