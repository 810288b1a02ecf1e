"""Whole sites under a desired state: what it wants comes, stays, changes together, and goes."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import trio
from trio.testing import MockClock as Clock

from meshsat.fleet.placement import Candidate, holders
from meshsat.fleet.report import Stage
from meshsat.oci.digest import Digest
from meshsat.protocol import events
from meshsat.signature_policy import Rule
from tests.images import build_image
from tests.mesh.desiring import Desiring, desiring_site, follow_all, pinned, state, until
from tests.mesh.full_node import POS, hold, unix
from tests.signing import make_key, public_pem, signature_tag, signed_by

V1 = build_image([b"base" * 1000, b"one" * 1000])
V2 = build_image([b"base" * 1000, b"two" * 1000])
MULTI = build_image([b"layer" * 500], ("linux/amd64", "linux/arm64"))


def wan(nodes: list[Desiring]) -> Counter[str]:
    """How often the upstream was asked for what."""
    return Counter(nodes[0].full.site.upstream.requests)


async def test_what_is_desired_comes_to_all_and_each_byte_once(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b", "c") as nodes:
        hold(nodes[0].full.site.upstream, V1, "stable")
        follow_all(nodes, 1, state(pinned(V1)))
        await until("all hold it", lambda: all(node.holds(V1) for node in nodes))
        assert [await node.served() for node in nodes] == [V1.root] * 3
        await trio.sleep(1)
        shown = [[image.name for image in node.full.store.images()] for node in nodes]
        assert shown == [["up.example/library/pos:stable"]] * 3


async def test_all_change_together_and_the_old_stays_for_the_way_back(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b", "c") as nodes:
        hold(nodes[0].full.site.upstream, V1, "stable")
        follow_all(nodes, 1, state(pinned(V1)))
        await until("v1 is whole", lambda: all(node.holds(V1) for node in nodes))
        hold(nodes[0].full.site.upstream, V2, "stable")
        # c learns of it late: nobody changes before it has the new one whole.
        follow_all(nodes[:2], 2, state(pinned(V2)))
        await until("two have v2", lambda: all(node.holds(V2) for node in nodes[:2]))
        await trio.sleep(30)
        assert {node.means() for node in nodes} == {V1.root}
        follow_all(nodes[2:], 2, state(pinned(V2)))
        await until("somebody changes", lambda: any(node.means() == V2.root for node in nodes))
        assert all(node.holds(V2) for node in nodes)
        assert await until("all change", lambda: all(node.means() == V2.root for node in nodes)) < 2.0
        kept = [node.staying() for node in nodes]
        assert all({Digest.parse_untrusted(d) for d in (*V1.contents, *V2.contents)} == one for one in kept)
        before = wan(nodes)
        follow_all(nodes, 3, state(pinned(V1)))
        await until("all went back", lambda: all(node.means() == V1.root for node in nodes))
        assert wan(nodes) == before


async def test_who_lags_behind_is_not_waited_for_for_ever(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b", own={"patience": 60.0}) as nodes:
        hold(nodes[0].full.site.upstream, V1, "stable")
        hold(nodes[0].full.site.upstream, V2, "next")
        follow_all(nodes, 1, state(pinned(V1)))
        await until("v1 is whole", lambda: all(node.holds(V1) for node in nodes))
        nodes[0].follow(2, state(pinned(V2)))
        took = await until("it changes", lambda: nodes[0].means() == V2.root, 120)
        assert 60 <= took < 70
        assert nodes[1].means() == V1.root
        nodes[1].follow(2, state(pinned(V2)))
        assert await until("the other follows", lambda: nodes[1].means() == V2.root) < 5


async def test_one_broken_image_holds_back_no_other(autojump_clock: Clock) -> None:
    gone = build_image([b"nobody has this"])
    async with desiring_site("up", "b") as nodes:
        hold(nodes[0].full.site.upstream, V1, "stable")
        follow_all(nodes, 1, state(pinned(gone, "gone", priority=90), pinned(V1)))
        await until("v1 is whole", lambda: all(node.holds(V1) for node in nodes))
        await trio.sleep(60)
        reports = {report.peer: report for report in nodes[0].reconciler.reports}
        assert len(reports) == 2
        for report in reports.values():
            assert [mark.stage for mark in report.marks] == [Stage.FAILED, Stage.WHOLE] or (
                report.marks[0].stage is Stage.FETCHING
            )
            assert report.faults[0][0] == 0
        hold(nodes[0].full.site.upstream, gone, "gone")
        await until("it comes after all", lambda: all(node.holds(gone) for node in nodes), 400)


async def test_only_the_platforms_that_are_wanted_come(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b") as nodes:
        hold(nodes[0].full.site.upstream, MULTI, "stable")
        follow_all(nodes, 1, state(pinned(MULTI, platforms=["linux/arm64"])))
        size = nodes[1].full.store.blobs
        await until("arm64 is there", lambda: nodes[1].means() == MULTI.root and len(size()) >= 4)
        await trio.sleep(5)
        assert not nodes[1].holds(MULTI)
        assert await nodes[1].served() == MULTI.root
        assert {mark.stage for r in nodes[0].reconciler.reports for mark in r.marks} == {Stage.WHOLE}


async def test_a_platform_that_there_is_not_is_told(autojump_clock: Clock) -> None:
    async with desiring_site("up") as nodes:
        hold(nodes[0].full.site.upstream, MULTI, "stable")
        nodes[0].follow(1, state(pinned(MULTI, platforms=["plan9/386"])))
        await until("it is told", lambda: any(r.faults for r in nodes[0].reconciler.reports))
        (report,) = nodes[0].reconciler.reports
        assert "plan9/386" in report.faults[0][1]


async def test_a_tag_is_followed(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b") as nodes:
        hold(nodes[0].full.site.upstream, V1, "stable")
        follow_all(nodes, 1, state({"reference": f"{POS}:stable", "follow": 60}))
        await until("v1 is whole", lambda: all(node.holds(V1) for node in nodes))
        hold(nodes[0].full.site.upstream, V2, "stable")
        await until("v2 is what it means", lambda: all(node.means() == V2.root for node in nodes), 130)
        assert wan(nodes)["manifest stable"] <= 4


async def test_a_lost_blob_is_missed_and_comes_from_a_peer(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b") as nodes:
        hold(nodes[0].full.site.upstream, V1, "stable")
        follow_all(nodes, 1, state(pinned(V1)))
        await until("v1 is whole", lambda: all(node.holds(V1) for node in nodes))
        before = wan(nodes)
        lost = Digest.parse_untrusted(list(V1.contents)[-1])
        store = nodes[1].full.store
        store._contents.blobs.pop(lost)
        store.blob_path(lost).unlink()
        nodes[1].full.node.driver.feed(events.BlobDropped(lost))
        nodes[1].reconciler.dropped(lost)
        await until("it is back", lambda: nodes[1].holds(V1))
        assert wan(nodes) == before


def dark_tag(nodes: list[Desiring], copies: int) -> str:
    """One that is not placed on the first node."""
    candidates = [Candidate(node.full.node.identity.key.peer_id) for node in nodes]
    for tag in map(str, range(100)):
        chosen = holders(f"{POS}:{tag}", candidates, roles=(), copies=copies)
        if candidates[0].peer not in chosen:
            return tag
    raise AssertionError("it holds everything")


def holding(nodes: list[Desiring]) -> list[Desiring]:
    return [node for node in nodes if node.holds(V1)]


async def test_of_two_copies_one_is_lost_and_made_again_from_the_lan(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b", "c", "d", "e", "f") as nodes:
        tag = dark_tag(nodes, 2)
        hold(nodes[0].full.site.upstream, V1, tag)
        follow_all(nodes, 1, state(pinned(V1, tag, copies=2)))
        await until("two hold it", lambda: len(holding(nodes[1:])) >= 2)
        await trio.sleep(60)
        marks = {r.peer: r.marks[0].stage for r in nodes[0].reconciler.reports}
        chosen = holding(nodes[1:])
        assert len(chosen) == 2, "none of the dark nodes holds it without need"
        assert Counter(marks.values()) in (
            Counter({Stage.WHOLE: 2, Stage.ELSEWHERE: 4}),
            Counter({Stage.WHOLE: 3, Stage.ELSEWHERE: 3}),  # the uplinked one has what it fetched for them
        )
        assert [await node.served(tag) for node in nodes] == [V1.root] * 6
        before = wan(nodes)
        dead = chosen[0]
        dead.full.site.kill(dead.full.node)
        alive = [node for node in nodes[1:] if node is not dead]
        took = await until("there are two again", lambda: len(holding(alive)) >= 2)
        assert took < 30
        assert wan(nodes) == before


async def test_what_is_held_without_need_may_go_only_when_others_hold_it(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b", "c") as nodes:
        hold(nodes[0].full.site.upstream, V1, "stable")
        follow_all(nodes, 1, state(pinned(V1)))
        await until("all hold it", lambda: len(holding(nodes)) == 3)
        follow_all(nodes, 2, state(pinned(V1, copies=1)))
        root = Digest.parse_untrusted(V1.root)
        await trio.sleep(5)
        keeping = [root in node.staying() for node in nodes]
        assert sum(keeping) == 1
        (keeper,) = [node for node, keeps in zip(nodes, keeping, strict=True) if keeps]
        keeper.full.site.kill(keeper.full.node)
        others = [node for node in nodes if node is not keeper]
        await trio.sleep(1)
        assert all(root in node.staying() for node in others), "nobody else has it now"
        await trio.sleep(30)
        assert sum(root in node.staying() for node in others) == 1


async def test_at_the_time_that_the_state_names(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b") as nodes:
        hold(nodes[0].full.site.upstream, V1, "stable")
        hold(nodes[0].full.site.upstream, V2, "next")
        follow_all(nodes, 1, state(pinned(V1)))
        await until("v1 is whole", lambda: all(node.holds(V1) for node in nodes))
        begin = datetime.fromtimestamp(unix() + 100, UTC)
        flip = datetime.fromtimestamp(unix() + 200, UTC)
        follow_all(nodes, 2, state(pinned(V2, not_before=begin, active_from=flip)))
        await trio.sleep(95)
        assert not any(Digest.parse_untrusted(V2.root) in node.full.store.blobs() for node in nodes)
        await until("v2 is there", lambda: all(node.holds(V2) for node in nodes), 30)
        assert {node.means() for node in nodes} == {V1.root}
        await until("somebody changes", lambda: any(node.means() == V2.root for node in nodes), 120)
        assert unix() >= flip.timestamp()
        assert await until("all change", lambda: all(node.means() == V2.root for node in nodes)) < 6


async def test_what_is_desired_no_longer_is_left_to_its_upstream(autojump_clock: Clock) -> None:
    async with desiring_site("up") as nodes:
        hold(nodes[0].full.site.upstream, V1, "stable")
        follow_all(nodes, 1, state(pinned(V1)))
        await until("v1 is whole", lambda: nodes[0].holds(V1))
        hold(nodes[0].full.site.upstream, V2, "stable")
        assert await nodes[0].served() == V1.root
        follow_all(nodes, 2, state())
        assert await nodes[0].served() == V2.root
        root = Digest.parse_untrusted(V1.root)
        assert root in nodes[0].staying(), "kept for the way back"
        follow_all(nodes, 3, state())
        assert root not in nodes[0].staying()


async def test_over_a_restart_in_the_dark_the_tag_means_what_it_meant(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with desiring_site("up", directory=tmp_path, own={"directory": tmp_path}) as nodes:
        hold(nodes[0].full.site.upstream, V1, "stable")
        follow_all(nodes, 1, state(pinned(V1)))
        await until("v1 is whole", lambda: nodes[0].holds(V1))
        await trio.sleep(1)
    async with desiring_site("up", directory=tmp_path, own={"directory": tmp_path}) as nodes:
        assert nodes[0].reconciler.desired() is None, "nothing may go before it is known what is to stay"
        nodes[0].uplink_down()
        assert await nodes[0].served() == V1.root
        await trio.sleep(1)
        assert nodes[0].staying() == {Digest.parse_untrusted(digest) for digest in V1.contents}


async def test_a_new_uplink_or_peer_is_asked_at_once(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b") as nodes:
        nodes[1].follow(1, state(pinned(V1)))
        await trio.sleep(400)  # long pauses by now
        assert not nodes[1].holds(V1)
        hold(nodes[0].full.site.upstream, V1, "stable")
        nodes[1].reconciler._could_ask.clear()  # as if it came just now
        await until("it is fetched", lambda: nodes[1].holds(V1), 15)


async def test_an_image_that_was_changed_in_mid_flight_is_fetched_no_further(autojump_clock: Clock) -> None:
    big = build_image([bytes(1000) * 30_000])
    async with desiring_site("up") as nodes:
        hold(nodes[0].full.site.upstream, big, "stable")
        hold(nodes[0].full.site.upstream, V2, "next")
        nodes[0].follow(1, state(pinned(big)))
        await until("it is on its way", lambda: bool(nodes[0].full.node.machine.transfers))
        nodes[0].follow(2, state(pinned(V2)))
        await until("v2 is there", lambda: nodes[0].means() == V2.root and nodes[0].holds(V2))
        assert not nodes[0].holds(big)
        await trio.sleep(10)
        assert not nodes[0].full.node.machine.transfers


async def test_what_is_not_signed_as_it_must_be_takes_nobodys_place(autojump_clock: Clock) -> None:
    key, other = make_key(), make_key()
    rule = Rule.parse_untrusted(
        "the rule", pattern="up.example/**", action="block", keys=[("key", public_pem(key))]
    )
    async with desiring_site("up", "b", signatures=[rule]) as nodes:
        upstream = nodes[0].full.site.upstream
        for image, tag, by in ((V1, "stable", key), (V2, "next", other)):
            hold(upstream, image, tag)
            hold(upstream, signed_by(by, digest=image.root), signature_tag(image.root))
        follow_all(nodes, 1, state(pinned(V1)))
        await until("v1 is whole", lambda: all(node.holds(V1) for node in nodes))
        follow_all(nodes, 2, state(pinned(V2)))
        await until("it is told", lambda: all(node.reconciler.problems() for node in nodes))
        assert "refused" in nodes[1].reconciler.problems()[0]
        await trio.sleep(120)
        assert [node.means() for node in nodes] == [V1.root] * 2
        assert [await node.served() for node in nodes] == [V1.root] * 2
        hold(upstream, signed_by(key, digest=V2.root), signature_tag(V2.root))
        await until("it is signed after all", lambda: all(node.means() == V2.root for node in nodes), 900)
