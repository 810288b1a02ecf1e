"""A dark node, cold: its client gets the first byte of a blob while the uplink has hardly begun."""

import logging
import subprocess
import sys

import pytest

from sim.images import random_image
from sim.network import Plan
from sim.site import Site
from tests.tools import require_tool

pytestmark = [pytest.mark.netns, pytest.mark.slow]

log = logging.getLogger(__name__)

SIZE = 40_000_000
CLIENT = """
import hashlib, http.client, json, sys
registry, repository, tag = sys.argv[1:]
node = http.client.HTTPConnection(registry, timeout=60)
node.request("GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": "*/*"})
manifest = json.loads(node.getresponse().read())
node.request("GET", f"/v2/{repository}/blobs/{manifest['layers'][0]['digest']}")
answer = node.getresponse()
digest = hashlib.sha256(answer.read(1))
print("first byte", flush=True)
while data := answer.read(1 << 20):
    digest.update(data)
print("sha256:" + digest.hexdigest(), flush=True)
"""


def test_the_first_byte_comes_through_a_dark_node_before_a_tenth_has_come_over_the_uplink(
    namespaces_work: None,
) -> None:
    require_tool("docker-registry")
    with Site(Plan(hosts=3, uplinked=1, uplink_mbit=25, lan_mbit=200)) as site:
        image = random_image(site.directory / "image", SIZE)
        site.upstream.push(image, "test/random", "1")
        site.start()
        uplinked, *_, dark = site.nodes
        before = site.network.wan_bytes()
        asking = dark.host.namespace.inside(sys.executable, "-c", CLIENT, dark.registry, "test/random", "1")
        with subprocess.Popen(asking, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "first byte\n", dark.log_tail()
            crossed = site.network.wan_bytes() - before
            held = sum(transfer["have_bytes"] for transfer in uplinked.status()["transfers"])
            log.info(
                "first byte: %.1f %% had crossed, %.1f %% was held", 100 * crossed / SIZE, 100 * held / SIZE
            )
            assert crossed < SIZE / 10
            assert held < SIZE / 10
            assert client.stdout.readline() == image.blobs[0] + "\n", dark.log_tail()
        assert site.network.wan_bytes() - before <= 1.02 * SIZE
