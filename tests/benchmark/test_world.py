"""Worlds and their limits."""

import pytest

from sim.benchmark.world import WORLDS, Case, World


def test_the_limit_is_the_uplinks_cold_and_the_lans_warm() -> None:
    world = World(nodes=8, uplink_mbit=25, lan_mbit=100, megabytes=100)
    assert world.limit_seconds(Case.COLD) == 32
    assert world.limit_seconds(Case.WARM) == 8


def test_the_worlds_are_those_of_the_promises() -> None:
    told = [(w.nodes, w.lan_mbit, w.uplink_mbit, w.megabytes) for w in WORLDS]
    assert told == [(4, 200, 50, 200), (8, 100, 25, 100), (16, 50, 12.5, 50)]


def test_a_part_of_the_payload_leaves_the_rates_alone() -> None:
    assert World(4, 50, 200, 200).scaled(0.1) == World(4, 50, 200, 20)
    assert World(4, 50, 200, 3).scaled(0.1).megabytes == 1


def test_a_world_is_read_from_text() -> None:
    assert World.parse("16:12.5:50:50") == WORLDS[2]


@pytest.mark.parametrize("text", ["", "4:50:200", "4:50:200:x", "1:50:200:20", "4:0:200:20", "4:50:200:-1"])
def test_what_is_no_world_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NODES:UPLINK:LAN:MB|two nodes at least"):
        World.parse(text)
