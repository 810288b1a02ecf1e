"""A site in a box: an upstream registry in a WAN, nodes on a LAN, in network namespaces. Root only.

As a library:

    with Site(Plan(hosts=4, uplink_mbit=50)) as site:
        reference = site.upstream.push(random_image(site.directory / "image", 10**8), "test/random", "1")
        site.start()
        for pulled in site.pull(reference): ...
        site.network.wan_bytes()

As a command, `python -m sim.site`: starts one, says how to use it, and stays until Ctrl-C.
Everything goes away with it, however it ends (namespaces.py).
"""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from meshsat.errors import MeshsatError
from sim.images import random_image
from sim.namespaces import CommandError, Run
from sim.network import Host, Network, Plan
from sim.nodes import Node, NodeError, enrol
from sim.upstream import Upstream

START_SECONDS = 90.0
SAMPLE_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class Pulled:
    """How one node's pull went."""

    node: str
    seconds: float
    """From the moment that all were asked."""
    digest: str | None
    error: str | None
    total_bytes: int


class Site:
    """`settings` are laid over every node's own configuration, section by section.

    The first `members` hosts (default: all) get a node of the site's fleet; the others are left alone.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        members: int | None = None,
        parent: Path | None = None,
    ) -> None:
        self._run = Run(parent)
        try:
            self.plan = plan
            self.directory = self._run.directory
            self.network = Network(self._run, plan)
            self.upstream = Upstream(self.network.wan, self.directory)
            self.nodes = [self.node(host, settings or {}) for host in self.network.hosts[:members]]
            enrol(self.nodes, time.time())
        except BaseException:
            self._run.close()
            raise

    def node(self, host: Host, settings: Mapping[str, Mapping[str, Any]]) -> Node:
        """A node for `host`, configured, in no fleet yet."""
        own: dict[str, dict[str, Any]] = {
            "uplink": {
                "enabled": host.uplink is not None,
                "registries": [{"host": self.upstream.host, "plain_http": True}],
            },
            "registry": {"upstream": self.upstream.host},
        }
        for name, section in settings.items():
            own[name] = {**own.get(name, {}), **section}
        return Node(host, self.directory / host.name, own)

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start all nodes; return when each has a session with every other. Raises `NodeError`."""
        deadline = time.monotonic() + seconds
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait_until_up(deadline - time.monotonic(), peers=len(self.nodes) - 1)

    def pull(self, reference: str, seconds: float, nodes: Sequence[Node] | None = None) -> list[Pulled]:
        """Ask all `nodes` (default: every one) for `reference` at the same moment, wait for all.

        A node that fails, or is not done after `seconds`, says so in its `Pulled`.
        """
        asked = list(self.nodes if nodes is None else nodes)
        results: dict[str, Pulled] = {}
        start = threading.Barrier(len(asked))

        def ask(node: Node) -> None:
            start.wait()
            results[node.name] = _pull(node, reference)

        threads = [threading.Thread(target=ask, args=(node,), daemon=True) for node in asked]
        deadline = time.monotonic() + seconds
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        late = f"not done after {seconds:g} s"
        return [results.get(node.name) or Pulled(node.name, seconds, None, late, 0) for node in asked]

    def close(self) -> None:
        """Remove everything, nodes first. Idempotent."""
        for node in self.nodes:
            node.kill()
        self._run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pull(node: Node, reference: str) -> Pulled:
    start = time.monotonic()
    fault = "the node ended the pull without a word"
    try:
        for event in node.pull(reference):
            took = time.monotonic() - start
            if event["event"] == "done":
                return Pulled(node.name, took, event["digest"], None, event["total_bytes"])
            if event["event"] == "error":
                fault = event["message"]
    except MeshsatError as gone:
        fault = str(gone)
    return Pulled(node.name, time.monotonic() - start, None, fault, 0)


def guide(site: Site, reference: str) -> str:
    """What a person at a terminal can do with it."""
    plan, dark = site.plan, site.nodes[-1]
    meshsat = f"{sys.executable} -m meshsat"
    inside = f"ip netns exec {dark.host.namespace.name}"
    switch = site.network.switch.name
    lines = [
        f"upstream    http://{site.upstream.host}   (namespace {site.network.wan.name})",
        f"uplink      {plan.uplink_mbit:g} Mbit/s, LAN {plan.lan_mbit:g} Mbit/s a node",
        "",
        *(
            f"{node.name:<11} {node.host.address:<12} {'uplink' if node.host.uplink else 'dark':<7}"
            f" namespace {node.host.namespace.name}   data {node.data_dir}"
            for node in site.nodes
        ),
        "",
        f"Pull on {dark.name}, then look at it:",
        f"  {meshsat} pull {reference} --data-dir {dark.data_dir}",
        f"  {meshsat} status --data-dir {dark.data_dir}",
        f"Ask its registry as a client would:   {inside} curl -s http://{dark.registry}/v2/site/sample/tags/list",
        f"Cut its LAN:                          ip -n {switch} link set {dark.host.lan.far.device} down",
        f"Bytes over the first uplink:          ip -n {site.network.wan.name} -s link show w0",
        f"Its log:                              tail -f {dark.log}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sim.site", description="A site in a box. Root only.")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--uplinked", type=int, default=1, help="how many of them have an uplink")
    parser.add_argument("--uplink-mbit", type=float, default=50.0)
    parser.add_argument("--lan-mbit", type=float, default=200.0, help="per node, each direction")
    parser.add_argument("--congestion", help="TCP congestion control, e.g. cubic (default: the kernel's)")
    given = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # leave as on Ctrl-C: through the context managers
    try:
        plan = Plan(given.nodes, given.uplinked, given.uplink_mbit, given.lan_mbit, given.congestion)
        with Site(plan) as site:
            image = random_image(site.directory / "image", SAMPLE_BYTES)
            reference = site.upstream.push(image, "site/sample", "1")
            print("starting the nodes ...", flush=True)
            site.start()
            print(guide(site, reference), "", "Ctrl-C removes it all.", sep="\n", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("\nremoved", flush=True)
    except (CommandError, NodeError, ValueError) as fault:
        print(f"python -m sim.site: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
