"""A pull-through cache on the uplinked node: Debian's docker-registry in proxy mode, asked by all nodes.

What is commonly advised. Cold: whoever misses while the blob is still on its way makes it come once more.
Warm: it serves all nodes alone, at the rate of its own LAN link.
"""

import dataclasses
import subprocess
import time
from pathlib import Path

from sim.benchmark import stage
from sim.benchmark.figures import Figures
from sim.benchmark.stage import Counters, Stage, StageError
from sim.benchmark.system import System
from sim.benchmark.world import Case, World
from sim.images import Layout, random_image
from sim.network import Host, Plan
from sim.upstream import Upstream

REPOSITORY = "test/random"
CLIENT = "sim.benchmark.http_client"
PORT = 5001
UP_SECONDS = 20.0
FILL_SECONDS = 120.0
CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
http: {{addr: "0.0.0.0:{port}"}}
proxy: {{remoteurl: "http://{upstream}"}}
"""


def measure(world: World, case: Case) -> Figures:
    """Raises `StageError`, `CommandError`."""
    with Stage(Plan(world.nodes, 1, world.uplink_mbit, world.lan_mbit)) as here:
        upstream = Upstream(here.network.wan, here.directory)
        image = random_image(here.directory / "image", world.size)
        upstream.push(image, REPOSITORY, "1")
        first, *others = here.network.hosts
        cache = _serve(here, first, upstream.host)
        asking = [first, *others]
        if case is Case.WARM:
            _fill(here, first, image)
            asking = others
        clients = [_client(here, host, first, image, host.name) for host in asking]
        before = Counters.read(here.network)
        finish = stage.race(clients, stage.patience(world, case, world.nodes), (cache.pid,))
        after = Counters.read(here.network)
        if case is Case.COLD:
            finish = _one_node(finish)
        return stage.figures(world, case, (before, after), finish)


def _one_node(finish: stage.Finish) -> stage.Finish:
    """Cold, the first client and the cache, who came last, are one node."""
    client, *others, cache = finish.cpu_seconds
    return dataclasses.replace(finish, cpu_seconds=(client + cache, *others))


def _serve(here: Stage, host: Host, upstream: str) -> subprocess.Popen[bytes]:
    config = here.directory / "cache.yml"
    config.write_text(
        CONFIG.format(root=here.directory / "cache", port=PORT, upstream=upstream), encoding="utf-8"
    )
    with (here.directory / "cache.log").open("ab") as log:
        cache = host.namespace.start("docker-registry", "serve", str(config), output=log)
    deadline = time.monotonic() + UP_SECONDS
    while f":{PORT} " not in host.namespace.run("ss", "-Hltn"):
        if cache.poll() is not None or time.monotonic() > deadline:
            raise StageError("the cache does not come up")
        time.sleep(0.05)
    return cache


def _fill(here: Stage, host: Host, image: Layout) -> None:
    """Let the cache have the image already, and cut the WAN. The cache stores a blob beside serving it, and
    is not done when its client is."""
    (uplink,) = here.network.uplinks
    uplink.shape(stage.FAST_MBIT)
    filling = _client(here, host, host, image, "filling")
    stage.race([filling], FILL_SECONDS)
    filling.end()
    deadline = time.monotonic() + FILL_SECONDS
    while missing := [one for one in image.blobs if not _stored(here.directory / "cache", one)]:
        if time.monotonic() > deadline:
            raise StageError(f"the cache does not store {missing[0]}")
        time.sleep(0.05)
    uplink.down()


def _stored(root: Path, digest: str) -> bool:
    kind, _, name = digest.partition(":")
    links = root / "docker/registry/v2/repositories" / REPOSITORY / "_layers" / kind
    return (links / name / "link").exists()


def _client(here: Stage, host: Host, cache: Host, image: Layout, directory: str) -> stage.Worker:
    task = {
        "host": f"{cache.address}:{PORT}",
        "repository": REPOSITORY,
        "manifest": image.manifest,
        "directory": str(here.directory / directory),
    }
    return here.worker(host.namespace, CLIENT, task)


SYSTEM = System(
    name="docker-registry",
    cases=(Case.COLD, Case.WARM),
    measure=measure,
    expected=lambda world, case: 1.05 * (world.nodes + (case is Case.COLD)),
    line_bound=True,
)
