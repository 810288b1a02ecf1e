"""The world: a registry, sites with nodes, what joins and parts them. The one place where a scenario begins.

    world = World(seed=1)
    site = world.add_site("depot")
    nodes = [site.add_node(f"n{number}", 25e6, 6.25e6 if number == 0 else None) for number in range(4)]
    for node in nodes: node.start()
    blob = world.upstream.add("layer", 50_000_000)
    world.run(5.0)
    wanted = [node.want(blob, 50_000_000) for node in nodes]
    world.finish(600.0)

Rates are bytes a second, times seconds. Nodes of one site that are not cut apart reach each other; no others.
"""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from meshsat.oci.digest import Digest
from meshsat.protocol import events
from meshsat.trust.keys import PeerId
from sim.simulator.fluid import Fluid, Link
from sim.simulator.lane import Lane
from sim.simulator.node import SimNode
from sim.simulator.physics import Physics
from sim.simulator.queue import EventQueue
from sim.simulator.upstream import SimUplink, Upstream


class Site:
    """`wan`: what the uplinks of its nodes share."""

    def __init__(self, world: "World", name: str, wan: Link) -> None:
        self.name = name
        self.wan = wan
        self.nodes: list[SimNode] = []
        self._world = world
        self._cuts: list[tuple[frozenset[SimNode], frozenset[SimNode]]] = []

    def add_node(self, name: str, lan_rate: float, uplink_rate: float | None = None) -> SimNode:
        """A node that is still off. Its line carries `lan_rate` each way; without an uplink it is dark."""
        return self._world.add_node(self, name, lan_rate, uplink_rate)

    def cut(self, group_a: Iterable[SimNode], group_b: Iterable[SimNode]) -> None:
        """Nothing passes between the two groups any more, and nobody is told."""
        self._cuts.append((frozenset(group_a), frozenset(group_b)))
        self._world.look_again(self.nodes)

    def heal(self) -> None:
        """All cuts are mended. The nodes sight each other again."""
        self._cuts.clear()
        self._world.look_again(self.nodes)
        self._world.meet_later(self.nodes)

    def joins(self, one: SimNode, other: SimNode) -> bool:
        return not any(
            (one in group_a and other in group_b) or (one in group_b and other in group_a)
            for group_a, group_b in self._cuts
        )


class World:
    """`latency`: seconds, one way, between two nodes of a site; in place of that of `physics`."""

    def __init__(self, seed: int, *, latency: float | None = None, physics: Physics | None = None) -> None:
        physics = physics or Physics()
        self.seed = seed
        self.physics = physics if latency is None else replace(physics, latency=latency)
        self.queue = EventQueue()
        self.fluid = Fluid(self.queue, self.physics.grain)
        self.upstream = Upstream(self.fluid.add_link("upstream", float("inf")))
        self.sites: dict[str, Site] = {}
        self.nodes: dict[str, SimNode] = {}
        self.on_complete: Callable[[SimNode, Digest, float], None] = lambda _node, _blob, _time: None
        """Called when a node holds a blob, whole."""
        self._site_of: dict[SimNode, Site] = {}
        self._by_peer: dict[PeerId, SimNode] = {}

    # --- what there is ---

    def add_site(self, name: str, wan_rate: float = float("inf")) -> Site:
        """`wan_rate` bounds what its nodes' uplinks carry together. Raises `ValueError` for a name taken."""
        site = self.sites[name] = Site(self, name, self.fluid.add_link(f"wan of {name}", wan_rate))
        return site

    def add_node(self, site: Site, name: str, lan_rate: float, uplink_rate: float | None = None) -> SimNode:
        """See `Site.add_node`. Names are unique in the world; raises `ValueError` for one that is taken."""
        up, down = (self.fluid.add_link(f"{way} of {name}", lan_rate) for way in ("up", "down"))
        node = self.nodes[name] = SimNode(self, name, up, down)
        if uplink_rate is not None:
            line = self.fluid.add_link(f"uplink of {name}", uplink_rate)
            beyond = (self.upstream.link, site.wan)
            node.uplink = SimUplink(node, self.upstream, line, beyond, self.fluid, self.queue, self.physics)
        self._by_peer[node.peer] = node
        self._site_of[node] = site
        site.nodes.append(node)
        return node

    def site_of(self, node: SimNode) -> Site:
        return self._site_of[node]

    def move(self, node: SimNode, site: Site) -> None:
        """The node leaves its site without a word, and is at another (a train). Its uplink, if it has one,
        is still its own."""
        old = self._site_of[node]
        old.nodes.remove(node)
        site.nodes.append(node)
        self._site_of[node] = site
        self.look_again([node])
        self.meet_later([node])

    # --- who reaches whom ---

    def reaches(self, one: SimNode, other: SimNode) -> bool:
        """Whether a packet of one's arrives at the other's host."""
        site = self._site_of[one]
        return one.listens and other.listens and self._site_of[other] is site and site.joins(one, other)

    def look_again(self, nodes: Iterable[SimNode]) -> None:
        """What joins or parts these nodes has changed: hold up sessions that have no way, free the others."""
        for node in nodes:
            for peer, lane in list(node.lanes.items()):
                if self.reaches(node, self._by_peer[peer]):
                    lane.release()
                    lane.back.release()
                else:
                    lane.hold_up()
                    lane.back.hold_up()

    def meet(self, nodes: Iterable[SimNode]) -> None:
        """Each of them sights each other, as by discovery, now."""
        here = list(nodes)
        for node in here:
            for other in here:
                self._sight(node, other)

    def meet_later(self, nodes: Iterable[SimNode]) -> None:
        """These nodes and all others of their sites sight each other, after a moment."""
        for node in nodes:
            self.queue.post(self.queue.now + self.physics.discovery, partial(self._announce, node))

    def _announce(self, node: SimNode) -> None:
        for other in list(self._site_of[node].nodes):
            self._sight(node, other)
            self._sight(other, node)

    def _sight(self, node: SimNode, other: SimNode) -> None:
        if node is not other and node.alive and other.alive and self.reaches(node, other):
            node.feed(events.PeerSighted(other.peer, (), other.machine.addresses[1]))

    def started(self, node: SimNode) -> None:
        """The node is on: the sessions that others still have with an earlier life of it are at an end."""
        for other in self._site_of[node].nodes:
            lane = other.lanes.get(node.peer)
            if lane is not None and self.reaches(node, other):
                self.queue.post(self.queue.now + self.physics.latency, partial(other.ended, lane))
        self.meet_later([node])

    def dial(self, node: SimNode, peer: PeerId) -> None:
        other = self._by_peer[peer]
        wait = self.physics.handshake
        if not self.reaches(node, other):
            wait = self.physics.dial_timeout
        self.queue.post(self.queue.now + wait, partial(self._dialled, node, other, node.life))

    def _dialled(self, node: SimNode, other: SimNode, life: int) -> None:
        if node.life != life:
            return
        old, theirs = node.lanes.get(other.peer), other.lanes.get(node.peer)
        if not other.alive or not self.reaches(node, other):
            node.feed(events.DialFailed(other.peer, refused=False))
        elif (old is not None and self._prefers(node, old, dialled=True)) or (
            theirs is not None and self._prefers(other, theirs, dialled=False)
        ):
            if old is None:
                node.feed(events.DialFailed(other.peer, refused=False))
        else:
            self._open(node, other)

    def _prefers(self, node: SimNode, old: Lane, *, dialled: bool) -> bool:
        """Whether a node keeps the session it has: see `mesh/driver.py`."""
        peer = old.receiver.peer
        session = node.machine.sessions.get(peer)
        if old.dialled == dialled or session is None:
            return False
        if self.queue.now - session.last_heard > node.machine.silence_limit / 2:
            return False
        return old.dialled == (node.peer < peer)

    def _open(self, node: SimNode, other: SimNode) -> None:
        lane = Lane(node, other, self.fluid, self.queue, self.physics, dialled=True)
        back = Lane(other, node, self.fluid, self.queue, self.physics, dialled=False)
        lane.back, back.back = back, lane
        node.leave(other.peer)
        other.leave(node.peer)
        other.opened(back)
        node.opened(lane)

    # --- what happens ---

    def published(self, node: SimNode, blob: Digest) -> None:
        self.on_complete(node, blob, self.queue.now)

    @property
    def waiting(self) -> bool:
        """Whether somebody on a node that is on waits for a blob."""
        return any(node.wants for node in self.nodes.values() if node.alive)

    def run(self, until: float) -> None:
        """Let things happen up to that time."""
        with _no_collector():
            self.queue.run(until)

    def finish(self, limit: float) -> bool:
        """Let things happen until nobody waits for a blob, or up to that time; whether nobody does."""
        with _no_collector():
            while self.waiting and self.queue.now < limit:
                self.queue.run(min(limit, self.queue.now + 0.1))
        return not self.waiting


@contextmanager
def _no_collector() -> Iterator[None]:
    """A world is one large heap that lives to the end: looking for garbage costs much and finds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
