"""How far the site is with what is desired of it, as one node sees it."""

from collections.abc import Callable, Collection, Iterator, Mapping

from meshsat.fleet.desire import Desire, Wanted
from meshsat.fleet.meanings import Key, Meaning
from meshsat.fleet.report import Mark, Report, Stage
from meshsat.status import DesiredImageStatus, DesiredStatus, StageStatus
from meshsat.trust.keys import PeerId

BEHIND = "behind"
"""Of a node that follows another state."""


def overview(
    desire: Desire,
    meanings: Mapping[Key, Meaning],
    reports: Mapping[PeerId, Report],
    live: Collection[PeerId],
    name_of: Callable[[PeerId], str],
    now: float,
    unix: float,
) -> DesiredStatus:
    """`now` on the clock of `Desire.decide`, `unix` in Unix seconds."""

    def of(place: int, one: Wanted) -> DesiredImageStatus:
        meaning = meanings.get(one.key)
        deadline = one.image.deadline
        return DesiredImageStatus(
            one.image.name,
            None if one.target is None else str(one.target),
            None if meaning is None else str(meaning.digest),
            () if meaning is None else tuple(map(str, meaning.before)),
            one.image.copies,
            one.image.priority,
            deadline,
            deadline is not None and unix > deadline and one.mine and not one.whole,
            (own(one, meaning), *others(place, one)),
        )

    def own(one: Wanted, meaning: Meaning | None) -> StageStatus:
        active = meaning is not None and meaning.digest == one.target
        stage = desire.stage(one, now)
        percent = 100 * one.have // one.total if stage is Stage.FETCHING and one.total else None
        return StageStatus(
            desire.me, name_of(desire.me), stage.name.lower(), active, percent, one.fault or None
        )

    def others(place: int, one: Wanted) -> Iterator[StageStatus]:
        for peer in sorted(live, key=name_of):
            report = reports.get(peer)
            mark = report.mark(place) if report is not None and report.state == desire.state else None
            if report is None or mark is None or (one.target is not None and not mark.is_of(one.target)):
                yield StageStatus(peer, name_of(peer), BEHIND, active=False)
            else:
                yield _told(peer, name_of(peer), report, mark, place)

    images = tuple(of(place, one) for place, one in enumerate(desire.wanted.values()))
    return DesiredStatus(desire.version, images)


def _told(peer: PeerId, name: str, report: Report, mark: Mark, place: int) -> StageStatus:
    percent = mark.percent if mark.stage is Stage.FETCHING else None
    fault = dict(report.faults).get(place)
    return StageStatus(peer, name, mark.stage.name.lower(), mark.active, percent, fault)
