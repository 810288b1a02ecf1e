"""What scenarios do to nodes: power cuts, cut LANs, flapping uplinks, moves. Rates in bytes a second."""

import itertools

import pytest

from meshsat.oci.digest import Digest
from meshsat.protocol.events import Fault
from sim.simulator.physics import Physics
from sim.simulator.world import World
from tests.sim.test_world import LAN, MET, SIZE, UPLINK, last, site_of, want_all

OUTAGE = 8.0
"""Seconds that the loss of one may cost the others here: silence is noticed, the next uplink takes over."""


def met(nodes: int, uplinked: int = 1, physics: Physics | None = None) -> tuple[World, Digest]:
    world = World(3, physics=physics)
    site_of(world, nodes, uplinked)
    world.run(MET)
    return world, world.upstream.add("layer", SIZE)


def test_a_power_cut_is_noticed_by_silence_alone() -> None:
    world, _ = met(3)
    victim, *others = world.nodes.values()
    victim.kill()
    world.run(MET + 1.0)
    assert all(victim.peer in node.machine.sessions for node in others)
    world.run(MET + 30.0)
    assert not any(victim.peer in node.machine.sessions for node in others)
    assert all(len(node.machine.sessions) == 1 for node in others)
    assert not victim.lanes


def test_an_orderly_end_is_told() -> None:
    world, _ = met(3)
    leaver, *others = world.nodes.values()
    leaver.stop()
    world.run(MET + 0.01)
    assert not any(leaver.peer in node.machine.sessions for node in others)
    leaver.start()
    world.run(MET + 5.0)
    assert all(leaver.peer in node.machine.sessions for node in others)


def test_another_uplink_takes_over_and_no_verified_byte_is_lost() -> None:
    world, blob = met(5, uplinked=2)
    nodes = list(world.nodes.values())
    wanted = want_all(nodes, blob)
    world.run(MET + 1.5)
    nodes[0].kill()
    world.finish(60.0)
    assert last(wanted[1:]) < SIZE / UPLINK * 1.1 + OUTAGE
    fetched = sum(node.counters.uplink for node in nodes)
    assert fetched <= SIZE + 4 * 2**20  # what the dead one had and nobody else yet


def test_a_node_goes_on_from_the_chunks_on_its_disk() -> None:
    world, blob = met(3)
    nodes = list(world.nodes.values())
    wanted = want_all(nodes, blob)
    world.run(MET + 2.0)
    before = len(nodes[2].disk.partials[blob])
    assert before > 5
    nodes[2].restart()
    world.run(MET + 2.001)
    assert len(nodes[2].machine.transfers[blob].digests) >= before
    assert world.finish(60.0)
    assert last(wanted) < SIZE / UPLINK * 1.1 + OUTAGE
    received = nodes[2].counters.payload_in - nodes[2].counters.duplicate
    assert SIZE <= received <= SIZE * 1.1


def test_halves_of_a_cut_site_go_on_and_meet_again() -> None:
    world, blob = met(6, uplinked=2)
    site = world.sites["s"]
    with_first, with_second = site.nodes[0::2], site.nodes[1::2]
    site.cut(with_first, with_second)
    wanted = want_all(site.nodes, blob)
    world.finish(60.0)
    assert last(wanted) < SIZE / UPLINK * 1.2 + OUTAGE
    pairs = itertools.product(with_first, with_second)
    assert not any(other.peer in one.machine.sessions for one, other in pairs)
    site.heal()
    world.run(world.queue.now + 60.0)
    assert all(len(node.machine.sessions) == 5 for node in site.nodes)


def test_a_short_cut_costs_no_session() -> None:
    world, blob = met(4)
    site = world.sites["s"]
    wanted = want_all(site.nodes, blob)
    opened = {node.peer: node.machine.sessions.copy() for node in site.nodes}
    world.run(MET + 1.0)
    site.cut(site.nodes[:2], site.nodes[2:])
    world.run(MET + 2.0)
    site.heal()
    assert world.finish(60.0)
    assert last(wanted) < SIZE / UPLINK * 1.2 + 2.0
    for node in site.nodes:
        now = node.machine.sessions
        assert all(now[peer] is session for peer, session in opened[node.peer].items())


@pytest.mark.parametrize("stall", [0.0, 3.0])
def test_an_uplink_that_goes_fails_what_it_carries_and_its_return_ends_it(stall: float) -> None:
    world, blob = met(3, physics=Physics(uplink_stall=stall))
    nodes = list(world.nodes.values())
    wanted = want_all(nodes, blob)
    world.run(MET + 1.0)
    nodes[0].set_uplink(up=False)
    world.run(MET + 2.0)
    assert nodes[0].machine.uplink_up == (stall > 1.0)
    world.run(MET + 9.0)
    assert not nodes[0].machine.uplink_up
    assert not any(one.done for one in wanted)
    assert wanted[0].fault is Fault.UNAVAILABLE
    nodes[0].set_uplink(up=True)
    assert world.finish(90.0)
    assert (
        sum(node.counters.uplink for node in nodes) == SIZE
    )  # what was in flight goes on, or is no whole chunk


def test_a_short_outage_of_the_line_is_a_pause() -> None:
    world, blob = met(3, physics=Physics(uplink_stall=10.0))
    wanted = want_all(list(world.nodes.values()), blob)
    node = world.nodes["s0"]
    world.run(MET + 1.0)
    node.set_uplink(up=False)
    world.run(MET + 3.0)
    node.set_uplink(up=True)
    assert world.finish(60.0)
    assert node.machine.uplink_up
    assert last(wanted) == pytest.approx(SIZE / UPLINK * world.physics.overhead + 2.0, rel=0.1)


def test_a_train_carries_blobs_from_site_to_site() -> None:
    world = World(5)
    depot = site_of(world, 2, uplinked=1, name="depot")
    dark = site_of(world, 2, uplinked=0, name="dark")
    train = depot.add_node("train", LAN)
    train.start()
    world.run(MET)
    blob = world.upstream.add("layer", SIZE)
    train.want(blob, SIZE)
    assert world.finish(60.0)
    train.move(dark)
    wanted = want_all(dark.nodes[:2], blob)
    assert world.finish(90.0)
    assert last(wanted) < 20.0
    assert {node.name for node in dark.nodes} == {"dark0", "dark1", "train"}
    world.run(world.queue.now + 30.0)  # by then it has noticed whom it left
    assert len(train.machine.sessions) == 2


def test_a_joiner_is_served_by_those_who_hold_it() -> None:
    world, blob = met(3, uplinked=0)
    site = world.sites["s"]
    for node in site.nodes:
        node.hold(blob, SIZE)
    joiner = site.add_node("late", LAN)
    wanted = joiner.want(blob, SIZE)  # before it is on
    world.run(MET + 10.0)
    joiner.start()
    assert world.finish(60.0)
    assert last([wanted]) - 10.0 < SIZE / LAN * 1.2 + 3.0
    assert world.upstream.requests == 0


def test_what_nobody_has_is_told_not_to_be_had() -> None:
    world, _ = met(3)
    node = world.nodes["s1"]
    wanted = node.want(Digest.of(b"nowhere"), SIZE)
    world.run(MET + 5.0)
    assert wanted.fault is Fault.NOT_FOUND
    node.unwant(wanted)
    world.run(MET + 6.0)
    assert not node.machine.transfers
    assert not world.waiting


def test_names_are_unique() -> None:
    world, _ = met(1)
    with pytest.raises(ValueError, match="already"):
        world.add_site("s")
    with pytest.raises(ValueError, match="already"):
        world.sites["s"].add_node("s0", LAN)
    with pytest.raises(ValueError, match="has no uplink"):
        world.sites["s"].add_node("dark", LAN).set_uplink(up=False)
