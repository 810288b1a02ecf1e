"""What a byte costs: CPU seconds per GiB received and sent, plane by plane, in one run.

    python -m sim.bench_transport [--mib 512] [--repeat 3] [--mbit 200] [--plane tls --plane libp2p ...]
    [--json]

Each plane is two processes on loopback, one stream, one direction; CPU is `getrusage` of each process
between the end of its handshake and the last byte. Planes: `tls` is the bulk plane as nodes use it, `libp2p`
the control plane; `ssl` (blocking OpenSSL, nothing else) and `trio` (`trio.SSLStream`) are what there is to
compare with, with the same certificates. `--mbit` paces the sender in the kernel (SO_MAX_PACING_RATE),
because a slow flow costs more a byte than a fast one.

Bounded: a worker ends itself at its deadline, and the parent ends its workers.
"""

import argparse
import json
import os
import resource
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from stat import S_ISSOCK

import trio

from meshsat.mesh.identity import NODE_KEY, PASS, Identity, accept_pass, init_fleet, load, node_key
from meshsat.mesh.libp2p_transport import Libp2pTransport
from meshsat.mesh.tls_transport import TlsTransport
from meshsat.mesh.transport import Stream, Transport
from meshsat.metrics import Metrics
from meshsat.trust.issuing import issue_pass
from meshsat.trust.keys import PeerId
from meshsat.trust.passes import Subject

MIB = 1024 * 1024
GIB = 1024 * MIB
PROTOCOL = "/meshsat/bench/1"
CHUNK = 256 * 1024
"""Bytes that the receiver asks for at a time: a chunk of a blob up to 1 GiB."""
HOST = "127.0.0.1"
SO_MAX_PACING_RATE = 47  # asm-generic/socket.h; bytes per second
PLANES = ("tls", "libp2p", "ssl", "trio")


@dataclass(frozen=True, slots=True)
class Job:
    """What both workers of a pair are told."""

    plane: str
    mib: int
    write_kib: int
    mbit: float
    deadline: int
    """Seconds."""

    @property
    def length(self) -> int:
        return self.mib * MIB


class Meter:
    """CPU and wall seconds of this process from now on."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._usage = resource.getrusage(resource.RUSAGE_SELF)

    def read(self) -> dict[str, float]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime - self._usage.ru_utime + usage.ru_stime - self._usage.ru_stime
        return {"cpu": cpu, "seconds": time.perf_counter() - self._began}


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


# --- workers


def transport(job: Job, identity: Identity) -> Transport:
    if job.plane == "libp2p":
        return Libp2pTransport(identity, (PROTOCOL,), Metrics(), listen=HOST)
    return TlsTransport(identity, (PROTOCOL,), Metrics(), listen=HOST)


async def receive_plane(job: Job, identity: Identity) -> None:
    plane = transport(job, identity)
    async with trio.open_nursery() as nursery:

        async def handler(_protocol: str, stream: Stream) -> None:
            buffer = memoryview(bytearray(CHUNK))
            meter = Meter()
            received = 0
            while count := await stream.receive_into(buffer):
                received += count
            say(bytes=received, **meter.read())
            nursery.cancel_scope.cancel()

        await nursery.start(plane.serve, handler)
        say(address=plane.addresses[0], peer=identity.member.peer)


async def send_plane(job: Job, identity: Identity, address: str, peer: PeerId) -> None:
    plane = transport(job, identity)

    async def nobody(_protocol: str, _stream: Stream) -> None:
        return

    async with trio.open_nursery() as nursery:
        await nursery.start(plane.serve, nobody)  # libp2p dials only while it serves
        stream = await plane.open_stream(peer, [address], PROTOCOL, 10)
        pace(job)
        data = os.urandom(job.write_kib * 1024)
        meter = Meter()
        for length in writes(job):
            await stream.send_all(memoryview(data)[:length])
        say(**meter.read())
        await stream.aclose()
        # A muxer may still be sending; the parent ends us when the receiver has everything.
        await trio.sleep(job.deadline)


def context(identity: Identity, *, server: bool) -> ssl.SSLContext:
    directory = identity.directory
    if directory is None:
        raise ValueError("the identity has no files")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    if server:
        tls.num_tickets = 0  # unread, they would turn the sender's close into a reset
    tls.load_verify_locations(cadata=identity.root)
    tls.load_cert_chain(directory / PASS, directory / NODE_KEY)
    return tls


def accept(identity: Identity) -> socket.socket:
    with socket.create_server((HOST, 0)) as listener:
        say(address=f"{HOST}:{listener.getsockname()[1]}", peer=identity.member.peer)
        return listener.accept()[0]


def connect(address: str) -> socket.socket:
    host, port = address.rsplit(":", maxsplit=1)
    return socket.create_connection((host, int(port)))


def receive_ssl(job: Job, identity: Identity) -> None:
    with context(identity, server=True).wrap_socket(accept(identity), server_side=True) as tls:
        buffer = memoryview(bytearray(CHUNK))
        meter = Meter()
        received = 0
        while received < job.length:
            received += tls.recv_into(buffer) or job.length
        say(bytes=received, **meter.read())


def send_ssl(job: Job, identity: Identity, address: str) -> None:
    with context(identity, server=False).wrap_socket(connect(address)) as tls:
        pace(job)
        data = os.urandom(job.write_kib * 1024)
        meter = Meter()
        for length in writes(job):
            tls.sendall(memoryview(data)[:length])
        say(**meter.read())


def trio_stream(identity: Identity, raw: socket.socket, *, server: bool) -> trio.SSLStream[trio.SocketStream]:
    raw.setblocking(False)
    plain = trio.SocketStream(trio.socket.from_stdlib_socket(raw))
    return trio.SSLStream(plain, context(identity, server=server), server_side=server)


async def receive_trio(job: Job, identity: Identity) -> None:
    stream = trio_stream(identity, accept(identity), server=True)
    await stream.do_handshake()
    meter = Meter()
    received = 0
    while received < job.length:
        received += len(await stream.receive_some(CHUNK)) or job.length
    say(bytes=received, **meter.read())


async def send_trio(job: Job, identity: Identity, address: str) -> None:
    stream = trio_stream(identity, connect(address), server=False)
    await stream.do_handshake()
    pace(job)
    data = os.urandom(job.write_kib * 1024)
    meter = Meter()
    for length in writes(job):
        await stream.send_all(memoryview(data)[:length])
    say(**meter.read())
    with trio.move_on_after(5):
        await stream.aclose()


def writes(job: Job) -> list[int]:
    """The lengths of the writes that make up the whole."""
    step = job.write_kib * 1024
    return [min(step, job.length - sent) for sent in range(0, job.length, step)]


def pace(job: Job) -> None:
    """Have the kernel pace every TCP connection of this process, whichever library holds it."""
    if not job.mbit:
        return
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            descriptor = int(link.name)
            if S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as copy:
                    if copy.family == socket.AF_INET and copy.type == socket.SOCK_STREAM:
                        copy.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, int(job.mbit * 125_000))


def work(role: str, job: Job, data_dir: Path, target: Sequence[str]) -> None:
    signal.alarm(job.deadline)
    identity = load(data_dir)
    if role == "receive":
        if job.plane == "ssl":
            receive_ssl(job, identity)
        else:
            trio.run(receive_trio if job.plane == "trio" else receive_plane, job, identity)
        return
    address, peer = target
    if job.plane == "ssl":
        send_ssl(job, identity, address)
    elif job.plane == "trio":
        trio.run(send_trio, job, identity, address)
    else:
        trio.run(send_plane, job, identity, address, PeerId(peer))


# --- the parent


def measure(job: Job, here: Path) -> dict[str, float]:
    """One transfer. Raises `RuntimeError` where a worker fails or the bytes do not arrive."""

    def start(role: str, *target: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "sim.bench_transport", "--work", role, json.dumps(asdict(job))]
        return subprocess.Popen([*command, str(here / role), *target], stdout=subprocess.PIPE, text=True)

    receiver = start("receive")
    workers = [receiver]
    try:
        where = answer(receiver)
        sender = start("send", str(where["address"]), str(where["peer"]))
        workers.append(sender)
        sent, received = answer(sender), answer(receiver)
        if received["bytes"] != job.length:
            raise RuntimeError(f"{job.plane}: {received['bytes']} of {job.length} bytes arrived")
        gib = job.length / GIB
        return {
            "receive_cpu_per_gib": float(received["cpu"]) / gib,
            "send_cpu_per_gib": float(sent["cpu"]) / gib,
            "mb_per_second": job.length / float(received["seconds"]) / 1e6,
        }
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def answer(worker: "subprocess.Popen[str]") -> dict[str, float | str]:
    line = worker.stdout.readline() if worker.stdout is not None else ""
    if not line:
        raise RuntimeError(f"a worker ended without a word: {worker.args!r}")
    facts: dict[str, float | str] = json.loads(line)
    return facts


def prepare(here: Path) -> None:
    """Two members of a fleet, as data directories named after their roles."""
    now = time.time()
    boss = init_fleet(here / "receive", "bench", "lab", "receiver", now)
    issuer = boss.issuer
    if issuer is None:
        raise RuntimeError("the first member of a fleet is no enroller")
    key = node_key(here / "send")
    accept_pass(here / "send", boss.root, issue_pass(issuer, Subject(key.peer_id, "lab", "sender"), now))


def table(rows: Sequence[dict[str, float | str]]) -> str:
    lines = [f"{'plane':<8} {'MB/s':>7} {'CPU s/GiB received':>20} {'sent':>6}"]
    lines += [
        f"{row['plane']:<8} {row['mb_per_second']:>7.0f} "
        f"{row['receive_cpu_per_gib']:>20.2f} {row['send_cpu_per_gib']:>6.2f}"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sim.bench_transport", description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="length of a transfer")
    parser.add_argument("--write-kib", type=int, default=1024, help="length of a write")
    parser.add_argument("--mbit", type=float, default=0, help="pace the sender; 0 is full speed")
    parser.add_argument("--repeat", type=int, default=3, help="the median of so many is shown")
    parser.add_argument("--deadline", type=int, default=120, help="seconds for one transfer")
    parser.add_argument("--plane", action="append", choices=PLANES, help="only these")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        role, job, data_dir, *target = options.work
        work(role, Job(**json.loads(job)), Path(data_dir), target)
        return
    rows: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory(prefix="meshsat-bench-") as here:
        prepare(Path(here))
        planes = options.plane or PLANES
        runs: dict[str, list[dict[str, float]]] = {plane: [] for plane in planes}
        for _ in range(options.repeat):  # planes take turns, so that what else the machine does hits all
            for plane in planes:
                job = Job(plane, options.mib, options.write_kib, options.mbit, options.deadline)
                runs[plane].append(measure(job, Path(here)))
    for plane, results in runs.items():
        medians = {name: statistics.median(result[name] for result in results) for name in results[0]}
        rows.append({"plane": plane, **medians})
    print(
        json.dumps({"mib": options.mib, "mbit": options.mbit, "rows": rows}) if options.json else table(rows)
    )


if __name__ == "__main__":
    main()
