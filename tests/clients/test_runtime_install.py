"""`meshsat runtime install` with real runtimes, a real node and a real registry: who served what is told by their logs.

Each runtime pulls one image with the node up, one with the node stopped, one after `uninstall`. Files are written
below a root of the test's own; podman sees that as its /etc/containers, in a mount namespace.
"""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sim.push import push
from tests.clients.runtimes import DEADLINE, Containerd, Podman, run
from tests.images import Image, build_image, random_bytes, tar_layer
from tests.processes import LISTENING, Node, Place, until
from tests.tools import require_root, require_tool

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(180)]

REPOSITORY = "store/till"
STAGES = ("up", "down", "gone")
"""Tags: the node is up, the node is down, our configuration is gone."""
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}\n'


class Origin:
    """Debian's docker-registry with an image a stage, and its access log."""

    def __init__(self, place: Place) -> None:
        require_tool("docker-registry")
        settings = {
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": str(place.directory / "origin")}},
            "http": {"addr": "127.0.0.1:0", "secret": "only for this test"},
        }
        config = place.directory / "origin.yml"
        config.write_text(json.dumps(settings))
        self.process = place.start("origin.log", "docker-registry", "serve", str(config))
        self.host = until("the origin listens", lambda: LISTENING.search(self.process.said))[1]
        self.images: dict[str, Image] = {}
        for seed, stage in enumerate(STAGES):
            image = build_image([tar_layer({f"data{seed}": random_bytes(400_000, seed)})])
            self.images[stage] = image
            push(self.host, REPOSITORY, stage, write_layout(place.directory / f"layout-{stage}", image))

    def reference(self, stage: str, host: str | None = None) -> str:
        return f"{host or self.host}/{REPOSITORY}:{stage}"

    def agents(self, stage: str) -> set[str]:
        """The programs that took blobs of the stage's image straight from here."""
        digests = "|".join(self.images[stage].blobs)
        lines = re.findall(
            rf'"GET [^ ]*/blobs/(?:{digests})[^"]*" \d+ \d+ "[^"]*" "([^"]*)"', self.process.said
        )
        return {line.partition("/")[0] for line in lines}


def write_layout(directory: Path, image: Image) -> Path:
    for digest, data in {**image.blobs, **image.manifests}.items():
        path = directory / "blobs" / Path(*digest.split(":"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (directory / "index.json").write_text(
        json.dumps({"manifests": [{"digest": image.root, "mediaType": image.media_type}]})
    )
    return directory


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Site:
    """An origin, a node that may fetch from it, and a root to install on."""

    def __init__(self, place: Place) -> None:
        self.origin = Origin(place)
        self.root = place.directory / "root"
        self.root.mkdir()
        self.port = free_port()
        self.metrics = f"http://127.0.0.1:{(api := free_port())}/metrics"
        sections: dict[str, dict[str, Any]] = {
            "registry": {"port": self.port},
            "api": {"port": api},
            "mesh": {"mdns": False},
        }
        self.node = Node(place, "node", sections)
        with self.node.config.open("a") as config:
            config.write(f'[[uplink.registries]]\nhost = "{self.origin.host}"\nplain_http = true\n')
        self.node.run("init", "trains")
        self.node.start()
        self.node.wait_until_ready()

    def runtime(self, verb: str, *arguments: str) -> str:
        """A verb of `meshsat runtime`, as this node's operator runs it."""
        flags = ("--root", str(self.root), "--config", str(self.node.config), *arguments)
        command = (sys.executable, "-m", "meshsat", "runtime", verb, *flags)
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def put(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def served(self) -> int:
        """Bytes that the node's registry has sent to its clients."""
        text = httpx.get(self.metrics, timeout=DEADLINE, trust_env=False).text
        found = re.search(r"^meshsat_registry_sent_bytes_total (\S+)$", text, re.MULTILINE)
        assert found
        return int(float(found[1]))

    def stop(self) -> None:
        assert self.node.process is not None
        self.node.process.terminate()

    def start(self) -> None:
        self.node.start()
        self.node.wait_until_ready()


Pull = Callable[[str], Awaitable[object]]


async def assert_the_node_comes_first(
    site: Site, pull: Pull, agent: str, uninstall: Callable[[], object]
) -> None:
    """The three pulls, and who served each."""
    origin = site.origin
    await pull(origin.reference("up"))
    assert origin.agents("up") == {"meshsat"}
    assert site.served() >= 400_000
    site.stop()
    await pull(origin.reference("down"))
    assert origin.agents("down") == {agent}
    site.start()
    before = site.served()
    uninstall()
    await pull(origin.reference("gone"))
    assert origin.agents("gone") == {agent}
    assert site.served() == before


@pytest.mark.parametrize("named", [True, False])
async def test_containerd(place: Place, named: bool) -> None:
    """By a directory of the registry's own, and by the one for all."""
    require_root()
    require_tool("containerd", "ctr")
    site = Site(place)
    node = f"http://127.0.0.1:{site.port}"
    if named:
        site.runtime("install", "containerd")
    else:
        command = (
            sys.executable,
            "-m",
            "meshsat",
            "runtime",
            "install",
            "containerd",
            "--root",
            str(site.root),
        )
        subprocess.run((*command, "--node", node), check=True, timeout=DEADLINE, capture_output=True)
    hosts = site.root / "etc/containerd/certs.d"
    assert (hosts / site.origin.host).exists() == named
    assert node in (hosts / "_default/hosts.toml").read_text()
    containerd = Containerd(place.directory)
    (place.directory / "hosts").symlink_to(hosts)

    def uninstall() -> None:
        flags = () if named else ("--data-dir", "/var/lib/meshsat")
        site.runtime("uninstall", *flags, "containerd")
        assert not hosts.exists()
        hosts.mkdir(parents=True)  # ctr wants its directory

    if named:  # the record is where the node's configuration says
        assert (site.root / str(site.node.data_dir)[1:] / "runtime/containerd/record.json").exists()
    async with containerd.running():
        await assert_the_node_comes_first(site, containerd.pull, "containerd", uninstall)


async def test_containerds_own_reading_of_what_was_merged(place: Place) -> None:
    """Inline mirrors beside config_path make its CRI plugin fail; what install makes of them does not."""
    require_root()
    require_tool("containerd", "ctr")
    plugin = 'plugins."io.containerd.grpc.v1.cri".registry'
    inline = f'[{plugin}.mirrors."docker.io"]\n  endpoint = ["https://mirror.example.com"]\n'
    settings = f'version = 2\nroot = "{place.directory}/lib"\nstate = "{place.directory}/run"\n'
    settings += f'[grpc]\n  address = "{place.directory}/c.sock"\n'
    root = place.directory / "root"
    config = root / "etc/containerd/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(settings + inline + f'[{plugin}]\n  config_path = "/etc/containerd/certs.d"\n')
    assert "cannot be set when `config_path` is provided" in await cri_says(place, config)
    config.write_text(settings + inline)
    command = (sys.executable, "-m", "meshsat", "runtime", "install", "containerd", "--root", str(root))
    subprocess.run(command, check=True, timeout=DEADLINE, capture_output=True)
    assert "cannot be set when" not in await cri_says(place, config)
    dump = (await run("containerd", "--config", str(config), "config", "dump")).stdout.decode()
    assert 'config_path = "/etc/containerd/certs.d"' in dump
    assert "mirror.example.com" not in dump
    assert "mirror.example.com" in (root / "etc/containerd/certs.d/docker.io/hosts.toml").read_text()


async def cri_says(place: Place, config: Path) -> str:
    """What containerd says of its CRI plugin."""
    process = place.start(
        f"containerd-{config.stat().st_mtime_ns}.log", "containerd", "--config", str(config)
    )
    until("containerd serves", lambda: "containerd successfully booted" in process.said)
    process.terminate()
    return process.said


class PodmanOn(Podman):
    """podman that finds the files of `root` in /etc/containers."""

    def __init__(self, directory: Path, root: Path) -> None:
        super().__init__(directory)
        self._env = {}
        self._etc = root / "etc/containers"

    async def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        settings = ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        command = ("podman", *self._options, *settings, *arguments)
        return await run(*in_its_place(self._etc), *command, check=check)


def in_its_place(etc: Path) -> tuple[str, ...]:
    """Before a command: it sees `etc` as /etc/containers."""
    return ("unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/containers && exec "$@"', str(etc))


@pytest.mark.parametrize("by_hand", [False, True])
async def test_podman(place: Place, by_hand: bool) -> None:
    """With nothing there, and with settings for the registry in two files."""
    require_root()
    require_tool("podman", "unshare")
    site = Site(place)
    site.put("etc/containers/policy.json", POLICY)
    if by_hand:
        table = f'[[registry]]\nlocation = "{site.origin.host}"\ninsecure = true\n'
        site.put("etc/containers/registries.conf", 'unqualified-search-registries = ["docker.io"]\n' + table)
        dead = '[[registry.mirror]]\nlocation = "127.0.0.1:9/cache"\ninsecure = true\n'
        site.put("etc/containers/registries.conf.d/50-cache.conf", table + dead)
    before = {path: path.read_bytes() for path in site.root.rglob("*") if path.is_file()}
    told = site.runtime("install", "podman")
    assert site.origin.host in told
    podman = PodmanOn(place.directory, site.root)

    async def pull(reference: str) -> None:
        flags = () if (site.root / "etc/containers/registries.conf.d/zz-meshsat.conf").exists() else NO_TLS
        await podman("pull", *flags, reference)

    def uninstall() -> None:
        site.runtime("uninstall", "podman")
        after = {path: path.read_bytes() for path in (site.root / "etc").rglob("*") if path.is_file()}
        ours = {
            path: data for path, data in after.items() if "networks" not in path.parts
        }  # podman's own lock
        assert ours == before

    await assert_the_node_comes_first(site, pull, "containers", uninstall)


NO_TLS = ("--tls-verify=false",)
"""The origin has none, and once our drop-in is gone nothing says so."""


async def test_skopeo_reads_the_same_files(place: Place, tmp_path: Path) -> None:
    require_root()
    require_tool("skopeo", "unshare")
    site = Site(place)
    site.put("etc/containers/policy.json", POLICY)
    site.runtime("install", "podman")
    source = f"docker://{site.origin.reference('up')}"
    await run(
        *in_its_place(site.root / "etc/containers"), "skopeo", "copy", source, f"dir:{tmp_path / 'copy'}"
    )
    assert site.origin.agents("up") == {"meshsat"}
    assert (tmp_path / "copy/manifest.json").read_bytes() == site.origin.images["up"].raw
