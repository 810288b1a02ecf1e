"""When a node tells the others of its site how far it is: at once that a tag changed, soon that an image is
at another stage, now and then how many bytes came.

Pure. The pace is what keeps a site of hundreds from talking about nothing else.
"""

from meshsat.fleet.report import Report

MOVED = 0.3
"""Seconds between two reports, but for one that tells of a tag that changed."""
PROGRESS = 5.0
"""Seconds between two reports that tell of figures alone, for each 16 members of the site."""


class Telling:
    def __init__(self) -> None:
        self._told_at = float("-inf")

    def due(self, known: Report | None, report: Report, now: float, *, flipped: bool, members: int) -> float:
        """When to tell this, on the clock of `now`. Infinite: it says nothing new. `known`: what was told
        last."""
        if known is None or flipped:
            return now
        if known.says(report):
            return float("inf")
        pace = MOVED if _moved(known, report) else PROGRESS * max(1.0, members / 16)
        return max(now, self._told_at + pace)

    def told(self, now: float) -> None:
        self._told_at = now


def _moved(before: Report, after: Report) -> bool:
    """Whether more than figures changed."""
    if (before.version, before.state, before.roles) != (after.version, after.state, after.roles):
        return True
    return [(m.stage, m.active, m.target) for m in before.marks] != [
        (m.stage, m.active, m.target) for m in after.marks
    ]
