"""Enrolment: how a machine with a join token becomes a member, and a member gets its next pass, over a stream
on which both keys are proved.

  asker     hello: version, fleet
  enroller  its enroller's certificate; or that it is not of this fleet
  asker     checks that certificate against the root that it knows, and that it is for the key that the
            stream proved; only then one of
              join: the token, and the name it wants to have
              renew: its present pass, for the same key
              rotate: its present pass, for the stream's key, and the present key's word for that
              supersede: its new pass, the one before, and the old key's word: the old key is to be revoked
  enroller  the pass (and an enroller's certificate); or a revocation; or no, and why

Each message is 4 bytes of length, big-endian, and a CBOR array that begins with its kind. The key that gets
the pass is the one that the stream proved, so nobody enrols another's key. Roles and site are the token's or
the present pass's, never the asker's wish. Enrollers are made, and their certificates renewed, only where
the fleet's root key is. A pass that ran out less than the grace ago is renewed; later a token is needed.
"""

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal

import cbor2
import trio

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import ConfigError, DeniedError, InvalidInputError, UnavailableError
from meshsat.mesh.identity import Identity
from meshsat.mesh.outcomes import Outcome, Tell, log_outcome
from meshsat.mesh.token_ledger import TokenLedger
from meshsat.mesh.transport import ByteStream, StreamBroken, receive_exactly
from meshsat.trust.admission import Admission
from meshsat.trust.envelope import open_untrusted, seal
from meshsat.trust.issuing import issue_enroller, issue_pass
from meshsat.trust.keys import NodeKey, PeerId
from meshsat.trust.passes import (
    ENROLLER,
    EVERY_SITE,
    PASS_LIFETIME,
    Issuer,
    Pass,
    PassError,
    PassFault,
    Rights,
    Subject,
    parse_node_name_untrusted,
    verify_enroller_untrusted,
    verify_pass_untrusted,
)
from meshsat.trust.revocations import Revocation, open_revocation_untrusted
from meshsat.trust.tokens import TEXT_LIMIT, parse_untrusted

VERSION = 1
TIMEOUT = 15.0
"""Seconds for the whole of it, on either side."""
MESSAGE_LIMIT = TEXT_LIMIT + 1024
"""Bytes."""
ROTATIONS_LIMIT = 4096
REASON_LIMIT = 200
"""Characters of a refusal that are shown."""

HELLO = "hello"
ENROLLER_IS = "enroller"
JOIN = "join"
RENEW = "renew"
ROTATE = "rotate"
SUPERSEDE = "supersede"
PASS = "pass"  # noqa: S105 - a message's kind
DENIED = "denied"
REVOKED = "revoked"
SUPERSEDING = "meshsat/superseding/1"
"""For what the old key's word for the new one is sealed."""

_LENGTH = struct.Struct("!I")
_Issued = Literal["enrol", "renew", "rotate"]


class RevokedError(DeniedError):
    """Our pass was revoked: it is shown."""

    def __init__(self, revocation: Revocation) -> None:
        super().__init__(
            f"this machine's pass was {revocation.in_words()}; it needs a new key and a new token"
        )
        self.revocation = revocation


@dataclass(frozen=True, slots=True)
class Membership:
    """What an asker got, verified; `identity.accept_pass` keeps it."""

    root: bytes
    chain: tuple[bytes, ...]
    enroller: bytes | None


class Enroller:
    """The side that issues, passes that last `lifetime` seconds. `clock` gives Unix seconds; `admission`
    judges present passes; `supersede` revokes a key that its owner gave up.

    Raises `ConfigError` where the identity is no enroller's.
    """

    def __init__(
        self,
        identity: Identity,
        ledger: TokenLedger,
        clock: Callable[[], float] = time.time,
        *,
        admission: Admission | None = None,
        lifetime: float = PASS_LIFETIME,
        supersede: Callable[[Pass], Revocation] | None = None,
        tell: Tell = log_outcome,
    ) -> None:
        self.renew(identity)
        self._ledger = ledger
        self._clock = clock
        self._admission = admission or Admission.at(identity.root, clock)
        self._lifetime = lifetime
        self._supersede = supersede
        self._tell = tell
        self._rotations: dict[tuple[str, str], tuple[Pass, PeerId]] = {}
        """By site and name: whose key was to give way last, and to which."""

    def renew(self, identity: Identity) -> None:
        """Our own pass or certificate is a newer one. Raises `ConfigError`."""
        if identity.issuer is None:
            raise ConfigError("this node is no enroller; only the fleet's enrollers let others join")
        self._identity = identity
        self._issuer = identity.issuer

    async def answer(self, stream: ByteStream) -> None:
        """Serve one asker; its failures end here. Raises `StreamBroken` only."""
        with trio.move_on_after(TIMEOUT):
            try:
                await self._answer_untrusted(stream)
            except RevokedError as refusal:
                self._refused(stream.peer, refusal.revocation.in_words())
                await _send(stream, REVOKED, refusal.revocation.sealed)
            except (DeniedError, InvalidInputError, ConfigError) as refusal:
                self._refused(stream.peer, str(refusal))
                # What is wrong with us is not for strangers.
                ours = isinstance(refusal, ConfigError)
                await _send(stream, DENIED, "the enroller has a fault; see its log" if ours else str(refusal))

    def _refused(self, peer: PeerId, reason: str) -> None:
        self._tell(Outcome("enrol", done=False, peer=peer, by=self._issuer.key.peer_id, reason=reason))

    async def _answer_untrusted(self, stream: ByteStream) -> None:
        version, fleet = _fields_untrusted(await _receive_untrusted(stream), HELLO, int, str)
        if version != VERSION:
            raise DeniedError(f"this enroller speaks version {VERSION} of enrolment")
        if fleet != self._identity.member.fleet:
            raise DeniedError("this enroller is of another fleet")
        await _send(stream, ENROLLER_IS, self._issuer.certificate)
        message = await _receive_untrusted(stream)
        match message[0]:
            case "renew":
                chain, certificate = _fields_untrusted(message, RENEW, list, bytes | NoneType)
                member = self._present_untrusted(chain)
                if member.peer != stream.peer:
                    raise DeniedError("a pass is renewed for its own key")
                await self._follow_untrusted(stream, "renew", member, certificate)
            case "rotate":
                chain, certificate, word = _fields_untrusted(message, ROTATE, list, bytes | NoneType, bytes)
                member = self._present_untrusted(chain)
                _check_word_untrusted(word, member.peer, stream.peer)
                self._check_lineage(member, stream.peer)
                await self._follow_untrusted(stream, "rotate", member, certificate)
            case "supersede":
                await self._supersede_untrusted(stream, message)
            case _:
                await self._join_untrusted(stream, message)

    async def _join_untrusted(self, stream: ByteStream, message: list[Any]) -> None:
        text, name = _fields_untrusted(message, JOIN, str, str)
        now, revocations = self._clock(), self._admission.revocations
        token = parse_untrusted(text)
        token.verify(self._identity.root, now, revocations)
        subject = Subject(stream.peer, token.grant.site, parse_node_name_untrusted(name), token.grant.roles)
        revoked = revocations.of_peer(stream.peer, subject.site)
        if revoked is not None:
            raise RevokedError(revoked)
        if any(revocations.of_peer(joiner, subject.site) for joiner in self._ledger.joiners(token.id)):
            raise DeniedError("a machine that joined with this token was revoked since; ask for a new one")
        self._check_may_issue(subject, now)
        self._ledger.admit(token, stream.peer, now)
        await self._ledger.save()
        every_site, said = token.grant.every_site, f"token {token.id.hex()[:8]}"
        await self._give(stream, "enrol", subject, every_site=every_site, reason=said)

    async def _follow_untrusted(
        self, stream: ByteStream, what: _Issued, member: Pass, certificate: bytes | None
    ) -> None:
        """Issue the pass that follows the present one."""
        subject = Subject(stream.peer, member.site, member.name, member.roles)
        self._check_may_issue(subject, self._clock())
        every_site = False
        if ENROLLER in member.roles and certificate is not None:
            present = verify_enroller_untrusted(certificate, self._identity.root, None)
            every_site = present.peer == member.peer and present.site == EVERY_SITE
        await self._give(stream, what, subject, every_site=every_site)

    async def _supersede_untrusted(self, stream: ByteStream, message: list[Any]) -> None:
        chain, before, word = _fields_untrusted(message, SUPERSEDE, list, list, bytes)
        member = self._present_untrusted(chain)
        old = verify_pass_untrusted(before, self._identity.root, None)
        _check_word_untrusted(word, old.peer, stream.peer)
        if member.peer != stream.peer or self._supersede is None:
            raise DeniedError("a key is superseded by the owner of the new one")
        revocation = self._admission.revocations.of(old)
        if revocation is None:
            self._check_may_issue(Subject(old.peer, old.site, old.name, old.roles), self._clock())
            revocation = self._supersede(old)
        await _send(stream, REVOKED, revocation.sealed)

    def _check_lineage(self, old: Pass, new: PeerId) -> None:
        """One key follows another, and the next only when the one before is revoked: nobody makes many
        members out of one. Raises `DeniedError`."""
        line = (old.site, old.name)
        before, after = self._rotations.get(line, (old, new))
        if (before.peer, after) != (old.peer, new) and self._admission.revocations.of(before) is None:
            raise DeniedError("another key is taking the place of one of that name: that must be done first")
        self._rotations.pop(line, None)
        self._rotations[line] = (old, new)
        if len(self._rotations) > ROTATIONS_LIMIT:
            self._rotations.pop(next(iter(self._rotations)))

    def _present_untrusted(self, chain: list[Any]) -> Pass:
        """The pass that another is to follow. Raises `InvalidInputError`, `DeniedError`."""
        member = verify_pass_untrusted(chain, self._identity.root, None)
        revocation = self._admission.revocations.of(member)
        if revocation is not None:
            raise RevokedError(revocation)
        try:
            self._admission.check_time(member)
        except PassError as fault:
            if fault.reason is PassFault.EXPIRED:
                raise DeniedError("the pass ended longer ago than the grace; join with a token") from None
            raise
        return member

    def _check_may_issue(self, subject: Subject, now: float) -> None:
        """Raises `DeniedError`, `PassError`."""
        rights = verify_enroller_untrusted(self._issuer.certificate, self._identity.root, now)
        if self._admission.revocations.of_author(rights.peer, now) is not None:
            raise DeniedError("this enroller was revoked; ask another one")
        if ENROLLER not in subject.roles:
            if not rights.covers(subject.site):
                raise DeniedError(f"this enroller issues passes for site {rights.site} only")
        elif self._identity.root_issuer() is None:
            raise DeniedError("only the machine with the fleet's root key can make an enroller; ask there")

    async def _give(
        self, stream: ByteStream, what: _Issued, subject: Subject, *, every_site: bool, reason: str = ""
    ) -> None:
        root = self._identity.root_issuer() if ENROLLER in subject.roles else None
        issuer = root or self._issuer
        chain, certificate = issue_next(issuer, subject, self._clock(), self._lifetime, every_site=every_site)
        self._tell(
            Outcome(
                what,
                done=True,
                peer=subject.peer,
                name=subject.name,
                site=subject.site,
                roles=subject.roles,
                by=issuer.key.peer_id,
                reason=reason,
            )
        )
        await _send(stream, PASS, list(chain), certificate)


def issue_next(
    issuer: Issuer, subject: Subject, now: float, lifetime: float, *, every_site: bool = False
) -> tuple[tuple[bytes, ...], bytes | None]:
    """A pass; with it, for an enroller, which only the root makes, the certificate."""
    chain = issue_pass(issuer, subject, now, lifetime)
    if ENROLLER not in subject.roles:
        return chain, None
    return chain, issue_enroller(issuer, replace(subject, site=EVERY_SITE) if every_site else subject, now)


def superseding_word(old: NodeKey, new: PeerId) -> bytes:
    """The old key's word that it gives way to the new one."""
    return seal(old, SUPERSEDING, new.encode())


def _check_word_untrusted(word: bytes, old: PeerId, new: PeerId) -> None:
    opened = open_untrusted(word, SUPERSEDING)
    if (opened.author, opened.payload) != (old, new.encode()):
        raise DeniedError("that is not the old key's word for the new one")


# --- the asker's side


async def join(stream: ByteStream, text: str, key: NodeKey, name: str) -> Membership:
    """With a token, become a member. `text` is the token's, `key` ours and the stream's.

    No time is judged here: our clock may never have been set, and what an enroller gives has not run out.

    Raises `DeniedError` where we are refused, or refuse; `RevokedError` where our key was revoked;
    `InvalidInputError` for a token that cannot be read; `UnavailableError` where the other side breaks off or
    takes too long.
    """
    token = parse_untrusted(text)
    with _deadline():
        await _meet(stream, token.root, token.fleet)
        await _send(stream, JOIN, text, name)
        subject = Subject(key.peer_id, token.grant.site, name, token.grant.roles)
        return await _given(stream, token.root, subject)


async def renew(stream: ByteStream, identity: Identity) -> Membership:
    """A member's next pass. Raises as `join` does."""
    member = identity.member
    with _deadline():
        await _meet(stream, identity.root, member.fleet)
        await _send(stream, RENEW, list(member.chain), identity.enroller)
        return await _given(stream, identity.root, _subject(member, member.peer))


async def rotate(stream: ByteStream, identity: Identity, key: NodeKey) -> Membership:
    """A pass like the present one for `key`, the stream's. Raises as `join` does."""
    member, word = identity.member, superseding_word(identity.key, key.peer_id)
    with _deadline():
        await _meet(stream, identity.root, member.fleet)
        await _send(stream, ROTATE, list(member.chain), identity.enroller, word)
        return await _given(stream, identity.root, _subject(member, key.peer_id))


async def supersede(stream: ByteStream, identity: Identity, before: Sequence[bytes], word: bytes) -> bytes:
    """Have the key before revoked, of the pass `before`; returns the revocation. Raises as `join` does."""
    member = identity.member
    with _deadline():
        await _meet(stream, identity.root, member.fleet)
        await _send(stream, SUPERSEDE, list(member.chain), list(before), word)
        try:
            (record,) = await _answer_untrusted(stream, identity.root, REVOKED, bytes)
            return open_revocation_untrusted(record, identity.root).sealed
        except InvalidInputError as fault:
            raise DeniedError(f"the enroller's answer is of no use: {fault}") from None


def _subject(member: Pass, peer: PeerId) -> Subject:
    return Subject(peer, member.site, member.name, member.roles)


@contextmanager
def _deadline() -> Iterator[None]:
    try:
        with trio.fail_after(TIMEOUT):
            yield
    except (StreamBroken, trio.TooSlowError) as fault:
        raise UnavailableError(f"enrolment broke off: {fault or 'no answer in time'}") from None


async def _meet(stream: ByteStream, root: bytes, fleet: str) -> Rights:
    """Say hello to an enroller of the fleet, for certain. Raises `DeniedError`."""
    try:
        await _send(stream, HELLO, VERSION, fleet)
        (certificate,) = await _answer_untrusted(stream, root, ENROLLER_IS, bytes)
        rights = verify_enroller_untrusted(certificate, root, None)
    except InvalidInputError as fault:
        raise DeniedError(f"{stream.peer} is no enroller of {fleet}; it was told nothing ({fault})") from None
    if rights.peer != stream.peer:
        raise DeniedError(f"{stream.peer} is no enroller of {fleet}; it was told nothing")
    return rights


async def _given(stream: ByteStream, root: bytes, subject: Subject) -> Membership:
    """The pass that the enroller gives, if it is for whom it should be. Raises `DeniedError`."""
    try:
        chain, own = await _answer_untrusted(stream, root, PASS, list, bytes | NoneType)
        member = verify_pass_untrusted(chain, root, None)
        enrols = member.peer if own is None else verify_enroller_untrusted(own, root, None).peer
    except InvalidInputError as fault:
        raise DeniedError(f"the enroller's answer is of no use: {fault}") from None
    given = (member.peer, enrols, member.site, member.roles)
    if given != (subject.peer, subject.peer, subject.site, subject.roles):
        raise DeniedError("the enroller gave another pass than it should")
    return Membership(root, member.chain, own)


async def _answer_untrusted(
    stream: ByteStream, root: bytes, kind: str, *types: type | UnionType
) -> list[Any]:
    """The enroller's next message. Raises `DeniedError` with its words where it says no, `RevokedError`; else
    as `_fields_untrusted`."""
    message = await _receive_untrusted(stream)
    if message[0] == DENIED and len(message) == 2 and isinstance(message[1], str):
        text = "".join(character for character in message[1][:REASON_LIMIT] if character.isprintable())
        raise DeniedError(f"the enroller refuses: {text}")
    if message[0] == REVOKED and kind != REVOKED and len(message) == 2 and isinstance(message[1], bytes):
        raise RevokedError(open_revocation_untrusted(message[1], root))
    return _fields_untrusted(message, kind, *types)


async def _send(stream: ByteStream, *message: object) -> None:
    body = cbor2.dumps(message)
    await stream.send_all(_LENGTH.pack(len(body)) + body)


async def _receive_untrusted(stream: ByteStream) -> list[Any]:
    """A message, not empty. Raises `InvalidInputError`, `StreamBroken`."""
    (length,) = _LENGTH.unpack(await receive_exactly(stream, _LENGTH.size))
    if length > MESSAGE_LIMIT:
        raise InvalidInputError("a message is too long")
    return decode_message_untrusted(await receive_exactly(stream, length))


def decode_message_untrusted(body: bytes) -> list[Any]:
    """A message's array, not empty; its fields are not looked at. Raises `InvalidInputError`."""
    try:
        message = decode_cbor_untrusted(body)
    except InvalidInputError:
        raise InvalidInputError("a message is not CBOR") from None
    if type(message) is not list or not message or type(message[0]) is not str:
        raise InvalidInputError("a message is an array that begins with its kind")
    return message


def _fields_untrusted(message: list[Any], kind: str, *types: type | UnionType) -> list[Any]:
    """What follows the kind. Raises `InvalidInputError`."""
    if message[0] != kind:
        raise InvalidInputError(f"{kind} was expected")
    fields = message[1:]
    if len(fields) != len(types) or not all(map(isinstance, fields, types)):
        raise InvalidInputError(f"{kind} has other fields than it should")
    return fields
