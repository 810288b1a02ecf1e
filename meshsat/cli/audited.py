"""What verbs that work without a node record of themselves.

Law: a verb is never stopped because it could not be recorded; it says so on stderr.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from meshsat.cli.exits import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshsat.audit.event import Actor, Outcome, Told
    from meshsat.config import Config


class _Now:
    """An `Audit` that writes at once; where there is no data directory, it makes none for a failure."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def record(self, event: str, *, actor: Actor, object: str, outcome: Outcome, reason: str = "") -> None:
        import time

        from meshsat.audit.event import SUCCESS, Entry
        from meshsat.audit.journal import JournalError
        from meshsat.audit.opening import write_now

        if outcome != SUCCESS and not self._config.data_dir.is_dir():
            return
        try:
            write_now(self._config, [Entry(time.time(), event, actor, object, outcome, reason)])
        except JournalError as fault:
            say(str(fault))


@contextmanager
def audited(config: Config, event: str, about: str) -> Iterator[Told]:
    """Record what is done inside: that it was, or the `MeshsatError` why not."""
    from meshsat.audit.event import recorded
    from meshsat.audit.opening import this_process

    with recorded(_Now(config), event, this_process(), about) as told:
        yield told
