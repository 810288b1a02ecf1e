"""What it takes, reckoned by hand: bytes, windows, quotas, disks, and what is refused."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.config import WindowSection
from meshsat.fleet.document import Limits, Quota
from meshsat.fleet.placement import Candidate
from meshsat.fleet.planner import OVERHEAD, Asked, Means, Node, Plan, limits_of, make_plan
from meshsat.limits import Period, WanLimits, margin
from meshsat.limits import Quota as WanQuota
from meshsat.limits import Window as WanWindow
from meshsat.oci.digest import Digest
from tests.brain import peer

HOUR, DAY, MB, GB = 3600.0, 86400.0, 10**6, 10**9


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOON = at("2026-06-10 12:00")
NIGHT = WanWindow("0 2 * * *", HOUR)


def blob(name: str) -> Digest:
    return Digest.of(name.encode())


def image(name: str, *blobs: str, size: int = GB, **more: Any) -> Asked:
    return Asked(
        f"up.example/{name}:1", {blob(one): size for one in blobs or (name,)}, str(blob(name)), **more
    )


def node(name: str, *held: str, room: int | None = 100 * GB, roles: tuple[str, ...] = ()) -> Node:
    candidate = Candidate(peer(name), frozenset(roles))
    return Node(candidate, name, {blob(one): GB for one in held}, room)


def means(*limits: WanLimits, rate: float = MB, lan: float = 100 * MB, **more: Any) -> Means:
    return Means(NOON, uplink=True, wan_rate=rate, lan_rate=lan, limits=limits, **more)


def plan(asked: list[Asked], nodes: list[Node], with_: Means | None = None) -> Plan:
    return make_plan(asked, nodes, with_ or means())


# --- bytes ---


def test_what_the_site_holds_costs_no_wan_and_is_copied_where_it_lacks() -> None:
    found = plan([image("a")], [node("n", "a"), node("m"), node("o")])
    assert (found.wan_bytes, found.lan_bytes, found.refusals) == (0, 2 * GB, ())
    assert [one.need for one in found.nodes] == [0, GB, GB]
    assert found.finishes_at == NOON + 10


def test_what_nobody_holds_comes_once_and_goes_to_the_others() -> None:
    found = plan([image("a", "x", "y")], [node("n"), node("m", "y"), node("o")])
    (one,) = found.images
    assert (one.size, one.wan_bytes, one.lan_bytes) == (2 * GB, GB, 4 * GB)
    assert one.starts_at == NOON
    assert one.finishes_at == NOON + GB * OVERHEAD / MB


def test_what_images_share_is_counted_with_the_first() -> None:
    found = plan([image("a", "x", "y"), image("b", "y", "z")], [node("n")])
    assert [one.wan_bytes for one in found.images] == [2 * GB, GB]
    assert found.nodes[0].need == 3 * GB
    first, second = found.images
    assert second.starts_at == first.finishes_at


def test_of_two_copies_only_two_nodes_need_room() -> None:
    found = plan([image("a", copies=2)], [node(name) for name in "nmopq"])
    assert sorted(one.need for one in found.nodes) == [0, 0, 0, GB, GB]
    assert (found.wan_bytes, found.lan_bytes) == (GB, GB)


def test_only_nodes_of_a_role_count() -> None:
    asked = [image("a", roles=frozenset({"till"}))]
    assert [one.need for one in plan(asked, [node("n"), node("m", roles=("till",))]).nodes] == [0, GB]
    refused = plan(asked, [node("n")])
    assert refused.refusals == ("up.example/a:1: no node that is there has one of its roles, and room",)
    assert refused.wan_bytes == 0


def test_a_site_that_holds_all_has_nothing_to_do() -> None:
    found = plan([image("a")], [node("n", "a")])
    assert found == Plan(found.images, found.nodes, 0, 0, None, (), ())


# --- time ---


def test_windows_are_waited_for() -> None:
    found = plan([image("a", size=5 * MB)], [node("n")], means(WanLimits(windows=(NIGHT,)), rate=1000))
    # 3600 s a night at 1000 B/s are 3.6 MB: two nights for 5.23 MB.
    (one,) = found.images
    assert one.starts_at == at("2026-06-11 02:00")
    assert one.finishes_at == pytest.approx(at("2026-06-12 02:00") + 5 * MB * OVERHEAD / 1000 - HOUR)


def test_a_quota_is_spread_over_its_periods() -> None:
    quota = WanQuota(day=GB)
    found = plan([image("a", size=2 * GB)], [node("n")], means(WanLimits(quota=quota)))
    usable = GB - margin(GB)
    rest = 2 * GB * OVERHEAD - 2 * usable
    assert found.images[0].finishes_at == pytest.approx(at("2026-06-12 00:00") + rest / MB)
    spent = {(Period.DAY, "UTC"): GB}
    later = plan([image("a", size=MB)], [node("n")], means(WanLimits(quota=quota), spent=spent))
    assert later.images[0].starts_at == at("2026-06-11 00:00")


def test_the_stricter_rate_counts() -> None:
    for limits in ((WanLimits(rate=1000),), (WanLimits(rate=5000), WanLimits(rate=1000)), (WanLimits(),)):
        rate = 1000 if limits[0].rate else 2000
        found = plan([image("a", size=MB)], [node("n")], means(*limits, rate=2000))
        assert found.finishes_at == pytest.approx(NOON + MB * OVERHEAD / rate)


def test_without_a_rate_no_time_is_told_and_nothing_refused() -> None:
    found = plan([image("a", deadline=NOON + 1)], [node("n")], means(rate=0))
    assert (found.finishes_at, found.refusals) == (None, ())
    assert any("rate is not known" in note for note in found.notes)


def test_nothing_begins_before_it_may() -> None:
    found = plan([image("a", not_before=NOON + DAY)], [node("n")])
    assert found.images[0].starts_at == NOON + DAY


# --- what is refused ---


def test_what_does_not_fit_is_refused_with_figures() -> None:
    found = plan([image("a"), image("b")], [node("n", room=GB), node("m")])
    assert found.refusals == ("does not fit on n: needs 2.0 GB, 1.0 GB can be had",)


def test_what_comes_too_late_is_refused_with_both_times() -> None:
    found = plan([image("a", deadline=NOON + 60)], [node("n")])
    assert found.refusals == (
        "up.example/a:1: does not finish before its deadline 2026-06-10 12:01 UTC, but at 2026-06-10 12:17 UTC",
    )
    assert not plan([image("a", deadline=NOON + 2000)], [node("n")]).refusals


def test_what_is_more_than_this_months_quota_is_refused() -> None:
    limits = WanLimits(quota=WanQuota(month=2 * GB))
    spent = {(Period.MONTH, "UTC"): GB}
    found = plan([image("a")], [node("n")], means(limits, spent=spent))
    assert found.refusals == ("takes 1.0 GB over the WAN, more than the quota of this month leaves (1.0 GB)",)
    assert not plan([image("a")], [node("n")], means(limits)).refusals


def test_what_never_gets_through_is_refused() -> None:
    never = (WanLimits(windows=(NIGHT,)), WanLimits(windows=(WanWindow("0 5 * * *", HOUR),)))
    found = plan([image("a")], [node("n")], means(*never))
    assert found.refusals == (
        "up.example/a:1: does not get through the windows and quotas of the uplink within a year",
    )
    slow = plan([image("a", size=1000 * GB)], [node("n", room=None)], means(WanLimits(rate=1000)))
    assert "within a year" in slow.refusals[0]


def test_a_site_without_an_uplink_gets_only_what_it_has() -> None:
    dark = Means(NOON, uplink=False, wan_rate=0, lan_rate=0)
    found = plan([image("a"), image("b")], [node("n", "a"), node("m")], dark)
    assert found.refusals == ("up.example/b:1: the site lacks some of it, and no node of it has an uplink",)
    assert any("between nodes" in note for note in found.notes)


def test_an_image_that_nobody_can_tell_of_is_refused_and_the_others_are_planned() -> None:
    found = plan([Asked("up.example/x:1", {}, fault="no such tag"), image("a")], [node("n")])
    assert found.refusals == ("up.example/x:1: no such tag",)
    assert found.wan_bytes == GB


# --- laws ---

BLOBS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True)


@given(
    st.lists(st.tuples(BLOBS, st.sampled_from(["all", 1, 2])), min_size=1, max_size=5),
    st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), min_size=1, max_size=4),
    st.sampled_from([0, 3 * GB, 300 * MB]),
    st.booleans(),
)
def test_every_byte_that_the_site_lacks_comes_once(
    images: list[tuple[list[str], Any]], held: list[list[str]], quota: int, windows: bool
) -> None:
    asked = [image(f"i{n}", *blobs, copies=copies) for n, (blobs, copies) in enumerate(images)]
    nodes = [node(f"n{n}", *blobs) for n, blobs in enumerate(held)]
    limits = WanLimits(quota=WanQuota(day=quota), windows=(NIGHT,) if windows else ())
    found = plan(asked, nodes, means(limits, rate=10 * MB))
    wanted = {digest for one in asked for digest in one.parts}
    there = {digest for one in nodes for digest in one.held}
    assert found.wan_bytes == GB * len(wanted - there)
    assert sum(one.need for one in found.nodes) <= found.wan_bytes + found.lan_bytes
    last = NOON
    for one in found.images:
        if one.starts_at is not None and one.finishes_at is not None:
            assert last <= one.starts_at < one.finishes_at
            last = one.finishes_at


# --- what a state says ---


def test_limits_of_a_state() -> None:
    told = Limits(
        rate=5,
        quota=Quota(day=7),
        windows=(WindowSection(cron="0 2 * * *", duration=3600, timezone="Europe/Berlin"),),
    )
    assert limits_of(told) == WanLimits(
        5, WanQuota(day=7), (WanWindow("0 2 * * *", 3600.0, "Europe/Berlin"),)
    )
    assert limits_of(None) is limits_of(Limits(disk=5)) is None
