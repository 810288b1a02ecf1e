"""Power cuts: nodes killed at random moments of a transfer go on where they were, with nothing lost or wrong."""

import logging
import random
import threading
import time

import pytest

from meshsat.errors import MeshsatError
from sim.images import Layout, random_image
from sim.network import Plan
from sim.nodes import Node
from sim.site import Site
from tests.tools import require_tool

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(400)]

log = logging.getLogger(__name__)

KILLS = 20
SIZE = 120_000_000
SLOW_MBIT = 8.0
"""So that the transfer outlasts the kills: 120 s at this rate."""
FAST_MBIT = 200.0
"""For what is left after them."""
IN_FLIGHT = 4 * 1024 * 1024
"""What one kill may cost."""
END_SECONDS = 60.0


class Persistent(threading.Thread):
    """Wants the image on one node until it has it, as an orchestrator would."""

    def __init__(self, node: Node, reference: str) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.reference = reference
        self.digest: str | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        while self.digest is None and not self.ended.is_set():
            try:
                for event in self.node.pull(self.reference):
                    if event["event"] == "done":
                        self.digest = event["digest"]
            except MeshsatError:
                self.ended.wait(0.1)  # killed: it comes back


def held(node: Node, blob: str) -> int:
    """Verified bytes of the blob on the node; 0 as long as it does not say."""
    transfers = node.status()["transfers"]
    return sum(each["have_bytes"] for each in transfers if each["blob"] == blob)


def wait_until_it_goes_on(node: Node, blob: str, had: int) -> None:
    """Until the node holds what it held before, less what was in flight, and a chunk more comes in."""
    deadline = time.monotonic() + 30
    first: int | None = None
    while time.monotonic() < deadline:
        now = held(node, blob)
        if now and first is None:
            first = now
            assert first >= had - IN_FLIGHT, f"{node.name} came back with {first} of {had} bytes"
        if first is not None and now > first:
            return
        time.sleep(0.05)
    raise node.fault(f"does not go on: {first} bytes, {had} before")


def test_twenty_kills_lose_nothing_that_was_verified(namespaces_work: None) -> None:
    require_tool("docker-registry", "curl", "sha256sum")
    rng = random.Random(20)
    with Site(Plan(hosts=3, uplinked=1, uplink_mbit=SLOW_MBIT, lan_mbit=200)) as site:
        image = random_image(site.directory / "image", SIZE)
        reference = site.upstream.push(image, "test/random", "1")
        site.start()
        before = site.network.wan_bytes()
        wanting = [Persistent(node, reference) for node in site.nodes]
        for each in wanting:
            each.start()
        try:
            _kill_one_after_the_other(site, image, rng)
            for link in site.network.uplinks:
                link.shape(FAST_MBIT)
            deadline = time.monotonic() + END_SECONDS
            for each in wanting:
                each.join(deadline - time.monotonic())
                assert each.digest == image.manifest, each.node.log_tail()
        finally:
            for each in wanting:
                each.ended.set()
        for node in site.nodes:
            assert _digest_served(node, image.blobs[0]) == image.blobs[0]
        crossed = site.network.wan_bytes() - before
        log.info("%d kills: WAN bytes %.3f x size", KILLS, crossed / image.size)
        assert crossed <= 1.02 * image.size + KILLS * IN_FLIGHT


def _kill_one_after_the_other(site: Site, image: Layout, rng: random.Random) -> None:
    blob = image.blobs[0]
    for node in site.nodes:
        wait_until_it_goes_on(node, blob, 0)
    for _ in range(KILLS):
        victim = rng.choice(site.nodes)
        time.sleep(rng.uniform(0, 0.7))
        had = held(victim, blob)
        assert had < SIZE, "the transfer was to outlast the kills"
        victim.kill()
        victim.start()
        victim.wait_until_up()
        wait_until_it_goes_on(victim, blob, had)


def _digest_served(node: Node, blob: str) -> str:
    url = f"http://{node.registry}/v2/test/random/blobs/{blob}"
    return "sha256:" + node.host.namespace.run("sh", "-c", f"curl -sSf {url} | sha256sum").split()[0]
