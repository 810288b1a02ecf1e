"""A process that writes one blob after the other into a store and is killed while it does. Not a test.

Reads one JSON object a line: {"blob_seed", "size", "kill_after" (lines heard), "delay" (seconds after that)}. For each
it forks a writer, kills it with SIGKILL, and prints what the writer had said by then: the chunks that were
acknowledged, and whether the blob was.
"""

import functools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import trio

from meshsat.chunking.cut import MIN_CHUNK
from meshsat.oci.digest import Digest
from meshsat.store.partial import AlreadyPublishedError, Partial
from meshsat.store.store import Store
from meshsat.store.whole import SmallBlob

WRITERS = 3


@functools.cache
def make_blob(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


async def write_blob(directory: Path, data: bytes, say: int) -> None:
    async with await Store.open(directory) as store:
        try:
            partial = await store.partial(Digest.of(data), len(data))
        except AlreadyPublishedError:
            os.write(say, b"published\n")
            return
        missing = [index for index in range(partial.cut.count) if index not in partial.chunks]
        random.shuffle(missing)
        queue = iter(missing)

        async def write_some(partial: Partial | SmallBlob) -> None:
            for index in queue:
                await partial.write(index, data[index * MIN_CHUNK : (index + 1) * MIN_CHUNK])
                os.write(say, f"{index}\n".encode())

        async with trio.open_nursery() as nursery:
            for _ in range(WRITERS):
                nursery.start_soon(write_some, partial)
        await partial.publish()
        os.write(say, b"published\n")


def run_and_kill(directory: Path, order: dict[str, float]) -> list[str]:
    data = make_blob(int(order["blob_seed"]), int(order["size"]))
    hear, say = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(hear)
        os.dup2(2, 1)  # the log must not mix with the answers
        trio.run(write_blob, directory, data, say)
        os._exit(0)
    os.close(say)
    with os.fdopen(hear, "rb") as lines:
        heard = [
            line.decode().strip() for _, line in zip(range(int(order["kill_after"])), lines, strict=False)
        ]
        time.sleep(order["delay"])
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        return heard + [line.decode().strip() for line in lines]


if __name__ == "__main__":
    for request in sys.stdin:
        sys.stdout.write(json.dumps(run_and_kill(Path(sys.argv[1]), json.loads(request))) + "\n")
        sys.stdout.flush()
