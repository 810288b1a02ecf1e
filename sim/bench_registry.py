"""`python -m sim.bench_registry`: the embedded registry beside Debian's docker-registry, in one run.

Real processes on loopback, the same content, no TLS, no access logs. Each line is measured on both in turn,
the order changing from round to round; shown are medians, and meshsat's share of the other.
  blob      256 MiB by one curl, and by eight at once
  small     wrk, 32 connections: a manifest by its tag, on kept connections and on a new one each (as skopeo
            and podman do), a config blob, a blob of 16 KiB, 64 KiB out of the middle of the large blob
  HEAD      hey, 32 connections: the manifest
  copy      skopeo copies an image of 467 MB out of the registry
  put       256 MiB by curl: POST and PUT; skopeo copies such an image into the registry
  cost      CPU seconds a GiB served (the large blob), memory at rest and at the most while serving
Promises (issue 4): blob >= 1.0; manifest >= 3 kept, >= 2 closed; small >= 3; put >= 1.0; copy <= 1.0 of its
time; CPU <= 0.7; memory <= 100 MiB.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sim.images import Layout, compressed_image, random_image
from sim.push import push
from sim.registries import CAN_PUSH, DockerRegistry, MeshsatRegistry, Registry, RegistryError

MIB = 1024 * 1024
GIB = 1024 * MIB
LARGE = 256 * MIB
SMALL = 16 * 1024
EDGE = tuple(int(size * 1e6) for size in (45.8, 202.1, 185.5, 33.6, 0.4))
"""The layers of a real image of an edge application, compressed."""
CLIENTS = 8
CONNECTIONS = 32
RANGE = "Range: bytes=134217728-134283263"
COMMAND_SECONDS = 180.0
_RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")
_ERRORS = re.compile(r"Non-2xx|Socket errors")


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    unit: str
    promise: float
    """Of meshsat's share of the other."""
    more_is_better: bool
    measure: Callable[["Bench", Registry, int], float]
    """On one registry, in the round of this number."""
    needs_push: bool = False


@dataclass(slots=True)
class Bench:
    directory: Path
    seconds: float
    large: Layout
    small: Layout
    edge: Layout
    cpu: dict[str, list[float]] = field(default_factory=dict)
    """CPU seconds a GiB, by registry."""

    def url(self, registry: Registry, image: str, what: str) -> str:
        return f"http://{registry.address}/v2/bench/{image}/{what}"

    def large_blob(self, registry: Registry) -> str:
        return self.url(registry, "large", f"blobs/{self.large.blobs[0]}")


def blob(count: int) -> Callable[[Bench, Registry, int], float]:
    """MB/s of all clients together."""

    def measure(bench: Bench, registry: Registry, _round: int) -> float:
        command = ("curl", "-sSf", "-o", "/dev/null", "-w", "%{size_download}", bench.large_blob(registry))
        cpu, began = registry.cpu_seconds(), time.monotonic()
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        sizes = [client.communicate(timeout=COMMAND_SECONDS)[0] for client in clients]
        took = time.monotonic() - began
        if sizes != [str(LARGE)] * count:
            raise RegistryError(f"{registry.name} sent {sizes} bytes, not {LARGE} each")
        used = (registry.cpu_seconds() - cpu) / (count * LARGE / GIB)
        if count == CLIENTS:  # what one client takes is a few ticks of the clock
            bench.cpu.setdefault(registry.name, []).append(used)
        return count * LARGE / 1e6 / took

    return measure


def requests(
    image: str, what: Callable[[Bench], str], *headers: str
) -> Callable[[Bench, Registry, int], float]:
    """Requests a second."""

    def measure(bench: Bench, registry: Registry, _round: int) -> float:
        given = [part for header in (*headers, f"Accept: {ACCEPT}") for part in ("-H", header)]
        url = bench.url(registry, image, what(bench))
        told = run("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{bench.seconds:g}", *given, url)
        return _rate(registry, url, told, bool(_ERRORS.search(told)))

    return measure


def heads(bench: Bench, registry: Registry, _round: int) -> float:
    url = bench.url(registry, "small", "manifests/1")
    options = ("-c", str(CONNECTIONS), "-z", f"{bench.seconds:g}s", "-m", "HEAD", "-H", f"Accept: {ACCEPT}")
    told = run("hey", *options, url)
    return _rate(registry, url, told, "[200]" not in told)


def _rate(registry: Registry, url: str, told: str, wrong: object) -> float:
    found = _RATE.search(told)
    if wrong or found is None:
        raise RegistryError(f"{registry.name} does not answer {url} with 200: {told}")
    return float(found[1])


def put(bench: Bench, registry: Registry, number: int) -> float:
    """MB/s of one blob that is new to the registry."""
    file = bench.directory / f"put-{number}"
    if not file.exists():
        file.write_bytes(os.urandom(LARGE))
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    uploads = f"http://{registry.address}/v2/bench/put{number}/blobs/uploads/"
    began = time.monotonic()
    place = run("curl", "-sSf", "-X", "POST", "-o", "/dev/null", "-w", "%header{location}", uploads)
    place = place if place.startswith("http") else f"http://{registry.address}{place}"
    target = f"{place}{'&' if '?' in place else '?'}digest=sha256:{digest}"
    status = run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-T", str(file), target)
    took = time.monotonic() - began
    if status != "201":
        raise RegistryError(f"{registry.name} answers a PUT with {status}")
    return LARGE / 1e6 / took


def copy_out(bench: Bench, registry: Registry, number: int) -> float:
    """Seconds."""
    memory = Path("/dev/shm")  # noqa: S108 - so that the disk does not set the pace
    target = (memory if memory.is_dir() else bench.directory) / f"{bench.directory.name}-{number}"
    began = time.monotonic()
    source = f"docker://{registry.address}/bench/edge:1"
    run("skopeo", "copy", "-q", "--src-tls-verify=false", source, f"dir:{target}")
    took = time.monotonic() - began
    shutil.rmtree(target)
    return took


def copy_in(bench: Bench, registry: Registry, number: int) -> float:
    """Seconds, of an image that is new to the registry."""
    layout = bench.directory / f"in-{number}"
    if not layout.exists():
        compressed_image(layout, EDGE, seed=1000 + number)
    target = f"docker://{registry.address}/bench/in{number}:1"
    began = time.monotonic()
    run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}", target)
    return time.monotonic() - began


ACCEPT = "application/vnd.oci.image.manifest.v1+json"
LINES = (
    Line("blob, 256 MiB, 1 client", "MB/s", 1.0, True, blob(1)),
    Line(f"blob, 256 MiB, {CLIENTS} clients", "MB/s", 1.0, True, blob(CLIENTS)),
    Line("manifest by tag", "1/s", 3.0, True, requests("small", lambda _: "manifests/1")),
    Line(
        "manifest by tag, connection closed", "1/s", 2.0, True,
        requests("small", lambda _: "manifests/1", "Connection: close"),
    ),
    Line("manifest by tag, HEAD", "1/s", 3.0, True, heads),
    Line("config blob", "1/s", 3.0, True, requests("small", lambda bench: f"blobs/{bench.small.blobs[-1]}")),
    Line("blob, 16 KiB", "1/s", 3.0, True, requests("small", lambda bench: f"blobs/{bench.small.blobs[0]}")),
    Line(
        "64 KiB of a large blob", "1/s", 3.0, True,
        requests("large", lambda bench: f"blobs/{bench.large.blobs[0]}", RANGE),
    ),
    Line("skopeo copy, 467 MB, out", "s", 1.0, False, copy_out),
    Line("PUT, 256 MiB", "MB/s", 1.0, True, put, needs_push=True),
    Line("skopeo copy, 467 MB, in", "s", 1.0, False, copy_in, needs_push=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    unit: str
    promise: float
    more_is_better: bool
    docker: tuple[float, ...]
    """By round."""
    meshsat: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.meshsat) / statistics.median(self.docker)

    @property
    def kept(self) -> bool:
        return self.ratio >= self.promise if self.more_is_better else self.ratio <= self.promise


def run(*command: str) -> str:
    """Raises `RegistryError`."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    if done.returncode:
        raise RegistryError(f"{' '.join(command)} failed: {done.stderr or done.stdout}")
    return done.stdout


@contextmanager
def filled(directory: Path, images: dict[str, Layout]) -> Iterator[tuple[Registry, Registry]]:
    """Both registries with the same images, started anew, so that they are at rest."""
    docker = DockerRegistry(directory)
    meshsat = MeshsatRegistry(directory, docker.address)
    both: tuple[Registry, Registry] = (docker, meshsat)
    try:
        for registry in both:
            registry.start()
        for name, image in images.items():
            push(docker.address, f"bench/{name}", "1", image.directory)
            meshsat.fill(f"bench/{name}", "1")
        for registry in both:
            registry.stop()
            registry.start()
        yield both
    finally:
        for registry in both:
            registry.stop()


def measure(rounds: int, seconds: float, wanted: Sequence[Line]) -> dict[str, Row]:
    """Raises `RegistryError`."""
    with tempfile.TemporaryDirectory(prefix="ms-") as name:
        directory = Path(name)
        images = {
            "large": random_image(directory / "large", LARGE, seed=2),
            "small": random_image(directory / "small", SMALL, seed=3),
            "edge": compressed_image(directory / "edge", EDGE, seed=4),
        }
        with filled(directory, images) as both:
            bench = Bench(directory, seconds, images["large"], images["small"], images["edge"])
            time.sleep(2)
            idle = [registry.resident_mib() for registry in both]
            found: dict[str, tuple[list[float], list[float]]] = {line.name: ([], []) for line in wanted}
            peaks: tuple[list[float], list[float]] = ([], [])
            for number in range(rounds):
                order = (0, 1) if number % 2 else (1, 0)
                for line in wanted:
                    for which in order:
                        both[which].forget_peak()
                        value = line.measure(bench, both[which], number)
                        found[line.name][which].append(value)
                        peaks[which].append(both[which].peak_mib())
                        print(
                            f"  {number} {both[which].name:16} {line.name}: {value:.5g} {line.unit}",
                            flush=True,
                        )
                for file in (*directory.glob("put-*"), *directory.glob("in-*")):
                    shutil.rmtree(file) if file.is_dir() else file.unlink()
            rows = [
                Row(line.name, line.unit, line.promise, line.more_is_better, *map(tuple, found[line.name]))
                for line in wanted
            ]
            if bench.cpu:
                cpu = [tuple(bench.cpu[registry.name]) for registry in both]
                rows.append(Row("CPU to serve", "s/GiB", 0.7, False, *cpu))
            rows.append(Row("memory at rest", "MiB", float("inf"), False, (idle[0],), (idle[1],)))
            rows.append(
                Row("memory at the most", "MiB", float("inf"), False, (max(peaks[0]),), (max(peaks[1]),))
            )
            return {row.name: row for row in rows}


def show(rows: dict[str, Row]) -> str:
    """A table in Markdown."""
    lines = ["| | docker-registry | meshsat | ratio | promised |", "|---|---|---|---|---|"]
    for row in rows.values():
        docker, meshsat = (f"{statistics.median(one):,.4g}" for one in (row.docker, row.meshsat))
        sign = ">=" if row.more_is_better else "<="
        promised = f"{sign} {row.promise:g}" if row.promise != float("inf") else ""
        ratio = f"{row.ratio:.2f}" if row.kept else f"**{row.ratio:.2f}**"
        lines.append(f"| {row.name}, {row.unit} | {docker} | {meshsat} | {ratio} | {promised} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sim.bench_registry", description="The embedded registry beside docker-registry."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run of wrk and hey")
    parser.add_argument("--line", action="append", metavar="TEXT", help="only lines that hold this text")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures of every round")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table")
    given = parser.parse_args(arguments)
    wanted = [
        line
        for line in LINES
        if (CAN_PUSH or not line.needs_push)
        and (given.line is None or any(text in line.name for text in given.line))
    ]
    try:
        rows = measure(given.rounds, given.seconds, wanted)
    except (RegistryError, OSError, subprocess.TimeoutExpired) as fault:
        print(f"python -m sim.bench_registry: {fault}", file=sys.stderr)
        return 1
    table = show(rows)
    print(table)
    if given.json:
        figures = [asdict(row) | {"ratio": row.ratio} for row in rows.values()]
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if given.markdown:
        given.markdown.write_text(f"{table}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
