"""Join tokens: a line of text with which a machine becomes a member, `meshsat-join-` and base64url.

In it: the fleet's root certificate (so that the joiner knows whom to believe before it says anything), what
the joiner will be (site, roles), how often and until when it is good, addresses at which an enroller may
answer, all sealed by an enroller, whose certificate is enclosed. Any enroller of the fleet can therefore
check any token.

Whoever has the text can use it: it is a secret and belongs in no log. How often it was used is kept elsewhere
(`mesh/token_ledger.py`), by the token's id, which is no secret.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import cbor2

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import InvalidInputError
from meshsat.trust.envelope import open_untrusted, seal
from meshsat.trust.keys import PeerId
from meshsat.trust.passes import (
    CERTIFICATE_LIMIT,
    ROLE_LENGTH,
    ROLES_LIMIT,
    Issuer,
    PassError,
    PassFault,
    are_roles,
    parse_root_untrusted,
    parse_site_untrusted,
    verify_enroller_untrusted,
)
from meshsat.trust.revocations import Revocations

PREFIX = "meshsat-join-"
CONTEXT = "join-token"
VERSION = 2
TEXT_LIMIT = 16 * 1024
"""Characters; a token has about 2000."""
ID_LENGTH = 16
USES_LIMIT = 10_000
ADDRESSES_LIMIT = 16
ADDRESS_LENGTH = 128


class TokenFault(Enum):
    MALFORMED = "damaged"
    FOREIGN = "of another fleet"
    EXPIRED = "expired"
    REVOKED = "revoked"


class TokenError(InvalidInputError):
    """A token that is not accepted. The text is for the joiner, and has nothing of the token in it."""

    def __init__(self, reason: TokenFault, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token gives, and to how many."""

    site: str
    roles: frozenset[str]
    uses: int
    expires: float
    """Unix seconds, as the enroller's clock shows them."""
    addresses: tuple[str, ...] = ()
    """`host:port` of control planes where an enroller may answer. Hints: they need not be right."""
    made: float = 0.0
    """Unix seconds, by its author's clock."""
    every_site: bool = False
    """An enroller that joins with it may enrol for all sites."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was read, and sealed by whom it says; that this one may do so is `verify`'s to tell."""

    id: bytes
    fleet: str
    root: bytes = field(repr=False)
    grant: Grant
    author: PeerId
    certificate: bytes = field(repr=False)
    """The author's, as an enroller. DER."""

    def verify(self, root: bytes, now: float, revocations: Revocations | None = None) -> None:
        """Whether an enroller of the fleet with this `root` should honour it. Raises `TokenError`."""
        if self.root != root:
            raise TokenError(TokenFault.FOREIGN, "the token is of another fleet")
        try:
            rights = verify_enroller_untrusted(self.certificate, root, now)
        except PassError as fault:
            if fault.reason is PassFault.EXPIRED:
                raise TokenError(TokenFault.EXPIRED, "the pass of the token's author has expired") from None
            raise TokenError(
                TokenFault.FOREIGN, "the token was not made by an enroller of this fleet"
            ) from None
        if rights.peer != self.author:
            raise TokenError(TokenFault.FOREIGN, "the token was not made by an enroller of this fleet")
        if not rights.covers(self.grant.site):
            raise TokenError(TokenFault.FOREIGN, "the token's author may not let anybody in at that site")
        if revocations is not None:
            self._check_revoked(revocations)
        if now > self.grant.expires:
            raise TokenError(
                TokenFault.EXPIRED, "the token has expired; ask for a new one (`meshsat invite`)"
            )

    def _check_revoked(self, revocations: Revocations) -> None:
        for what, revocation in (
            ("its author", revocations.of_author(self.author, self.grant.made)),
            ("its site", revocations.of_site(self.grant.site, self.grant.made)),
        ):
            if revocation is not None:
                text = f"the token is void: {what} was {revocation.in_words()}"
                raise TokenError(TokenFault.REVOKED, f"{text}; ask for a new one")


def make(issuer: Issuer, root: bytes, grant: Grant, token_id: bytes) -> str:
    """The token's text. `issuer` is an enroller of the fleet, `token_id` 16 random bytes.

    Raises `InvalidInputError` where the grant is none that could be read back.
    """
    payload = cbor2.dumps(
        [
            VERSION,
            token_id,
            root,
            grant.site,
            sorted(grant.roles),
            grant.uses,
            int(grant.expires),
            list(grant.addresses),
            int(grant.made),
            grant.every_site,
        ]
    )
    parts = [seal(issuer.key, CONTEXT, payload), issuer.certificate]
    text = PREFIX + base64.urlsafe_b64encode(cbor2.dumps(parts)).decode("ascii").rstrip("=")
    parse_untrusted(text)
    return text


def parse_untrusted(text: str) -> Token:
    """Read a token. Raises `TokenError`, with nothing of the token in it."""
    text = text.strip()
    if not text.startswith(PREFIX):
        raise TokenError(TokenFault.MALFORMED, f"a join token begins with {PREFIX}")
    if len(text) > TEXT_LIMIT:
        raise _damaged()
    body = text.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        parts = decode_cbor_untrusted(raw)
        if type(parts) is not list or [type(part) for part in parts] != [bytes, bytes]:
            raise _damaged()
        sealed, certificate = parts
        opened = open_untrusted(sealed, CONTEXT)
        fields = decode_cbor_untrusted(opened.payload)
    except (binascii.Error, ValueError, InvalidInputError):
        raise _damaged() from None
    token_id, root, grant = _fields_untrusted(fields)
    if len(certificate) > CERTIFICATE_LIMIT:
        raise _damaged()
    try:
        fleet = parse_root_untrusted(root).fleet
    except PassError:
        raise _damaged() from None
    return Token(token_id, fleet, root, grant, opened.author, certificate)


def short_name(text: str) -> str:
    """What may be told of a token: the beginning of its id. Of what is no token, that it is none."""
    try:
        return parse_untrusted(text).id.hex()[:8]
    except TokenError:
        return "(unreadable)"


def _fields_untrusted(fields: object) -> tuple[bytes, bytes, Grant]:
    if type(fields) is not list or not fields:
        raise _damaged()
    if fields[0] != VERSION:
        raise TokenError(TokenFault.MALFORMED, "the token was made by another version of meshsat")
    if [type(item) for item in fields[1:]] != [bytes, bytes, str, list, int, int, list, int, bool]:
        raise _damaged()
    _, token_id, root, site, roles, uses, expires, addresses, made, every_site = fields
    if (
        len(token_id) != ID_LENGTH
        or not 1 <= uses <= USES_LIMIT
        or not 0 <= expires < 1 << 40
        or not 0 <= made < 1 << 40
        or not _texts(roles, ROLES_LIMIT, ROLE_LENGTH)
        or not are_roles(roles)
        or not _texts(addresses, ADDRESSES_LIMIT, ADDRESS_LENGTH)
    ):
        raise _damaged()
    try:
        parse_site_untrusted(site)
    except InvalidInputError:
        raise _damaged() from None
    grant = Grant(
        site, frozenset(roles), uses, float(expires), tuple(addresses), float(made), every_site=every_site
    )
    return token_id, root, grant


def _texts(items: Sequence[object], most: int, length: int) -> bool:
    return len(items) <= most and all(type(item) is str and len(item) <= length for item in items)


def _damaged() -> TokenError:
    return TokenError(TokenFault.MALFORMED, "the token is damaged; was it copied whole?")
