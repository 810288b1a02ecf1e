"""Strangers at the door: each is counted, and told once.

A stranger is a source address and a reason. It is logged again only after an hour, and where very many come,
the log gets one line with their number instead of a line each: nobody fills a disk by knocking.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

from meshsat.audit.event import FAILURE, Actor, Audit, NoAudit
from meshsat.metrics import Metrics

log = structlog.get_logger(__name__)

QUIET = 3600.0
"""Seconds for which a stranger once logged is not logged again."""
MEMORY = 1024
"""Strangers remembered."""
LINES = 64
"""Log lines in `QUIET` seconds, over all strangers."""


class Refusals:
    """The refusals of one plane. `clock` gives monotonic seconds."""

    def __init__(
        self,
        plane: str,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        audit: Audit | None = None,
    ) -> None:
        self._plane = plane
        self._counter = metrics.refused.labels(plane)
        self._clock = clock
        self._audit = audit or NoAudit()
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._window_began = clock()
        self._lines = 0
        self._untold = 0

    def refuse(self, source: str, reason: str, **facts: str) -> None:
        """Count a refusal of `source` (an address without the port) and log it where it is news.

        `reason` is one of a few words; what varies from one attempt to the next goes into `facts`.
        """
        self._counter.inc()
        now = self._clock()
        if now - self._window_began > QUIET:
            if self._untold:
                log.warning("more strangers refused than told", plane=self._plane, refused=self._untold)
            self._window_began, self._lines, self._untold = now, 0, 0
        told = self._told.get((source, reason))
        if told is not None and now - told < QUIET:
            return
        self._told[source, reason] = now
        self._told.move_to_end((source, reason))
        if len(self._told) > MEMORY:
            self._told.popitem(last=False)
        if self._lines >= LINES:
            self._untold += 1
            return
        self._lines += 1
        log.warning("stranger refused", plane=self._plane, source=source, reason=reason, **facts)
        self._audit.record(
            "peer.auth",
            actor=Actor("peer", address=source),
            object=f"plane {self._plane}",
            outcome=FAILURE,
            reason=": ".join([reason, *facts.values()]),
        )
