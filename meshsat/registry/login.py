"""Who sends a request: passwords and tokens checked, and what is asked of whoever has shown neither.

Two schemes, as `registry.auth.scheme` says: Basic (RFC 7617), and Bearer with this node as its own token
server (`distribution`, "Token Authentication Specification"). Where tokens are asked for, a password is good
too: whoever has it could get one.
Law: passwords, tokens and whole header fields are in no log and no answer.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import bcrypt

from meshsat.audit.event import Audit
from meshsat.config import RegistryAuth
from meshsat.errors import InvalidInputError
from meshsat.http.asgi import Scope
from meshsat.oci.reference import parse_registry_untrusted
from meshsat.registry.authorization import Bearer, Password, parse_authorization_untrusted
from meshsat.registry.errors import Code, RefusedError
from meshsat.registry.passwords import Passwords, TooManyError
from meshsat.registry.tokens import Grants, Mint, Token

SERVICE = "meshsat"
TOKEN_PATH = b"/token"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request."""

    user: str | None
    """None: nobody in particular."""
    grants: Grants | None = field(default=None, repr=False)
    """What the token shown is good for; None: no token was."""
    shown: bool = False
    """Whether it showed anything that was checked."""


NOBODY = Caller(None)


class Login:
    def __init__(
        self,
        auth: RegistryAuth,
        *,
        now: Callable[[], float] = time.time,
        check: Callable[[bytes, bytes], bool] = bcrypt.checkpw,
        audit: Audit | None = None,
    ) -> None:
        """`now` gives Unix seconds; `check` is bcrypt's, or a test's. Raises `ConfigError`."""
        self._auth = auth
        self._now = now
        self._passwords = Passwords(auth.htpasswd, check, audit=audit)
        self._mint = Mint(os.urandom(32), SERVICE)
        self.gives_tokens = auth.scheme == "bearer"
        self.token_ttl = auth.token_ttl

    @property
    def problem(self) -> str | None:
        """What keeps the htpasswd file as it is now from being in force."""
        return self._passwords.problem

    async def caller(self, scope: Scope, wanted: str | None) -> Caller:
        """Who sends the request. `wanted`: the scope that a token would have to be for.

        Raises `RefusedError`: 401 for what is wrong, 429 for too much of that.
        """
        try:
            shown = parse_authorization_untrusted(fields(scope, b"authorization"))
        except InvalidInputError as fault:
            raise self.challenge(scope, str(fault), wanted) from None
        match shown:
            case None:
                return NOBODY
            case Password():
                return await self.by_password(scope, shown, wanted)
            case Bearer():
                return await self._by_token(scope, shown, wanted)

    async def by_password(self, scope: Scope, password: Password, wanted: str | None = None) -> Caller:
        """Raises `RefusedError`."""
        try:
            right = await self._passwords.right(password, client_of(scope))
        except TooManyError as many:
            retry = (b"retry-after", b"%d" % (int(many.retry_after) + 1))
            raise RefusedError(429, Code.TOOMANYREQUESTS, f"{many}; try again later", [retry]) from None
        if not right:
            raise self.challenge(scope, "the user's name or the password is wrong", wanted)
        return Caller(password.name, shown=True)

    async def _by_token(self, scope: Scope, bearer: Bearer, wanted: str | None) -> Caller:
        if not self.gives_tokens:
            raise self.challenge(scope, "this registry takes no tokens", wanted)
        try:
            token = self._mint.read_untrusted(bearer.token, self._now())
        except InvalidInputError as fault:
            raise self.challenge(scope, str(fault), wanted, "invalid_token") from None
        if token.user is not None and not await self._passwords.known(token.user):
            raise self.challenge(scope, "there is no such user any more", wanted, "invalid_token")
        return Caller(token.user, token.grants, shown=True)

    def make_token(self, user: str | None, grants: Grants) -> bytes:
        return self._mint.make(Token(user, grants), self._now(), self.token_ttl)

    def challenge(
        self, scope: Scope, message: str, wanted: str | None = None, error: str | None = None
    ) -> RefusedError:
        """The 401, with what the client has to do (RFC 9110 11.6.1, RFC 6750 3)."""
        text = f'Basic realm="{SERVICE}"'
        if self.gives_tokens and scope["raw_path"] != TOKEN_PATH:
            parameters = {"realm": self._realm(scope), "service": SERVICE, "scope": wanted, "error": error}
            told = (f'{name}="{value}"' for name, value in parameters.items() if value is not None)
            text = f"Bearer {','.join(told)}"
        header = (b"www-authenticate", text.encode("ascii"))
        return RefusedError(401, Code.UNAUTHORIZED, f"{message}; log in to this registry", [header])

    def _realm(self, scope: Scope) -> str:
        """Where tokens are to be had: under the name by which the client knows us."""
        if self._auth.realm is not None:
            return self._auth.realm.rstrip("/") + TOKEN_PATH.decode()
        hosts = fields(scope, b"host")
        try:
            host = parse_registry_untrusted(hosts[0].decode("latin-1") if len(hosts) == 1 else "")
        except InvalidInputError:
            server = scope.get("server") or ("localhost", None)
            name = f"[{server[0]}]" if ":" in server[0] else server[0]
            host = name if server[1] is None else f"{name}:{server[1]}"
        return f"{scope.get('scheme', 'http')}://{host}{TOKEN_PATH.decode()}"


def fields(scope: Scope, name: bytes) -> list[bytes]:
    """The values of all header lines of that name."""
    return [value for key, value in scope["headers"] if key == name]


def client_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""
