"""Runs a scenario in a world, and writes down what its figures and pictures are made of: `Outcome`.

Law: all chance comes from the seed, and no set or hash decides an order: one scenario and one seed have one
outcome, on any machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from meshsat.oci.digest import Digest
from meshsat.protocol.events import Priority
from sim.simulator.node import SimNode
from sim.simulator.scenario import MBIT, Do, Scenario, Step, select
from sim.simulator.world import Site, World

LOOKS = 400
"""How often, at least, the nodes' progress is written down until the last has finished."""
WATCHED = 64
"""Nodes whose progress is written down, of the first sites."""
WAKERS = (Do.WANT, Do.START, Do.RESTART)
"""While such a step is to come, nobody's waiting nobody is the end."""

Progress = Callable[[float, int, int], None]
"""Told now and then: simulated seconds, wants fulfilled, wants so far."""


@dataclass(slots=True, eq=False)
class Want:
    """One node wants one image."""

    node: SimNode
    site: str
    """Where it wanted it."""
    image: str
    wanted_at: float
    size: int
    missing: dict[Digest, None] = field(default_factory=dict)
    done_at: float | None = None
    due: bool = True
    """Its node is to have it at the end: it was not killed for good."""


@dataclass(slots=True)
class Outcome:
    scenario: Scenario
    seed: int
    world: World
    wants: list[Want] = field(default_factory=list)
    held: dict[tuple[str, str], None] = field(default_factory=dict)
    """(site, image) where a node had it from the start."""
    uplinks: list[tuple[float, str, str, bool]] = field(default_factory=list)
    """(time, site, node, whether its uplink works and it is on), where that changed."""
    looks: list[tuple[float, list[float]]] = field(default_factory=list)
    """(time, bytes of content that each watched node has got so far)."""
    watched: list[SimNode] = field(default_factory=list)
    ended_at: float = 0.0


def run(scenario: Scenario, seed: int, progress: Progress = lambda *_: None) -> Outcome:
    return _Run(scenario, seed).to_the_end(progress)


class _Run:
    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario = scenario
        self._rng = Random(f"{scenario.name} {seed}")  # noqa: S311 - a simulation's chance
        self._world = World(seed, latency=scenario.latency_ms / 1000)
        self._out = Outcome(scenario, seed, self._world)
        self._groups: dict[str, list[SimNode]] = {}
        """Site -> the nodes that began there."""
        self._open: dict[Want, None] = {}
        self._of_node: dict[SimNode, dict[Want, None]] = {}
        self._last_waker = 0.0
        self._blobs = {
            image.name: [
                (self._blob(f"{image.name} {number}", size, upstream=image.upstream), size)
                for number, size in enumerate(image.sizes)
            ]
            for image in scenario.images
        }
        self._actions: dict[Do, Callable[[SimNode, Step], None]] = {
            Do.WANT: self._want,
            Do.HOLD: self._hold,
            Do.START: self._start,
            Do.RESTART: self._restart,
            Do.STOP: self._stop,
            Do.KILL: self._kill,
            Do.UPLINK_DOWN: partial(self._uplink, up=False),
            Do.UPLINK_UP: partial(self._uplink, up=True),
            Do.MOVE: self._move,
        }
        self._build()
        self._world.on_complete = self._completed

    def _blob(self, name: str, size: int, *, upstream: bool) -> Digest:
        blob = self._world.upstream.add(name, size)
        if not upstream:
            del self._world.upstream.blobs[blob]
        return blob

    # --- before it begins ---

    def _build(self) -> None:
        for plan in self._scenario.sites:
            for name in plan.names:
                site = self._world.add_site(name, plan.wan_mbit * MBIT if plan.wan_mbit else float("inf"))
                nodes = [
                    site.add_node(
                        f"{name}/{number}",
                        plan.lan_mbit * MBIT,
                        plan.uplink_mbit * MBIT if number < plan.uplinked else None,
                    )
                    for number in range(plan.nodes)
                ]
                self._groups[name] = nodes
                for node in nodes[: plan.nodes - plan.late]:
                    self._start(node, Step(0.0, Do.START))
        for step in self._scenario.steps:
            for one in step.repetitions():
                if one.do in WAKERS:
                    self._last_waker = max(self._last_waker, one.at + one.spread)
                self._world.queue.at(one.at, partial(self._do, one))
        first = next(iter(self._groups.values()))
        watched = [node for nodes in self._groups.values() for node in nodes]
        self._out.watched = watched if len(watched) <= WATCHED else first[:WATCHED]

    def _do(self, step: Step) -> None:
        if step.do is Do.HEAL:
            self._world.sites[step.to].heal()
            return
        chosen = self._chosen(step)
        if step.do is Do.CUT:
            self._cut(chosen)
            return
        for node in chosen:
            action = partial(self._actions[step.do], node, step)
            if step.spread:
                self._world.queue.after(self._rng.uniform(0, step.spread), action)
            else:
                action()

    def _chosen(self, step: Step) -> list[SimNode]:
        chosen: dict[SimNode, None] = {}
        for selection in step.nodes:
            for site, numbers in select(self._scenario, selection).items():
                nodes = [self._groups[site][number] for number in numbers]
                if step.do in (Do.KILL, Do.STOP, Do.RESTART):
                    nodes = [node for node in nodes if node.alive]
                elif step.do is Do.START:
                    nodes = [node for node in nodes if not node.alive]
                if step.pick and step.pick < len(nodes):
                    order = list(nodes)
                    self._rng.shuffle(order)
                    nodes = order[: step.pick]
                chosen.update(dict.fromkeys(nodes))
        return list(chosen)

    # --- steps ---

    def _want(self, node: SimNode, step: Step) -> None:
        blobs = self._blobs[step.image]
        site, now = self._world.site_of(node).name, self._world.queue.now
        want = Want(node, site, step.image, now, sum(size for _, size in blobs))
        self._out.wants.append(want)
        want.missing = {blob: None for blob, _ in blobs if blob not in node.disk.held}
        if not want.missing:
            want.done_at = now
            return
        self._open[want] = None
        self._of_node.setdefault(node, {})[want] = None
        for blob, size in blobs:
            if blob in want.missing:
                node.want(blob, size, Priority.PULL)

    def _hold(self, node: SimNode, step: Step) -> None:
        self._out.held[self._world.site_of(node).name, step.image] = None
        for blob, size in self._blobs[step.image]:
            node.hold(blob, size)

    def _start(self, node: SimNode, _step: Step) -> None:
        node.start()
        self._note_uplink(node)

    def _restart(self, node: SimNode, _step: Step) -> None:
        node.restart()

    def _stop(self, node: SimNode, _step: Step) -> None:
        node.stop()
        self._note_uplink(node)

    def _kill(self, node: SimNode, _step: Step) -> None:
        node.kill()
        self._note_uplink(node)

    def _uplink(self, node: SimNode, _step: Step, *, up: bool) -> None:
        node.set_uplink(up)
        self._note_uplink(node)

    def _move(self, node: SimNode, step: Step) -> None:
        node.move(self._world.sites[step.to])

    def _cut(self, nodes: Sequence[SimNode]) -> None:
        by_site: dict[Site, list[SimNode]] = {}
        for node in nodes:
            by_site.setdefault(self._world.site_of(node), []).append(node)
        for site, here in by_site.items():
            site.cut(here, [node for node in site.nodes if node not in here])

    def _note_uplink(self, node: SimNode) -> None:
        if node.uplink is not None:
            works = node.alive and node.uplink.up
            site = self._world.site_of(node).name
            self._out.uplinks.append((self._world.queue.now, site, node.name, works))

    # --- while it runs ---

    def _completed(self, node: SimNode, blob: Digest, time: float) -> None:
        for want in list(self._of_node.get(node, ())):
            want.missing.pop(blob, None)
            if not want.missing:
                want.done_at = time
                del self._open[want], self._of_node[node][want]

    def to_the_end(self, progress: Progress) -> Outcome:
        duration = self._scenario.duration
        while True:
            now = self._world.queue.now
            self._look()
            progress(now, len(self._out.wants) - len(self._open), len(self._out.wants))
            if now >= duration or self._over(now):
                break
            self._world.run(min(duration, now + self._stride(now)))
        self._out.ended_at = self._world.queue.now
        for want in self._open:
            want.due = want.node.alive
        return self._out

    def _stride(self, now: float) -> float:
        """Short while little has happened: a quick run has many looks, a long one not too many."""
        return min(max(0.05, now / 100), self._scenario.duration / LOOKS + 0.05)

    def _over(self, now: float) -> bool:
        if self._scenario.to_the_end or now <= self._last_waker:
            return False
        return not any(want.node.alive for want in self._open)

    def _look(self) -> None:
        got = [
            float(node.counters.payload_in - node.counters.duplicate + node.counters.uplink)
            for node in self._out.watched
        ]
        self._out.looks.append((self._world.queue.now, got))
