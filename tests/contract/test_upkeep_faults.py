"""Collection and eviction under a real `kill -9`, a real full disk, and bytes that change under us."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from meshsat.oci.digest import Digest
from meshsat.store.images import closure
from meshsat.store.store import Store
from tests.contract.store_collector import BUDGET, DESIRED, PINNED, later
from tests.tools import ROOT, require_root, require_tool

KILLS = 50


@pytest.mark.slow
async def test_kill_9_at_50_moments_of_collection_and_eviction(tmp_path: Path) -> None:
    """After each: what has a row has its file with the right bytes, what is shown is whole, nothing that is
    pinned or desired is missing, and no file lies about that nobody knows of."""
    rng = random.Random(5)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.contract.store_collector", str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    killed_at: Counter[str] = Counter()
    total = 60  # lines that a round says, as far as is known
    try:
        for number in range(1, KILLS + 1):
            # Whole rounds now and then, so that there is something to let go of in the next one.
            after = 1000 if number % 4 == 1 else rng.randint(1, total)
            order = {"round": number, "kill_after": after, "delay": rng.uniform(0, 0.002)}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            heard = json.loads(process.stdout.readline())
            killed_at[heard[-1] if heard else "start"] += 1
            await check(tmp_path, number)
    finally:
        process.kill()
        process.communicate()
    within = sum(count for step, count in killed_at.items() if "_unlink" in step or "drop" in step)
    assert within >= 10, f"the rounds must be killed while they let go: {killed_at}"


async def check(directory: Path, number: int) -> None:
    async with await Store.open(directory, unix=later(number)) as store:
        blobs = store.blobs()
        for digest, size in blobs.items():
            data = store.blob_path(digest).read_bytes()
            assert len(data) == size
            assert digest.matches(data), f"round {number}: {digest} is wrong"
        files = {path.name for path in (directory / "store" / "blobs" / "sha256").iterdir()}
        assert files == {digest.hex for digest in blobs}
        for image in store.images():
            whole = closure(image.descriptor.digest, blobs, lambda one: store.blob_path(one).read_bytes())
            assert whole.size == image.size
        shown = {image.name for image in store.images()}
        assert {"reg.test/pinned:1", "reg.test/desired:1"} <= shown
        for image_kept in (PINNED, DESIRED):
            assert all(Digest.parse_untrusted(text) in blobs for text in image_kept.contents)
        index = json.loads((directory / "store" / "index.json").read_text())
        named = {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]}
        assert named == shown
        assert store.room.used <= BUDGET


FILL = """
import os, random, sys, time, trio
from pathlib import Path
from meshsat.config import DiskSection
from meshsat.errors import StorageError, StorageFullError
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.store.store import Store
from meshsat.upkeep.task import Upkeep
from tests.contract.store_collector import hold
from tests.images import build_image, random_bytes

IMAGES = [build_image([random_bytes(700_000, number)]) for number in range(16)]
ROOTS = [Digest.parse_untrusted(image.root) for image in IMAGES]

async def main():
    root = Path(sys.argv[1])
    shift = [0.0]
    unix = lambda: time.time() + shift[0]
    def upkeep_of(store):
        return Upkeep(store, DiskSection(free=1_000_000, grace=60), Metrics(), held_elsewhere=lambda d: False,
                      wanted=lambda: (), unix=unix, chance=lambda: 0.5)
    async with await Store.open(root, unix=unix) as store:
        for number in range(4):
            await hold(store, IMAGES[number], f"image-{number}")
    shift[0] += 3600.0
    async with await Store.open(root, unix=unix) as store:  # what is there was pulled an hour ago
        upkeep = upkeep_of(store)
        for number in range(4, 8):
            await hold(store, IMAGES[number], f"image-{number}")
        kept = [int(image.repository[6:]) for image in store.images()]
        assert 4 <= len(kept) <= 7 and kept[-4:] == [4, 5, 6, 7] and 0 not in kept, kept
        assert os.statvfs(root).f_bavail * 4096 >= 1_000_000
        for number in kept:
            await store.pin(ROOTS[number], "asked for")
        try:
            while True:  # until nothing more fits
                number += 1
                await hold(store, IMAGES[number], f"image-{number}")
                await store.pin(ROOTS[number], "asked for")
                kept.append(number)
        except StorageFullError as full:
            assert "raise disk.budget" in str(full), full
        assert upkeep.status().intake_stopped
        # Somebody else takes all that is left.
        filler = root / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(65536))
                    file.flush()
            except OSError:
                pass
        for number in kept:
            for text, data in IMAGES[number].contents.items():
                assert await store.read(Digest.parse_untrusted(text), 0, len(data)) == data
        assert {int(image.repository[6:]) for image in store.images()} == set(kept)
    shift[0] += 3600.0
    async with await Store.open(root, unix=unix) as store:  # with the disk still full
        upkeep = upkeep_of(store)
        assert {int(image.repository[6:]) for image in store.images()} == set(kept)
        freed = 0
        for number in kept[:2]:
            try:
                await store.unpin(ROOTS[number], "asked for")
            except StorageError:
                filler.unlink(missing_ok=True)  # not even a word fits
                await store.unpin(ROOTS[number], "asked for")
        collected = await upkeep.gc()
        assert collected.refused is None
        await hold(store, IMAGES[15], "image-15")
        shown = {int(image.repository[6:]) for image in store.images()}
        assert set(kept[2:]) | {15} <= shown, (kept, shown)
        for number in shown:
            for text, data in IMAGES[number].contents.items():
                assert await store.read(Digest.parse_untrusted(text), 0, len(data)) == data
    print("went on with", sorted(shown))

trio.run(main)
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_evicts_then_stops_intake_and_breaks_nothing(tmp_path: Path) -> None:
    require_root()
    require_tool("unshare", "mount")
    script = 'mount -t tmpfs -o size=6m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FILL],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert "went on with" in done.stdout
