"""What is told to the audit log, and the interface by which it is told.

An event is named RESOURCE.OPERATION (`credential.create`); with `.` and its outcome behind it, that is what
Harbor Satellite calls `event_type`.
Law: a secret is in no field. A token is named by the beginning of its id.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from meshsat.errors import MeshsatError

Outcome = Literal["success", "failure"]
SUCCESS: Outcome = "success"
FAILURE: Outcome = "failure"

ActorKind = Literal["operator", "client", "peer", "node", "upstream"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it, as far as is known."""

    kind: ActorKind
    id: str = ""
    """`uid:1000` of an operator, the user's name of a client, the peer id of a peer; empty: not known."""
    address: str = ""
    """Where it came from: an IP address, `pid:4711`."""


NODE = Actor("node")
"""The node by itself."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that was done, or refused."""

    at: float
    """Unix seconds."""
    event: str
    actor: Actor
    object: str
    """What it was done to."""
    outcome: Outcome
    reason: str = ""


class Audit(Protocol):
    """Takes what is told at once; never waits, never fails."""

    def record(
        self,
        event: str,
        *,
        actor: Actor,
        object: str,  # noqa: A002 - the field's name in the log
        outcome: Outcome,
        reason: str = "",
    ) -> None: ...


@dataclass(slots=True)
class Told:
    """What is going to be recorded; to be made more precise while it is done."""

    object: str
    reason: str = ""


@contextmanager
def recorded(audit: Audit, event: str, actor: Actor, about: str) -> Iterator[Told]:
    """Record what is done inside: that it was, or the `MeshsatError` why not."""
    told = Told(about)
    try:
        yield told
    except MeshsatError as fault:
        audit.record(event, actor=actor, object=told.object, outcome=FAILURE, reason=str(fault))
        raise
    audit.record(event, actor=actor, object=told.object, outcome=SUCCESS, reason=told.reason)


class NoAudit:
    """Where nothing is to be recorded."""

    def record(
        self,
        event: str,
        *,
        actor: Actor,
        object: str,  # noqa: A002
        outcome: Outcome,
        reason: str = "",
    ) -> None:
        pass
