"""Run inside a namespace: push blobs to a registry, fetch them again over a capped uplink, and watch the wire.

    python -m tests.netns.wan_client ADDRESS RATE ROUNDS BLOBS BYTES STRIPES

Prints JSON: samples of what the namespace's interfaces received, and the bytes that were fetched.
"""

import hashlib
import json
import sys
import threading
import time
from pathlib import Path

import httpx
import trio

from meshsat.config import UplinkSection, UpstreamRegistry
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.uplink.client import Uplink
from tests.images import random_bytes

REPOSITORY = "library/pos"
SAMPLE = 0.05
ETHERNET = 14
"""Bytes a packet that the interface counts and no line is billed for."""


def received() -> int:
    """Bytes of IP packets that came in over all but loopback."""
    total = 0
    for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]:
        name, _, counts = line.partition(":")
        if name.strip() != "lo":
            size, packets = map(int, counts.split()[:2])
            total += size - ETHERNET * packets
    return total


def push(address: str, blobs: list[bytes]) -> None:
    with httpx.Client(base_url=f"http://{address}", timeout=30) as http:
        for data in blobs:
            begun = http.post(f"/v2/{REPOSITORY}/blobs/uploads/").raise_for_status()
            place = httpx.URL(begun.headers["Location"]).copy_merge_params(
                {"digest": "sha256:" + hashlib.sha256(data).hexdigest()}
            )
            http.put(place, content=data).raise_for_status()


async def fetch(address: str, rate: int, rounds: int, blobs: list[bytes], stripes: int) -> int:
    section = UplinkSection(registries=(UpstreamRegistry(host=address, plain_http=True),), rate=rate)
    got = 0

    async def stripe(uplink: Uplink, data: bytes, start: int, stop: int) -> None:
        nonlocal got
        async with uplink.blob(address, REPOSITORY, Digest.of(data), start, stop, len(data)) as pieces:
            async for piece in pieces:
                got += len(piece)

    async with Uplink(section, Metrics(), environ={}) as uplink:
        for _ in range(rounds):
            async with trio.open_nursery() as nursery:
                for data in blobs:
                    step = len(data) // stripes
                    for start in range(0, step * stripes, step):
                        nursery.start_soon(stripe, uplink, data, start, start + step)
    return got


def main() -> None:
    address, *numbers = sys.argv[1:]
    rate, rounds, count, size, stripes = map(int, numbers)
    blobs = [random_bytes(size, seed=seed) for seed in range(count)]
    push(address, blobs)
    samples: list[tuple[float, int]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            samples.append((time.monotonic(), received()))
            time.sleep(SAMPLE)

    watcher = threading.Thread(target=watch)
    watcher.start()
    got = trio.run(fetch, address, rate, rounds, blobs, stripes)
    done.set()
    watcher.join()
    samples.append((time.monotonic(), received()))
    sys.stdout.write("\n" + json.dumps({"samples": samples, "got": got}) + "\n")


if __name__ == "__main__":
    main()
