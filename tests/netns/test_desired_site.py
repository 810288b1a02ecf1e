"""A site of six under a desired state: what runs can be pulled at every moment, whatever dies; copies come back."""

import logging
import random
import threading
import time

import pytest

from sim.images import Layout, random_image
from sim.network import Plan
from sim.nodes import Node
from sim.site import Site
from tests.netns.desired import (
    Turn,
    Watcher,
    desired,
    holds,
    is_active,
    is_whole,
    pinned,
    publish,
    until,
)
from tests.tools import require_tool

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(300)]

log = logging.getLogger(__name__)

NODES = 6
LAYER = 3_000_000
STORM = 15.0
"""Seconds in which the uplink flaps and nodes die."""
QUIET = {"registry": {"tag_ttl": 2.0}}


class Storm:
    """Kills a node at random now and then and starts it again; the uplink goes and comes."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        self._site = site
        self._rng = rng
        self._over = threading.Event()
        self.down: dict[str, list[tuple[float, float]]] = {node.name: [] for node in site.nodes}
        """When each node was not there, from before its death until it was ready again."""
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._kill, self._flap)]
        for thread in self._threads:
            thread.start()

    def _kill(self) -> None:
        while not self._over.wait(self._rng.uniform(1.0, 3.0)):
            node = self._rng.choice(self._site.nodes)
            began = time.monotonic()
            node.kill()
            self._over.wait(self._rng.uniform(0.0, 1.5))
            node.start()
            node.wait_until_up()
            self.down[node.name].append((began, time.monotonic()))

    def _flap(self) -> None:
        (uplink,) = self._site.network.uplinks
        while not self._over.wait(self._rng.uniform(1.0, 3.0)):
            uplink.down()
            self._over.wait(self._rng.uniform(0.5, 2.0))
            uplink.up()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def while_there(turns: list[Turn], down: list[tuple[float, float]]) -> list[Turn]:
    """Those pulls during which the node lived all the time."""
    return [turn for turn in turns if not any(a < turn.ended and turn.began < b for a, b in down)]


def test_an_update_in_a_storm_and_the_way_back(namespaces_work: None) -> None:
    require_tool("docker-registry")
    with Site(Plan(hosts=NODES, uplinked=1, uplink_mbit=20, lan_mbit=200), settings=QUIET) as site:
        v1 = random_image(site.directory / "v1", LAYER, layers=3, seed=1)
        v2 = random_image(site.directory / "v2", LAYER, layers=3, seed=2)
        site.upstream.push(v1, "test/app", "1")
        site.upstream.push(v2, "test/app", "2")
        site.start()
        publish(site, 1, pinned(site, v1))
        until(
            "v1 runs on all", lambda: all(is_whole(node, v1) and is_active(node, v1) for node in site.nodes)
        )
        watchers = [Watcher(node, site.directory) for node in site.nodes]
        time.sleep(2)
        storm = Storm(site, random.Random(5))
        publish_in_the_storm(site, 2, pinned(site, v2))
        time.sleep(STORM)
        storm.end()
        for node in site.nodes:
            node.wait_until_up(peers=NODES - 1)
        until("v2 runs on all", lambda: all(is_active(node, v2) for node in site.nodes), 120)
        time.sleep(1)
        before, asked = site.network.wan_bytes(), site.upstream.requests()
        back_at = time.monotonic()
        publish(site, 3, pinned(site, v1))
        until("v1 runs on all again", lambda: all(is_active(node, v1) for node in site.nodes))
        time.sleep(1)
        assert site.upstream.requests() == asked
        crossed = site.network.wan_bytes() - before
        turns = {watcher.node.name: watcher.stop() for watcher in watchers}
    flips = []
    for name, own in turns.items():
        there = while_there(own, storm.down[name])
        assert len(there) > 10
        faults = {turn.fault for turn in there}
        assert faults == {None}, (name, faults)
        assert {turn.digest for turn in there} <= {v1.manifest, v2.manifest}
        flips.append(min(turn.began for turn in own if turn.began > back_at and turn.digest == v1.manifest))
    flip = first_seen(turns, storm.down, v2.manifest)
    log.info("the flip in the storm: seen by the %d that were there within %.2f s", len(flip), spread(flip))
    assert spread(flip) < 2.0
    log.info("the way back: seen by all within %.2f s, %d bytes over the WAN", spread(flips), crossed)
    assert spread(flips) < 2.0
    assert crossed < 20_000


def first_seen(
    turns: dict[str, list[Turn]], down: dict[str, list[tuple[float, float]]], digest: str
) -> list[float]:
    """When clients of each node saw it first, of those nodes that were there around the time that one did."""
    seen = {
        name: min(turn.began for turn in own if turn.digest == digest and turn.fault is None)
        for name, own in turns.items()
    }
    first = min(seen.values())
    return [
        at for name, at in seen.items() if not any(a < first + 3 and first - 1 < b for a, b in down[name])
    ]


def spread(moments: list[float]) -> float:
    return max(moments) - min(moments)


def publish_in_the_storm(site: Site, version: int, *images: dict[str, object]) -> None:
    """On the node where the fleet was made, once it is there."""
    deadline = time.monotonic() + 30
    while True:
        try:
            publish(site, version, *images)
        except AssertionError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        else:
            return


def test_of_two_copies_one_dies_and_is_made_again_from_the_lan(namespaces_work: None) -> None:
    require_tool("docker-registry")
    with Site(Plan(hosts=NODES, uplinked=1, uplink_mbit=100, lan_mbit=200), settings=QUIET) as site:
        image = random_image(site.directory / "v1", LAYER, layers=2, seed=1)
        site.upstream.push(image, "test/app", "1")
        site.start()
        publish(site, 1, pinned(site, image, copies=2, roles=["shelf"]))
        dark = site.nodes[1:]  # the first has the uplink, and holds what it fetched for the others
        until("two hold it", lambda: len(holding(dark, image)) == 2)
        time.sleep(3)
        victim = holding(dark, image)[0]
        before, asked = site.network.wan_bytes(), site.upstream.requests()
        victim.kill()
        alive = [node for node in dark if node is not victim]
        took = until("the copy is back", lambda: len(holding(alive, image)) >= 2, 30)
        crossed = site.network.wan_bytes() - before
        log.info("the copy was back after %.1f s, %d bytes over the WAN", took, crossed)
        assert site.upstream.requests() == asked
        assert crossed < 20_000
        until(
            "others are told so",
            lambda: [at["stage"] for at in desired(alive[0])["nodes"]].count("whole") >= 2,
            10,
        )


def holding(nodes: list[Node], image: Layout) -> list[Node]:
    return [node for node in nodes if holds(node, image)]
