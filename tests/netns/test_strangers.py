"""Machines without a valid pass of the fleet get nothing, learn no image's name, and do not fill the log.

Three of them at once: one without any pass, which announces the fleet's name, and a member's; one with a pass of
another fleet of the same name; one with a pass that has run out. All know the members' addresses and ports.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshsat.errors import MeshsatError
from meshsat.mesh import identity
from sim import stranger
from sim.images import Layout, random_image
from sim.network import Host, Plan
from sim.nodes import Node, admit, enrol
from sim.site import Site
from tests.tools import require_tool

pytestmark = [pytest.mark.netns, pytest.mark.slow]

SECRET = "test/secret-recipe"
"""The image's repository: what no stranger may read."""
DAY = 86400.0
SCENE_SECONDS = 12.0
LINES = 8
"""The most that a member may log about one stranger: a line for each plane, each direction, each reason."""


@dataclass
class Scene:
    site: Site
    image: Layout
    reference: str
    foreign: Node
    expired: Node
    pest: Host
    pest_says: Path

    @property
    def members(self) -> list[Node]:
        return self.site.nodes

    @property
    def outsiders(self) -> list[Host]:
        return [self.pest, self.foreign.host, self.expired.host]


def run_stranger(scene_file: Path, host: Host, *arguments: str) -> subprocess.Popen[bytes]:
    with scene_file.open("wb") as output:
        return host.namespace.start(sys.executable, "-m", "sim.stranger", *arguments, output=output)


@pytest.fixture(scope="module")
def scene(namespaces_work: None) -> Iterator[Scene]:
    """Two members that hold an image, three strangers that have tried for a while."""
    require_tool("docker-registry")
    with Site(Plan(hosts=5, uplinked=1, uplink_mbit=200, lan_mbit=400), members=2) as site:
        image = random_image(site.directory / "image", 3_000_000)
        reference = site.upstream.push(image, SECRET, "top")
        founder = identity.load(site.nodes[0].data_dir)
        now = time.time()

        addresses = [node.host.address for node in site.nodes]
        peers = [identity.load(node.data_dir).member.peer for node in site.nodes]
        known = [
            f"/ip4/{address}/tcp/{stranger.CONTROL}/p2p/{peer}"
            for address, peer in zip(addresses, peers, strict=True)
        ]
        static = {"mesh": {"peers": known}}
        pest, *others = site.network.hosts[2:]
        foreign, expired = (site.node(host, static) for host in others)
        enrol([foreign], now)
        admit(expired, founder, now - 60 * DAY, lifetime=DAY)  # longer ago than the grace

        for host in (pest, *others):
            file = site.directory / f"{host.name}.frames"
            run_stranger(site.directory / f"{host.name}.ears", host, "listen", str(file))
        site.start()
        for each in (foreign, expired):
            each.start()
        says = site.directory / "pest.out"
        run_stranger(says, pest, "pester", founder.member.fleet, peers[1], *addresses)
        for each in (foreign, expired):
            each.wait_until_up()
        pulls = site.pull(reference, 30)  # with the strangers listening
        assert [pulled.error for pulled in pulls] == [None, None], site.nodes[1].log_tail()
        time.sleep(SCENE_SECONDS)
        yield Scene(site, image, reference, foreign, expired, pest, says)
        for each in (foreign, expired):
            each.kill()


def test_they_have_no_peers_and_no_images(scene: Scene) -> None:
    for node in (scene.foreign, scene.expired):
        status = node.status()
        assert status["peers"] == 0, status
        assert status["images"] == 0
        assert status["blobs"] == 0
        assert status["lan_bytes_in"] == 0


def test_they_cannot_pull(scene: Scene) -> None:
    for node in (scene.foreign, scene.expired):
        events = []
        try:
            for event in node.pull(scene.reference):
                events.append(event["event"])
                if len(events) > 20:
                    break
        except MeshsatError:
            pass
        assert "done" not in events


def test_one_without_a_pass_is_told_nothing(scene: Scene) -> None:
    rounds = [json.loads(line) for line in scene.pest_says.read_text().splitlines() if line.startswith("{")]
    assert len(rounds) >= 2, scene.pest_says.read_text()
    told = rounds[-1]["told"]
    assert rounds[-1]["calls"] > 0, "somebody believed the announcement, and called"
    assert not [what for what in told if what.endswith(str(stranger.BULK))], told
    # libp2p's own opening ("/multistream/1.0.0") is all that a knock at the control plane may bring.
    knocks = len(rounds) * 4 * len(scene.members)
    assert sum(told.values()) <= 64 * knocks, told


def test_no_frame_on_their_wires_holds_the_images_name(scene: Scene) -> None:
    names = [SECRET.encode(), SECRET.partition("/")[2].encode(), scene.image.manifest.encode()]
    names += [digest.partition(":")[2].encode() for digest in (scene.image.manifest, *scene.image.blobs)]
    for host in scene.outsiders:
        frames = (scene.site.directory / f"{host.name}.frames").read_bytes()
        assert b"_meshsat" in frames, "the ears work: mDNS is there to be heard"
        assert not [name for name in names if name in frames]


def test_members_log_each_of_them_once_and_not_once_a_second(scene: Scene) -> None:
    for member in scene.members:
        lines = member.log.read_text(errors="replace").splitlines()
        for host in scene.outsiders:
            told = [line for line in lines if host.address in line]
            assert 1 <= len(told) <= LINES, "\n".join(told)


def test_members_still_find_and_serve_each_other(scene: Scene) -> None:
    for member in scene.members:
        status = member.status()
        assert status["peers"] == 1, status
        assert status["images"] == 1
    image = random_image(scene.site.directory / "another", 1_000_000, seed=2)
    reference = scene.site.upstream.push(image, "test/another", "1")
    assert [pulled.digest for pulled in scene.site.pull(reference, 20)] == [image.manifest] * 2
