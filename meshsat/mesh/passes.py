"""Everything about this node's membership in one piece: its standing, the renewal of its pass, its enrolling.

What `node.py` builds and runs, and what the API asks. When the files of the identity change under a running
node (`meshsat join`, a rotation), a new pass is shown at once; with a new key the node begins anew.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
import trio

from meshsat.config import PassesSection
from meshsat.errors import ConfigError, DeniedError, InvalidInputError
from meshsat.mesh import identity as identities
from meshsat.mesh.driver import Driver
from meshsat.mesh.enrol import Enroller
from meshsat.mesh.identity import PASS, SWITCH, Identity
from meshsat.mesh.interfaces import split_address_untrusted
from meshsat.mesh.outcomes import Tell, log_outcome
from meshsat.mesh.renewal import Renewal
from meshsat.mesh.standing import Standing
from meshsat.mesh.token_ledger import TokenLedger
from meshsat.mesh.transport import Transport
from meshsat.protocol.rng import Rng
from meshsat.status import MemberStatus, PassStatus
from meshsat.trust.passes import NODE, in_days
from meshsat.trust.revocations import Revocation
from meshsat.trust.tokens import ADDRESSES_LIMIT, Grant

log = structlog.get_logger(__name__)

LOOK = 2.0
"""Seconds between two looks at the identity's files. A rotation of our own is answered before it is seen."""
FAREWELL = 0.5
"""Seconds in which whoever asked for another key is answered, before the node begins anew."""
LONG_BEFORE = 180 * 86400.0
"""Seconds before the end of an enroller's certificate from which on that is told."""


class Passes:
    """`wall` gives Unix seconds as the machine has them. Raises `ConfigError`."""

    def __init__(
        self,
        data_dir: Path,
        identity: Identity,
        section: PassesSection,
        *,
        wall: Callable[[], float] = time.time,
        tell: Tell = log_outcome,
    ) -> None:
        for address in section.enrollers:
            if split_address_untrusted(address) is None:
                raise ConfigError(f"passes.enrollers: {address!r} is not HOST:PORT")
        self.standing = Standing(identity, section, wall, tell)
        self.now = self.standing.clock.now
        self.ledger = TokenLedger(identity.directory, self.now)
        self.enroller: Enroller | None = None
        if identity.issuer is not None:
            self.enroller = Enroller(
                identity,
                self.ledger,
                self.now,
                admission=self.standing.admission,
                lifetime=section.lifetime,
                supersede=self.standing.supersede,
                tell=tell,
            )
            self.standing.on_renewed.append(self.enroller.renew)
        self._data_dir = data_dir
        self._section = section
        self._tell = tell
        self._renewal: Renewal | None = None
        self._driver: Driver | None = None
        self._rotated = trio.Event()

    def attach(self, driver: Driver, planes: Sequence[Transport], rng: Rng) -> None:
        """Before anything runs."""
        self._driver = driver
        self.standing.attach(driver, planes)
        self._renewal = Renewal(
            self.standing, self._data_dir, self._section.lifetime, self._locate, rng, self._tell
        )

    @property
    def renewal(self) -> Renewal:
        assert self._renewal is not None  # noqa: S101 - attached by whoever builds the node
        return self._renewal

    def _locate(self) -> list[str]:
        assert self._driver is not None  # noqa: S101
        found: list[str] = []
        sessions, known = self._driver.machine.sessions, self._driver.machine.membership.known
        enrollers = self.standing.enrollers()
        for peer in sorted(enrollers, key=lambda one: one not in sessions):
            if peer in known:
                found += known[peer].control
        return [*found, *self._section.enrollers]

    async def run(self, node: trio.CancelScope) -> None:
        """Run until cancelled. `node`: cancelled when our key is another, and the node has to begin anew."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.standing.run)
            nursery.start_soon(self.renewal.run)
            nursery.start_soon(self._watch)
            nursery.start_soon(self._begin_anew)
            await self.standing.replaced.wait()
            node.cancel()

    async def _watch(self) -> None:
        directory = self.standing.identity.directory
        if directory is None:
            return
        seen = _mark(directory)
        while not self.standing.replaced.is_set():
            await trio.sleep(LOOK)
            mark = _mark(directory)
            if mark == seen:
                continue
            seen = mark
            try:
                found = await trio.to_thread.run_sync(identities.load, self._data_dir)
                if found.key.peer_id != self.standing.identity.key.peer_id:
                    log.warning("this machine has another key: the node begins anew", peer=found.key.peer_id)
                    self.standing.replaced.set()
                elif found.chain != self.standing.identity.chain:
                    self.standing.renewed(found)
            except ConfigError as fault:
                log.warning("the identity's files are of no use", reason=str(fault))

    # --- for the operator

    def invite(self, addresses: Sequence[str], uses: int, valid_seconds: float) -> str:
        """A join token for a node of this site. Raises `DeniedError`, `ConfigError`."""
        identity, now = self.standing.identity, self.now()
        if identity.issuer is None:
            raise DeniedError("this node is no enroller; run `meshsat invite` where the fleet was made")
        hints = tuple(addresses[:ADDRESSES_LIMIT])
        grant = Grant(identity.member.site, frozenset({NODE}), uses, now + valid_seconds, hints, now)
        return identities.make_token(identity, grant)

    def members(self) -> list[MemberStatus]:
        return self.standing.members()

    def revoke(self, who: str | None, site: str | None, reason: str, *, issued: bool) -> Revocation:
        """`who`: a peer id or a name; None: the whole site. Raises `DeniedError`, `InvalidInputError`."""
        if (who is None) == (site is None):
            raise InvalidInputError("name a peer, or a site")
        peer = None if who is None else self.standing.find(who)
        return self.standing.revoke(peer, site, reason, issued=issued)

    async def rotate(self) -> str:
        """Change this node's key; returns the new peer id. The node begins anew soon after.

        Raises a `MeshsatError`.
        """
        switched = await self.renewal.rotate()
        self._rotated.set()
        return switched.key.peer_id

    async def _begin_anew(self) -> None:
        await self._rotated.wait()
        await trio.sleep(FAREWELL)
        self.standing.replaced.set()

    def status(self) -> PassStatus:
        standing, renewal = self.standing, self.renewal
        member, reading = standing.identity.member, standing.clock.read()
        revoked, tried = standing.revoked, renewal.tried
        return PassStatus(
            serial=f"{member.serial:x}",
            expires=member.not_after,
            state="revoked" if revoked is not None else standing.state_of(member, reading.now),
            renew_at=renewal.due_at,
            roles=tuple(sorted(member.roles)),
            tried_at=tried.at if tried is not None else None,
            fault=tried.fault if tried is not None else None,
            revoked=revoked.in_words() if revoked is not None else None,
            certificate_expires=standing.certificate_ends(),
            revocations=len(standing.revocations),
            time=reading.now,
            time_source=reading.source.value,
        )

    def troubles(self) -> list[Callable[[], str | None]]:
        """As `Overview.troubles`."""
        return [
            lambda: self.standing.clock.read().problem,
            lambda: "; ".join(self.standing.problems) or None,
            self._pass_trouble,
            self._certificate_trouble,
        ]

    def _pass_trouble(self) -> str | None:
        status = self.status()
        if status.revoked is not None:
            return f"this node's pass was {status.revoked}; join again with a new token (`meshsat join`)"
        left = status.expires - status.time
        if left < -self._section.grace:
            return (
                f"this node's pass ended on {in_days(status.expires)}, as did the grace: peers refuse it; "
                "join again with a token (`meshsat join`)"
            )
        if left > 0 and (status.fault is None or status.time < status.renew_at):
            return None
        when = f"ends in {left / 86400:.1f} days" if left > 0 else f"ended {-left / 86400:.1f} days ago"
        until = in_days(status.expires + self._section.grace)
        return (
            f"this node's pass {when}, and is not renewed: {status.fault or 'not asked yet'}; "
            f"from {until} on peers refuse it, and it has to join again (`meshsat join`)"
        )

    def _certificate_trouble(self) -> str | None:
        ends = self.standing.certificate_ends()
        if (
            ends is None
            or ends - self.now() > LONG_BEFORE
            or self.standing.identity.root_issuer() is not None
        ):
            return None
        return (
            f"this node's right to enrol others ends on {in_days(ends)}: start a node where the fleet's root "
            "key is, within reach, and run `meshsat fleet rotate` here"
        )


def _mark(directory: Path) -> tuple[object, ...]:
    """Changes when the identity does."""
    try:
        found = (directory / PASS).stat()
        return (found.st_mtime_ns, found.st_ino, (directory / SWITCH).exists())
    except OSError:
        return ()
