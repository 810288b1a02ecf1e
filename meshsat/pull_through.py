"""Pull-through policy: what may be fetched over the uplink, and how long a tag is believed.

It is applied twice. A node does not ask for what its own rules deny when a client misses it (`may_fetch`);
and the node whose uplink it is asks no upstream for what its rules deny, whoever wants it: a client, or a
peer with other rules (`may_pass`). What the operator of a node pulls by name is past that node's own rules
(`lifted`), and never past those of another.

The first rule that matches decides. Manifests and blobs are fetched by digest, of which nobody can tell what
tag it was wanted for: they are let through where any tag of their repository may be.
Laws: pure. What the site holds is served whatever stands here.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from meshsat.config import PullThroughRule, PullThroughSection
from meshsat.errors import ConfigError, DeniedError, InvalidInputError
from meshsat.oci.pattern import Pattern


@dataclass(frozen=True, slots=True)
class Rule:
    number: int
    pattern: Pattern
    setting: PullThroughRule


class PullThrough:
    def __init__(self, section: PullThroughSection, tag_ttl: float) -> None:
        """`tag_ttl` in seconds, where a rule has none. Raises `ConfigError`."""
        self.prepare(section, tag_ttl)()
        self._lifted: Counter[tuple[str, str]] = Counter()
        self.desired: frozenset[tuple[str, str]] = frozenset()
        """Registries and repositories that the desired state names: they are past these rules."""

    def prepare(self, section: PullThroughSection, tag_ttl: float) -> Callable[[], None]:
        """Make other rules ready; what is returned puts them in force. Raises `ConfigError`."""
        rules = tuple(
            Rule(number, _parse(number, rule), rule) for number, rule in enumerate(section.rules, 1)
        )

        def commit() -> None:
            self._section, self._tag_ttl, self._rules = section, tag_ttl, rules

        return commit

    def may_fetch(self, registry: str, repository: str, tag: str | None) -> None:
        """Whether a client's miss may be asked of others; `tag` None: something by its digest.

        Raises `DeniedError`, which names the rule.
        """
        if tag is None and (registry, repository) in self.desired:
            return  # a desired tag is asked for by its digest
        for rule in self._rules:
            if tag is None and rule.pattern.has_tag and not rule.setting.allow:
                continue  # it is for some tags, and this may be of another
            matches = (
                rule.pattern.matches_name(registry, repository)
                if tag is None
                else rule.pattern.matches(registry, repository, tag)
            )
            if matches:
                if rule.setting.allow:
                    return
                reason = f"rule {rule.number} of registry.pull_through.rules ({rule.pattern}) denies it"
                break
        else:
            if self._section.allow:
                return
            reason = "no rule of registry.pull_through.rules allows it"
        name = f"{registry}/{repository}" + ("" if tag is None else f":{tag}")
        raise DeniedError(f"{name} is not fetched over the uplink: {reason}")

    def allows(self, registry: str, repository: str) -> bool:
        """Whether a client's miss may fetch something of the repository by its digest."""
        try:
            self.may_fetch(registry, repository, None)
        except DeniedError:
            return False
        return True

    def may_pass(self, registry: str, repository: str, tag: str | None) -> None:
        """Whether this node's uplink may be asked, whoever wants it. Raises `DeniedError`."""
        name = (registry, repository)
        if name not in self._lifted and name not in self.desired:
            self.may_fetch(registry, repository, tag)

    @contextmanager
    def lifted(self, registry: str, repository: str) -> Iterator[None]:
        """While the operator's own word stands for a repository."""
        key = (registry, repository)
        self._lifted[key] += 1
        try:
            yield
        finally:
            self._lifted[key] -= 1
            if not self._lifted[key]:
                del self._lifted[key]

    def tag_ttl(self, registry: str, repository: str, tag: str) -> float:
        """Seconds for which what the tag means is believed."""
        rule = self._rule_for(registry, repository, tag)
        found = rule.setting.tag_ttl if rule is not None else None
        return self._tag_ttl if found is None else found

    def serves_stale(self, registry: str, repository: str, tag: str) -> bool:
        """Whether what the tag meant is answered, with its age, when no upstream can be asked."""
        rule = self._rule_for(registry, repository, tag)
        found = rule.setting.stale if rule is not None else None
        return (found or self._section.stale) == "serve"

    def _rule_for(self, registry: str, repository: str, tag: str) -> Rule | None:
        return next((rule for rule in self._rules if rule.pattern.matches(registry, repository, tag)), None)


def _parse(number: int, rule: PullThroughRule) -> Pattern:
    try:
        return Pattern.parse_untrusted(rule.pattern)
    except InvalidInputError as fault:
        raise ConfigError(f"registry.pull_through.rules, rule {number}: {fault}") from None
