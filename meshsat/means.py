"""Means: the limits and policies that hold on this node, by its own configuration and its desired state.

Laws: of two limits the stricter holds; of two policies the state's, where it has one. Whatever is put in
force was checked as a whole before: a configuration that is read again, or a state, changes all of it or
nothing.
"""

from functools import partial

import structlog

from meshsat.config import Config, DiskSection
from meshsat.errors import ConfigError, InvalidInputError
from meshsat.fleet.document import DesiredState, SignatureRule
from meshsat.fleet.planner import limits_of
from meshsat.pull_through import PullThrough
from meshsat.reload import Commit, Live
from meshsat.signature_policy import Rule, SignaturePolicy, read_key, rules_of
from meshsat.upkeep.task import Upkeep
from meshsat.uplink.client import Uplink

log = structlog.get_logger(__name__)

POLICIES = (
    "registry.pull_through.rules",
    "registry.pull_through.allow",
    "registry.pull_through.stale",
    "registry.tag_ttl",
    "signatures",
    "disk",
)
LIMITS = ("uplink.rate", "uplink.quota", "uplink.windows", "uplink.urgent")


class Means:
    def __init__(
        self,
        config: Config,
        site: str,
        policy: PullThrough,
        signatures: SignaturePolicy,
        upkeep: Upkeep,
        uplink: Uplink | None,
    ) -> None:
        self._config = config
        self._site = site
        self._policy = policy
        self._signatures = signatures
        self._upkeep = upkeep
        self._uplink = uplink
        self._state = DesiredState()
        self.problem: str | None = None
        """Why what a state says is not in force."""

    def live(self) -> list[Live]:
        """What of it can change while the node runs (reload.py)."""
        live = [Live(POLICIES, self._prepare)]
        if self._uplink is not None:
            uplink = self._uplink
            live.append(Live(LIMITS, lambda config: partial(uplink.set_section, config.uplink)))
        return live

    def follow(self, state: DesiredState) -> None:
        """What this state says holds from now on."""
        before, self._state = self._state, state
        try:
            commit = self._prepare(self._config)
        except ConfigError as wrong:
            self._state = before
            self.problem = f"limits and policies of the desired state are not in force: {wrong}"
            log.warning("limits and policies of the desired state are not in force", problem=str(wrong))
            return
        self.problem = None
        commit()
        if self._uplink is not None:
            self._uplink.limit(limits_of(state.limits_for(self._site)))

    def _prepare(self, config: Config) -> Commit:
        state = self._state
        rules = state.pull_through or config.registry.pull_through
        pull_through = self._policy.prepare(rules, config.registry.tag_ttl)
        signatures = _signature_rules(config, state)
        disk = self._disk(config.disk)

        def commit() -> None:
            self._config = config
            pull_through()
            self._signatures.replace(signatures)
            self._upkeep.apply(disk)

        return commit

    def _disk(self, own: DiskSection) -> DiskSection:
        limits = self._state.limits_for(self._site)
        told = limits.disk if limits is not None else None
        if told is None or 0 < own.budget <= told:
            return own
        return own.model_copy(update={"budget": told})


def _signature_rules(config: Config, state: DesiredState) -> tuple[Rule, ...]:
    """Raises `ConfigError`."""
    if state.signatures is None:
        return rules_of(config.signatures, read_key)
    try:
        return tuple(_rule(number, rule) for number, rule in enumerate(state.signatures, 1))
    except InvalidInputError as wrong:
        raise ConfigError(str(wrong)) from None


def _rule(number: int, rule: SignatureRule) -> Rule:
    origin = f"rule {number} of the desired state's signatures"
    keys = [(f"key {place}", text.encode()) for place, text in enumerate(rule.keys, 1)]
    return Rule.parse_untrusted(
        origin, pattern=rule.pattern, action=rule.action, keys=keys, threshold=rule.threshold
    )
