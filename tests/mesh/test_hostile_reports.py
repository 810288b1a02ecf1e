"""A member that lies in its reports, floods them or repeats others' moves no tag, and costs itself alone."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock as Clock

from meshsat.fleet.report import Mark, Report, Stage, prefix_of, seal_report
from meshsat.oci.digest import Digest
from meshsat.protocol import wire
from meshsat.protocol.spread import Kind
from tests.brain import key
from tests.images import build_image
from tests.mesh.desiring import Desiring, desiring_site, follow_all, pinned, state, until
from tests.mesh.full_node import hold, unix

V1 = build_image([b"base" * 1000, b"one" * 1000])
V2 = build_image([b"base" * 1000, b"two" * 1000])


def say(bad: Desiring, *reports: bytes) -> None:
    """Push them to all."""
    for link in bad.full.node.driver.links.values():
        link.send(wire.News(tuple((int(Kind.REPORT), one) for one in reports), more=False))


def lies(bad: Desiring, honest: Desiring, mark: Mark) -> Iterator[Report]:
    """Its own reports, one after the other, of the state that the honest follow."""
    at = int(unix() * 1000) + 1_000_000
    told = {one.peer: one for one in honest.reconciler.reports}[honest.full.node.identity.key.peer_id]
    while True:
        at += 1
        yield replace(told, peer=bad.full.node.identity.key.peer_id, at=at, marks=(mark,))


async def settled(nodes: list[Desiring]) -> None:
    hold(nodes[0].full.site.upstream, V1, "stable")
    hold(nodes[0].full.site.upstream, V2, "next")
    follow_all(nodes, 1, state(pinned(V1)))
    await until("v1 is whole", lambda: all(node.holds(V1) for node in nodes))
    await trio.sleep(5)


async def test_that_it_has_changed_already_moves_nobody_who_is_not_whole(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b", "bad") as nodes:
        await settled(nodes)
        *honest, bad = nodes
        nodes[0].uplink_down()
        follow_all(honest, 2, state(pinned(V2)))
        await trio.sleep(2)
        lie = Mark(Stage.WHOLE, active=True, target=prefix_of(Digest.parse_untrusted(V2.root)))
        telling = lies(bad, honest[0], lie)
        for _ in range(20):
            say(bad, seal_report(bad.full.node.identity.key, next(telling)))
            await trio.sleep(1)
        assert [node.means() for node in honest] == [V1.root] * 2
        assert [await node.served() for node in honest] == [V1.root] * 2


async def test_that_it_is_not_ready_holds_the_others_up_for_as_long_as_patience_lasts(
    autojump_clock: Clock,
) -> None:
    async with desiring_site("up", "b", "bad", own={"patience": 60.0}) as nodes:
        await settled(nodes)
        *honest, bad = nodes
        follow_all(honest, 2, state(pinned(V2)))
        await until("v2 is whole", lambda: all(node.holds(V2) for node in honest))
        telling = lies(bad, honest[0], Mark(Stage.FETCHING))
        with trio.move_on_after(45):
            while True:
                say(bad, seal_report(bad.full.node.identity.key, next(telling)))
                await trio.sleep(1)
        assert [node.means() for node in honest] == [V1.root] * 2
        took = await until("they change", lambda: all(node.means() == V2.root for node in honest))
        assert took < 25


async def test_a_flood_is_passed_on_no_further_than_it_may(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b", "bad") as nodes:
        await settled(nodes)
        *honest, bad = nodes
        seen: list[float] = []
        victim = honest[0].reconciler
        wake = victim.reports.on_news

        def count() -> None:
            seen.append(trio.current_time())
            wake()

        victim.reports.on_news = count
        telling = lies(bad, honest[0], Mark(Stage.WAITING))
        for _ in range(20):
            say(bad, *(seal_report(bad.full.node.identity.key, next(telling)) for _ in range(50)))
            await trio.sleep(0.5)
        assert len(seen) <= 40 + 4 * 11
        follow_all(honest, 2, state(pinned(V2)))
        follow_all([bad], 2, state(pinned(V2)))
        await until("the site goes on", lambda: all(node.means() == V2.root for node in honest), 400)


@pytest.mark.parametrize("forged", ["of another's", "by nobody", "noise"])
async def test_forged_reports_cost_the_forger_its_sessions(autojump_clock: Clock, forged: str) -> None:
    async with desiring_site("up", "b", "bad") as nodes:
        await settled(nodes)
        *honest, bad = nodes
        report = next(lies(bad, honest[0], Mark(Stage.WAITING)))
        if forged == "of another's":
            data = bytearray(seal_report(honest[1].full.node.identity.key, report))
            data[-5] ^= 1
        elif forged == "by nobody":
            data = bytearray(seal_report(key("a stranger"), report))
        else:
            data = bytearray(b"\xff" * 100)
        say(bad, bytes(data))
        await trio.sleep(1)
        me = bad.full.node.identity.key.peer_id
        expelled = [me not in node.full.node.machine.sessions for node in honest]
        assert expelled == [forged != "by nobody"] * 2, "a stranger's seal is good, and nobody's report"
        known = {one.peer for node in honest for one in node.reconciler.reports}
        assert known <= {node.full.node.identity.key.peer_id for node in nodes}


async def test_an_old_report_that_is_repeated_is_answered_with_the_young_one(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b", "bad") as nodes:
        await settled(nodes)
        *honest, bad = nodes
        peer = honest[1].full.node.identity.key.peer_id
        old = {one.peer: one for one in honest[0].reconciler.reports}[peer]
        follow_all(nodes, 2, state(pinned(V2)))
        await until("v2 is what it means", lambda: all(node.means() == V2.root for node in nodes))
        await trio.sleep(5)
        say(bad, old.sealed)
        await trio.sleep(2)
        young = {one.peer: one for one in honest[0].reconciler.reports}[peer]
        assert young.at > old.at
        assert young.version == 2
