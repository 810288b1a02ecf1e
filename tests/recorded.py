"""An audit log in memory, for tests of what is told to it."""

from meshsat.audit.event import Actor, Entry, Outcome


class Recorded:
    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def record(
        self,
        event: str,
        *,
        actor: Actor,
        object: str,  # noqa: A002 - the interface's
        outcome: Outcome,
        reason: str = "",
    ) -> None:
        self.entries.append(Entry(0.0, event, actor, object, outcome, reason))

    def of(self, event: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.event == event]
