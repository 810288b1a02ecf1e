"""Every node for itself: each pulls from the upstream registry, over the one uplink that they share.

The uplinked node is the others' router; nothing is cached. What a site does today. Cold alone: whoever asks
the upstream does not care what a neighbour holds.
"""

from sim.benchmark import stage
from sim.benchmark.figures import Figures
from sim.benchmark.stage import Counters, Stage
from sim.benchmark.system import System
from sim.benchmark.world import Case, World
from sim.images import random_image
from sim.network import Network, Plan, uplink_addresses
from sim.upstream import Upstream

REPOSITORY = "test/random"
CLIENT = "sim.benchmark.http_client"


def measure(world: World, case: Case) -> Figures:
    """Raises `StageError`, `CommandError`."""
    with Stage(Plan(world.nodes, 1, world.uplink_mbit, world.lan_mbit)) as here:
        upstream = Upstream(here.network.wan, here.directory)
        image = random_image(here.directory / "image", world.size)
        upstream.push(image, REPOSITORY, "1")
        route_through_first(here.network)
        clients = [
            here.worker(
                host.namespace,
                CLIENT,
                {
                    "host": upstream.host,
                    "repository": REPOSITORY,
                    "manifest": image.manifest,
                    "directory": str(here.directory / host.name),
                },
            )
            for host in here.network.hosts
        ]
        before = Counters.read(here.network)
        finish = stage.race(clients, stage.patience(world, case, world.nodes))
        return stage.figures(world, case, (before, Counters.read(here.network)), finish)


def route_through_first(network: Network) -> None:
    """Let all hosts reach the WAN, and the WAN them, through the first host."""
    first, *others = network.hosts
    first.namespace.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    for host in others:
        host.namespace.ip(f"route add default via {first.address} dev lan")
    _, near = uplink_addresses(0)
    network.wan.ip(f"route add 10.77.0.0/16 via {near} dev w0")


SYSTEM = System(
    name="direct",
    cases=(Case.COLD,),
    measure=measure,
    expected=lambda world, _: 1.05 * world.nodes,
    line_bound=True,
)
