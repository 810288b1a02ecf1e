"""One blocking TLS 1.3 connection and no mesh: what a byte costs at least, for bench_node to compare with.

    python -m sim.plain_ssl serve IDENTITY HOST FILE            says its port, sends FILE to who connects
    python -m sim.plain_ssl fetch IDENTITY HOST PORT FILE SIZE  receives, hashes (SHA-256), writes

IDENTITY is a node's data directory: the same passes, the same cipher. Each says on one line of JSON the CPU
and wall seconds from the end of its handshake to the last byte. Bounded: it ends itself after `DEADLINE`.
"""

import hashlib
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from meshsat.mesh.identity import load
from sim.bench_transport import MIB, Meter, context

DEADLINE = 300
"""Seconds."""


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def serve(data_dir: Path, host: str, file: Path) -> None:
    tls_context = context(load(data_dir), server=True)
    with socket.create_server((host, 0)) as listener:
        say(port=listener.getsockname()[1])
        raw, _ = listener.accept()
    with tls_context.wrap_socket(raw, server_side=True) as tls, file.open("rb", buffering=0) as source:
        buffer = memoryview(bytearray(MIB))
        meter = Meter()
        while count := source.readinto(buffer):
            tls.sendall(buffer[:count])
        say(**meter.read())


def fetch(data_dir: Path, host: str, port: int, file: Path, size: int) -> None:
    with (
        context(load(data_dir), server=False).wrap_socket(socket.create_connection((host, port))) as tls,
        file.open("wb", buffering=0) as target,
    ):
        buffer = memoryview(bytearray(MIB))
        meter = Meter()
        received, digest = 0, hashlib.sha256()
        while received < size:
            length = _fill(tls, buffer[: min(MIB, size - received)])
            digest.update(buffer[:length])
            os.pwrite(target.fileno(), buffer[:length], received)
            received += length
        say(digest=f"sha256:{digest.hexdigest()}", **meter.read())


def _fill(tls: ssl.SSLSocket, buffer: memoryview) -> int:
    filled = 0
    while filled < len(buffer):
        count = tls.recv_into(buffer[filled:])
        if not count:
            raise ConnectionError("the other side ended too early")
        filled += count
    return filled


def main(arguments: Sequence[str]) -> None:
    signal.alarm(DEADLINE)
    match arguments:
        case ("serve", data_dir, host, file):
            serve(Path(data_dir), host, Path(file))
        case ("fetch", data_dir, host, port, file, size):
            fetch(Path(data_dir), host, int(port), Path(file), int(size))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
