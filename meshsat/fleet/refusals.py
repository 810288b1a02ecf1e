"""Documents that were refused: each told once, the last of them shown.

Whoever may offer documents could offer thousands: what is remembered and what is logged has a bound, and a
source that goes on is told of once an hour.
"""

from collections import OrderedDict
from collections.abc import Callable

import structlog

from meshsat.oci.digest import Digest
from meshsat.status import StateRefusal
from meshsat.trust.state_documents import Refused, StateError

log = structlog.get_logger(__name__)

QUIET = 3600.0
"""Seconds for which the same reason of the same source is not logged again."""
MEMORY = 256
"""Documents, and pairs of source and reason, remembered."""
SHOWN = 8


class Refusals:
    """`unix` gives Unix time."""

    def __init__(self, unix: Callable[[], float]) -> None:
        self._unix = unix
        self._documents: OrderedDict[bytes, None] = OrderedDict()
        self._told: OrderedDict[tuple[str, Refused], float] = OrderedDict()
        self._last: list[StateRefusal] = []
        self.count = 0

    @property
    def last(self) -> tuple[StateRefusal, ...]:
        """The youngest last."""
        return tuple(self._last)

    def refuse(self, raw: bytes, source: str, fault: StateError) -> None:
        mark = Digest.of(raw).raw
        if mark in self._documents:
            return
        self._documents[mark] = None
        self.count += 1
        now = self._unix()
        key = (source, fault.reason)
        told = self._told.get(key)
        if told is None or not 0 <= now - told < QUIET:
            self._told[key] = now
            self._told.move_to_end(key)
            log.warning("a desired state is refused", source=source, reason=str(fault))
            self._last = [*self._last[1 - SHOWN :], StateRefusal(now, source, fault.reason.value, str(fault))]
        for memory in (self._documents, self._told):
            while len(memory) > MEMORY:
                memory.popitem(last=False)
