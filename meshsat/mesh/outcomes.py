"""What came of asking to join, to renew, to rotate a key, of revoking: the one place that hears of each.

`Enroller`, `Renewal` and `Standing` are given a `Tell`. What an operator does is recorded where he does it
(`web/api.py`); this is for what members do, and what is heard of elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from meshsat.audit.event import FAILURE, NODE, SUCCESS, Actor, Audit
from meshsat.audit.sparing import Sparing

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """No secret is in it."""

    what: Literal["enrol", "renew", "rotate", "revoke"]
    done: bool
    """False: it was refused."""
    peer: str
    """Whom it is about; empty for a whole site."""
    name: str = ""
    site: str = ""
    roles: frozenset[str] = frozenset()
    by: str = ""
    """Peer id of the enroller, or of the root's key. Empty: the node itself."""
    reason: str = ""


Tell = Callable[[Outcome], None]
_DONE = {
    "enrol": "node enrolled",
    "renew": "pass renewed",
    "rotate": "pass given to another key",
    "revoke": "revoked",
}
_EVENTS = {
    "enrol": "node.register",
    "renew": "pass.renew",
    "rotate": "key.rotate",
    "revoke": "pass.revoke",
}


def log_outcome(outcome: Outcome) -> None:
    """Into the node's own log alone."""
    facts = {
        key: value
        for key, value in (
            ("peer", outcome.peer),
            ("name", outcome.name),
            ("site", outcome.site),
            ("by", outcome.by),
            ("reason", outcome.reason),
        )
        if value
    }
    if outcome.done:
        log.info(_DONE[outcome.what], **facts)
    else:
        log.warning("enrolment denied", what=outcome.what, **facts)


def told_to(audit: Audit) -> Tell:
    """Into the node's log and the audit log."""
    sparing = Sparing(audit)

    def tell(outcome: Outcome) -> None:
        log_outcome(outcome)
        revoked = outcome.what == "revoke"
        who = outcome.by if revoked else outcome.peer
        sparing.record(
            _EVENTS[outcome.what],
            actor=Actor("peer", who) if who else NODE,
            object=_object(outcome),
            outcome=SUCCESS if outcome.done else FAILURE,
            reason=outcome.reason,
        )

    return tell


def _object(outcome: Outcome) -> str:
    if outcome.what == "revoke":
        return outcome.peer or f"site {outcome.site}"
    if not outcome.name:
        return "enrolment"
    return f"{outcome.name} at {outcome.site} as {' '.join(sorted(outcome.roles))}"
