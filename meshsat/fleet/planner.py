"""Planner: what it takes for a site to hold what is asked of it: bytes, time and disk, or why it can't be.

Laws: pure; every blob is counted over the WAN once, whatever images share it; nothing that the site holds is;
time runs through windows and quotas as the uplink will meet them, as far as `HORIZON`, in the order of the
images. It reckons with one uplink, this node's; others make it sooner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from meshsat.fleet.document import Limits
from meshsat.fleet.placement import Candidate, holders
from meshsat.limits import Period, Quota, WanLimits, Window, lowest_rate, margin
from meshsat.oci.digest import Digest
from meshsat.schedule import HORIZON, Opening, opening, span

OVERHEAD = 1.046
"""Bytes on the line for each of content: headers of TCP and IP."""
STEPS = 50_000
"""Windows and periods that are gone through."""


@dataclass(frozen=True, slots=True)
class Node:
    """One that is there."""

    candidate: Candidate
    name: str
    held: Mapping[Digest, int]
    """Blobs that it holds whole -> bytes."""
    room: int | None = None
    """Bytes that it can take; None: not known here."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One image that is to be held."""

    reference: str
    parts: Mapping[Digest, int]
    """Manifests and blobs -> bytes; empty where it is not known what it is."""
    digest: str | None = None
    roles: frozenset[str] = frozenset()
    copies: int | Literal["all"] = "all"
    not_before: float | None = None
    deadline: float | None = None
    fault: str = ""
    """Why it is not known what it is."""


@dataclass(frozen=True, slots=True)
class Means:
    """What the site has to do it with. Rates in bytes per second; 0: not known."""

    now: float
    """Unix seconds."""
    uplink: bool
    """There is one."""
    wan_rate: float
    """As measured; limits come on top."""
    lan_rate: float
    limits: tuple[WanLimits, ...] = ()
    spent: Mapping[tuple[Period, str], int] = field(default_factory=dict)
    """Bytes of the calendar periods that `now` lies in, by period and time zone."""


@dataclass(frozen=True, slots=True)
class PlannedImage:
    reference: str
    digest: str | None
    size: int
    wan_bytes: int
    """Of content that nobody at the site holds, and no image before it brings."""
    lan_bytes: int
    """That go from node to node."""
    starts_at: float | None
    """Unix seconds, as `finishes_at`; None: nothing is to be done, or it can't be told."""
    finishes_at: float | None
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedNode:
    name: str
    need: int
    """Bytes that it lacks of what it is to hold."""
    room: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    images: tuple[PlannedImage, ...]
    nodes: tuple[PlannedNode, ...]
    wan_bytes: int
    lan_bytes: int
    finishes_at: float | None
    """None: nothing is to be done, or it can't be told."""
    refusals: tuple[str, ...]
    """Why it can't be done, all of them; none: it can."""
    notes: tuple[str, ...] = ()
    """What could not be reckoned with."""


def make_plan(asked: Sequence[Asked], nodes: Sequence[Node], means: Means) -> Plan:
    """`asked`: the most important first."""
    line = _Line(means)
    at_site: set[Digest] = {digest for node in nodes for digest in node.held}
    due: list[dict[Digest, int]] = [{} for _ in nodes]
    planned: list[PlannedImage] = []
    for image in asked:
        refusals = [image.fault] if image.fault else []
        lacking = {digest: size for digest, size in image.parts.items() if digest not in at_site}
        who = holders(
            image.reference,
            [node.candidate for node in nodes],
            roles=image.roles,
            copies=image.copies,
        )
        if not who and not image.fault:
            refusals.append("no node that is there has one of its roles, and room")
        landing = 0
        wan, starts, finishes = sum(lacking.values()) if who else 0, None, None
        for node, need in zip(nodes, due, strict=True):
            if node.candidate.peer in who:
                new = {
                    digest: size
                    for digest, size in image.parts.items()
                    if digest not in node.held and digest not in need
                }
                need.update(new)
                landing += sum(new.values())
        if wan and not means.uplink:
            refusals.append("the site lacks some of it, and no node of it has an uplink")
        elif wan:
            starts, finishes = line.carry(wan, image.not_before)
            if finishes is None and line.rate:
                refusals.append("does not get through the windows and quotas of the uplink within a year")
        refusals += _late(image, finishes)
        at_site.update(lacking if who else ())
        size = sum(image.parts.values())
        lan = max(0, landing - wan)
        planned.append(
            PlannedImage(image.reference, image.digest, size, wan, lan, starts, finishes, tuple(refusals))
        )
    told = [
        PlannedNode(node.name, sum(need.values()), node.room) for node, need in zip(nodes, due, strict=True)
    ]
    return _summed(planned, told, line)


def _late(image: Asked, finishes: float | None) -> list[str]:
    if image.deadline is None or finishes is None or finishes <= image.deadline:
        return []
    return [f"does not finish before its deadline {moment(image.deadline)}, but at {moment(finishes)}"]


def _summed(images: list[PlannedImage], nodes: list[PlannedNode], line: "_Line") -> Plan:
    refusals = [f"{image.reference}: {reason}" for image in images for reason in image.refusals]
    refusals += [
        f"does not fit on {node.name}: needs {_size(node.need)}, {_size(node.room)} can be had"
        for node in nodes
        if node.room is not None and node.need > node.room
    ]
    wan, lan = sum(image.wan_bytes for image in images), sum(image.lan_bytes for image in images)
    refusals += line.past_quota(wan)
    notes = []
    if wan and not line.rate and line.means.uplink:
        notes.append("the uplink's rate is not known yet: no time is told")
    if lan and not line.means.lan_rate:
        notes.append("the rate between nodes is not known yet: times leave it out")
    if any(node.room is None for node in nodes):
        notes.append("what room others have on their disks is not known here")
    ends = [image.finishes_at for image in images if image.finishes_at is not None]
    finishes = max(ends, default=None)
    if lan and line.means.lan_rate:
        # The nodes fill side by side; the last one is done when what it lacks is through.
        finishes = max(
            finishes or 0.0,
            line.means.now + max(node.need for node in nodes) / line.means.lan_rate,
        )
    if wan and len(ends) < sum(1 for image in images if image.wan_bytes):
        finishes = None
    return Plan(tuple(images), tuple(nodes), wan, lan, finishes, tuple(refusals), tuple(notes))


class _Line:
    """The uplink, as time goes on: one image after the other."""

    def __init__(self, means: Means) -> None:
        self.means = means
        cap = lowest_rate(means.limits)
        rates = [rate for rate in (means.wan_rate, float(cap)) if rate]
        self.rate = min(rates, default=0.0)
        self._now = means.now
        self._quotas = [
            _Spending(period, zone, cap - margin(cap), means.spent.get((period, zone), 0), means.now)
            for limits in means.limits
            for period, cap in limits.quota.caps().items()
            if (zone := limits.quota.timezone)
        ]
        self._windows = [limits.windows for limits in means.limits]
        self._opening = (means.now, opening(self._windows, means.now))

    def _look(self, now: float) -> Opening:
        """What windows say; looked up again when what was found is over."""
        since, known = self._opening
        if not since <= now < (known.until or since + HORIZON):
            known = opening(self._windows, now)
            self._opening = (now, known)
        return known

    def past_quota(self, content: int) -> list[str]:
        """Where it is more than this month's quota leaves."""
        needed, told = content * OVERHEAD, []
        for limits in self.means.limits:
            quota = limits.quota
            left = max(0, quota.month - self.means.spent.get((Period.MONTH, quota.timezone), 0))
            if quota.month and needed > left:
                told.append(
                    f"takes {_size(needed)} over the WAN, more than the quota of this month leaves "
                    f"({_size(left)})"
                )
        return told

    def carry(self, content: int, not_before: float | None) -> tuple[float | None, float | None]:
        """When the first and the last byte of it come; None: nobody can tell, or never."""
        if not self.rate:
            return None, None
        left = content * OVERHEAD
        now = max(self._now, not_before or 0.0)
        begun: float | None = None
        for _ in range(STEPS):
            if now - self.means.now > HORIZON:
                break
            for quota in self._quotas:
                quota.roll(now)
            full = [quota.end for quota in self._quotas if quota.left < 1]
            if full:
                now = max(full)
                continue
            windows = self._look(now)
            if not windows.open:
                if windows.until is None:
                    break
                now = windows.until
                continue
            begun = now if begun is None else begun
            room = min([left, *(quota.left for quota in self._quotas)])
            ends = [quota.end for quota in self._quotas] + [windows.until or now + HORIZON + 1]
            through = min(now + room / self.rate, *ends)
            moved = min(room, (through - now) * self.rate)
            left -= moved
            for quota in self._quotas:
                quota.left -= moved
            now = through
            if left < 1:
                self._now = now
                return begun, now
        self._now = now
        return begun, None


@dataclass(slots=True)
class _Spending:
    """A quota while time goes on."""

    period: Period
    timezone: str
    cap: int
    spent: int
    now: float
    left: float = field(init=False)
    end: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = max(0, self.cap - self.spent)
        self.end = span(self.period, self.now, self.timezone)[1]

    def roll(self, now: float) -> None:
        if now >= self.end:
            self.left = self.cap
            self.end = span(self.period, now, self.timezone)[1]


def limits_of(limits: Limits | None) -> WanLimits | None:
    """What a state says of the WAN; None: nothing."""
    if limits is None or not (limits.rate or limits.quota or limits.windows):
        return None
    told = limits.quota
    quota = Quota() if told is None else Quota(told.hour or 0, told.day or 0, told.month or 0, told.timezone)
    windows = tuple(Window(one.cron, one.duration, one.timezone) for one in limits.windows)
    return WanLimits(limits.rate or 0, quota, windows)


def moment(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
