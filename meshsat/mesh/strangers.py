"""Inbound connections that have not shown a pass yet: bounded, in all and per address.

Where they crowd, the one that has dawdled longest goes, not the newcomer: a member needs milliseconds to
prove itself, so a flood of strangers cannot lock it out.
"""

from dataclasses import dataclass, field

import trio

from meshsat.mesh.refusals import Refusals


@dataclass(eq=False, slots=True)
class Stranger:
    source: str
    """The other side's address, without the port."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    """What the connection runs in."""


class Strangers:
    """At most `most`, and `most_of_one` of one address."""

    def __init__(self, most: int, most_of_one: int, refusals: Refusals) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._refusals = refusals
        self._present: list[Stranger] = []

    def __len__(self) -> int:
        return len(self._present)

    def admit(self, source: str) -> Stranger:
        same = [stranger for stranger in self._present if stranger.source == source]
        if len(same) >= self._most_of_one:
            self._expel(same[0])
        elif len(self._present) >= self._most:
            self._expel(self._present[0])
        stranger = Stranger(source)
        self._present.append(stranger)
        return stranger

    def release(self, stranger: Stranger) -> None:
        """It has proved itself, or left. May be called again."""
        if stranger in self._present:
            self._present.remove(stranger)

    def _expel(self, stranger: Stranger) -> None:
        stranger.scope.cancel()
        self.release(stranger)
        self._refusals.refuse(stranger.source, "crowded out")
