"""Rules: what a user may do to a repository. Rules grant, and grants add up; nothing is forbidden by one.

Whoever has logged in has what rules give to their name, to `*` and to `anonymous`; others have the last.
Without rules, whoever has logged in may do everything that `registry.push` and `registry.delete` let.
Laws: pure; nobody pushes or deletes without a name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from meshsat.config import ANONYMOUS, RegistryAuth
from meshsat.errors import ConfigError, InvalidInputError
from meshsat.oci.pattern import Pattern

REMEMBERED = 4096
"""Answers that are not worked out again."""


class Action(StrEnum):
    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Rule:
    users: frozenset[str]
    repositories: tuple[Pattern, ...]
    actions: frozenset[str]

    @property
    def everywhere(self) -> bool:
        return any(str(pattern) == "**" for pattern in self.repositories)


class Rules:
    def __init__(self, auth: RegistryAuth) -> None:
        """Raises `ConfigError` for a pattern that is none, or that is for tags."""
        self._rules = tuple(_parse(auth))
        self._known: dict[tuple[str | None, Action, str, str], bool] = {}

    def may(self, user: str | None, action: Action, registry: str, repository: str) -> bool:
        """`user` None: without a credential."""
        key = (user, action, registry, repository)
        known = self._known.get(key)
        if known is None:
            known = any(
                any(pattern.matches_name(registry, repository) for pattern in rule.repositories)
                for rule in self._rules
                if action in rule.actions and _is_for(rule, user)
            )
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = known
        return known

    def everywhere(self, user: str | None, action: Action) -> bool:
        """Whether a rule with the pattern `**` gives it."""
        return any(rule.everywhere and action in rule.actions and _is_for(rule, user) for rule in self._rules)

    def any_for(self, user: str | None) -> bool:
        """Whether there is anything at all that this user may do."""
        return any(_is_for(rule, user) for rule in self._rules)


def _is_for(rule: Rule, user: str | None) -> bool:
    return ANONYMOUS in rule.users or (user is not None and ("*" in rule.users or user in rule.users))


def _parse(auth: RegistryAuth) -> Iterator[Rule]:
    everything = (Pattern.parse_untrusted("**"),)
    if auth.anonymous:
        yield Rule(frozenset({ANONYMOUS}), everything, frozenset({Action.PULL}))
    if not auth.rules:
        yield Rule(frozenset({"*"}), everything, frozenset(Action))
    for number, rule in enumerate(auth.rules, 1):
        try:
            patterns = tuple(map(Pattern.parse_untrusted, rule.repositories))
        except InvalidInputError as fault:
            raise ConfigError(f"registry.auth.rules, rule {number}: {fault}") from None
        for pattern in patterns:
            if pattern.has_tag:
                raise ConfigError(
                    f"registry.auth.rules, rule {number}: {pattern} is for tags; access goes by repository"
                )
        yield Rule(frozenset(rule.users), patterns, frozenset(rule.actions))
