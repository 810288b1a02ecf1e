"""The edges of reconcile.py; how whole sites behave is tests/mesh/test_reconcile.py."""

from collections.abc import Collection
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock as Clock

from meshsat.errors import StorageError
from meshsat.oci.digest import Digest
from meshsat.oci.reference import Reference
from tests.images import build_image
from tests.mesh.desiring import desiring_site, pinned, state, until
from tests.mesh.full_node import hold

V1 = build_image([b"one" * 1000])
GONE = build_image([b"nobody has this"])


async def test_problems_tell_what_does_not_come_and_what_is_late(autojump_clock: Clock) -> None:
    async with desiring_site("up") as (node,):
        hold(node.full.site.upstream, V1, "stable")
        late = "2026-01-01T00:00:00Z"
        node.follow(1, state(pinned(V1), pinned(GONE, "gone"), pinned(GONE, "late", deadline=late)))
        await until("v1 is whole", lambda: node.holds(V1))
        await until("it is told", lambda: len(node.reconciler.problems()) == 2)
        gone, _ = node.reconciler.problems()
        assert gone.startswith("desired image up.example/library/pos:gone: ")
        assert len(node.reconciler.overview().images) == 3


async def test_an_idle_node_says_nothing_new(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b") as nodes:
        hold(nodes[0].full.site.upstream, V1, "stable")
        for node in nodes:
            node.follow(1, state(pinned(V1)))
        await until("v1 is whole", lambda: all(node.holds(V1) for node in nodes))
        await trio.sleep(30)
        before = [report.at for report in nodes[0].reconciler.reports]
        await trio.sleep(600)
        assert [report.at for report in nodes[0].reconciler.reports] == before


async def test_flips_are_told(autojump_clock: Clock) -> None:
    async with desiring_site("up") as (node,):
        hold(node.full.site.upstream, V1, "stable")
        told: list[tuple[str, str, object]] = []
        node.reconciler.on_flip = lambda name, now, before: told.append((name, str(now), before))
        node.follow(1, state(pinned(V1)))
        await until("v1 is whole", lambda: node.holds(V1))
        assert told == [("up.example/library/pos:stable", V1.root, None)]


async def test_a_disk_that_fails_ends_nothing_and_is_tried_again(autojump_clock: Clock) -> None:
    tried: list[list[str]] = []

    async def retire(names: Collection[str]) -> None:
        tried.append(list(names))
        if len(tried) == 1:
            raise StorageError("the disk does not go along")

    async with desiring_site("up", own={"retire": retire}) as (node,):
        hold(node.full.site.upstream, V1, "stable")
        node.follow(1, state(pinned(V1, keep=0)))
        await until("v1 is whole", lambda: node.holds(V1))
        node.follow(2, state())
        node.follow(3, state())
        await until("it is freed", lambda: len(tried) == 2)
        assert tried == [["up.example/library/pos:stable"]] * 2


async def test_an_image_that_can_not_be_read_is_looked_at_again(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desiring_site("up") as (node,):
        hold(node.full.site.upstream, V1, "stable")

        async def broken(_wanted: Reference, _root: Digest) -> None:
            raise StorageError("cannot be read")

        with monkeypatch.context() as patch:
            patch.setattr(node.full.fetcher.pulling, "require_signed", broken)
            node.follow(1, state(pinned(V1)))
            await until("it came", lambda: node.holds(V1))
            await trio.sleep(100)
            assert node.reconciler.overview().images[0].nodes[0].stage != "whole"
        await until(
            "it is whole", lambda: node.reconciler.overview().images[0].nodes[0].stage == "whole", 600
        )


async def test_where_it_does_not_fit_another_node_takes_it(autojump_clock: Clock) -> None:
    async with desiring_site("up", "b", "c") as nodes:
        hold(nodes[0].full.site.upstream, V1, "stable")
        for node in nodes:
            node.follow(1, state(pinned(V1, copies=1)))
        await until("one holds it", lambda: any(node.reconciler._desire.wanted for node in nodes))
        await trio.sleep(5)
        (holder,) = [node for node in nodes if next(iter(node.reconciler._desire.wanted.values())).mine]
        (one,) = holder.reconciler._desire.wanted.values()
        holder.reconciler._own = replace(holder.reconciler._own, free=lambda: 0)
        one.whole = False
        assert holder.reconciler._lacks_room(one)
        holder.reconciler._desire.failed(one.key, "no room", trio.current_time(), full=True)
        holder.reconciler._drift_at = float("inf")
        holder.reconciler._wake()
        others = [node for node in nodes if node is not holder]
        await until(
            "another has it",
            lambda: any(
                node.holds(V1) and next(iter(node.reconciler._desire.wanted.values())).mine for node in others
            ),
            30,
        )
