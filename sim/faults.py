"""`python -m sim.faults`: what single losses cost a site of eight, with real processes, links and signals.

Each fault strikes at a random moment of a pull of all nodes at once, in a fresh site, `--runs` times. Every
node that still lives must end with the right digest. Figures:
  time / free   when the last living node held the verified image, less the outage (for as long as the network
                itself was cut), beside the median of runs without a fault. Promise: at most 1.3.
  WAN / size    what the WAN sent to the site. Promise: at most 1.02, and one segment (16 MiB) on top.
World: 8 nodes, LAN 100 Mbit/s each, one line of 25 Mbit/s to the upstream, one layer of random bytes. In
`cold` worlds only the upstream has the image, in `warm` ones the first node has it. Where two nodes have an
uplink they share the line: 12.5 Mbit/s each, and all of it for the one that is left. Root only.
"""

import argparse
import json
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.errors import MeshsatError
from sim.images import Layout, random_image
from sim.namespaces import CommandError
from sim.network import Plan
from sim.nodes import Node, NodeError
from sim.site import Pulled, Site

NODES = 8
LAN_MBIT = 100.0
LINE_MBIT = 25.0
SEEDING_MBIT = 400.0
"""Of the uplink, while the seed of a warm world fills."""
TIME_BOUND = 1.3
WAN_BOUND = 1.02
SEGMENT = 16 * 1024 * 1024
CUT_SECONDS = 10.0
FLAP_SECONDS = (8.0, 3.0)
"""Up and down, in turn."""
FREE_RUNS = 3
"""Runs without a fault, of each world."""
POLL_SECONDS = 0.05
TAIL = 64
"""Bytes at a chunk's end by which it is told that it is there."""


@dataclass(frozen=True, slots=True)
class World:
    warm: bool
    uplinked: int = 1
    rogue: str | None = None
    """The second node holds the image too, and breaks its word in this way (rogue.py)."""

    @property
    def plan(self) -> Plan:
        return Plan(NODES, self.uplinked, LINE_MBIT / self.uplinked, LAN_MBIT)

    def limit_seconds(self, size: int) -> float:
        return size * 8 / 1e6 / (LAN_MBIT if self.warm else LINE_MBIT)


class Scene:
    """One run under way: a fault acts on it."""

    def __init__(self, site: Site, image: Layout, rng: random.Random, free_seconds: float) -> None:
        self.site = site
        self.image = image
        self.rng = rng
        self.free_seconds = free_seconds
        self.done = threading.Event()
        """All living nodes have what they want, or gave up."""
        self.dead: set[str] = set()
        self.outage = 0.0
        self.struck_at: float | None = None
        """Seconds after the question."""
        self._began = time.monotonic()

    def wait_for_the_moment(self) -> None:
        """Some moment of the run, as long as there is something left to lose."""
        self.done.wait(self.rng.uniform(0.05, 0.85) * self.free_seconds)
        self.strike()

    def strike(self) -> None:
        self.struck_at = time.monotonic() - self._began

    def kill(self, node: Node) -> None:
        node.kill()
        self.dead.add(node.name)


# --- the faults ---


def uplinked_killed(scene: Scene) -> None:
    scene.wait_for_the_moment()
    uplinked = [node for node in scene.site.nodes if node.host.uplink]
    victim = scene.rng.choice(uplinked)
    scene.kill(victim)
    for node in uplinked:
        if node is not victim and node.host.uplink:
            node.host.uplink.shape(LINE_MBIT)


def seed_killed(scene: Scene) -> None:
    seed, *others = scene.site.nodes
    while not scene.done.wait(POLL_SECONDS):
        if _all_there(others, scene.image.blobs[0], scene.image.directory):
            break
    scene.strike()
    scene.kill(seed)


def quarter_killed(scene: Scene) -> None:
    scene.wait_for_the_moment()
    for victim in scene.rng.sample(scene.site.nodes[1:], NODES // 4):
        scene.kill(victim)


def lan_cut(scene: Scene) -> None:
    scene.wait_for_the_moment()
    half = scene.rng.sample(scene.site.network.hosts, NODES // 2)
    scene.site.network.cut(half)
    time.sleep(CUT_SECONDS)
    scene.site.network.heal()
    scene.outage = CUT_SECONDS


def uplink_flapping(scene: Scene) -> None:
    up, down = FLAP_SECONDS
    (link,) = scene.site.network.uplinks
    scene.done.wait(scene.rng.uniform(0, up))
    scene.strike()
    while not scene.done.is_set():
        link.down()
        fell = time.monotonic()
        scene.done.wait(down)
        link.up()
        scene.outage += time.monotonic() - fell
        scene.done.wait(up)


def nothing(_scene: Scene) -> None:
    """The rogue is there from the start."""


@dataclass(frozen=True, slots=True)
class Fault:
    says: str
    world: World
    act: Callable[[Scene], None]

    @property
    def free_world(self) -> World:
        """The same without the fault."""
        return World(self.world.warm, self.world.uplinked)


COLD, WARM = World(warm=False), World(warm=True)
FAULTS = {
    "uplinked-killed": Fault("one of two uplinked nodes killed", World(False, uplinked=2), uplinked_killed),
    "seed-killed": Fault("seed killed when the others together hold all", WARM, seed_killed),
    "quarter-killed": Fault("2 of 8 nodes killed", WARM, quarter_killed),
    "lan-cut": Fault(f"LAN cut in two for {CUT_SECONDS:g} s", COLD, lan_cut),
    "uplink-flapping": Fault("uplink 3 s down of every 11", COLD, uplink_flapping),
    "wrong-bytes": Fault("one holder sends wrong bytes", World(True, rogue="wrong"), nothing),
    "never-answers": Fault("one holder never sends", World(True, rogue="mute"), nothing),
}


# --- one run ---


@dataclass(frozen=True, slots=True)
class Outcome:
    fault: str
    seed: int
    struck_at: float | None
    seconds: float
    """Until the last living node held the image."""
    outage: float
    wan_bytes: int
    size: int
    failures: tuple[str, ...]
    """Living nodes that do not hold it, and why."""


def run(name: str, world: World, act: Callable[[Scene], None], seed: int, size: int, free: float) -> Outcome:
    """One run in a site of its own. Raises `NodeError` when there is no site to strike at."""
    with Site(world.plan) as site:
        if world.rogue:
            site.nodes[1].program = ("sim.rogue", world.rogue)
        image = random_image(site.directory / "image", size, seed=seed)
        reference = site.upstream.push(image, "test/random", "1")
        site.start()
        asked = site.nodes
        if world.warm:
            holders = asked[: 2 if world.rogue else 1]
            asked = asked[len(holders) :]
            _fill(site, holders, reference)
        before = site.network.wan_bytes()
        scene = Scene(site, image, random.Random(seed), free)  # noqa: S311 - the moment of a fault
        pulls = _pull_and_strike(scene, act, asked, reference, 4 * free + 60)
        living = [pulled for pulled in pulls if pulled.node not in scene.dead]
        return Outcome(
            name,
            seed,
            scene.struck_at,
            max(pulled.seconds for pulled in living),
            scene.outage,
            site.network.wan_bytes() - before,
            image.size,
            tuple(
                f"{pulled.node}: {pulled.error or pulled.digest}"
                for pulled in living
                if pulled.error or pulled.digest != image.manifest
            ),
        )


def _fill(site: Site, holders: Sequence[Node], reference: str) -> None:
    (link,) = site.network.uplinks
    link.shape(SEEDING_MBIT)
    for pulled in site.pull(reference, 60, holders):
        if pulled.error:
            raise NodeError(f"node {pulled.node} was to hold the image: {pulled.error}")
    link.shape(LINE_MBIT)


def _pull_and_strike(
    scene: Scene, act: Callable[[Scene], None], asked: Sequence[Node], reference: str, seconds: float
) -> list[Pulled]:
    striking = threading.Thread(target=act, args=(scene,), daemon=True)
    striking.start()
    pulls = scene.site.pull(reference, seconds, asked)
    scene.done.set()
    striking.join(CUT_SECONDS + seconds)
    return pulls


def _all_there(nodes: Sequence[Node], blob: str, layout: Path) -> bool:
    """Whether these nodes together hold every chunk of the blob: their files, beside the layout's."""
    place = blob.replace(":", "/")
    with (layout / "blobs" / place).open("rb") as right:
        cut = Cut(FIXED_1, os.fstat(right.fileno()).st_size)
        lacking = {index: _tail(right, cut, index) for index in range(cut.count)}
    for node in nodes:
        store = node.data_dir / "store"
        for path in (store / "partial" / blob.replace(":", "-"), store / "blobs" / place):
            with suppress(FileNotFoundError), path.open("rb") as file:
                lacking = {index: tail for index, tail in lacking.items() if _tail(file, cut, index) != tail}
    return not lacking


def _tail(file: BinaryIO, cut: Cut, index: int) -> bytes:
    """The last bytes of a chunk: random ones, and the last that is written of it."""
    offset, length = cut.span(index)
    return os.pread(file.fileno(), TAIL, offset + length - TAIL)


# --- all of them ---


def free_seconds(world: World, size: int, runs: int = FREE_RUNS) -> float:
    """The median of runs without a fault. Raises `NodeError` when one fails."""
    outcomes = [run("none", world, nothing, seed, size, world.limit_seconds(size)) for seed in range(runs)]
    for outcome in outcomes:
        if outcome.failures:
            raise NodeError(f"a run without a fault failed: {'; '.join(outcome.failures)}")
    return statistics.median(outcome.seconds for outcome in outcomes)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of all runs of one fault."""

    fault: str
    runs: int
    complete: int
    """Runs in which every living node held the right image at the end."""
    time_median: float
    time_worst: float
    """Beside a run without a fault, the outage taken off."""
    whole_worst: float
    """The same with the outage."""
    wan_worst: float
    """WAN / size."""
    holds: bool
    """Both bounds, in every run."""


def judge(name: str, outcomes: Sequence[Outcome], free: float) -> Verdict:
    times = [(outcome.seconds - outcome.outage) / free for outcome in outcomes]
    complete = sum(not outcome.failures for outcome in outcomes)
    within = all(outcome.wan_bytes <= WAN_BOUND * outcome.size + SEGMENT for outcome in outcomes)
    return Verdict(
        name,
        len(outcomes),
        complete,
        statistics.median(times),
        max(times),
        max(outcome.seconds / free for outcome in outcomes),
        max(outcome.wan_bytes / outcome.size for outcome in outcomes),
        holds=complete == len(outcomes) and max(times) <= TIME_BOUND and within,
    )


TITLES = ("runs", "complete", "time/free", "worst", "+outage", "WAN/size")
HEAD = f"{'fault':<18}" + "".join(f"{title:>11}" for title in TITLES) + "  bounds"


def show(verdict: Verdict) -> str:
    counts = f"{verdict.fault:<18}{verdict.runs:>11}{verdict.complete:>11}"
    times = f"{verdict.time_median:>11.2f}{verdict.time_worst:>11.2f}{verdict.whole_worst:>11.2f}"
    return f"{counts}{times}{verdict.wan_worst:>11.3f}  {'hold' if verdict.holds else 'BROKEN'}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sim.faults", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only this one; may be repeated")
    parser.add_argument("--runs", type=int, default=10, help="of each fault (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next has the next")
    parser.add_argument("--megabytes", type=int, default=100, help="of payload (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run's figures there")
    given = parser.parse_args(arguments)
    size = given.megabytes * 10**6
    free: dict[World, float] = {}
    verdicts: list[Verdict] = []
    outcomes: list[Outcome] = []
    try:
        for name in given.fault or FAULTS:
            fault = FAULTS[name]
            if fault.free_world not in free:
                free[fault.free_world] = free_seconds(fault.free_world, size)
                print(f"without a fault, {fault.free_world}: {free[fault.free_world]:.1f} s", flush=True)
            reference = free[fault.free_world]
            here = [
                _told(run(name, fault.world, fault.act, given.seed + number, size, reference), reference)
                for number in range(given.runs)
            ]
            outcomes += here
            verdicts.append(judge(name, here, reference))
    except (CommandError, NodeError, MeshsatError) as failed:
        print(f"python -m sim.faults: {failed}", file=sys.stderr)
        return 1
    print(HEAD, *map(show, verdicts), sep="\n")
    if given.json:
        told = {"verdicts": [asdict(each) for each in verdicts], "runs": [asdict(each) for each in outcomes]}
        given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0 if all(verdict.holds for verdict in verdicts) else 2


def _told(outcome: Outcome, free: float) -> Outcome:
    struck = "from the start" if outcome.struck_at is None else f"at {outcome.struck_at:.1f} s"
    print(
        f"{outcome.fault}, seed {outcome.seed}, {struck}: {outcome.seconds:.1f} s"
        f" = {(outcome.seconds - outcome.outage) / free:.2f} x, WAN {outcome.wan_bytes / outcome.size:.3f}"
        + "".join(f"\n  FAILED {failure}" for failure in outcome.failures),
        flush=True,
    )
    return outcome


if __name__ == "__main__":
    sys.exit(main())
