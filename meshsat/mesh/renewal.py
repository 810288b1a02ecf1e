"""A node's own pass kept good, and its key changed: asks enrollers before the pass ends, again and again.

A pass is renewed when two thirds of its life are over, give or take, so that a site's nodes do not all ask
at once; and at once where whoever issued it is no enroller any more. Enrollers give themselves the next pass,
and where the fleet's root key is, their certificate. Any enroller will do: those of this site that were seen,
then those that the configuration names. Law: what fails is tried again with growing pauses, is told in
`status`, and stops nothing else.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import cbor2
import structlog
import trio

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import ConfigError, DeniedError, InvalidInputError, MeshsatError, UnavailableError
from meshsat.mesh import enrol, identity
from meshsat.mesh.enrol import Membership, RevokedError, issue_next, superseding_word
from meshsat.mesh.identity import Identity
from meshsat.mesh.libp2p_dial import open_enrol_stream
from meshsat.mesh.outcomes import Outcome, Tell, log_outcome
from meshsat.mesh.standing import Standing
from meshsat.mesh.transport import ByteStream, DialError
from meshsat.protocol.rng import Rng
from meshsat.trust.issuing import issue_pass
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import (
    ENROLLER,
    EVERY_SITE,
    Pass,
    Subject,
    verify_enroller_untrusted,
    verify_pass_untrusted,
)

log = structlog.get_logger(__name__)

SHARE = 2 / 3
"""Of a pass's life, after which it is renewed."""
JITTER = 0.05
"""Of a pass's life."""
DIAL_LIMIT = 5.0
"""Seconds for one enroller to answer."""
PAUSE = (1.0, 3600.0)
"""Seconds between two tries: doubled each time, up to the second, or to a twentieth of the pass's life."""
LOOK = 60.0
"""Seconds between two looks at the time: it may turn out to be another."""
ASKED = 16
"""Enrollers that are asked in one try."""
T = TypeVar("T")

Locate = Callable[[], Sequence[str]]
"""Control addresses at which enrollers may answer, the best first."""
Ask = Callable[[ByteStream], Awaitable[T]]


@dataclass(slots=True)
class Tried:
    at: float
    """Unix seconds."""
    fault: str | None
    """None: it was renewed."""


class Renewal:
    """`lifetime` in seconds, of passes that we give ourselves. `locate` tells where enrollers are."""

    def __init__(
        self,
        standing: Standing,
        data_dir: Path,
        lifetime: float,
        locate: Locate,
        rng: Rng,
        tell: Tell = log_outcome,
    ) -> None:
        self.tried: Tried | None = None
        self._standing = standing
        self._data_dir = data_dir
        self._lifetime = lifetime
        self._locate = locate
        self._rng = rng
        self._tell = tell
        self._jitter = rng.uniform(-JITTER, JITTER)
        self._rotating = trio.Lock()

    @property
    def due_at(self) -> float:
        """Unix seconds."""
        member = self._standing.identity.member
        life = member.not_after - member.issued_at
        due = member.issued_at + life * (SHARE + self._jitter)
        issuer = member.issuer
        retired = issuer is not None and issuer != member.peer and self._is_retired(issuer)
        if retired:
            return member.issued_at
        return min(due, self._certificate_due())

    def _is_retired(self, issuer: str) -> bool:
        return any(one.by_root and one.peer == issuer for one in self._standing.revocations)

    def _certificate_due(self) -> float:
        """When our certificate as an enroller should be renewed, where that can be done here."""
        identity = self._standing.identity
        if identity.enroller is None or identity.root_issuer() is None:
            return float("inf")
        rights = verify_enroller_untrusted(identity.enroller, identity.root, None)
        return rights.issued_at + (rights.not_after - rights.issued_at) * SHARE

    async def run(self) -> None:
        """Run until cancelled."""
        await self._finish_rotation()
        pause = PAUSE[0]
        while True:
            wait = self.due_at - self._standing.clock.now()
            if wait > 0 or self._standing.revoked is not None:
                pause = PAUSE[0]
                await trio.sleep(min(max(wait, 0.1), LOOK) if self._standing.revoked is None else LOOK)
                continue
            try:
                await self.renew()
            except MeshsatError as fault:
                self._failed(fault)
                member = self._standing.identity.member
                most = min(PAUSE[1], (member.not_after - member.issued_at) / 20)
                await trio.sleep(pause * self._rng.uniform(0.75, 1.25))
                pause = min(2 * pause, max(most, PAUSE[0]))

    def _failed(self, fault: MeshsatError) -> None:
        text = str(fault)
        if self.tried is None or self.tried.fault != text:
            log.warning("the pass is not renewed", reason=text)
        self.tried = Tried(self._standing.clock.now(), text)
        if isinstance(fault, RevokedError):
            self._standing.learn(fault.revocation.sealed)

    async def renew(self) -> None:
        """Get the next pass. Raises a `MeshsatError`."""
        present = self._standing.identity
        membership = self._own(present)
        if membership is None:
            membership = await self._ask(present.key, lambda stream: enrol.renew(stream, present))
        if membership.chain == present.chain:
            raise UnavailableError("the enroller gave the same pass again")
        renewed = await trio.to_thread.run_sync(
            identity.accept_pass, self._data_dir, membership.root, membership.chain, membership.enroller
        )
        self._standing.renewed(renewed)
        self.tried = Tried(self._standing.clock.now(), None)
        self._jitter = self._rng.uniform(-JITTER, JITTER)
        member = renewed.member
        self._say("renew", member, by=member.issuer or "")

    def _own(self, present: Identity) -> Membership | None:
        """An enroller's next pass, from itself; where the root key is, from that, with the certificate."""
        issuer, member = present.issuer, present.member
        if issuer is None:
            return None
        now = self._standing.clock.now()
        rights = verify_enroller_untrusted(issuer.certificate, present.root, None)
        subject = Subject(member.peer, member.site, member.name, member.roles)
        root = present.root_issuer()
        if root is not None and now >= self._certificate_due():
            every_site = rights.site == EVERY_SITE
            chain, certificate = issue_next(root, subject, now, self._lifetime, every_site=every_site)
            return Membership(present.root, chain, certificate)
        if now >= rights.not_after:
            return None  # only the root can help
        return Membership(
            present.root, issue_pass(root or issuer, subject, now, self._lifetime), present.enroller
        )

    async def _ask(self, key: NodeKey, ask: Ask[T]) -> T:
        """What the first enroller that is willing gives. Raises a `MeshsatError`."""
        faults: list[str] = []
        addresses = list(dict.fromkeys(self._locate()))[:ASKED]
        for address in addresses:
            try:
                async with open_enrol_stream(key, [address], DIAL_LIMIT) as stream:
                    return await ask(stream)
            except RevokedError:
                raise
            except (DialError, DeniedError, UnavailableError, InvalidInputError) as fault:
                faults.append(f"{address}: {fault}")
        if not addresses:
            raise UnavailableError(
                "no enroller of the fleet is in sight: start one at this site, or set passes.enrollers"
            )
        raise UnavailableError(f"no enroller renews it: {'; '.join(faults)}")

    # --- another key

    async def rotate(self) -> Identity:
        """Change this node's key; the caller starts anew with it. Raises a `MeshsatError`."""
        if self._rotating.locked():
            raise DeniedError("the key is being changed already")
        async with self._rotating:
            present = self._standing.identity
            if self._standing.revoked is not None:
                raise DeniedError("this node's pass was revoked: join again with a new token")
            key = await trio.to_thread.run_sync(identity.begin_switch, self._data_dir)
            root, member = present.root_issuer(), present.member
            if root is not None:
                subject = Subject(key.peer_id, member.site, member.name, member.roles)
                every_site = False
                if present.enroller is not None:
                    rights = verify_enroller_untrusted(present.enroller, present.root, None)
                    every_site = rights.site == EVERY_SITE
                now = self._standing.clock.now()
                chain, certificate = issue_next(root, subject, now, self._lifetime, every_site=every_site)
                membership = Membership(present.root, chain, certificate)
            else:
                membership = await self._ask(key, lambda stream: enrol.rotate(stream, present, key))
            before = cbor2.dumps([list(member.chain), superseding_word(present.key, key.peer_id)])
            switched = await trio.to_thread.run_sync(
                identity.switch, self._data_dir, membership.chain, membership.enroller, before
            )
            self._say("rotate", switched.member, reason=f"was {member.peer}, is {key.peer_id}")
            return switched

    def _say(self, what: Literal["renew", "rotate"], member: Pass, by: str = "", reason: str = "") -> None:
        self._tell(
            Outcome(
                what,
                done=True,
                peer="",
                name=member.name,
                site=member.site,
                roles=member.roles,
                by=by,
                reason=reason,
            )
        )

    async def _finish_rotation(self) -> None:
        """Have the key before revoked, until somebody has done it."""
        pause = PAUSE[0]
        while True:
            left = await trio.to_thread.run_sync(identity.superseded, self._data_dir)
            if left is None:
                return
            try:
                await self._supersede_untrusted(left)
                await trio.to_thread.run_sync(identity.forget_superseded, self._data_dir)
            except (InvalidInputError, ConfigError) as wrong:
                log.warning("the key before can't be revoked from here", reason=str(wrong))
                await trio.to_thread.run_sync(identity.forget_superseded, self._data_dir)
            except MeshsatError as fault:
                log.info("the key before is not revoked yet", reason=str(fault))
                await trio.sleep(pause)
                pause = min(2 * pause, PAUSE[1])

    async def _supersede_untrusted(self, left: bytes) -> None:
        present = self._standing.identity
        parts = decode_cbor_untrusted(left)
        if type(parts) is not list or [type(part) for part in parts] != [list, bytes]:
            raise InvalidInputError("what is left of the key before can't be read")
        chain, word = parts
        old = verify_pass_untrusted(chain, present.root, None)
        if self._standing.revocations.of(old) is not None:
            return
        if present.issuer is not None and (ENROLLER not in old.roles or present.root_issuer() is not None):
            self._standing.supersede(old)
            return

        self._standing.learn(
            await self._ask(present.key, lambda stream: enrol.supersede(stream, present, chain, word))
        )
