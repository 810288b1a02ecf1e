"""`python -m sim.bench_site`: how close to the limits a cold site comes, with real processes and real links.

In each world all nodes ask at the same moment for an image of one random layer that only the upstream has;
they have found each other by mDNS. Two figures:
  WAN / size    what the WAN sent to the site (interface counters: headers of a GSO packet once) beside the
                image's bytes. Promise: at most 1.02.
  last / limit  when the last node held the verified image, beside size / uplink rate (headers not counted,
                so 1.046 is the floor). Goal of the first issue 1.15, of the design 1.08.
Also: the WAN's bytes with every segment's headers, LAN bytes beside (nodes - 1) x size, CPU seconds a node.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sim.images import random_image
from sim.namespaces import CommandError
from sim.network import Plan
from sim.nodes import NodeError
from sim.site import Site

PATIENCE = 3.0
"""A run is given up after so many times the limit, and 30 s."""


@dataclass(frozen=True, slots=True)
class World:
    nodes: int
    uplink_mbit: float
    lan_mbit: float
    megabytes: int
    """10^6 bytes of payload, in one layer."""

    @property
    def limit_seconds(self) -> float:
        return self.megabytes * 8 / self.uplink_mbit

    def __str__(self) -> str:
        rates = f"{self.lan_mbit:g}/{self.uplink_mbit:g} Mbit/s"
        return f"N={self.nodes}, LAN/uplink {rates}, {self.megabytes} MB"


WORLDS = (World(4, 50, 200, 200), World(8, 25, 100, 100))
"""Those of the issue."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run."""

    wan_ratio: float
    wan_wire_ratio: float
    last_ratio: float
    seconds_first: float
    """Until the first node had it all."""
    seconds_last: float
    lan_ratio: float
    """LAN bytes received by all nodes / ((nodes - 1) x size)."""
    cpu_seconds: tuple[float, ...]
    """By node, from the question to the last answer."""
    peak_mib: float
    """Resident memory of the largest node."""
    upstream_blob_requests: int


def measure(world: World, settings: dict[str, dict[str, Any]] | None = None) -> Figures:
    """One cold run of `world`. Raises `NodeError` when a node fails or the digests differ."""
    plan = Plan(world.nodes, 1, world.uplink_mbit, world.lan_mbit)
    with Site(plan, settings=settings) as site:
        image = random_image(site.directory / "image", world.megabytes * 10**6)
        reference = site.upstream.push(image, "test/random", "1")
        site.start()
        before = _counters(site)
        cpu = [node.cpu_seconds() for node in site.nodes]
        pulls = site.pull(reference, PATIENCE * world.limit_seconds + 30)
        after = _counters(site)
        for node, pulled in zip(site.nodes, pulls, strict=True):
            if pulled.error or pulled.digest != image.manifest:
                raise node.fault(f"got {pulled.digest}, error {pulled.error}; wanted {image.manifest}")
        wan, wire, lan = (now - then for now, then in zip(after, before, strict=True))
        last = max(pulled.seconds for pulled in pulls)
        blob = f"GET /v2/test/random/blobs/{image.blobs[0]}"
        return Figures(
            wan_ratio=wan / image.size,
            wan_wire_ratio=wire / image.size,
            last_ratio=last / world.limit_seconds,
            seconds_first=min(pulled.seconds for pulled in pulls),
            seconds_last=last,
            lan_ratio=lan / image.size / max(1, world.nodes - 1),
            cpu_seconds=tuple(node.cpu_seconds() - was for node, was in zip(site.nodes, cpu, strict=True)),
            peak_mib=max(node.peak_bytes() for node in site.nodes) / 2**20,
            upstream_blob_requests=site.upstream.requests().count(blob),
        )


def _counters(site: Site) -> tuple[int, int, int]:
    lan = sum(node.host.lan.received().bytes for node in site.nodes)
    return site.network.wan_bytes(), site.network.wan_wire_bytes(), lan


def median(runs: Sequence[Figures], name: str) -> float:
    return float(statistics.median(getattr(run, name) for run in runs))


def _show(world: World, runs: Sequence[Figures]) -> None:
    cpu = statistics.median(sum(run.cpu_seconds) / len(run.cpu_seconds) for run in runs)
    print(
        f"{world!s:<46}{median(runs, 'wan_ratio'):>8.3f}{median(runs, 'wan_wire_ratio'):>8.3f}"
        f"{median(runs, 'last_ratio'):>8.3f}{median(runs, 'seconds_last'):>8.1f}"
        f"{median(runs, 'lan_ratio'):>8.3f}{cpu:>8.1f}{median(runs, 'peak_mib'):>8.0f}",
        flush=True,
    )


def _world(text: str) -> World:
    nodes, uplink, lan, megabytes = text.split(":")
    return World(int(nodes), float(uplink), float(lan), int(megabytes))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sim.bench_site", description="A cold site, measured. Root only."
    )
    parser.add_argument("--runs", type=int, default=1, help="of each world; medians are shown")
    parser.add_argument(
        "--world",
        type=_world,
        action="append",
        metavar="NODES:UPLINK:LAN:MB",
        help="in place of the issue's two",
    )
    parser.add_argument(
        "--unaware", action="store_true", help="dark nodes believe in an uplink too, as they do by default"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a run, on one line")
    given = parser.parse_args(arguments)
    settings = {"uplink": {"enabled": True}} if given.unaware else None
    if not given.json:
        titles = ("WAN/size", "wire", "last", "seconds", "LAN", "CPU s", "MiB")
        print(
            f"{'median of ' + str(given.runs):<46}" + "".join(f"{title:>8}" for title in titles), flush=True
        )
    try:
        for world in given.world or WORLDS:
            runs = []
            for _ in range(given.runs):
                runs.append(measure(world, settings))
                if given.json:
                    print(json.dumps({"world": asdict(world), **asdict(runs[-1])}), flush=True)
            if not given.json:
                _show(world, runs)
    except (CommandError, NodeError) as fault:
        print(f"python -m sim.bench_site: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
