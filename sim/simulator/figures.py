"""The figures of a run: what it cost and how long it took, beside what was possible.

Content is counted without headers, as the limits are: size / rate. What a node says beside content is counted
as it travels, with the headers of its packets.
"""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from sim.simulator.run import Outcome, Want
from sim.simulator.scenario import MBIT, Limit

DIGITS = 6
"""Significant ones in JSON: the same on every machine."""


@dataclass(frozen=True, slots=True)
class Figures:
    scenario: str
    seed: int
    sites: int
    nodes: int
    wants: int
    """How often a node wanted an image; those of nodes that are off at the end are left out."""
    fulfilled: int
    size: float
    """Bytes of all images."""
    wan_bytes: float
    """Content that crossed uplinks, broken-off chunks included."""
    wan_ratio: float | None
    """Beside what the sites that have an uplink lacked; None where there is none."""
    median_seconds: float | None
    """From the want to the whole image."""
    last_seconds: float | None
    """None: somebody never got it."""
    limit_seconds: float | None
    """The soonest that the last node of the slowest site could have it."""
    last_ratio: float | None
    """Last node beside the limit, of the slowest site."""
    duplicate_share: float
    """Of the content that came from peers: what was there already or no longer asked for."""
    control_bytes: float
    """All but content that a node received, on average."""
    control_bytes_max: float
    """The same, of the node that received most."""
    gossip_bytes: float
    """Records and comparisons alone, received, on average."""
    control_rate: float
    """Bytes a second that a node received beside content, on average over the whole run."""
    seconds: float
    """Simulated, in all."""

    def to_json(self) -> dict[str, Any]:
        return {name: _rounded(value) for name, value in asdict(self).items()}


NAMES = tuple(one.name for one in fields(Figures))


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def figures_of(out: Outcome) -> Figures:
    world, scenario = out.world, out.scenario
    nodes = list(world.nodes.values())
    due = [want for want in out.wants if want.due]
    took = sorted(want.done_at - want.wanted_at for want in due if want.done_at is not None)
    whole = len(took) == len(due) > 0
    wan = sum(node.wan_bytes for node in nodes) / world.physics.overhead
    lacked = sum(_lacked(out).values())
    limit, ratio = _slowest(out, due)
    received = [node.counters.frames_in + node.counters.gossip_in for node in nodes]
    payload = sum(node.counters.payload_in for node in nodes)
    control = statistics.fmean(received)
    return Figures(
        scenario=scenario.name,
        seed=out.seed,
        sites=len(world.sites),
        nodes=len(nodes),
        wants=len(due),
        fulfilled=len(took),
        size=float(sum(image.size for image in scenario.images)),
        wan_bytes=wan,
        wan_ratio=wan / lacked if lacked else None,
        median_seconds=statistics.median(took) if took else None,
        last_seconds=took[-1] if whole else None,
        limit_seconds=limit,
        last_ratio=ratio if whole else None,
        duplicate_share=sum(node.counters.duplicate for node in nodes) / payload if payload else 0.0,
        control_bytes=control,
        control_bytes_max=max(received),
        gossip_bytes=statistics.fmean(node.counters.gossip_in for node in nodes),
        control_rate=control / out.ended_at,
        seconds=out.ended_at,
    )


def _lacked(out: Outcome) -> dict[str, float]:
    """Site -> bytes of the images that it wanted and had not; of sites that could fetch them."""
    sizes = {image.name: float(image.size) for image in out.scenario.images if image.upstream}
    uplinked = {site for _, site, _, _ in out.uplinks}
    wanted = dict.fromkeys((want.site, want.image) for want in out.wants)
    lacked: dict[str, float] = {}
    for site, image in wanted:
        if site in uplinked and (site, image) not in out.held:
            lacked[site] = lacked.get(site, 0.0) + sizes.get(image, 0.0)
    return lacked


def _slowest(out: Outcome, due: list[Want]) -> tuple[float | None, float | None]:
    """Limit in seconds and last node / limit, of the site where that is most."""
    if out.scenario.limit is Limit.NONE:
        return None, None
    by_site: dict[str, list[Want]] = {}
    for want in due:
        if want.done_at is not None:
            by_site.setdefault(want.site, []).append(want)
    worst: tuple[float, float] | None = None
    for site, wants in by_site.items():
        began = min(want.wanted_at for want in wants)
        last = max(want.done_at or 0.0 for want in wants) - began
        limit = limit_of(out, site, began)
        if limit is not None and (worst is None or last / limit > worst[1]):
            worst = (limit, last / limit)
    return (None, None) if worst is None else worst


def limit_of(out: Outcome, site: str, began: float) -> float | None:
    """Seconds from `began` in which the last node of the site could have all, at the very soonest."""
    if out.scenario.limit is Limit.WARM:
        wanted: dict[str, int] = {}
        for want in out.wants:
            if want.site == site:
                wanted[want.node.name] = wanted.get(want.node.name, 0) + want.size
        plan = next(plan for plan in out.scenario.sites if site in plan.names)
        return max(wanted.values()) / (plan.lan_mbit * MBIT)
    lacked = _lacked(out).get(site)
    return None if not lacked else _time_to_carry(out, site, began, lacked)


def _time_to_carry(out: Outcome, site: str, began: float, size: float) -> float | None:
    """Seconds that the site's uplinks need for so many bytes, in the times in which they work."""
    plan = next(plan for plan in out.scenario.sites if site in plan.names)
    changes = [change for change in out.uplinks if change[1] == site]
    working: set[str] = set()
    left, at = size, began
    for time, _, name, works in [*changes, (float("inf"), site, "", False)]:
        rate = len(working) * plan.uplink_mbit * MBIT
        rate = min(rate, plan.wan_mbit * MBIT) if plan.wan_mbit else rate
        span = max(0.0, time - at)
        if rate and left <= rate * span:
            return at - began + left / rate
        if span and time != float("inf"):
            left -= rate * span
            at = time
        working = working | {name} if works else working - {name}
    return None


def quantiles(values: Iterable[float], parts: Iterable[float]) -> list[float]:
    """Of sorted or unsorted values, by the nearest rank; empty for none."""
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(part * len(ordered)))] for part in parts] if ordered else []
