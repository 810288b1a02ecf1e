"""What time it is, on machines whose clock may be wrong: without a battery, set by hand, or set by a liar.

Three sources. The machine's clock. Floors, kept on disk: times that have passed for certain. And what other
members say that their clocks show, where more than half of them, and at least two, agree.

Laws:
1. Time never goes below the *signed* floor: when our own pass was issued, and dates that the fleet's root
   signed. So a pass that has run out long before does not come back with a clock in 1970.
2. Nor below the *ran* floor, when this machine's clock was last seen in order; only members that agree can
   say that that was wrong.
3. Where the machine's clock stands below the floors, or beyond `horizon` (our own pass would have run out,
   grace and all), it is not believed: time is the floor, and goes on from there. So no clock locks a node out
   of a fleet that it is a member of.
4. Members that agree are believed before the machine's clock, but never below the signed floor, and beyond
   `horizon` only where the machine's clock says the same. One member alone moves nothing.
5. No signed date moves a floor beyond `horizon`, nor at all where the machine's clock is in order and says
   that it is still to come.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from statistics import median_low

from meshsat.trust.passes import in_days

TOLERANCE = 300.0
"""Seconds by which clocks may differ and be taken for the same."""
VOTES_LIMIT = 1024
AGREEING = 2
"""The fewest members whose word counts."""


class Source(Enum):
    MACHINE = "this machine's clock"
    MEMBERS = "the clocks of other members"
    FLOOR = "what is known to have passed"


@dataclass(frozen=True, slots=True)
class Floors:
    """Unix seconds."""

    signed: float = 0.0
    ran: float = 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    now: float
    """Unix seconds: what the time is, or at least is."""
    source: Source
    problem: str | None = None
    """What is wrong with the machine's clock, in plain words."""

    @property
    def confirmed(self) -> bool:
        """Whether this is the time, and not only what has passed."""
        return self.source is not Source.FLOOR

    @property
    def latest(self) -> float:
        """What the time is at most. One clock alone may be slow, so it bounds nothing: a pass that begins
        later than it was given by somebody whose clock is right."""
        return self.now if self.source is Source.MEMBERS else float("inf")


class Clock:
    """`wall` gives Unix seconds as the machine has them, `monotonic` seconds that only go on."""

    def __init__(
        self,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        floors: Floors,
        horizon: float,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._floors = floors
        self._since = monotonic()
        """When the floors were that."""
        self.horizon = horizon
        """Unix seconds: when our own pass, and its grace, end."""
        self._votes: dict[str, float] = {}
        """What to add to the monotonic clock to have what a member's showed."""

    def now(self) -> float:
        return self.read().now

    def read(self) -> Reading:
        elapsed, wall, members = self._monotonic() - self._since, self._wall(), self.agreed()
        signed, ran = self._floors.signed + elapsed, self._floors.ran + elapsed
        if members is not None and members >= signed - TOLERANCE:
            if abs(wall - members) <= TOLERANCE:
                return Reading(wall, Source.MEMBERS)
            if members <= self.horizon:
                text = f"this machine's clock shows {in_days(wall)}, other members' {in_days(members)}"
                return Reading(max(members, signed), Source.MEMBERS, f"{text}: theirs is believed; set it")
        floor = max(signed, ran)
        if wall < floor - TOLERANCE:
            text = f"this machine's clock shows {in_days(wall)}, and {in_days(floor)} has passed for certain"
            return Reading(floor, Source.FLOOR, f"{text}: it is not believed; set it (NTP, or by hand)")
        if wall > self.horizon:
            text = f"this machine's clock shows {in_days(wall)}, after its pass and the grace have ended"
            return Reading(
                floor, Source.FLOOR, f"{text}: it is not believed; set it, or, if it is right, join again"
            )
        return Reading(wall, Source.MACHINE)

    # --- members' clocks

    def told(self, member: str, offset: float) -> None:
        """A member's clock shows `offset` more than our monotonic one. `member` is its name: one that has
        just taken another key may have two, and one word."""
        if member in self._votes or len(self._votes) < VOTES_LIMIT:
            self._votes[member] = offset

    def forget(self, member: str) -> None:
        self._votes.pop(member, None)

    def voters(self) -> frozenset[str]:
        return frozenset(self._votes)

    def agreed(self) -> float | None:
        """The time by more than half of the members' clocks; None where too few agree."""
        votes = list(self._votes.values())  # others' threads may ask for the time
        if len(votes) < AGREEING:
            return None
        middle = median_low(votes)
        agreeing = [vote for vote in votes if abs(vote - middle) <= TOLERANCE]
        if len(agreeing) < AGREEING or 2 * len(agreeing) <= len(votes):
            return None
        return median_low(agreeing) + self._monotonic()

    # --- floors

    @property
    def floors(self) -> Floors:
        """To be kept: what has passed by now."""
        elapsed = self._monotonic() - self._since
        return Floors(self._floors.signed, self._floors.ran and self._floors.ran + elapsed)

    def ran(self) -> None:
        """Note that the clock is in order, if it is."""
        reading = self.read()
        if reading.source is Source.MEMBERS or (
            reading.source is Source.MACHINE and reading.now > self._floors.ran
        ):
            self._set(Floors(self._floors.signed + self._monotonic() - self._since, reading.now))

    def issued(self, at: float) -> None:
        """Our own pass was issued then."""
        self._raise(at)

    def signed(self, at: float) -> None:
        """The root signed something that is dated so."""
        reading = self.read()
        if at <= self.horizon and (at <= reading.now or not reading.confirmed):
            self._raise(at)

    def _raise(self, at: float) -> None:
        elapsed = self._monotonic() - self._since
        if at > self._floors.signed + elapsed:
            self._set(Floors(at, self._floors.ran and self._floors.ran + elapsed))

    def _set(self, floors: Floors) -> None:
        self._floors, self._since = floors, self._monotonic()
