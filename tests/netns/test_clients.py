"""Real clients pull an image from a dark node that never held it: by tag and by digest, byte for byte the upstream's."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import pytest

from sim.images import Layout, demo_image
from sim.namespaces import CommandError
from sim.network import Plan
from sim.nodes import Node
from sim.site import Site
from tests.tools import require_tool

pytestmark = [pytest.mark.netns, pytest.mark.clients, pytest.mark.slow]

IMAGE_BYTES = 8_000_000
_sizes = count(IMAGE_BYTES, 1000)
"""Another size, another image: each test finds the site cold."""


@pytest.fixture(scope="module")
def site(namespaces_work: None) -> Iterator[Site]:
    require_tool("docker-registry")
    with Site(Plan(hosts=2, uplinked=1, uplink_mbit=100, lan_mbit=400)) as site:
        site.start()
        before = site.network.wan_bytes()
        yield site
        # Each image once, however many clients came for it; 5 % for what is not the images' bytes.
        assert site.network.wan_bytes() - before <= 1.05 * sum(Published.sizes)


class Published:
    """An image at the upstream that no node has."""

    sizes: ClassVar[list[int]] = []

    def __init__(self, site: Site, name: str) -> None:
        self.repository = f"test/{name}"
        self.layout: Layout = demo_image(site.directory / "images" / name, next(_sizes))
        self.sizes.append(self.layout.size)
        site.upstream.push(self.layout, self.repository, "1")

    @property
    def digest(self) -> str:
        return self.layout.manifest

    def names(self, registry: str) -> tuple[str, str]:
        """By tag, by digest."""
        return f"{registry}/{self.repository}:1", f"{registry}/{self.repository}@{self.digest}"


def platform_digest(published: Published, architecture: str) -> str:
    """The digest of one architecture's manifest in the image's index."""
    raw = (published.layout.directory / "blobs" / published.digest.replace(":", "/")).read_bytes()
    return next(
        str(entry["digest"])
        for entry in json.loads(raw)["manifests"]
        if entry["platform"]["architecture"] == architecture
    )


def on_dark(site: Site, *command: str) -> str:
    """Run a client beside the dark node; when it fails, what the node logged is part of the fault."""
    dark = site.nodes[-1]
    try:
        return dark.host.namespace.run(*command)
    except CommandError as failed:
        raise dark.fault(f"failed its client: {failed}") from None


def test_skopeo_copies_every_byte(site: Site) -> None:
    require_tool("skopeo")
    dark, image = site.nodes[-1], Published(site, "skopeo")
    for number, name in enumerate(image.names(dark.registry)):
        target = site.directory / f"skopeo-{number}"
        on_dark(
            site, "skopeo", "copy", "-q", "--all", "--preserve-digests", "--src-tls-verify=false",
            f"docker://{name}", f"oci:{target}:got",
        )  # fmt: skip
        got = {path.name: path.read_bytes() for path in (target / "blobs/sha256").iterdir()}
        sent = {path.name: path.read_bytes() for path in (image.layout.directory / "blobs/sha256").iterdir()}
        assert got == sent


def test_what_skopeo_inspects_is_byte_equal_to_the_upstreams(site: Site) -> None:
    require_tool("skopeo")
    dark, image = site.nodes[-1], Published(site, "inspected")
    inspect = ("skopeo", "inspect", "--raw", "--tls-verify=false")
    for here, there in zip(image.names(dark.registry), image.names(site.upstream.host), strict=True):
        through = subprocess.run(
            dark.host.namespace.inside(*inspect, f"docker://{here}"),
            capture_output=True,
            timeout=60,
            check=True,
        )
        direct = subprocess.run(
            site.network.wan.inside(*inspect, f"docker://{there}"),
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert through.stdout == direct.stdout
        assert b'"manifests"' in direct.stdout


def test_podman_pulls_by_tag_and_by_digest(site: Site) -> None:
    require_tool("podman")
    dark, image = site.nodes[-1], Published(site, "podman")
    for name in image.names(dark.registry):
        # A place of its own, and a short one: podman takes no runroot of more than 50 characters.
        with TemporaryDirectory(prefix="podman-", dir="/tmp") as place:
            podman = (
                "podman", "--root", f"{place}/root", "--runroot", f"{place}/run", "--tmpdir", f"{place}/tmp",
                "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
            )  # fmt: skip
            pulled = on_dark(site, *podman, "pull", "-q", "--tls-verify=false", "--arch", "amd64", name)
            told = on_dark(
                site, *podman, "image", "inspect", pulled.strip(), "--format", "{{json .RepoDigests}}"
            )
        digests = {entry.partition("@")[2] for entry in json.loads(told)}
        assert digests <= {image.digest, platform_digest(image, "amd64")}
        assert image.digest in digests


@contextmanager
def containerd(node: Node, place: Path) -> Iterator[str]:
    """A containerd in the node's namespace; gives its socket."""
    require_tool("containerd", "ctr")
    place.mkdir()
    socket = f"{place}/containerd.sock"
    (place / "config.toml").write_text(
        f'version = 2\nroot = "{place}/root"\nstate = "{place}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\n  address = "{socket}"\n'
    )
    with (place / "log").open("wb") as log:
        process = node.host.namespace.start("containerd", "-c", f"{place}/config.toml", output=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                node.host.namespace.run("ctr", "-a", socket, "version")
                break
            except CommandError:
                assert time.monotonic() < deadline, (place / "log").read_text()
                time.sleep(0.1)
        yield socket
    finally:
        process.terminate()
        process.wait(20)


def test_containerd_pulls_by_tag_and_by_digest_with_the_node_as_its_mirror(site: Site) -> None:
    """The name is the upstream's, which a dark node's containerd cannot reach: all must come through the mirror."""
    dark, image = site.nodes[-1], Published(site, "containerd")
    place = site.directory / "containerd"
    with containerd(dark, place) as socket:
        hosts = place / "hosts" / site.upstream.host
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(
            f'server = "http://{site.upstream.host}"\n'
            f'[host."http://{dark.registry}"]\n  capabilities = ["pull", "resolve"]\n'
        )
        ctr = ("ctr", "-a", socket, "images")
        for name in image.names(site.upstream.host):
            on_dark(
                site, *ctr, "pull", "--hosts-dir", str(hosts.parent), "--snapshotter", "native",
                "--platform", "linux/amd64", name,
            )  # fmt: skip
            (row,) = (
                line for line in on_dark(site, *ctr, "list", f"name=={name}").splitlines() if name in line
            )
            assert image.digest in row
