"""Enrolment: how a machine with a join token becomes a member, over a stream on which both keys are proved.

  joiner    hello: version, fleet
  enroller  its enroller's certificate; or that it is not of this fleet
  joiner    checks that certificate against the root in the token, and that it is for the key that the stream
  proved;
            only then: the token, and the name it wants to have
  enroller  checks token and uses, notes the use on its disk, and issues: the pass (and an enroller's
  certificate); or no

Each message is 4 bytes of length, big-endian, and a CBOR array that begins with its kind. The key that gets
the pass is the one that the stream proved, so nobody enrols another's key. Roles and site are the token's,
never the joiner's wish. An enroller is made only where the fleet's root key is.
"""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any

import cbor2
import structlog
import trio

from meshsat.audit.event import FAILURE, SUCCESS, Actor, Audit, NoAudit, Outcome
from meshsat.audit.sparing import Sparing
from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import ConfigError, DeniedError, InvalidInputError, UnavailableError
from meshsat.mesh.identity import Identity
from meshsat.mesh.token_ledger import TokenLedger
from meshsat.mesh.transport import ByteStream, StreamBroken, receive_exactly
from meshsat.trust.keys import NodeKey, PeerId
from meshsat.trust.passes import (
    ENROLLER,
    Subject,
    issue_enroller,
    issue_pass,
    parse_node_name_untrusted,
    verify_enroller_untrusted,
    verify_pass_untrusted,
)
from meshsat.trust.tokens import TEXT_LIMIT, Token, parse_untrusted

log = structlog.get_logger(__name__)

VERSION = 1
TIMEOUT = 15.0
"""Seconds for the whole of it, on either side."""
MESSAGE_LIMIT = TEXT_LIMIT + 1024
"""Bytes."""
REASON_LIMIT = 200
"""Characters of a refusal that are shown."""

HELLO = "hello"
ENROLLER_IS = "enroller"
JOIN = "join"
PASS = "pass"  # noqa: S105 - a message's kind
DENIED = "denied"

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Membership:
    """What a joiner got, verified; `identity.accept_pass` keeps it."""

    root: bytes
    chain: tuple[bytes, ...]
    enroller: bytes | None


class Enroller:
    """The side that issues. `clock` gives Unix seconds. Raises `ConfigError` where the identity is no
    enroller's."""

    def __init__(
        self,
        identity: Identity,
        ledger: TokenLedger,
        clock: Callable[[], float] = time.time,
        audit: Audit | None = None,
    ) -> None:
        if identity.issuer is None:
            raise ConfigError("this node is no enroller; only the fleet's enrollers let others join")
        self._identity = identity
        self._issuer = identity.issuer
        self._ledger = ledger
        self._clock = clock
        self._audit = Sparing(audit or NoAudit())

    async def answer(self, stream: ByteStream) -> None:
        """Serve one joiner; its failures end here. Raises `StreamBroken` only."""
        with trio.move_on_after(TIMEOUT):
            try:
                await self._answer_untrusted(stream)
            except (DeniedError, InvalidInputError, ConfigError) as refusal:
                log.warning("enrolment denied", peer=stream.peer, reason=str(refusal))
                self._record(stream.peer, "enrolment", FAILURE, str(refusal))
                # What is wrong with us is not for strangers.
                ours = isinstance(refusal, ConfigError)
                await _send(stream, DENIED, "the enroller has a fault; see its log" if ours else str(refusal))

    async def _answer_untrusted(self, stream: ByteStream) -> None:
        version, fleet = _fields_untrusted(await _receive_untrusted(stream), HELLO, int, str)
        if version != VERSION:
            raise DeniedError(f"this enroller speaks version {VERSION} of enrolment")
        if fleet != self._identity.member.fleet:
            raise DeniedError("this enroller is of another fleet")
        await _send(stream, ENROLLER_IS, self._issuer.certificate)
        text, name = _fields_untrusted(await _receive_untrusted(stream), JOIN, str, str)
        now = self._clock()
        token = parse_untrusted(text)
        token.verify(self._identity.root, now)
        subject = Subject(stream.peer, token.grant.site, parse_node_name_untrusted(name), token.grant.roles)
        root = self._identity.root_issuer() if ENROLLER in subject.roles else None
        if ENROLLER in subject.roles and root is None:
            raise DeniedError("only the machine with the fleet's root key can make an enroller; join there")
        verify_enroller_untrusted(self._issuer.certificate, self._identity.root, now)
        self._ledger.admit(token, stream.peer, now)
        await self._ledger.save()
        chain = issue_pass(root or self._issuer, subject, now)
        certificate = issue_enroller(root, subject, now) if root is not None else None
        log.info("node enrolled", peer=stream.peer, name=subject.name, site=subject.site)
        roles = " ".join(sorted(subject.roles))
        self._record(
            stream.peer,
            f"{subject.name} at {subject.site} as {roles}",
            SUCCESS,
            f"token {token.id.hex()[:8]}",
        )
        await _send(stream, PASS, list(chain), certificate)

    def _record(self, peer: PeerId, about: str, outcome: Outcome, reason: str) -> None:
        self._audit.record(
            "node.register", actor=Actor("peer", peer), object=about, outcome=outcome, reason=reason
        )


async def join(stream: ByteStream, text: str, key: NodeKey, name: str, now: float) -> Membership:
    """The joiner's side. `text` is the token's, `key` ours and the stream's, `now` Unix seconds.

    Raises `DeniedError` where we are refused, or refuse; `InvalidInputError` for a token that cannot be read;
    `UnavailableError` where the other side breaks off or takes too long.
    """
    token = parse_untrusted(text)
    try:
        with trio.fail_after(TIMEOUT):
            return await _join(stream, token, text, Subject(key.peer_id, token.grant.site, name), now)
    except (StreamBroken, trio.TooSlowError) as fault:
        raise UnavailableError(f"enrolment broke off: {fault or 'no answer in time'}") from None


async def _join(stream: ByteStream, token: Token, text: str, subject: Subject, now: float) -> Membership:
    root = token.root
    try:
        await _send(stream, HELLO, VERSION, token.fleet)
        (certificate,) = await _answer_untrusted(stream, ENROLLER_IS, bytes)
        enroller = verify_enroller_untrusted(certificate, root, now)
    except InvalidInputError as fault:
        raise DeniedError(
            f"{stream.peer} is no enroller of {token.fleet}; it was told nothing ({fault})"
        ) from None
    if enroller != stream.peer:
        raise DeniedError(f"{stream.peer} is no enroller of {token.fleet}; it was told nothing")
    await _send(stream, JOIN, text, subject.name)
    try:
        chain, own = await _answer_untrusted(stream, PASS, list, bytes | NoneType)
        member = verify_pass_untrusted(chain, root, now)
        enrols = member.peer if own is None else verify_enroller_untrusted(own, root, now)
    except InvalidInputError as fault:
        raise DeniedError(f"the enroller's answer is of no use: {fault}") from None
    given = (member.peer, enrols, member.site, member.roles)
    if given != (subject.peer, subject.peer, subject.site, token.grant.roles):
        raise DeniedError("the enroller gave another pass than the token promised")
    return Membership(root, member.chain, own)


async def _answer_untrusted(stream: ByteStream, kind: str, *types: type | UnionType) -> list[Any]:
    """The enroller's next message. Raises `DeniedError` with its words where it says no; else as
    `_fields_untrusted`."""
    message = await _receive_untrusted(stream)
    if message[0] == DENIED and len(message) == 2 and isinstance(message[1], str):
        text = "".join(character for character in message[1][:REASON_LIMIT] if character.isprintable())
        raise DeniedError(f"the enroller refuses: {text}")
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
