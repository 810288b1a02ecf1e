"""BitTorrent: one libtorrent session a node, in a process of its own, each connected with every other.

Cold: the seed stands in the WAN, and only the uplinked node can reach it. Warm: the first node is the seed.
Settings are torrent_session.py's. Digests are looked at again when all have ended, outside of the time taken.
"""

import hashlib
import importlib
import importlib.util
from pathlib import Path

from sim.benchmark import stage
from sim.benchmark.figures import Figures
from sim.benchmark.stage import Counters, Stage, StageError, Worker
from sim.benchmark.system import System
from sim.benchmark.torrent_session import SETTINGS
from sim.benchmark.world import Case, World
from sim.images import random_image
from sim.namespaces import Namespace
from sim.network import Plan, uplink_addresses

SESSION = "sim.benchmark.torrent_session"
PORT = 6881
CHUNK_BYTES = 128 * 1024
"""Faster here than 64 KiB, 256 KiB and 1 MiB: a chunk is passed on when it is whole."""
ROUNDS = 3.0
"""What a run should take at most, beside the limit."""


def installed() -> bool:
    return importlib.util.find_spec("libtorrent") is not None


def measure(world: World, case: Case) -> Figures:
    """Raises `StageError`, `CommandError`."""
    with Stage(Plan(world.nodes, 1, world.uplink_mbit, world.lan_mbit)) as here:
        image = random_image(here.directory / "image", world.size)
        payload = image.directory / "blobs" / Path(*image.blobs[0].split(":"))
        torrent = here.directory / "payload.torrent"
        torrent.write_bytes(describe(payload))
        site = Sessions(here, torrent)
        first, *others = here.network.hosts
        if case is Case.WARM:
            seed = site.start(first.namespace, first.address, payload.parent)
            asking = others
            (uplink,) = here.network.uplinks
            uplink.down()
        else:
            beyond, _ = uplink_addresses(0)  # libtorrent answers no other device's addresses
            seed = site.start(here.network.wan, beyond, payload.parent)
            asking = [first, *others]
        for host in asking:
            site.start(host.namespace, host.address)
            if case is Case.COLD and host is first:
                site.forget(beyond)
        before = Counters.read(here.network)
        bystanders = (seed.pid,) if case is Case.WARM else ()
        finish = stage.race(site.asking, stage.patience(world, case, ROUNDS), bystanders)
        after = Counters.read(here.network)
        site.check(payload.name)
        duplicates = sum(each["duplicate"] for each in finish.told)
        return stage.figures(world, case, (before, after), finish, duplicates)


def describe(payload: Path) -> bytes:
    """A .torrent of one file: v1 alone, which is the cheaper to verify."""
    lt = importlib.import_module("libtorrent")  # of the benchmark alone: requirements/bench.in
    made = lt.create_torrent(lt.list_files(str(payload)), CHUNK_BYTES, lt.create_torrent.v1_only)
    lt.set_piece_hashes(made, str(payload.parent))
    return bytes(lt.bencode(made.generate()))


class Sessions:
    """Those of one site. Each new one dials all that are up; no two dial each other."""

    def __init__(self, here: Stage, torrent: Path) -> None:
        self._here = here
        self._torrent = torrent
        self._up: list[str] = []
        self.asking: list[Worker] = []
        self._directories: list[Path] = []

    def start(self, namespace: Namespace, address: str, payload: Path | None = None) -> Worker:
        """Returns when it has met the others. `payload`: the directory of a seed."""
        directory = payload or self._here.directory / namespace.name
        directory.mkdir(exist_ok=True)
        task = {
            "torrent": str(self._torrent),
            "directory": str(directory),
            "seed": payload is not None,
            "listen": f"{address}:{PORT}",
            "peers": [(other, PORT) for other in self._up],
        }
        worker = self._here.worker(namespace, SESSION, task)
        worker.wait_until_ready()
        self._up.append(address)
        if payload is None:
            self.asking.append(worker)
            self._directories.append(directory)
        return worker

    def forget(self, address: str) -> None:
        """Whoever starts from now on cannot reach this one."""
        self._up.remove(address)

    def check(self, digest: str) -> None:
        """Whether all hold what hashes to `digest`, their file's name. Raises `StageError`."""
        for directory in self._directories:
            with (directory / digest).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise StageError(f"a wrong digest in {directory.name.rpartition('-')[2]}")


SYSTEM = System(
    name="libtorrent",
    cases=(Case.COLD, Case.WARM),
    measure=measure,
    expected=lambda _, case: 1.2 if case is Case.COLD else 1.9,
    tools=(),
    installed=installed,
    remedy="make .venv/bench.stamp",
    settings={**SETTINGS, "piece_bytes": CHUNK_BYTES, "protocol": "v1"},
)
