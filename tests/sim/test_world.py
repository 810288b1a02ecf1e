"""The simulated world: real machines on arithmetic links. Rates in bytes a second."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from meshsat.oci.digest import Digest
from meshsat.protocol.effects import Effect
from sim.simulator.node import Completion, SimNode
from sim.simulator.physics import Physics
from sim.simulator.world import Site, World

ROOT = Path(__file__).parents[2]
LAN = 12.5e6
UPLINK = 2.5e6
SIZE = 10_000_000
MET = 5.0
"""When the nodes of a world have met and settled."""


def site_of(world: World, nodes: int, uplinked: int = 1, name: str = "s") -> Site:
    site = world.add_site(name)
    for number in range(nodes):
        site.add_node(f"{name}{number}", LAN, UPLINK if number < uplinked else None).start()
    return site


def want_all(nodes: list[SimNode], blob: Digest) -> list[Completion]:
    return [node.want(blob, SIZE) for node in nodes]


def last(wanted: list[Completion]) -> float:
    """Seconds from the want to the last node that had it."""
    times = [one.time - one.wanted_at for one in wanted if one.time is not None]
    assert len(times) == len(wanted)
    return max(times)


def test_a_cold_site_fills_at_the_speed_of_its_uplink() -> None:
    world = World(1)
    site = site_of(world, 4)
    blob = world.upstream.add("layer", SIZE)
    world.run(MET)
    wanted = want_all(site.nodes, blob)
    assert world.finish(60.0)
    assert 1.04 <= last(wanted) / (SIZE / UPLINK) <= 1.15
    assert sum(node.counters.uplink for node in site.nodes) == SIZE
    assert sum(node.wan_bytes for node in site.nodes) == pytest.approx(SIZE * world.physics.overhead)
    for node in site.nodes:
        assert blob in node.disk.held
        received = node.counters.payload_in + node.counters.uplink
        assert received - node.counters.duplicate == SIZE


def test_a_warm_site_fills_from_its_seed() -> None:
    world = World(1)
    site = site_of(world, 4, uplinked=0)
    blob = world.upstream.add("layer", SIZE)
    site.nodes[0].hold(blob, SIZE)
    world.run(MET)
    wanted = want_all(site.nodes, blob)
    assert world.finish(60.0)
    assert last(wanted) / (SIZE / LAN) <= 1.5


def figures(seed: int, settings: Physics) -> list[tuple[str, float | None, int, float]]:
    world = World(seed, physics=settings)
    site = site_of(world, 6, uplinked=2)
    blob = world.upstream.add("layer", SIZE)
    world.run(MET)
    wanted = want_all(site.nodes, blob)
    world.run(world.queue.now + 1.0)
    site.nodes[1].kill()
    world.run(60.0)
    return [
        (node.name, one.time, node.counters.frames, node.counters.frames_in)
        for node, one in zip(site.nodes, wanted, strict=True)
    ]


def test_a_node_knows_every_effect() -> None:
    node = World(1).add_site("s").add_node("n", LAN)
    assert set(node.todo) == set(get_args(Effect))


def test_a_run_does_not_follow_from_the_hashes_of_texts() -> None:
    """Python salts them anew in every process."""
    told = {
        subprocess.run(
            [sys.executable, "-c", "from tests.sim.test_world import *; print(figures(7, Physics()))"],
            env={**os.environ, "PYTHONHASHSEED": salt},
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        for salt in ("0", "1")
    }
    assert told == {f"{figures(7, Physics())}\n".encode()}


def test_a_run_follows_from_its_seed() -> None:
    assert figures(7, Physics()) == figures(7, Physics())
    assert figures(7, Physics()) != figures(8, Physics())


def test_what_a_tag_means_is_asked_once_and_told_to_all() -> None:
    world = World(1)
    site = site_of(world, 5)
    world.upstream.tags["1"] = world.upstream.add("manifest", 1000), 1000
    world.run(MET)
    before = [node.counters.gossip_in for node in site.nodes]
    for node in site.nodes:
        node.ask("1")
        node.ask("2")
    world.run(MET + 60.0)
    assert {node.knows["1"].digest for node in site.nodes} == {world.upstream.tags["1"][0]}
    assert not any("2" in node.knows for node in site.nodes)
    assert world.upstream.requests <= 4
    assert all(node.counters.gossip_in > was for node, was in zip(site.nodes, before, strict=True))
