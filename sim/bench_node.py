"""`python -m sim.bench_node`: what a node costs: CPU seconds a GiB, memory, small blobs, and idling.

Real node processes in namespaces, TLS on, in five parts (`--part`, default all):
  full    two nodes, links faster than they are: the uplinked one pulls an image of one random layer
          upstream (cold), then the other from the first (warm). CPU seconds a GiB of who fetches upstream,
          who receives, who sends; beside them plain blocking `ssl` with the same passes over the same link,
          which reads, sends, receives, hashes, writes, and nothing else (plain_ssl.py).
  paced   the same with every link held to 200 Mbit/s by tc-tbf(8).
  memory  three nodes, a blob of 4 GiB: two receive it at once, from the first and from each other, while a
          client reads it from the registries of the first and of a receiving one. Peak resident memory.
  small   eight nodes on lines of 200 Mbit/s, no WAN: one holds an image of 1000 layers of 10 KiB, the others
          pull it at once. Seconds until the last has it, published, beside plain copies of as many files.
  idle    eight nodes that have found each other and have nothing to do: share of one core, and bytes on the
          LAN a minute, in and out, every header counted.
Promises (issue 3): full <= 3 received, <= 2 sent; paced <= 5 and <= 3; <= 150 MiB at load; 1000 small blobs
< 2 s; idle < 0.5 % of a core, < 20 KiB a minute. CPU is user and system time of the process (proc(5)), over
the transfer alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from sim.images import Layout, random_image
from sim.namespaces import CommandError
from sim.network import Plan
from sim.nodes import Node, NodeError
from sim.site import Site

MIB = 1024 * 1024
GIB = 1024 * MIB
FULL_MBIT = 40_000.0
"""More than these processes can move."""
PACED_MBIT = 200.0
SMALL_BYTES = 10 * 1024
SETTLE = 40.0
"""Seconds from the last meeting until a site counts as idle: mDNS has told everything thrice by then."""
PULL_SECONDS = 150.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """CPU seconds a GiB, each of its own process."""

    mbit: float
    mib: int
    uplinked: float
    """Receives from upstream, over plain HTTP, and keeps."""
    receiving: float
    sending: float
    ssl_receiving: float
    ssl_sending: float
    mb_per_second: float
    """10^6 bytes, of the pull from node to node."""
    ssl_mb_per_second: float
    peak_mib: tuple[float, ...]
    """Resident memory, by node."""


@dataclass(frozen=True, slots=True)
class Memory:
    mib: int
    idle_mib: tuple[float, ...]
    """Resident before the first byte, by node."""
    peak_mib: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Small:
    nodes: int
    blobs: int
    blob_bytes: int
    seconds: tuple[float, ...]
    """From the question to all of it, by node that asked."""
    cpu_seconds: tuple[float, ...]
    """By node, the holder first."""
    synced_seconds: float
    """For one process to write as many files of that size, each made durable, on the same disk."""


@dataclass(frozen=True, slots=True)
class Idle:
    nodes: int
    seconds: float
    cpu_percent: tuple[float, ...]
    """Of one core, by node."""
    lan_kib_a_minute: tuple[float, ...]
    wakes_a_second: tuple[float, ...]
    """Voluntary switches of all the node's threads."""
    resident_mib: tuple[float, ...]


def measure_transfer(mbit: float, mib: int) -> Transfer:
    """One cold and one warm pull, and the same bytes by plain `ssl`. Raises `NodeError`, `CommandError`."""
    with Site(Plan(2, 1, mbit, mbit)) as site:
        image = random_image(site.directory / "image", mib * MIB)
        reference = site.upstream.push(image, "test/random", "1")
        site.start()
        first, second = site.nodes
        gib = image.size / GIB

        def pull(node: Node) -> tuple[float, dict[str, float]]:
            """Wall seconds, and CPU seconds a GiB by node."""
            before = {each.name: each.cpu_seconds() for each in site.nodes}
            (pulled,) = site.pull(reference, PULL_SECONDS, [node])
            if pulled.error or pulled.digest != image.manifest:
                raise node.fault(f"got {pulled.digest}, error {pulled.error}")
            cpu = {each.name: (each.cpu_seconds() - before[each.name]) / gib for each in site.nodes}
            return pulled.seconds, cpu

        _, cold = pull(first)
        seconds, warm = pull(second)
        peaks = tuple(node.peak_bytes() / MIB for node in site.nodes)
        for node in site.nodes:
            node.stop()
        sent, received = plain_ssl(first, second, image)
        return Transfer(
            mbit=mbit,
            mib=mib,
            uplinked=cold[first.name],
            receiving=warm[second.name],
            sending=warm[first.name],
            ssl_receiving=received["cpu"] / gib,
            ssl_sending=sent["cpu"] / gib,
            mb_per_second=image.size / 1e6 / seconds,
            ssl_mb_per_second=image.size / 1e6 / received["seconds"],
            peak_mib=peaks,
        )


def plain_ssl(source: Node, target: Node, image: Layout) -> tuple[dict[str, float], dict[str, float]]:
    """The image's layer from one's namespace to the other's: what each side says of itself."""
    digest = image.blobs[0]
    path = image.directory / "blobs" / digest.replace(":", "/")
    command = (sys.executable, "-m", "sim.plain_ssl")
    serving = source.host.namespace.start(
        *command, "serve", str(source.data_dir), source.host.address, str(path), output=subprocess.PIPE
    )
    with serving, ExitStack() as stack:
        stack.callback(serving.kill)
        port = str(_word(serving)["port"])
        fetched = target.host.namespace.run(
            *command,
            "fetch",
            str(target.data_dir),
            source.host.address,
            port,
            str(target.data_dir.parent / "fetched"),
            str(path.stat().st_size),
            timeout=PULL_SECONDS,
        )
        received = json.loads(fetched)
        if received.pop("digest") != digest:
            raise CommandError("plain ssl brought other bytes")
        return _word(serving), received


def _word(process: "subprocess.Popen[bytes]") -> dict[str, float]:
    line = process.stdout.readline() if process.stdout else b""
    try:
        facts: dict[str, float] = json.loads(line)
    except ValueError:
        raise CommandError(f"{process.args!r} said {line!r}") from None
    return facts


def measure_memory(mib: int) -> Memory:
    """Everything at once. Raises `NodeError`, `CommandError`."""
    with Site(Plan(3, 1, FULL_MBIT, FULL_MBIT)) as site:
        image = random_image(site.directory / "image", mib * MIB)
        reference = site.upstream.push(image, "test/random", "1")
        site.start()
        idle = tuple(node.resident_bytes() / MIB for node in site.nodes)
        first, *others = site.nodes
        for pulled in site.pull(reference, PULL_SECONDS, [first]):
            _require(first, pulled.digest == image.manifest, f"pulled {pulled}")
        clients = [_client(node, site.upstream.host, image.blobs[0]) for node in (first, others[0])]
        try:
            for pulled in site.pull(reference, PULL_SECONDS, others):
                _require(first, pulled.digest == image.manifest, f"pulled {pulled}")
            for client in clients:
                said = client.communicate(timeout=PULL_SECONDS)[0].decode()
                _require(first, said == f"200 {mib * MIB}", f"its client got {said!r}")
        finally:
            for client in clients:
                client.kill()
        return Memory(mib, idle, tuple(node.peak_bytes() / MIB for node in site.nodes))


def _client(node: Node, upstream: str, digest: str) -> "subprocess.Popen[bytes]":
    """Reads the blob from the node's registry, and throws it away."""
    url = f"http://{node.registry}/v2/test/random/blobs/{digest}?ns={upstream}"
    said = "%{http_code} %{size_download}"
    return node.host.namespace.start("curl", "-s", "-o", "/dev/null", "-w", said, url, output=subprocess.PIPE)


def _require(node: Node, true: bool, otherwise: str) -> None:
    if not true:
        raise node.fault(otherwise)


def measure_small(nodes: int, blobs: int) -> Small:
    """Raises `NodeError`, `CommandError`."""
    with Site(Plan(nodes, 1, PACED_MBIT, PACED_MBIT)) as site:
        image = random_image(site.directory / "image", SMALL_BYTES, layers=blobs)
        reference = site.upstream.push(image, "test/small", "1")
        site.start()
        first, *others = site.nodes
        (held,) = site.pull(reference, PULL_SECONDS, [first])
        _require(first, held.digest == image.manifest, f"pulled {held}")
        site.network.uplinks[0].down()
        before = [node.cpu_seconds() for node in site.nodes]
        pulls = site.pull(reference, PULL_SECONDS, others)
        cpu = tuple(node.cpu_seconds() - was for node, was in zip(site.nodes, before, strict=True))
        for node, pulled in zip(others, pulls, strict=True):
            _require(node, pulled.digest == image.manifest, f"pulled {pulled}")
        seconds = tuple(pulled.seconds for pulled in pulls)
        return Small(nodes, blobs, SMALL_BYTES, seconds, cpu, _write_synced(site.directory / "beside", blobs))


def _write_synced(directory: Path, files: int) -> float:
    directory.mkdir()
    began = time.monotonic()
    for number in range(files):
        with (directory / str(number)).open("wb") as file:
            file.write(bytes(SMALL_BYTES))
            file.flush()
            os.fsync(file.fileno())
    return time.monotonic() - began


def measure_idle(nodes: int, seconds: float, settle: float = SETTLE) -> Idle:
    """Raises `NodeError`, `CommandError`."""
    with Site(Plan(nodes, 1, 50.0, 200.0)) as site:
        site.start()
        time.sleep(settle)
        before, began = [_standing(node) for node in site.nodes], time.monotonic()
        time.sleep(seconds)
        after, took = [_standing(node) for node in site.nodes], time.monotonic() - began
        cpu, lan, wakes = (
            tuple((now[what] - then[what]) / took for now, then in zip(after, before, strict=True))
            for what in range(3)
        )
        return Idle(
            nodes=nodes,
            seconds=took,
            cpu_percent=tuple(100 * share for share in cpu),
            lan_kib_a_minute=tuple(60 * rate / 1024 for rate in lan),
            wakes_a_second=wakes,
            resident_mib=tuple(node.resident_bytes() / MIB for node in site.nodes),
        )


def _standing(node: Node) -> tuple[float, float, float]:
    """CPU seconds, LAN bytes in and out with every header, voluntary switches."""
    lan = node.host.lan
    return node.cpu_seconds(), lan.received().wire_bytes + lan.sent().wire_bytes, node.wakes()


# --- shown


def show_transfers(name: str, runs: Sequence[Transfer]) -> str:
    def median(figure: Callable[[Transfer], float]) -> float:
        return float(statistics.median(map(figure, runs)))

    node = [median(lambda run: run.receiving), median(lambda run: run.sending)]
    plain = [median(lambda run: run.ssl_receiving), median(lambda run: run.ssl_sending)]
    rates = [median(lambda run: run.mb_per_second), median(lambda run: run.ssl_mb_per_second)]
    uplinked, peak = median(lambda run: run.uplinked), median(lambda run: max(run.peak_mib))
    return f"""\
{name}: {runs[0].mib} MiB, median of {len(runs)}; CPU s/GiB
             receiving   sending  uplinked    MB/s  peak MiB
  node      {node[0]:>10.2f}{node[1]:>10.2f}{uplinked:>10.2f}{rates[0]:>8.0f}{peak:>10.0f}
  plain ssl {plain[0]:>10.2f}{plain[1]:>10.2f}{"":>10}{rates[1]:>8.0f}"""


def show_memory(found: Memory) -> str:
    return (
        f"memory: {found.mib} MiB; resident MiB by node\n"
        f"  idle {_list(found.idle_mib)}   peak {_list(found.peak_mib)}"
    )


def show_small(found: Small) -> str:
    return (
        f"small: {found.blobs} blobs of {found.blob_bytes} bytes from one of {found.nodes} nodes to all\n"
        f"  last node {max(found.seconds):.2f} s, first {min(found.seconds):.2f} s; CPU s by node "
        f"{_list(found.cpu_seconds, 1)}\n"
        f"  as many files written and synced by one process: {found.synced_seconds:.2f} s"
    )


def show_idle(found: Idle) -> str:
    return "\n".join(
        (
            f"idle: {found.nodes} nodes, {found.seconds:.0f} s; by node",
            f"  % of a core       {_list(found.cpu_percent, 2)}",
            f"  LAN KiB a minute  {_list(found.lan_kib_a_minute, 1)}",
            f"  wakes a second    {_list(found.wakes_a_second, 1)}",
            f"  resident MiB      {_list(found.resident_mib)}",
        )
    )


def _list(figures: Sequence[float], digits: int = 0) -> str:
    return "  ".join(f"{figure:.{digits}f}" for figure in figures)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sim.bench_node", description="A node's CPU, memory and idling. Root only."
    )
    parts = ("full", "paced", "memory", "small", "idle")
    parser.add_argument("--part", action="append", choices=parts, help="only these")
    parser.add_argument("--runs", type=int, default=1, help="of full and paced; medians are shown")
    parser.add_argument("--mib", type=int, default=1024, help="of the layer at full speed")
    parser.add_argument("--paced-mib", type=int, default=256)
    parser.add_argument("--memory-mib", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=60.0, help="of idling")
    parser.add_argument("--nodes", type=int, default=8, help="that idle, and of small blobs")
    parser.add_argument("--blobs", type=int, default=1000, help="small ones")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures of every run too")
    given = parser.parse_args(arguments)
    wanted = given.part or parts
    found: dict[str, object] = {}
    try:
        for name, mbit, mib in (("full", FULL_MBIT, given.mib), ("paced", PACED_MBIT, given.paced_mib)):
            if name in wanted:
                runs = [measure_transfer(mbit, mib) for _ in range(given.runs)]
                found[name] = [asdict(run) for run in runs]
                print(show_transfers(name, runs), flush=True)
        if "memory" in wanted:
            memory = measure_memory(given.memory_mib)
            found["memory"] = asdict(memory)
            print(show_memory(memory), flush=True)
        if "small" in wanted:
            small = measure_small(given.nodes, given.blobs)
            found["small"] = asdict(small)
            print(show_small(small), flush=True)
        if "idle" in wanted:
            idle = measure_idle(given.nodes, given.seconds)
            found["idle"] = asdict(idle)
            print(show_idle(idle), flush=True)
    except (CommandError, NodeError) as fault:
        print(f"python -m sim.bench_node: {fault}", file=sys.stderr)
        return 1
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
