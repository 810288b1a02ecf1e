"""The standing of this node and its peers in the fleet: what time it is, who is revoked, who is let in.

It owns the clock that everybody here believes, the revocations, and the judgement of passes (`admission`);
keeps them on disk; tells the site of revocations, and ends the sessions of whoever is not to be let in any
more. A revocation counts from the moment at which it is heard: what is written and told follows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from meshsat.config import PassesSection
from meshsat.errors import ConfigError, DeniedError, InvalidInputError
from meshsat.mesh.driver import Driver
from meshsat.mesh.identity import Identity
from meshsat.mesh.outcomes import Outcome, Tell, log_outcome
from meshsat.mesh.pass_files import (
    CLOCK,
    REVOKED,
    DamagedError,
    read_floors_untrusted,
    read_revoked_untrusted,
    write_floors,
    write_revoked,
)
from meshsat.mesh.transport import Transport
from meshsat.protocol import events, wire
from meshsat.protocol.events import ItemJudged, Judgement
from meshsat.protocol.spread import Kind
from meshsat.status import MemberStatus
from meshsat.trust.admission import Admission
from meshsat.trust.clock import Clock, Floors, Source
from meshsat.trust.keys import PeerId, parse_peer_id_untrusted
from meshsat.trust.passes import (
    ENROLLER,
    ENROLLER_LIFETIME,
    PASS_LIFETIME,
    Pass,
    PassError,
    verify_enroller_untrusted,
)
from meshsat.trust.revocations import Revocation, Revocations, Taken, revoke

log = structlog.get_logger(__name__)

LOOK = 1.0
"""Seconds between two looks at sessions, members' clocks and our own."""
RECHECK = 10.0
"""Seconds between two looks at whose pass has ended."""
SAVE = 3600.0
"""Seconds between two notes on disk of what time it is; the first comes sooner."""
FIRST_SAVE = 60.0
FAREWELL = 0.3
"""Seconds in which whoever is revoked is told why, before its sessions are cut."""
LEAST_JUMP = 1.0
"""Seconds by which the time must turn out to be another, to be told."""
MEMBERS_LIMIT = 1024
GRACE_MOST = 90 * 86400.0
"""Seconds: the longest grace that any node may be set to."""
_JUDGEMENTS = {
    Taken.NEWS: Judgement.NEWS,
    Taken.KNOWN: Judgement.KNOWN,
    Taken.OUTDATED: Judgement.OUTDATED,
    Taken.NO_ROOM: Judgement.LATER,
}


@dataclass(slots=True)
class _Seen:
    member: Pass
    at: float
    """Unix seconds."""


class Standing:
    """`wall` gives Unix seconds as the machine has them."""

    def __init__(
        self, identity: Identity, section: PassesSection, wall: Callable[[], float], tell: Tell = log_outcome
    ) -> None:
        self.identity = identity
        self.revocations = Revocations(identity.root)
        self.replaced = trio.Event()
        """Our key is another: this node has to begin anew."""
        self.on_renewed: list[Callable[[Identity], None]] = []
        self.problems: list[str] = []
        """Of files that could not be read, and of what could not be written."""
        self._grace = section.grace
        self._tell = tell
        floors = self._load()
        monotonic = trio.lowlevel.current_clock().current_time  # `trio.current_time` of other threads too
        self.clock = Clock(wall, monotonic, floors, self._horizon())
        self.clock.issued(identity.member.issued_at)
        for revocation in self.revocations:
            self._date(revocation)
        self.admission = Admission(
            identity.root,
            identity.member.site,
            self.clock.read,
            grace=section.grace,
            revocations=self.revocations,
        )
        self._seen: dict[PeerId, _Seen] = {}
        self._driver: Driver | None = None
        self._planes: Sequence[Transport] = ()
        self._changed = trio.Event()
        self._unsaved = False
        self._told: tuple[float, bool] | None = None

    def _load(self) -> Floors:
        directory = self.identity.directory
        if directory is None:
            return Floors()
        try:
            for data in read_revoked_untrusted(directory / REVOKED):
                self.revocations.take_untrusted(data)
        except InvalidInputError as damaged:
            self.problems.append(str(damaged))
        try:
            return read_floors_untrusted(directory / CLOCK)
        except DamagedError as damaged:
            self.problems.append(str(damaged))
            return Floors()

    def _horizon(self) -> float:
        return self.identity.member.not_after + self._grace

    def _date(self, revocation: Revocation) -> None:
        if revocation.by_root:
            self.clock.signed(revocation.at)

    # --- our own

    @property
    def revoked(self) -> Revocation | None:
        """Why we are no member any more."""
        return self.revocations.of(self.identity.member)

    def renewed(self, identity: Identity) -> None:
        """Show this pass from now on. Raises `ConfigError`."""
        for plane in self._planes:
            plane.renew(identity)
        self.identity = identity
        self.clock.horizon = self._horizon()
        self.clock.issued(identity.member.issued_at)
        for told in self.on_renewed:
            told(identity)

    # --- revocations

    def judge(self, data: bytes, source: PeerId) -> ItemJudged:
        """As `driver.Judge`."""
        try:
            revocation, taken = self.revocations.take_untrusted(data)
        except InvalidInputError as wrong:
            return ItemJudged(int(Kind.REVOCATION), "", data, source, Judgement.WRONG, str(wrong))
        if taken is Taken.NEWS:
            self._date(revocation)
            self._say(revocation)
            self._heed()
        return ItemJudged(int(Kind.REVOCATION), revocation.name, data, source, _JUDGEMENTS[taken])

    def learn(self, data: bytes) -> None:
        """A revocation that came another way than by gossip. Raises `InvalidInputError`."""
        revocation, taken = self.revocations.take_untrusted(data)
        if taken is Taken.NEWS:
            self._date(revocation)
            self._say(revocation)
            self._publish(revocation)

    def revoke(
        self, peer: PeerId | None, site: str | None, reason: str = "", *, issued: bool = False
    ) -> Revocation:
        """Revoke a key, or with `peer` None a site. `issued`: of an enroller, what it issued as well.

        Raises `DeniedError` where this node may not, `InvalidInputError`.
        """
        known = self._seen.get(peer) if peer is not None else None
        where = site or (known.member.site if known is not None else self.identity.member.site)
        if peer == self.identity.key.peer_id:
            raise DeniedError("this node can't revoke itself; rotate its key, or revoke it from another one")
        root = self.identity.root_issuer()
        issuer = root or self.identity.issuer
        if issuer is None:
            raise DeniedError("this node is no enroller; revoke from one, or where the fleet's root key is")
        if root is None and (issued or (known is not None and ENROLLER in known.member.roles)):
            raise DeniedError("only the fleet's root key revokes an enroller; do it where that is")
        if root is None and self.revocations.of_author(issuer.key.peer_id, self.clock.now()) is not None:
            raise DeniedError("this enroller is revoked itself")
        now = self.clock.now()
        # Twice, because an enroller that has not heard of it may renew the pass meanwhile.
        lasts = ENROLLER_LIFETIME if root is not None or peer is None else 2 * PASS_LIFETIME
        revocation = revoke(
            issuer,
            self.identity.root,
            peer=peer,
            site=where,
            at=now,
            until=now + lasts + GRACE_MOST,
            reason=reason,
            issued=issued,
        )
        if self.revocations.take(revocation) is Taken.NO_ROOM:
            raise DeniedError("there are too many revocations to keep another; the root's are always kept")
        self._date(revocation)
        self._publish(revocation)
        return revocation

    def supersede(self, old: Pass) -> Revocation:
        """Revoke the key of a pass whose owner has another one. Raises as `revoke`."""
        self._see(old)
        revocation = self.revoke(old.peer, old.site, "superseded by another key of its owner's")
        self._say(revocation)
        return revocation

    def _publish(self, revocation: Revocation) -> None:
        if self._driver is not None:
            self._driver.feed(_introduced(revocation))
        self._heed()

    def _say(self, revocation: Revocation) -> None:
        self._tell(
            Outcome(
                "revoke",
                done=True,
                peer=revocation.peer or "",
                site=revocation.site,
                by=revocation.author,
                reason=revocation.reason,
            )
        )

    def _heed(self) -> None:
        self._unsaved = True
        self._changed.set()

    # --- run

    def attach(self, driver: Driver, planes: Sequence[Transport]) -> None:
        """Before anything runs."""
        self._driver, self._planes = driver, planes
        driver.judges[int(Kind.REVOCATION)] = self.judge

    async def run(self) -> None:
        """Run until cancelled."""
        assert self._driver is not None  # noqa: S101 - attached by whoever builds the node
        for revocation in self.revocations:
            self._driver.feed(_introduced(revocation))
        self._tell_revoked()
        now = trio.current_time()
        recheck_at, save_at = now + RECHECK, now + FIRST_SAVE
        while True:
            self._look()
            if self._changed.is_set():
                self._changed = trio.Event()
                await self._cut()
            now = trio.current_time()
            if now >= recheck_at:
                recheck_at = now + RECHECK
                await self._recheck()
            if self._unsaved or now >= save_at:
                save_at = now + SAVE
                await self._save()
            with trio.move_on_after(LOOK):
                await self._changed.wait()

    def _look(self) -> None:
        """At whom we have sessions with, and what their clocks say."""
        assert self._driver is not None  # noqa: S101
        clocks: dict[str, float] = {}
        for peer, link in list(self._driver.links.items()):
            self._see(link.stream.member)
            session = self._driver.machine.sessions.get(peer)
            if session is not None and session.clock is not None:
                clocks[link.stream.member.name] = session.clock
        for name in self.clock.voters() - clocks.keys():
            self.clock.forget(name)
        for name, offset in clocks.items():
            self.clock.told(name, offset)
        reading = self.clock.read()
        offset = reading.now - trio.current_time()
        right = reading.source is not Source.FLOOR and reading.problem is None
        if self._told is None or abs(offset - self._told[0]) > LEAST_JUMP or right != self._told[1]:
            self._told = (offset, right)
            self._driver.feed(events.ClockSet(offset, right))

    def _see(self, member: Pass) -> None:
        self._seen.pop(member.peer, None)
        self._seen[member.peer] = _Seen(member, self.clock.now())
        if len(self._seen) > MEMBERS_LIMIT:
            del self._seen[next(iter(self._seen))]

    async def _cut(self) -> None:
        """End what a revocation ends; tell whom it concerns, that it knows what to do."""
        assert self._driver is not None  # noqa: S101
        told = False
        for link in list(self._driver.links.values()):
            revocation = self.revocations.of(link.stream.member)
            if revocation is not None:
                link.send(wire.News(((int(Kind.REVOCATION), revocation.sealed),), more=False))
                told = True
        if told:
            await trio.sleep(FAREWELL)
        self._tell_revoked()
        await self._recheck()

    async def _recheck(self) -> None:
        for plane in self._planes:
            await plane.recheck()

    def _tell_revoked(self) -> None:
        assert self._driver is not None  # noqa: S101
        revoked: dict[PeerId, float] = {}
        for one in self.revocations:
            if one.peer is not None and self._is_revoked(one.peer) and one.peer != self.identity.key.peer_id:
                revoked[one.peer] = min(one.at, revoked.get(one.peer, one.at))
        self._driver.feed(events.PeersRevoked(tuple(sorted(revoked.items()))))

    def _is_revoked(self, peer: PeerId) -> bool:
        known = self._seen.get(peer)
        if known is not None:
            return self.revocations.of(known.member) is not None
        return self.revocations.of_peer(peer, self.identity.member.site) is not None

    async def _save(self) -> None:
        self._unsaved = False
        self.clock.ran()
        if self.clock.read().confirmed:
            for name in self.revocations.forget_old(self.clock.now()):
                assert self._driver is not None  # noqa: S101
                self._driver.feed(events.ItemDropped(int(Kind.REVOCATION), name))
        if self.identity.directory is None:
            return
        try:
            await trio.to_thread.run_sync(
                self._write, self.identity.directory, list(self.revocations), self.clock.floors
            )
        except ConfigError as full:
            text = f"revocations and the time are not kept over a restart: {full}"
            if text not in self.problems:
                log.warning("cannot keep revocations", problem=str(full))
                self.problems.append(text)

    @staticmethod
    def _write(directory: Path, revocations: list[Revocation], floors: Floors) -> None:
        write_revoked(directory / REVOKED, revocations)
        write_floors(directory / CLOCK, floors)

    # --- what is shown

    def enrollers(self) -> list[PeerId]:
        """Peers that may renew a pass, those seen last first."""
        return [
            peer
            for peer, seen in reversed(self._seen.items())
            if ENROLLER in seen.member.roles and self.revocations.of(seen.member) is None
        ]

    def members(self) -> list[MemberStatus]:
        """Ourselves, whoever was seen since this node began, and whoever is revoked."""
        now = self.clock.now()
        seen = {**self._seen, self.identity.key.peer_id: _Seen(self.identity.member, now)}
        found = [self._shown(one.member, one.at, now) for one in seen.values()]
        found += [
            MemberStatus(peer=one.peer, site=one.site, state="revoked", why=one.in_words())
            for one in self.revocations
            if one.peer is not None and one.peer not in seen
        ]
        return sorted(found, key=lambda one: (one.site, one.name, one.peer))

    def _shown(self, member: Pass, at: float, now: float) -> MemberStatus:
        revocation = self.revocations.of(member)
        state = "revoked" if revocation is not None else self.state_of(member, now)
        return MemberStatus(
            peer=member.peer,
            name=member.name,
            site=member.site,
            roles=tuple(sorted(member.roles)),
            serial=f"{member.serial:x}",
            expires=member.not_after,
            last_seen=at,
            state=state,
            why=revocation.in_words() if revocation is not None else "",
        )

    @staticmethod
    def state_of(member: Pass, now: float) -> str:
        """`active`, `expiring` (a sixth of its life is left) or `expired`."""
        if now > member.not_after:
            return "expired"
        life = member.not_after - member.issued_at
        return "expiring" if member.not_after - now < life / 6 else "active"

    def find(self, who: str) -> PeerId:
        """The member of that peer id or name. Raises `InvalidInputError`."""
        named = [one.peer for one in self.members() if who in (one.peer, one.name) and one.peer]
        if len(named) == 1:
            return PeerId(named[0])
        if named:
            raise InvalidInputError(f"{len(named)} members are called {who[:64]!r}: give the peer id")
        try:
            return parse_peer_id_untrusted(who)
        except InvalidInputError:
            raise InvalidInputError(
                f"no member seen here is called {who[:64]!r}: give its peer id (`meshsat fleet members`)"
            ) from None

    def certificate_ends(self) -> float | None:
        """When our right to enrol others ends; None where we have none. Unix seconds."""
        if self.identity.enroller is None:
            return None
        try:
            return verify_enroller_untrusted(self.identity.enroller, self.identity.root, None).not_after
        except PassError:
            return None


def _introduced(revocation: Revocation) -> ItemJudged:
    kind = int(Kind.REVOCATION)
    return ItemJudged(kind, revocation.name, revocation.sealed, None, Judgement.NEWS)
