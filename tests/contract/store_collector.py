"""A process that collects and evicts in a store and is killed while it does. Not a test.

Reads one JSON object a line: {"round", "kill_after" (lines heard), "delay" (seconds after that)}. For each it
forks a worker, kills it with SIGKILL, and prints what the worker had said by then: the steps it had come to.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from meshsat.config import DiskSection
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.store.records import TagRecord
from meshsat.store.store import Store
from meshsat.upkeep.task import Upkeep
from tests.images import Image, build_image, random_bytes

DAY = 24 * 3600.0
REGISTRY = "reg.test"
SHARED = random_bytes(300_000, 1)
PINNED = build_image([SHARED, random_bytes(20_000, 2)])
DESIRED = build_image([SHARED, random_bytes(20_000, 3)], ("linux/amd64", "linux/arm64"))
BUDGET = 900_000


def image_of(round_number: int, number: int) -> Image:
    layer = random_bytes(60_000 + 1000 * number, 1000 + 10 * round_number + number)
    return build_image([SHARED, layer] if number % 2 else [layer])


def later(round_number: int) -> Callable[[], float]:
    """What an earlier round left is a day old."""
    return lambda: time.time() + round_number * DAY


async def hold(store: Store, image: Image, repository: str) -> None:
    for text, data in image.contents.items():
        await store.put(data, Digest.parse_untrusted(text))
    for text, raw in image.manifests.items():
        await store.learn(parse_manifest_untrusted(raw, image.media_types[text]), REGISTRY, repository)
    root = parse_manifest_untrusted(image.raw).descriptor
    await store.put_tag(TagRecord(REGISTRY, repository, "1", root, time.time(), "author"))
    await store.publish_image(REGISTRY, repository, "1", root.digest)


async def prepare(directory: Path) -> None:
    async with await Store.open(directory) as store:
        await hold(store, PINNED, "pinned")
        await store.pin(Digest.parse_untrusted(PINNED.root), "asked for")
        await hold(store, DESIRED, "desired")


def telling(say: Callable[[str], None], name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def told(*values: Any) -> Any:
        say(f"before {name}")
        done = work(*values)
        say(f"after {name}")
        return done

    return told


async def work(directory: Path, round_number: int, pipe: int) -> None:
    def say(step: str) -> None:
        os.write(pipe, f"{step}\n".encode())

    async with await Store.open(directory, unix=later(round_number)) as store:
        upkeep = Upkeep(
            store,
            DiskSection(budget=BUDGET, high=0.8, low=0.6, grace=60, partial_age=60),
            Metrics(),
            held_elsewhere=lambda _digest: False,
            wanted=lambda: (),
            unix=later(round_number),
            chance=lambda: 0.5,
        )
        upkeep.desired = lambda: (Digest.parse_untrusted(DESIRED.root),)
        database, removal = store._backing.database, store.removal
        for owner, name in ((removal, "_unlink"), (database, "drop_blob"), (database, "drop_image")):
            setattr(owner, name, telling(say, name, getattr(owner, name)))
        store._write_index = telling(say, "index", store._write_index)  # type: ignore[method-assign]
        say("open")
        await upkeep.gc()
        say("collected")
        for number in range(5):
            await hold(store, image_of(round_number, number), f"image-{number}")
            say(f"held {number}")
        partial = await store.partial(Digest.of(random_bytes(600_000, round_number)), 600_000)
        await partial.write(0, random_bytes(600_000, round_number)[: partial.cut.chunk_length])
        say("done")
        await trio.sleep_forever()


def run_and_kill(directory: Path, order: dict[str, Any]) -> list[str]:
    hear, pipe = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(hear)
        trio.run(work, directory, order["round"], pipe)
        os._exit(0)
    os.close(pipe)
    with os.fdopen(hear, "rb") as lines:
        heard: list[str] = []
        while len(heard) < order["kill_after"] and (not heard or heard[-1] != "done"):
            line = lines.readline()
            if not line:
                break
            heard.append(line.decode().strip())
        time.sleep(order["delay"])
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        return heard + [line.decode().strip() for line in lines]


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the log must not mix with the answers
    trio.run(prepare, Path(sys.argv[1]))
    for request in sys.stdin:
        answers.write(json.dumps(run_and_kill(Path(sys.argv[1]), json.loads(request))) + "\n")
        answers.flush()
