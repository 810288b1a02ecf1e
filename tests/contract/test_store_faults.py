"""The store under a real `kill -9`, a real full disk, and a second real process."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshsat.chunking.cut import MIN_CHUNK
from meshsat.oci.digest import Digest
from meshsat.store.store import Store
from tests.contract.store_writer import WRITERS, make_blob
from tests.tools import ROOT, require_root, require_tool

ROUNDS = 20
SIZES = (0, 5 * MIN_CHUNK - 9, 14 * MIN_CHUNK)


class Writer:
    """The process of `store_writer.py`."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.store_writer", str(directory)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def killed(self, **order: float) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        heard: list[str] = json.loads(self.process.stdout.readline())
        return heard


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    started = Writer(tmp_path)
    yield started
    started.process.kill()
    started.process.communicate()


@pytest.mark.slow
async def test_kill_9_at_any_moment_loses_only_what_was_in_flight(tmp_path: Path, writer: Writer) -> None:
    rng = random.Random(9)
    published, size, kept = 0, SIZES[2], set[int]()
    for round_number in range(ROUNDS):
        data = make_blob(published, size)
        digest = Digest.of(data)
        chunks = -(-size // MIN_CHUNK)
        after, delay = rng.randint(0, 6), rng.uniform(0, 0.004)
        heard = writer.killed(blob_seed=published, size=size, kill_after=after, delay=delay)
        acknowledged = {int(line) for line in heard if line != "published"}
        async with await Store.open(tmp_path) as store:
            whole = store.blob_size(digest) is not None
            assert whole or "published" not in heard
            if whole:
                assert (
                    b"".join(
                        [await store.read(digest, at, at + MIN_CHUNK) for at in range(0, size, MIN_CHUNK)]
                    )
                    == data
                )
                assert (await store.recipe(digest)).cut.count == chunks
                published, size, kept = published + 1, rng.choice(SIZES), set()
                continue
            partial = await store.partial(digest, size)
            have = set(partial.chunks)
            assert kept | acknowledged <= have, f"round {round_number}: chunks were lost"
            assert len(have - kept - acknowledged) <= WRITERS
            for index in have:
                assert await partial.read(index) == data[index * MIN_CHUNK : (index + 1) * MIN_CHUNK]
            kept = have
    assert published >= 3, "the rounds must reach the end of blobs too"
    assert not list((tmp_path / "store" / "incoming").iterdir())


FILL = """
import random, sys, trio
from pathlib import Path
from meshsat.chunking.cut import MIN_CHUNK
from meshsat.errors import StorageError
from meshsat.oci.digest import Digest
from meshsat.store.store import Store

data = random.Random(1).randbytes(32 * MIN_CHUNK)

async def main():
    root = Path(sys.argv[1])
    async with await Store.open(root) as store:
        small = b"manifest"
        await store.put(small, Digest.of(small))
        partial = await store.partial(Digest.of(data), len(data))
        written, refusals = 0, []
        for index in range(partial.cut.count):
            try:
                await partial.write(index, data[index * MIN_CHUNK:(index + 1) * MIN_CHUNK])
                written += 1
            except StorageError as full:
                refusals.append(str(full))
        big = bytes(4 * 1024 * 1024)
        try:
            await store.put(big, Digest.of(big))
        except StorageError as full:
            refusals.append(str(full))
        assert 4 <= written <= 20, written
        assert all("No space left" in text or "full" in text for text in refusals), refusals
        assert "free some space" in refusals[0], refusals[0]
        assert await store.read(Digest.of(small), 0, 8) == small
        for index in partial.chunks:
            assert await partial.read(index) == data[index * MIN_CHUNK:(index + 1) * MIN_CHUNK]
    async with await Store.open(root) as store:  # with the disk still full
        partial = await store.partial(Digest.of(data), len(data))
        assert len(partial.chunks) == written
        assert store.blobs().keys() == {Digest.of(small)}
        await partial.discard()
        await store.put(big[:MIN_CHUNK], Digest.of(big[:MIN_CHUNK]))  # and there is space again
    print("intact after", written, "chunks")

trio.run(main)
"""


def test_a_full_disk_breaks_nothing(tmp_path: Path) -> None:
    require_root()
    require_tool("unshare", "mount")
    # In a mount namespace of its own: nothing is left behind however it ends.
    script = 'mount -t tmpfs -o size=5m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FILL],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "intact after" in done.stdout


async def test_a_second_process_refuses(tmp_path: Path) -> None:
    script = "import sys, trio; from pathlib import Path; from meshsat.store.store import Store; trio.run(Store.open, Path(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(tmp_path)]
    async with await Store.open(tmp_path):
        refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode != 0
    assert f"StoreLockedError: data directory {tmp_path} is in use by process" in refused.stderr
