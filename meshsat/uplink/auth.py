"""Authentication to registries: challenges (RFC 9110, 11.6.1), Basic (RFC 7617) and Bearer tokens.

The token flow is the one of the distribution project (docs/spec/auth/token.md, oauth2.md): the registry's
401 names a token service, which gives a token for `repository:NAME:pull`. Laws: nothing is sent before it
was asked for; no secret goes over plain HTTP unless the registry itself is configured so; a token is fetched
once, however many requests wait for it, and kept until shortly before it runs out.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlencode

import httpx
import trio

from meshsat.errors import DeniedError, InvalidInputError
from meshsat.uplink.answers import parse_address_untrusted
from meshsat.uplink.credentials import Credential, Credentials, Kind
from meshsat.uplink.network import origin_of

HEADER_LIMIT = 8 * 1024
TOKEN_LIMIT = 64 * 1024
DEFAULT_LIFETIME = 60.0
"""Seconds; token.md's, for services that do not say."""
_MOST_LIFETIME = 24 * 3600.0
_MARGIN = 10.0
"""Seconds before its end at which a token is replaced (a tenth of a short lifetime)."""
_SLOTS = 1024
"""Repositories for which a token is remembered."""
_CLIENT = "meshsat"

_SKIP = re.compile(r"[ \t,]*")
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110, 5.6.2
_PARAM = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")[ \t]*(?=,|$)')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,|$))")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str
    """In lower case."""
    params: dict[str, str]
    """Names in lower case."""


def parse_challenges_untrusted(values: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of all `WWW-Authenticate` header lines. Raises `InvalidInputError`."""
    text = ", ".join(values)
    if len(text) > HEADER_LIMIT:
        raise InvalidInputError(f"WWW-Authenticate is longer than {HEADER_LIMIT} characters")
    found: list[Challenge] = []
    at = _end(_SKIP.match(text, 0))
    while at < len(text):
        if match := _PARAM.match(text, at):
            if not found:
                raise InvalidInputError("WWW-Authenticate begins with a parameter, not with a scheme")
            name, quoted = match[1].lower(), match[3]
            value = match[2] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            if found[-1].params.setdefault(name, value) != value:
                raise InvalidInputError(f"WWW-Authenticate gives {name!r} twice")
        elif match := _SCHEME.match(text, at):
            found.append(Challenge(match[1].lower(), {}))
            if not _PARAM.match(text, match.end()):
                match = _TOKEN68.match(text, match.end()) or match
        else:
            raise InvalidInputError(f"WWW-Authenticate cannot be read from character {at} on")
        at = _end(_SKIP.match(text, match.end()))
    return tuple(found)


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0


@dataclass(frozen=True, slots=True)
class Token:
    text: str = field(repr=False)
    lifetime: float
    """Seconds from now."""


def parse_token_untrusted(body: bytes) -> Token:
    """A token service's answer. Raises `InvalidInputError`."""
    if len(body) > TOKEN_LIMIT:
        raise InvalidInputError(f"token service answered with more than {TOKEN_LIMIT} bytes")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise InvalidInputError("token service answered with something that is no JSON object")
    text = answer.get("token") or answer.get("access_token")
    if not isinstance(text, str) or not re.fullmatch(r"[\x21-\x7e]+", text):
        raise InvalidInputError("token service answered without a usable token")
    told = answer.get("expires_in")
    if not isinstance(told, int | float) or isinstance(told, bool) or not 0 < told < float("inf"):
        told = DEFAULT_LIFETIME
    return Token(text, float(min(told, _MOST_LIFETIME)))


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What the client is to send for us; it is answered with (status, body)."""

    registry: str
    method: str
    url: httpx.URL
    headers: dict[str, str] = field(repr=False)
    content: bytes | None = field(default=None, repr=False)


Exchange = Callable[[TokenRequest], Awaitable[tuple[int, bytes]]]


@dataclass(slots=True)
class _Slot:
    """What is sent as Authorization for one repository."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    header: str | None = field(default=None, repr=False)
    fresh_until: float = 0.0
    """trio's clock."""
    stamp: object = None
    """Of the credentials that it was made of."""
    who: str = "anonymous"


class Authenticator:
    def __init__(
        self,
        credentials: Credentials,
        exchange: Exchange,
        plain_http: frozenset[str],
        actions: str = "pull",
    ) -> None:
        """`plain_http`: the registries that may be talked to without TLS. `actions`: what tokens are for."""
        self._actions = actions
        self._credentials = credentials
        self._exchange = exchange
        self._plain_http = plain_http
        self._challenges: OrderedDict[str, Challenge] = OrderedDict()
        self._slots: OrderedDict[tuple[str, str], _Slot] = OrderedDict()

    async def header(self, registry: str, repository: str) -> str | None:
        """The Authorization header to send; None as long as the registry has not asked for one. Raises
        `DeniedError`, and what the exchange raises."""
        challenge = self._challenges.get(registry)
        if challenge is None:
            return None
        slot = self._slot(registry, repository)
        async with slot.lock:
            stale = slot.stamp != self._credentials.stamp() or trio.current_time() >= slot.fresh_until
            if slot.header is None or stale:
                await self._fill(slot, challenge, registry, repository)
            return slot.header

    async def renew(self, registry: str, repository: str, asked: Iterable[str], refused: str | None) -> str:
        """The header to send after a 401 with the `WWW-Authenticate` lines `asked` met the header `refused`.
        Raises `DeniedError` when there is no other, and what the exchange raises."""
        try:
            challenge = _choose(parse_challenges_untrusted(asked))
        except InvalidInputError as fault:
            raise DeniedError(
                f"registry {registry} asks for a login in a way that is not understood: {fault}"
            ) from None
        self._challenges[registry] = challenge
        self._challenges.move_to_end(registry)
        while len(self._challenges) > _SLOTS:
            self._challenges.popitem(last=False)
        slot = self._slot(registry, repository)
        async with slot.lock:
            if slot.header is None or slot.header == refused:
                await self._fill(slot, challenge, registry, repository)
            if slot.header is None or slot.header == refused:
                raise self.denied(registry, repository)
            return slot.header

    def denied(self, registry: str, repository: str) -> DeniedError:
        """The error for a request that was refused with our best header."""
        who = self._slot(registry, repository).who
        if who == "anonymous":
            lost = self._credentials.lost(registry)
            return DeniedError(
                f"registry {registry} does not let an anonymous client {self._verb} {repository}; "
                + (
                    lost
                    or f"it may not exist, or needs a login: run `meshsat login {registry}`, or set username "
                    "and password_file in [[uplink.registries]]"
                )
            )
        return DeniedError(
            f"registry {registry} does not let {who} {self._verb} {repository}; it may not exist, or the "
            f"login lacks the right to {self._verb} it, or its password is wrong"
        )

    @property
    def _verb(self) -> str:
        """What for, in a word."""
        return self._actions.rpartition(",")[2]

    def _slot(self, registry: str, repository: str) -> _Slot:
        slot = self._slots.setdefault((registry, repository), _Slot())
        self._slots.move_to_end((registry, repository))
        while len(self._slots) > _SLOTS:
            self._slots.popitem(last=False)
        return slot

    async def _fill(self, slot: _Slot, challenge: Challenge, registry: str, repository: str) -> None:
        slot.header, slot.stamp = None, self._credentials.stamp()
        credential = await self._credentials.find(registry, repository)
        slot.who = (
            f"{credential.username or 'its token'} (from {credential.source})" if credential else "anonymous"
        )
        slot.fresh_until = float("inf")
        if credential is not None and credential.kind is Kind.REGISTRY_TOKEN:
            slot.header = f"Bearer {credential.secret}"
        elif challenge.scheme == "bearer":
            token = await self._fetch(challenge, registry, repository, credential)
            margin = min(_MARGIN, token.lifetime / 10)
            slot.header = f"Bearer {token.text}"
            slot.fresh_until = trio.current_time() + token.lifetime - margin
        elif credential is not None and credential.kind is Kind.PASSWORD:
            slot.header = credential.basic

    async def _fetch(
        self, challenge: Challenge, registry: str, repository: str, credential: Credential | None
    ) -> Token:
        try:
            realm = realm_untrusted(challenge.params.get("realm", ""), registry in self._plain_http)
        except InvalidInputError as fault:
            raise DeniedError(f"registry {registry} sends its logins elsewhere: {fault}") from None
        asked = {
            "service": challenge.params.get("service", ""),
            "scope": f"repository:{repository}:{self._actions}",
        }
        if credential is not None and credential.kind is Kind.IDENTITY_TOKEN:
            form = {
                "grant_type": "refresh_token",
                "client_id": _CLIENT,
                "refresh_token": credential.secret,
                **asked,
            }
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            request = TokenRequest(registry, "POST", realm, kind, urlencode(form).encode())
        else:
            headers = {"Authorization": credential.basic} if credential is not None else {}
            request = TokenRequest(registry, "GET", realm.copy_merge_params(asked), headers)
        status, body = await self._exchange(request)
        if status in (400, 401, 403):
            raise self.denied(registry, repository)
        try:
            return parse_token_untrusted(body if status == 200 else b"")
        except InvalidInputError as fault:
            raise DeniedError(
                f"registry {registry} gives no token: {origin_of(realm)} answered {status}: {fault}"
            ) from None


def realm_untrusted(text: str, plain_http: bool) -> httpx.URL:
    """The address of a token service. Raises `InvalidInputError`."""
    url = parse_address_untrusted(text)
    if url.scheme == "http" and not plain_http:
        raise InvalidInputError(
            f"{origin_of(url)} is not https; if that is meant to be, set plain_http = true for this registry"
        )
    return url


def _choose(challenges: Iterable[Challenge]) -> Challenge:
    offered = {challenge.scheme: challenge for challenge in reversed(tuple(challenges))}
    for scheme in ("bearer", "basic"):
        if scheme in offered:
            return offered[scheme]
    raise InvalidInputError(f"offers {', '.join(offered) or 'nothing'}, where basic or bearer is needed")
