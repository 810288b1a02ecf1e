"""Access: who may do what on the embedded registry. The registry asks before it looks anything up.

Without `registry.auth` everybody who reaches it may do all that `registry.push` and `registry.delete` let;
config.py lets that be on loopback only. With it, rules (`rules.py`) decide about whoever passwords or tokens
say it is (`login.py`). On the node's Unix socket nobody is asked: who can open it is the operator.

A name without a registry means site content, then the upstream (docs/reference/http.md). What somebody may
do under it is judged for each of the two, and `Permit.names` are those that are left, in that order.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import bcrypt

from meshsat.audit.event import FAILURE, Audit, NoAudit
from meshsat.audit.sparing import Sparing
from meshsat.config import RegistrySection
from meshsat.http.asgi import Scope
from meshsat.http.who import caller_of
from meshsat.oci.reference import SITE
from meshsat.registry.content import Name
from meshsat.registry.errors import Code, RefusedError
from meshsat.registry.login import NOBODY, Caller, Login
from meshsat.registry.rules import Action, Rules
from meshsat.registry.tokens import parse_name_untrusted, scope_of

NEEDED = {Action.PULL: "pull", Action.PUSH: "pull,push", Action.DELETE: "delete"}
"""What a token is asked for, of which the action is one."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever sent a request, and what they may do."""

    caller: Caller
    _access: "Access"

    @property
    def user(self) -> str | None:
        return self.caller.user

    def named(self, action: Action, name: Name) -> Name | None:
        """`name` as far as they may do `action` to what it can mean; None: not at all."""
        grants = self.caller.grants
        if grants is not None and action not in grants.get(scope_of(name), ()):
            return None
        return self._access.allowed(self.user, action, name)

    def may(self, action: Action, name: Name) -> bool:
        """E.g. pull from where a blob is to be mounted."""
        return self.named(action, name) is not None

    def sees(self, path: str) -> bool:
        """Whether a list may show them this repository, named as in paths: whether they could pull it, with a
        token for it."""
        name = parse_name_untrusted(path)
        meant = Name(name.registry or SITE, name.repository)
        return self._access.allowed(self.user, Action.PULL, meant) is not None


@dataclass(frozen=True, slots=True)
class Permit:
    """A request that may go on."""

    principal: Principal
    name: Name
    """What it may be done to: what was asked, or the one of its meanings that they have a right to."""
    bounded: bool = False
    """Not everything is theirs to pull: a digest counts only where it is known to belong to the name."""


class Access:
    def __init__(
        self,
        section: RegistrySection,
        *,
        now: Callable[[], float] = time.time,
        check: Callable[[bytes, bytes], bool] = bcrypt.checkpw,
        audit: Audit | None = None,
    ) -> None:
        """`now` gives Unix seconds; `check` is bcrypt's, or a test's. Reads the htpasswd file.

        Raises `ConfigError`."""
        self._upstream = section.upstream
        self._audit = Sparing(audit or NoAudit())
        self.login = self._rules = None
        if section.auth is not None:
            self._rules = Rules(section.auth)
            self.login = Login(section.auth, now=now, check=check, audit=audit)

    @property
    def gives_tokens(self) -> bool:
        return self.login is not None and self.login.gives_tokens

    @property
    def problem(self) -> str | None:
        """What an operator has to do something about."""
        if self.login is None or self.login.problem is None:
            return None
        return f"{self.login.problem}; the users of before stay in force"

    async def authorize(self, scope: Scope, action: Action, name: Name) -> Permit:
        """Whether the request (its ASGI scope) may do `action` to `name`.

        Raises `RefusedError`: 401, 403, 429 after too many wrong passwords.
        """
        if self.login is None:
            return Permit(Principal(NOBODY, self), name)
        wanted = f"{scope_of(name)}:{NEEDED[action]}"
        principal = Principal(await self.login.caller(scope, wanted), self)
        named = principal.named(action, name)
        if named is not None:
            return Permit(principal, named, self._bounds(principal.user))
        if self.allowed(principal.user, action, name) is not None:
            raise self.login.challenge(
                scope, f"the token is not for {action} of {name}", wanted, "insufficient_scope"
            )
        if principal.user is None:
            raise self.login.challenge(scope, f"a credential is needed to {action} {name}", wanted)
        self._audit.record(
            f"repository.{action}",
            actor=caller_of(scope, principal.user),
            object=str(name),
            outcome=FAILURE,
            reason="forbidden",
        )
        raise RefusedError(403, Code.DENIED, f"{principal.user} may not {action} {name}")

    async def ping(self, scope: Scope) -> None:
        """Raises `RefusedError` (401) for whoever has shown no credential, also where they may pull without:
        clients look here whether there is anything to log in to."""
        if self.login is not None and not (await self.login.caller(scope, None)).shown:
            raise self.login.challenge(scope, "a credential is needed")

    async def catalog(self, scope: Scope) -> Principal:
        """Whoever asks for the list of repositories; `Principal.sees` says which to show.

        Raises `RefusedError`."""
        if self.login is None or self._rules is None:
            return Principal(NOBODY, self)
        wanted = f"{scope_of(None)}:*"
        caller = await self.login.caller(scope, wanted)
        if not self._rules.any_for(caller.user):
            raise self.login.challenge(scope, "a credential is needed to list repositories", wanted)
        if caller.grants is not None and scope_of(None) not in caller.grants:
            raise self.login.challenge(scope, "the token is not for lists", wanted, "insufficient_scope")
        return Principal(caller, self)

    def allowed(self, user: str | None, action: Action, name: Name) -> Name | None:
        """`name` as far as the rules let `user` do `action` to what it can mean; None: not at all."""
        if self._rules is None or self._rules.everywhere(user, action):
            return name
        registries = [name.registry]
        if name.registry is None:
            registries = [SITE]
            if action is Action.PULL and self._upstream is not None:
                registries.append(self._upstream)
        left = [
            Name(registry, name.repository)
            for registry in registries
            if registry is not None and self._rules.may(user, action, registry, name.repository)
        ]
        return name if len(left) > 1 else left[0] if left else None

    def _bounds(self, user: str | None) -> bool:
        return self._rules is not None and not self._rules.everywhere(user, Action.PULL)

    def lists(self, user: str | None) -> bool:
        """Whether there is anything that `user` may do."""
        return self._rules is None or self._rules.any_for(user)
