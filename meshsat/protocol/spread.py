"""How records spread: pushed to a few neighbours as long as they are news, and compared now and then with
one.

Laws:
1. What is news to us goes on to the neighbours of `view.gossip`, but to nobody who told us of it. Whoever
   knows it already sends it nowhere: a record crosses each of those edges at most twice, however large the
   site is.
2. With every peer that is new, and every so often with one at random, the sums of both sets are compared.
   Equal sets cost one small frame. Else the parts whose sums differ are, down to parts with few records,
   whose keys and versions are told; then each side gives what the other lacks.
3. Nobody is sent more than a bounded answer at once; whoever was not sent all compares again when that is
   taken in.
4. A queue is each peer's own (the session's): a hung peer keeps nobody from news.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from meshsat.errors import InvalidInputError
from meshsat.protocol import effects, wire
from meshsat.protocol.events import ItemDropped, ItemJudged, Judgement
from meshsat.protocol.gossip import FutureRecordError, RecordSet, open_record_untrusted
from meshsat.protocol.judged import Judged
from meshsat.protocol.members import (
    Gone,
    MemberRecord,
    Roster,
    decode_gone_untrusted,
    open_member_untrusted,
    seal_member,
)
from meshsat.protocol.session import Session
from meshsat.protocol.state import State
from meshsat.protocol.sums import DIGITS, KEY, Sums, children, leaf_key, leaf_version
from meshsat.protocol.token_use import TokenUse, UseSet, decode_token_use_untrusted
from meshsat.protocol.wire import Item
from meshsat.trust.keys import PeerId

FLUSH = 0.05
"""Seconds for which news waits for more, to go in one frame."""
PENDING_LIMIT = 4096
"""Items that wait to be pushed; what does not fit spreads by comparing."""
SEEN_LIMIT = 16_384
FRAME_BYTES = 16 << 10
"""Bytes of items in one frame: their signatures are checked in one go."""
ANSWER_BYTES = 64 << 10
"""Bytes of items in one answer."""
FEW = 32
"""Records of a part that are named one by one."""
ITEM_COST = 4
"""What an item costs us that is no news, in terms of small frames: a signature is checked."""
LEAP = 1 << 41
"""By how much we let others' word raise our incarnation: 70 years of a clock set back, and no lie ends it."""
AGAIN = 60.0
"""Seconds until a record that could not be judged is looked at again."""
LATER_LIMIT = 1024
COMPARE_PACE = 0.25
"""Seconds between two comparings that we begin."""


Addresses = tuple[tuple[str, ...], tuple[str, ...]]
"""Of the control plane, of the bulk plane."""


class Kind(IntEnum):
    """What an item is."""

    IMAGE = 0
    MEMBER = 1
    USE = 2
    GONE = 3
    STATE = 4
    """Who may sign desired states, and which is in force (trust/)."""
    REPORT = 5
    """What a node holds of the desired state (fleet/report.py)."""
    REVOCATION = 6
    """Whose pass is worth nothing any more."""


JUDGED = (Kind.STATE, Kind.REPORT, Kind.REVOCATION)
"""Not judged here: see `judged`."""


class Shelf(Protocol):
    """A set of records that is compared."""

    sums: Sums

    def item(self, key: bytes) -> bytes | None: ...


class Circle(Protocol):
    """Who acts on what is heard of members: `membership.Membership`."""

    def heard(self, record: MemberRecord, now: float) -> None: ...

    def gone(self, peer: PeerId) -> None: ...


def _split(items: Iterable[Item], limit: int) -> Iterator[tuple[Item, ...]]:
    """In frames of at most so many bytes."""
    part: list[Item] = []
    length = 0
    for item in items:
        if part and (length + len(item[1]) > limit or len(part) >= wire.ITEMS_LIMIT):
            yield tuple(part)
            part, length = [], 0
        part.append(item)
        length += len(item[1])
    if part:
        yield tuple(part)


class Spread:
    """`unix` turns the machine's time into Unix time. `interval`: seconds between two comparings."""

    def __init__(
        self,
        state: State,
        circle: Circle,
        records: RecordSet,
        roster: Roster,
        unix: Callable[[float], float],
        interval: float,
    ) -> None:
        self._state = state
        self._circle = circle
        self._records = records
        self._roster = roster
        self._uses = UseSet()
        self.judged: dict[int, Judged] = {kind: Judged() for kind in JUDGED}
        self._shelves: dict[int, Shelf] = {
            Kind.IMAGE: records,
            Kind.MEMBER: roster,
            Kind.USE: self._uses,
            **self.judged,
        }
        self._unix = unix
        self._interval = interval
        self._pending: dict[Item, set[PeerId]] = {}
        """News -> who need not be told."""
        self._flush_at = float("inf")
        self._seen: dict[bytes, None] = {}
        self._later: dict[bytes, float] = {}
        """Of those seen, until when they are not judged anew."""
        self._met: dict[PeerId, None] = {}
        """With whom to compare soon."""
        self._compare_at = float("-inf")
        self._round_at: float | None = None

    @property
    def deadline(self) -> float:
        """When to call `tick`, at the latest."""
        return self._flush_at

    def tell(self, kind: Kind, data: bytes, now: float, source: PeerId | None = None) -> None:
        """This is news: push it on, soon."""
        self._see(kind, data)
        if len(self._pending) < PENDING_LIMIT:
            self._pending.setdefault((int(kind), data), set()).add(source or self._state.me)
            self._flush_at = min(self._flush_at, now + FLUSH)

    def count_uses(self, uses: Iterable[TokenUse], now: float) -> None:
        """Uses of join tokens that this node counted, or knows from before."""
        for use in uses:
            if self._uses.merge(use, self._unix(now)):
                self.tell(Kind.USE, use.encode(), now)

    def resolved(self, session: Session, frame: wire.Resolved, now: float) -> None:
        """An answer brought a record: if it was taken in, it is as good as gossip."""
        version = self._records.sums.version(leaf_key(frame.registry, frame.repository, frame.reference))
        if version == leaf_version(frame.record) and self._mark(Kind.IMAGE, frame.record) not in self._seen:
            self.tell(Kind.IMAGE, frame.record, now, session.peer)

    # --- members: what we say of us, and of those that we can't reach ---

    def present(self, addresses: Addresses, now: float, *, uplink: bool) -> None:
        """Tell the site where we are, if that changed."""
        own = self._roster.get(self._state.me)
        if own is None or (own.control, own.bulk, own.uplink) != (*addresses, uplink):
            self._seal(0 if own is None else own.incarnation, addresses, uplink=uplink, now=now)

    def _refute(self, incarnation: int, now: float) -> None:
        """Somebody takes us for gone, or knows a record of ours from before our clock was set back."""
        own = self._roster.get(self._state.me)
        if own is not None and own.incarnation <= incarnation < own.incarnation + LEAP:
            self._seal(incarnation, (own.control, own.bulk), uplink=own.uplink, now=now)

    def _seal(self, before: int, addresses: Addresses, *, uplink: bool, now: float) -> None:
        if addresses == ((), ()):
            return  # nobody could reach us there
        incarnation = max(int(self._unix(now) * 1000), before + 1)
        own = seal_member(_Us(self._state), incarnation, *addresses, uplink=uplink)
        self._roster.merge(own)
        if self._state.view.large:
            self.tell(Kind.MEMBER, own.sealed, now)
        else:
            for peer, session in self._state.sessions.items():
                if session.greeted:
                    self._state.send(peer, wire.News(((int(Kind.MEMBER), own.sealed),), more=False))

    def lost(self, peer: PeerId, now: float) -> None:
        """We can't reach this member any more: tell the site that it is gone."""
        known = self._roster.get(peer)
        if known is not None:
            self._bury(Gone(peer, known.incarnation), now, None)

    def _bury(self, gone: Gone, now: float, source: PeerId | None) -> None:
        if self._roster.bury(gone, now):
            self._circle.gone(gone.peer)
            self.tell(Kind.GONE, gone.encode(), now, source)

    # --- out: pushes, and whom to compare with ---

    def _flush(self) -> None:
        self._flush_at = float("inf")
        pending, self._pending = self._pending, {}
        for peer in self._state.gossip_with():
            items = [item for item, knowing in pending.items() if peer not in knowing]
            for part in _split(items, FRAME_BYTES):
                self._state.send(peer, wire.News(part, more=False))

    def greeted(self, session: Session, now: float) -> None:
        own = self._roster.get(self._state.me)
        if own is not None:
            self._state.send(session.peer, wire.News(((int(Kind.MEMBER), own.sealed),), more=False))
        if session.dialled:  # one of the two is enough to compare
            self._met[session.peer] = None
            self._compare_next(now)

    def _compare_next(self, now: float) -> None:
        while self._met and now >= self._compare_at:
            peer = next(iter(self._met))
            del self._met[peer]
            if peer in self._state.sessions:
                self._compare_at = now + COMPARE_PACE
                self._compare(peer)

    def _compare(self, peer: PeerId) -> None:
        sums = tuple((kind, "", shelf.sums.sum("")) for kind, shelf in self._shelves.items())
        self._state.send(peer, wire.Compare(sums))

    def tick(self, now: float) -> None:
        if now >= self._flush_at:
            self._flush()
        self._compare_next(now)
        if self._round_at is None:
            self._round_at = now + self._interval
        elif now >= self._round_at:
            self._round_at = now + self._interval * self._state.rng.uniform(0.75, 1.25)
            peers = self._state.gossip_with()
            if peers:
                self._met.setdefault(peers[self._state.rng.randrange(len(peers))])
        self._roster.tick(now)
        for mark in [mark for mark, until in self._later.items() if now >= until]:
            del self._later[mark]
            self._seen.pop(mark, None)

    # --- in: comparing ---

    def compare(self, session: Session, frame: wire.Compare) -> None:
        deeper: list[tuple[int, str, int]] = []
        named: list[tuple[int, str, bytes]] = []
        for kind, part, theirs in frame.sums:
            if kind not in self._shelves:
                continue
            sums = self._shelves[kind].sums
            if sums.sum(part) == theirs:
                continue
            if sums.count(part) <= FEW or len(part) == DIGITS:
                named.append((kind, part, self._named(sums, part)))
            else:
                deeper += [(kind, child, sums.sum(child)) for child in children(part)]
        for start in range(0, len(deeper), wire.PARTS_LIMIT):
            self._state.send(session.peer, wire.Compare(tuple(deeper[start : start + wire.PARTS_LIMIT])))
        if named:
            self._state.send(session.peer, wire.Summary(tuple(named), answer=False))

    @staticmethod
    def _named(sums: Sums, part: str) -> bytes:
        return b"".join(key + version for key, version in sums.leaves(part).items())

    def summary(self, session: Session, frame: wire.Summary) -> None:
        """Give what they lack; name what we have of the parts where we lack something."""
        lacking: list[Item] = []
        asking: list[tuple[int, str, bytes]] = []
        for kind, part, named in frame.parts:
            if kind not in self._shelves:
                continue
            shelf = self._shelves[kind]
            theirs = {
                named[at : at + KEY]: named[at + KEY : at + 2 * KEY] for at in range(0, len(named), 2 * KEY)
            }
            ours = shelf.sums.leaves(part)
            lacking += self._given(kind, (key for key in ours if theirs.get(key) != ours[key]))
            strange = [key for key in theirs if key not in ours]
            gone = [self._roster.buried(key) for key in strange] if kind == Kind.MEMBER else []
            lacking += [(int(Kind.GONE), one.encode()) for one in gone if one is not None]
            if any(ours.get(key) != version for key, version in theirs.items()) and len(ours) <= FEW:
                asking.append((kind, part, self._named(shelf.sums, part)))
        self._give(session, lacking)
        if asking and not frame.answer:
            self._state.send(session.peer, wire.Summary(tuple(asking), answer=True))

    def _given(self, kind: int, keys: Iterable[bytes]) -> Iterator[Item]:
        for key in keys:
            data = self._shelves[kind].item(key)
            if data is not None:
                yield kind, data

    def _give(self, session: Session, items: list[Item]) -> None:
        length = 0
        fitting: list[Item] = []
        for item in items:
            length += len(item[1])
            if length > ANSWER_BYTES:
                break
            fitting.append(item)
        parts = list(_split(fitting, FRAME_BYTES))
        for number, part in enumerate(parts, 1):
            more = number == len(parts) and len(fitting) < len(items)
            self._state.send(session.peer, wire.News(part, more))

    # --- in: news ---

    def news(self, session: Session, frame: wire.News, now: float) -> None:
        fresh = False
        for kind, data in frame.items:
            if self._mark(kind, data) in self._seen:
                self._pending.get((kind, data), set()).add(session.peer)
                continue
            if kind > max(Kind):
                continue  # of a later version
            if not session.spend_frame(now, ITEM_COST):
                self._state.expel(session, "it floods us with records")
                return
            if kind in self.judged:
                self._see(kind, data)
                self._state.emit(effects.JudgeItem(kind, data, session.peer))
                fresh = True
                continue
            try:
                taken = self._take(Kind(kind), data, session, now)
            except FutureRecordError:
                continue  # one of two clocks is wrong; whoever passes it on can not know
            except InvalidInputError as wrong:
                self._state.expel(session, f"it passed on a wrong record: {wrong}")
                return
            if taken:
                fresh = True
                session.earn_frame(ITEM_COST)
        if frame.more and fresh:
            self._compare(session.peer)

    def _take(self, kind: Kind, data: bytes, session: Session, now: float) -> bool:
        """Whether it was news. Raises `InvalidInputError`."""
        match kind:
            case Kind.IMAGE:
                image = open_record_untrusted(data, self._unix(now), self._state.verify)
                if not self._state.believes(image):
                    return False  # whoever passes it on may not have heard yet
                if not self._records.merge(image):
                    self._correct(session, kind, data, self._records.get(image.key))
                    return False
                self._state.emit(effects.TellRecord(image))
            case Kind.MEMBER:
                return self._take_member(data, session, now)
            case Kind.USE:
                use = decode_token_use_untrusted(data)
                if not self._uses.merge(use, self._unix(now)):
                    return False
                self._state.emit(effects.CountUse(use))
            case Kind.GONE:
                return self._take_gone(decode_gone_untrusted(data), session, now)
        self.tell(kind, data, now, session.peer)
        return True

    # --- in: what others judge ---

    def item_judged(self, event: ItemJudged, now: float) -> None:
        shelf = self.judged[event.kind]
        session = self._state.sessions.get(event.source) if event.source is not None else None
        match event.judgement:
            case Judgement.NEWS:
                if event.name and not shelf.put(event.name, event.data):
                    return
                if session is not None:
                    session.earn_frame(ITEM_COST)
                self.tell(Kind(event.kind), event.data, now, event.source)
            case Judgement.OUTDATED:
                ours = shelf.get(event.name)
                if session is not None and ours is not None and ours != event.data:
                    self._state.send(session.peer, wire.News(((event.kind, ours),), more=False))
            case Judgement.LATER:
                if len(self._later) < LATER_LIMIT:
                    self._later[self._mark(event.kind, event.data)] = now + AGAIN
            case Judgement.WRONG:
                if session is not None:
                    self._state.expel(session, f"it passed on a wrong record: {event.reason}")

    def item_dropped(self, event: ItemDropped) -> None:
        self.judged[event.kind].drop(event.name)

    def _correct(self, session: Session, kind: Kind, data: bytes, ours: "_Sealed | None") -> None:
        """It told what is outdated."""
        if ours is not None and ours.sealed != data:
            self._state.send(session.peer, wire.News(((int(kind), ours.sealed),), more=False))

    def _take_member(self, data: bytes, session: Session, now: float) -> bool:
        record = open_member_untrusted(data, self._state.verify)
        own = self._roster.get(self._state.me)
        if record.peer in self._state.revoked:
            return False
        if record.peer == self._state.me:
            if own is None or record.version > own.version:
                self._refute(record.incarnation, now)
            return False
        if not self._roster.merge(record):
            gone = self._roster.gone(record.peer)
            if gone is not None:
                self._state.send(session.peer, wire.News(((int(Kind.GONE), gone.encode()),), more=False))
            else:
                self._correct(session, Kind.MEMBER, data, self._roster.get(record.peer))
            return False
        self._circle.heard(record, now)
        if self._state.view.large or record.peer != session.peer:  # else it tells everybody itself
            self.tell(Kind.MEMBER, data, now, session.peer)
        return True

    def _take_gone(self, gone: Gone, session: Session, now: float) -> bool:
        known = self._roster.get(gone.peer)
        if known is None or known.incarnation > gone.incarnation:
            return False
        if gone.peer == self._state.me:
            self._refute(gone.incarnation, now)
            return False
        if gone.peer in self._state.sessions:  # it is here: let it speak for itself
            self._state.send(gone.peer, wire.News(((int(Kind.GONE), gone.encode()),), more=False))
            return False
        self._bury(gone, now, session.peer)
        return True

    @staticmethod
    def _mark(kind: int, data: bytes) -> bytes:
        return leaf_version(bytes([kind]) + data)

    def _see(self, kind: int, data: bytes) -> None:
        if kind != Kind.GONE:  # of that, the same may be news again
            self._seen[self._mark(kind, data)] = None
            while len(self._seen) > SEEN_LIMIT:
                del self._seen[next(iter(self._seen))]


class _Sealed(Protocol):
    @property
    def sealed(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Us:
    """This node as one who seals (`trust.keys.Signer`)."""

    state: State

    @property
    def peer_id(self) -> PeerId:
        return self.state.me

    def sign(self, data: bytes) -> bytes:
        return self.state.sign(data)
