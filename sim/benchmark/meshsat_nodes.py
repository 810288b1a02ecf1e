"""meshsat: nodes that have found each other by mDNS, asked over their API as `meshsat pull` does."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from sim.benchmark import stage
from sim.benchmark.figures import Figures
from sim.benchmark.stage import Counters, StageError
from sim.benchmark.system import System
from sim.benchmark.world import Case, World
from sim.images import Layout, random_image
from sim.network import Plan
from sim.nodes import Node
from sim.site import Site

SEED_SECONDS = 120.0
DUPLICATES = "meshsat_duplicate_bytes_total"


def measure(world: World, case: Case, settings: Mapping[str, Mapping[str, Any]] | None = None) -> Figures:
    """`settings` are laid over every node's. Raises `StageError`, `NodeError`, `CommandError`."""
    with Site(Plan(world.nodes, 1, world.uplink_mbit, world.lan_mbit), settings=settings) as site:
        image = random_image(site.directory / "image", world.size)
        reference = site.upstream.push(image, "test/random", "1")
        site.start()
        asked = site.nodes
        if case is Case.WARM:
            _seed(site, reference, image)
            asked = site.nodes[1:]
        before = Counters.read(site.network)
        cpu = [node.cpu_seconds() for node in site.nodes]
        pulls = site.pull(reference, stage.patience(world, case), asked)
        used = [node.cpu_seconds() - was for node, was in zip(site.nodes, cpu, strict=True)]
        after = Counters.read(site.network)
        for node, pulled in zip(asked, pulls, strict=True):
            if pulled.error or pulled.digest != image.manifest:
                raise node.fault(pulled.error or f"got {pulled.digest} and not {image.manifest}")
        finish = stage.Finish(
            tuple(pulled.seconds for pulled in pulls),
            (),
            tuple(used),
            tuple(node.peak_bytes() for node in site.nodes),
        )
        return stage.figures(world, case, (before, after), finish, _duplicates(asked))


def _duplicates(nodes: list[Node]) -> int:
    return int(sum(node.counted(DUPLICATES) for node in nodes))


def _seed(site: Site, reference: str, image: Layout) -> None:
    """Let the first node have the image already, and cut the WAN."""
    first = site.nodes[0]
    (uplink,) = site.network.uplinks
    uplink.shape(stage.FAST_MBIT)
    (pulled,) = site.pull(reference, SEED_SECONDS, [first])
    if pulled.error or pulled.digest != image.manifest:
        raise StageError(f"the first node was to have it: {pulled.error or pulled.digest}")
    uplink.down()


SYSTEM = System(
    name="meshsat",
    cases=(Case.COLD, Case.WARM),
    measure=measure,
    expected=lambda _, case: 1.1 if case is Case.COLD else 1.4,
    setup_seconds=12.0,
)
UNAWARE = replace(
    SYSTEM,
    measure=partial(measure, settings={"uplink": {"enabled": True}}),
    settings={"uplink": {"enabled": True}},
)
"""Nodes without an uplink believe that they may have one, as they do when nobody tells them."""
