"""Reports: what each node of a site says of the desired state: which one it follows, and how far it is.

A report is sealed by its node and spreads by gossip; of one node the youngest counts. Images are told by
their place among those that the state wants of the site, which nodes with the same state count alike. Nobody
believes a report more than it must: it can hold up the moment in which a tag changes for as long as patience
lasts, and make others hold a copy more or less; never does it decide what is served.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

import cbor2

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.protocol.events import ItemJudged, Judgement
from meshsat.protocol.members import MEMBERS_LIMIT
from meshsat.protocol.spread import Kind
from meshsat.trust import envelope
from meshsat.trust.keys import PeerId, Signer, Verify, verify

CONTEXT = "meshsat/report/1"
REPORT_LIMIT = 8192
"""Bytes of one sealed report."""
IMAGES_TOLD = 1000
"""Images of a site that nodes tell each other of, the most important ones."""
FAULTS_TOLD = 4
FAULT_LIMIT = 160
"""Characters of one fault."""
ROLES_LIMIT = 16
STATE = 8
"""Bytes of a state's digest by which it is told apart."""
TARGET = 4
"""Bytes of an image's digest by which it is told apart from that of another revision."""
RATE, BURST = 4.0, 40.0
"""Reports of one node that are taken a second, and at once. More would have the whole site pass them on."""
_ACTIVE = 0x80
_TIME_LIMIT = 1 << 62


class Stage(IntEnum):
    """How far a node is with one image."""

    UNKNOWN = 0
    """What its tag means is not known yet."""
    WAITING = 1
    FETCHING = 2
    FAILED = 3
    """It is tried again."""
    FULL = 4
    """There is no room for it."""
    ELSEWHERE = 5
    """Other nodes hold it."""
    WHOLE = 6


@dataclass(frozen=True, slots=True)
class Mark:
    """What a node says of one image."""

    stage: Stage = Stage.UNKNOWN
    active: bool = False
    """The tag means it there."""
    target: bytes = bytes(TARGET)
    """The beginning of the digest that the stage is of."""
    percent: int = 0
    """Of its bytes, how many are there, while it is fetched."""

    def is_of(self, digest: Digest) -> bool:
        return self.target == prefix_of(digest)


@dataclass(frozen=True, slots=True)
class Report:
    peer: PeerId
    at: int
    """Milliseconds of Unix time, or one more than that of the report before."""
    version: int
    """Revision of the state."""
    state: bytes
    """The beginning of its digest; empty where none is followed."""
    roles: tuple[str, ...] = ()
    room: int | None = None
    """Bytes of the disk budget that are left; None: no budget is set."""
    marks: tuple[Mark, ...] = ()
    faults: tuple[tuple[int, str], ...] = ()
    """Images by their place, and what is wrong with them: a few."""
    sealed: bytes = b""
    full: frozenset[int] = field(default=frozenset(), compare=False)
    """The places of images that there is no room for."""

    def mark(self, place: int) -> Mark | None:
        return self.marks[place] if place < len(self.marks) else None

    def says(self, other: "Report") -> bool:
        """Whether the other says the same, whenever."""
        return (self.version, self.state, self.roles, self.room, self.marks, self.faults) == (
            other.version,
            other.state,
            other.roles,
            other.room,
            other.marks,
            other.faults,
        )


def prefix_of(digest: Digest) -> bytes:
    return bytes.fromhex(digest.hex)[:TARGET]


def seal_report(key: Signer, report: Report) -> bytes:
    stages = bytes(mark.stage | (_ACTIVE if mark.active else 0) for mark in report.marks)
    targets = b"".join(mark.target for mark in report.marks)
    percents = bytes(mark.percent for mark in report.marks)
    room = -1 if report.room is None else report.room
    words = [
        report.at,
        report.version,
        report.state,
        list(report.roles),
        room,
        stages,
        targets,
        percents,
        [list(fault) for fault in report.faults],
    ]
    return envelope.seal(key, CONTEXT, cbor2.dumps(words))


def open_report_untrusted(sealed: bytes, check: Verify = verify) -> Report:
    """Raises `InvalidInputError`."""
    if len(sealed) > REPORT_LIMIT:
        raise InvalidInputError("a report is too large")
    opened = envelope.open_untrusted(sealed, CONTEXT, check)
    items = decode_cbor_untrusted(opened.payload)
    kinds = [int, int, bytes, list, int, bytes, bytes, bytes, list]
    if type(items) is not list or [type(item) for item in items] != kinds:
        raise InvalidInputError("a report does not have its nine fields")
    at, version, state, roles, room, stages, targets, percents, faults = items
    if not 0 <= at < _TIME_LIMIT or not 0 <= version < _TIME_LIMIT or not -1 <= room < _TIME_LIMIT:
        raise InvalidInputError("a report's numbers are out of range")
    if len(state) not in (0, STATE):
        raise InvalidInputError("a report names no state")
    count = len(stages)
    if count > IMAGES_TOLD or len(targets) != count * TARGET or len(percents) != count:
        raise InvalidInputError("a report's images are not told alike")
    if len(roles) > ROLES_LIMIT or any(type(role) is not str or len(role) > 64 for role in roles):
        raise InvalidInputError("a report's roles are a few short words")
    marks = tuple(
        _mark(stages[place], targets[TARGET * place :][:TARGET], percents[place]) for place in range(count)
    )
    return Report(
        opened.author,
        at,
        version,
        state,
        tuple(roles),
        None if room < 0 else room,
        marks,
        tuple(_faults(faults)),
        bytes(sealed),
        frozenset(place for place, mark in enumerate(marks) if mark.stage is Stage.FULL),
    )


def _mark(stage: int, target: bytes, percent: int) -> Mark:
    if stage & ~_ACTIVE > max(Stage) or percent > 100:
        raise InvalidInputError("a report tells of no such stage")
    return Mark(Stage(stage & ~_ACTIVE), bool(stage & _ACTIVE), target, percent)


def _faults(items: list[object]) -> Iterator[tuple[int, str]]:
    if len(items) > FAULTS_TOLD:
        raise InvalidInputError("a report tells of a few faults")
    for item in items:
        match item:
            case [int(place), str(text)] if 0 <= place < IMAGES_TOLD and len(text) <= FAULT_LIMIT:
                yield place, text
            case _:
                raise InvalidInputError("a fault is an image's place and a short text")


class Reports:
    """The youngest report of each node. `is_member`: whether somebody of that key belongs to the site.
    `clock` gives seconds that never go back."""

    def __init__(self, me: PeerId, is_member: Callable[[PeerId], bool], clock: Callable[[], float]) -> None:
        self._me = me
        self._is_member = is_member
        self._clock = clock
        self._credit: dict[PeerId, tuple[float, float]] = {}
        """How many reports of a node are taken, as of when."""
        self.before = -1
        """The time of our own latest report that others know, of an earlier run perhaps."""
        self._reports: dict[PeerId, Report] = {}
        self.on_news: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Report]:
        return iter(self._reports.values())

    def get(self, peer: PeerId) -> Report | None:
        return self._reports.get(peer)

    def put(self, report: Report) -> None:
        """This node's own."""
        self._reports[report.peer] = report
        self.before = max(self.before, report.at)

    def judge(self, data: bytes, source: PeerId) -> ItemJudged:
        """See `mesh.driver.Judge`."""

        def judged(judgement: Judgement, name: str = "", reason: str = "") -> ItemJudged:
            return ItemJudged(int(Kind.REPORT), name, data, source, judgement, reason)

        try:
            report = open_report_untrusted(data)
        except InvalidInputError as wrong:
            return judged(Judgement.WRONG, reason=str(wrong))
        if report.peer == self._me:  # our clock was set back: the next one has to outdo it
            own = self._reports.get(self._me)
            if report.at > self.before and (own is None or not own.says(report)):
                self.on_news()
            self.before = max(self.before, report.at)
            return judged(Judgement.KNOWN)
        if not self._is_member(report.peer):
            return judged(Judgement.LATER)
        known = self._reports.get(report.peer)
        if known is not None and known.at >= report.at:
            same = known.sealed == report.sealed
            return judged(Judgement.KNOWN if same else Judgement.OUTDATED, report.peer)
        if known is None and len(self._reports) >= MEMBERS_LIMIT:
            return judged(Judgement.KNOWN)
        if not self._spend(report.peer):
            return judged(Judgement.LATER)
        self._reports[report.peer] = report
        self.on_news()
        return judged(Judgement.NEWS, report.peer)

    def _spend(self, peer: PeerId) -> bool:
        now = self._clock()
        credit, at = self._credit.get(peer, (BURST, now))
        credit = min(BURST, credit + (now - at) * RATE)
        self._credit[peer] = (max(0.0, credit - 1.0), now)
        return credit >= 1.0

    def forget_strangers(self) -> list[PeerId]:
        """Forget those who belong to the site no longer; returns who that was."""
        strangers = [peer for peer in self._reports if peer != self._me and not self._is_member(peer)]
        for peer in strangers:
            del self._reports[peer]
            self._credit.pop(peer, None)
        return strangers
