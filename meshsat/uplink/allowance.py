"""Allowance: what may pass over the uplink now, by all limits together; if not all, why and until when.

Limits are the configuration's and, where there is one, the desired state's; each of them is kept. A quota
counts as spent a little early (`margin`): what is under way then ends with the chunks in hand, and what is
left pays for them. Windows go by the machine's clock; one that was never set (`NEVER_SET`) opens none.

Law: a request that is begun, or a byte that is asked for, while a quota is used up raises `UplinkShutError`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from meshsat.errors import UplinkShutError
from meshsat.limits import Gate, Period, WanLimits, lowest_rate, margin
from meshsat.schedule import LATEST, Opening, opening
from meshsat.uplink.ledger import Ledger

NEVER_SET = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
"""Unix seconds: a clock before that stands where a machine without one wakes up."""
ALWAYS = Opening(open=True, until=None)


@dataclass(frozen=True, slots=True)
class Verdict:
    gate: Gate
    reason: str = ""
    """Why it is not open, for a person."""
    opens_at: float | None = None
    """Unix seconds; None: it is open, or nobody can tell."""

    def __str__(self) -> str:
        return self.reason + (f"; opens at {moment(self.opens_at)}" if self.opens_at is not None else "")


@dataclass(frozen=True, slots=True)
class Spent:
    """One quota as it stands."""

    period: Period
    cap: int
    spent: int
    ends_in: float
    """Seconds."""
    timezone: str


def moment(unix: float) -> str:
    return (
        datetime.fromtimestamp(min(max(round(unix), 0), LATEST), UTC).isoformat(" ", "seconds")[:19] + " UTC"
    )


class Allowance:
    def __init__(
        self, limits: WanLimits, urgent: str, wall: Callable[[], float], passed: Callable[[], float]
    ) -> None:
        """`wall` gives Unix seconds, `passed` seconds on a clock that never goes back."""
        self.ledger = Ledger()
        self._local = limits
        self._fleet: WanLimits | None = None
        self._urgent = urgent
        self._wall = wall
        self._passed = passed
        self._opening: tuple[float, Opening] = (0.0, ALWAYS)
        """What windows say, and since when that was so."""

    # --- which limits ---

    @property
    def limits(self) -> tuple[WanLimits, ...]:
        return (self._local,) if self._fleet is None else (self._local, self._fleet)

    @property
    def rate(self) -> int:
        return lowest_rate(self.limits)

    @property
    def least_cap(self) -> int:
        """The smallest quota in bytes; 0: there is none."""
        return min((cap for limits in self.limits for cap in limits.quota.caps().values()), default=0)

    def set_local(self, limits: WanLimits, urgent: str) -> None:
        self._local, self._urgent = limits, urgent
        self._opening = (0.0, ALWAYS)

    def set_fleet(self, limits: WanLimits | None) -> None:
        self._fleet = limits
        self._opening = (0.0, ALWAYS)

    # --- what they mean now ---

    def now(self) -> float:
        """The ledger's time."""
        return self.ledger.tick(self._wall(), self._passed())

    def spend(self, size: int) -> None:
        self.now()
        self.ledger.add(size)

    def quotas(self) -> list[Spent]:
        now = self.now()
        return [
            Spent(
                period,
                cap,
                self.ledger.spent(period, zone),
                max(0.0, self.ledger.ends(period, zone) - now),
                zone,
            )
            for limits in self.limits
            for period, cap in limits.quota.caps().items()
            if (zone := limits.quota.timezone)
        ]

    def left(self) -> int | None:
        """Bytes that no quota forbids; None: there is no quota."""
        return min((max(0, one.cap - one.spent) for one in self.quotas()), default=None)

    def look(self) -> Verdict:
        wall = self._wall()
        spent = [one for one in self.quotas() if one.spent >= one.cap - margin(one.cap)]
        if spent:
            last = max(spent, key=lambda one: one.ends_in)
            at = wall + last.ends_in
            windows = opening([limits.windows for limits in self.limits], at)
            reason = f"the uplink's quota of the {last.period.value} ({last.cap} bytes) is spent"
            return Verdict(Gate.SHUT, reason, at if windows.open else windows.until)
        if not any(limits.windows for limits in self.limits):
            return Verdict(Gate.OPEN)
        otherwise = Gate.URGENT if self._urgent == "clients" else Gate.SHUT
        if wall < NEVER_SET:
            return Verdict(
                otherwise,
                f"this machine's clock says {moment(wall)}: until it is set, no window of the uplink opens",
            )
        windows = self._windows(wall)
        if windows.open:
            return Verdict(Gate.OPEN)
        return Verdict(otherwise, "no window of the uplink is open", windows.until)

    def _windows(self, wall: float) -> Opening:
        """Looked up again when what was found is over, or the clock went back."""
        since, known = self._opening
        if not since <= wall < (known.until if known.until is not None else since + 86400.0) or not since:
            known = opening([limits.windows for limits in self.limits], wall)
            self._opening = (wall, known)
        return known

    def check(self) -> None:
        """Raises `UplinkShutError` where nothing new may be asked for."""
        verdict = self.look()
        if verdict.gate is Gate.SHUT:
            raise UplinkShutError(str(verdict))

    def check_spent(self) -> None:
        """Raises `UplinkShutError` where what is under way may not go on."""
        if self.left() == 0:
            raise UplinkShutError(str(self.look()))
