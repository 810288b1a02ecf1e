"""Tokens of Docker's flow: what a client asks for, and a signed word of what it got (RFC 7519, HS256).

The scopes are those of the `distribution` project's token specification: `repository:NAME:pull,push`, NAME as
it stands in the request's path, with the registry in front where `?ns=` names one; `registry:catalog:*`.

Laws: pure. A token says who asked and which actions it is good for; it bounds what its user may do and adds
nothing, since every request is judged by the rules again. The key is this process's own: after a restart
clients get a 401, and fetch another.
"""

import base64
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshsat.errors import InvalidInputError
from meshsat.oci.reference import (
    DOCKER_HUB,
    looks_like_registry,
    parse_repository_untrusted,
    registry_of_component_untrusted,
)
from meshsat.registry.content import Name

SCOPES_LIMIT = 64
SCOPE_LIMIT = 600
"""Characters of one."""
TOKEN_LIMIT = 64 * 1024
CATALOG = "registry:catalog"
EVERYTHING = frozenset({"pull", "push", "delete"})
_ACTION = re.compile(r"[a-z*]{1,16}")
_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
_ENCODED = re.compile(rb"[A-Za-z0-9_-]+")

Grants = Mapping[str, frozenset[str]]
"""`repository:NAME` or `registry:catalog` -> actions."""


@dataclass(frozen=True, slots=True)
class Token:
    user: str | None
    """None: nobody in particular."""
    grants: Grants


def parse_scopes_untrusted(texts: Iterable[str]) -> dict[Name | None, frozenset[str]]:
    """Repository (None: the catalog) -> actions, of the values of `?scope=`, each one or several scopes with
    spaces between. What we have no such thing of is left out. Raises `InvalidInputError`."""
    asked: dict[Name | None, frozenset[str]] = {}
    scopes = [scope for text in texts for scope in text.split()]
    if len(scopes) > SCOPES_LIMIT:
        raise InvalidInputError(f"more than {SCOPES_LIMIT} scopes")
    for scope in scopes:
        kind, colon, rest = scope.partition(":")
        name, last, listed = rest.rpartition(":")
        actions = listed.split(",")
        if not (colon and last) or len(scope) > SCOPE_LIMIT or not all(map(_ACTION.fullmatch, actions)):
            raise InvalidInputError(f"scope {scope[:200]!r} is not TYPE:NAME:ACTION,...")
        key: Name | None = None
        if kind == "repository":
            key = parse_name_untrusted(name)
        elif f"{kind}:{name}" != CATALOG:
            continue
        wanted = EVERYTHING if "*" in actions else EVERYTHING.intersection(actions)
        asked[key] = asked.get(key, frozenset()) | wanted
    return asked


def scope_of(name: Name | None) -> str:
    """Without actions; None: the catalog."""
    return CATALOG if name is None else f"repository:{name}"


def parse_name_untrusted(text: str) -> Name:
    """The name of a repository as clients put it into paths and scopes. Raises `InvalidInputError`."""
    first, slash, rest = text.partition("/")
    if not slash or not looks_like_registry(first):
        return Name(None, parse_repository_untrusted(text))
    registry = registry_of_component_untrusted(first)
    if registry == DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    return Name(registry, parse_repository_untrusted(rest))


@dataclass(frozen=True, slots=True)
class Mint:
    """Makes and reads tokens. `key` is 32 random bytes, `audience` the service that they are for."""

    key: bytes = field(repr=False)
    audience: str

    def make(self, token: Token, now: float, lifetime: float) -> bytes:
        """`now` in Unix seconds."""
        claims = {
            "aud": self.audience,
            "sub": token.user or "",
            "exp": int(now + lifetime),
            "access": {scope: sorted(actions) for scope, actions in sorted(token.grants.items())},
        }
        payload = base64.urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode()).rstrip(b"=")
        return b".".join((_HEADER, payload, self._sign(payload)))

    def read_untrusted(self, text: bytes, now: float) -> Token:
        """Raises `InvalidInputError` for whatever we did not make, or not for so long."""
        header, _, rest = text.partition(b".")
        payload, _, signature = rest.partition(b".")
        good = header == _HEADER and len(text) <= TOKEN_LIMIT and _ENCODED.fullmatch(payload)
        if not good or not hmac.compare_digest(self._sign(payload), signature):
            raise InvalidInputError("the token is not one of this node, or from before it was started")
        claims = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
        if claims["aud"] != self.audience or not now < claims["exp"]:
            raise InvalidInputError("the token has expired")
        grants = {scope: frozenset(actions) for scope, actions in claims["access"].items()}
        return Token(claims["sub"] or None, grants)

    def _sign(self, payload: bytes) -> bytes:
        signature = hmac.digest(self.key, _HEADER + b"." + payload, "sha256")
        return base64.urlsafe_b64encode(signature).rstrip(b"=")
