"""A capped uplink on a real wire: no five seconds bring more than five percent above the rate."""

import json
import logging
import sys
import time
from pathlib import Path

import pytest

from sim.links import End, Link
from sim.namespaces import Namespace, Run
from tests.tools import require_tool

pytestmark = [pytest.mark.netns, pytest.mark.clients, pytest.mark.slow]

log = logging.getLogger(__name__)

SPAN = 5.0
ABOVE = 1.05
REGISTRY = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "10.9.0.1:5000"}}
"""


def wan(owner: Run, directory: Path, mbit: float) -> Namespace:
    """The namespace of a node, whose line ends at a registry. Packets are as on a real line: none is larger."""
    near, far = owner.namespace("near"), owner.namespace("far")
    Link(End(near, "wan"), End(far, "reg"), mbit)
    near.ip("addr add 10.9.0.2/24 dev wan", "link set wan gso_max_segs 1")
    far.ip("addr add 10.9.0.1/24 dev reg", "link set reg gso_max_segs 1")
    config = directory / "registry.yml"
    config.write_text(REGISTRY.format(root=directory / "data"))
    far.start("docker-registry", "serve", str(config))
    deadline = time.monotonic() + 20
    while ":5000" not in far.run("ss", "-Htln"):
        assert time.monotonic() < deadline, "docker-registry does not come up"
        time.sleep(0.05)
    return near


def worst(samples: list[tuple[float, int]], rate: int) -> float:
    """The most that any `SPAN` seconds brought, in terms of the rate's worth."""
    ratio = 0.0
    first = 0
    for at, count in samples:
        while samples[first + 1][0] <= at - SPAN:
            first += 1
        # From the last sample before the span began, so that nothing of it is missed.
        ratio = max(ratio, (count - samples[first][1]) / (rate * max(SPAN, at - samples[first][0])))
    return ratio


@pytest.mark.parametrize(
    ("rate", "seconds", "blobs", "stripes"),
    [(1_000_000, 9, 6, 2), (250_000, 9, 3, 2)],
    ids=["12 connections", "6 connections, slow"],
)
def test_no_five_seconds_bring_more(
    owner: Run, tmp_path: Path, rate: int, seconds: int, blobs: int, stripes: int
) -> None:
    require_tool("docker-registry")
    near = wan(owner, tmp_path, 200)
    size = rate * seconds // blobs // 2
    asked = [str(number) for number in (rate, 2, blobs, size, stripes)]
    said = near.run(sys.executable, "-m", "tests.netns.wan_client", "10.9.0.1:5000", *asked, timeout=100)
    told = json.loads(said.splitlines()[-1])
    ratio = worst(told["samples"], rate)
    took = told["samples"][-1][0] - told["samples"][0][0]
    reached = told["got"] / took / rate
    log.info("rate %d: worst 5 s %.4f of it, %.3f of it reached in %.1f s", rate, ratio, reached, took)
    assert told["got"] == 2 * blobs * (size // stripes) * stripes
    assert ratio <= ABOVE
    assert reached >= 0.75
