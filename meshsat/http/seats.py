"""Who has a connection, and who gives it up when there is no room for a newcomer.

Laws: at the cap the first to go are those who have begun something and do not bring it to an end (a
handshake, a request's header) for a second or more, the longest first; then those who wait for their next
request, the longest first; then newcomers. Nobody loses a request under way. All of it takes constant time:
a flood of newcomers must not cost more than the newcomers themselves.
"""

from typing import Protocol

PROBATION = 1.0
"""Seconds for which a newcomer is thought to be honest: time for a handshake and a header on a bad line."""


class Guest(Protocol):
    """A connection, as far as is of interest here."""

    def leave(self) -> None:
        """End now: nothing is under way."""


class Seats:
    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._taken = 0
        self._beginning: dict[Guest, float] = {}
        """Has asked nothing yet, or not to the end; since when. In that order."""
        self._idle: dict[Guest, None] = {}
        """In the order of their last request."""

    def __len__(self) -> int:
        return self._taken

    def take(self, now: float) -> bool:
        """A newcomer comes in; False if there is no room, and none to be made."""
        if self._taken >= self._cap and not self.make_room(now):
            return False
        self._taken += 1
        return True

    def make_room(self, now: float) -> bool:
        """Let one go who can."""
        slowest = next(iter(self._beginning), None)
        if slowest is not None and (self._beginning[slowest] <= now - PROBATION or not self._idle):
            leaving = slowest
        elif self._idle:
            leaving = next(iter(self._idle))
        else:
            return False
        self.busy(leaving)
        leaving.leave()
        return True

    def beginning(self, guest: Guest, now: float) -> None:
        """Nothing changes for one who was beginning before."""
        self._idle.pop(guest, None)
        self._beginning.setdefault(guest, now)

    def idle(self, guest: Guest) -> None:
        self._idle[guest] = None

    def busy(self, guest: Guest) -> None:
        self._beginning.pop(guest, None)
        self._idle.pop(guest, None)

    def give_up(self, guest: Guest | None = None) -> None:
        """`guest` has ended; None: one that took a seat and never came."""
        if guest is not None:
            self.busy(guest)
        self._taken -= 1

    def leave_all(self) -> None:
        """Whoever is not busy goes."""
        for guest in [*self._beginning, *self._idle]:
            self.busy(guest)
            guest.leave()
