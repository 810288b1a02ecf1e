"""The store against a model of it: any order of writes, lies, second thoughts and restarts."""

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import structlog
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from meshsat.chunking.cut import MIN_CHUNK
from meshsat.chunking.recipe import Recipe
from meshsat.errors import DigestMismatchError, StorageError
from meshsat.oci.digest import Digest
from meshsat.store.partial import Partial
from meshsat.store.store import Store
from meshsat.store.whole import SmallBlob
from tests.images import random_bytes

T = TypeVar("T")
BLOBS = [random_bytes(3 * MIN_CHUNK - 5, 1), random_bytes(2 * MIN_CHUNK, 2)]
DIGESTS = [Digest.of(BLOBS[0]), Digest.of(BLOBS[1], "sha512")]
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""A model makes many stores: their syncing is left out where there is a file system in memory."""
BLOB = st.integers(0, 1)
INDEX = st.integers(0, 2)


class StoreMachine(RuleBasedStateMachine):
    """Bookkeeping: which chunks a partial blob has, and whether with the right bytes; which blobs are whole."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="meshsat-model-", dir=MEMORY))
        self.store = trio.run(Store.open, self.directory, 0)
        self.chunks: list[dict[int, bool]] = [{}, {}]
        self.whole = [False, False]

    def teardown(self) -> None:
        trio.run(self.store.aclose)
        shutil.rmtree(self.directory)

    def run_on(self, blob: int, work: Callable[[Partial | SmallBlob], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work(await self.store.partial(DIGESTS[blob], len(BLOBS[blob])))

        return trio.run(run)

    @staticmethod
    def bytes_for(blob: int, index: int, right: bool) -> bytes:
        data = BLOBS[blob][index * MIN_CHUNK : (index + 1) * MIN_CHUNK]
        return data if right else data[:-1] + bytes([data[-1] ^ 1])

    @rule(blob=BLOB, index=INDEX, right=st.booleans())
    def write(self, blob: int, index: int, right: bool) -> None:
        if self.whole[blob] or index >= len(Recipe.of(BLOBS[blob]).chunks):
            return
        data = self.bytes_for(blob, index, right)
        if self.chunks[blob].get(index, right) == right:
            self.run_on(blob, lambda partial: partial.write(index, data))
            self.chunks[blob][index] = right
        else:
            with pytest.raises(DigestMismatchError):
                self.run_on(blob, lambda partial: partial.write(index, data))

    @rule(blob=BLOB, index=INDEX)
    def write_with_a_recipe(self, blob: int, index: int) -> None:
        expected = Recipe.of(BLOBS[blob]).chunks
        if self.whole[blob] or index >= len(expected):
            return
        with pytest.raises(DigestMismatchError):
            self.run_on(
                blob,
                lambda partial: partial.write(
                    index, self.bytes_for(blob, index, right=False), expected[index]
                ),
            )

    @rule(blob=BLOB, indexes=st.sets(INDEX))
    def forget(self, blob: int, indexes: set[int]) -> None:
        if not self.whole[blob]:
            self.run_on(blob, lambda partial: partial.forget(indexes))
            for index in indexes:
                self.chunks[blob].pop(index, None)

    @rule(blob=BLOB)
    def publish(self, blob: int) -> None:
        if self.whole[blob]:
            return
        have = self.chunks[blob]
        if len(have) < len(Recipe.of(BLOBS[blob]).chunks):
            with pytest.raises(StorageError):
                self.run_on(blob, lambda partial: partial.publish())
        elif not all(have.values()):
            with pytest.raises(DigestMismatchError):
                self.run_on(blob, lambda partial: partial.publish())
        else:
            self.run_on(blob, lambda partial: partial.publish())
            self.whole[blob], self.chunks[blob] = True, {}

    @rule(blob=BLOB)
    def discard(self, blob: int) -> None:
        if not self.whole[blob]:
            self.run_on(blob, lambda partial: partial.discard())
            self.chunks[blob] = {}

    @rule(blob=BLOB)
    def put(self, blob: int) -> None:
        """The whole comes by another way while chunks of it are here."""
        if not self.chunks[blob] and not self.store.partials():
            trio.run(self.store.put, BLOBS[blob], DIGESTS[blob])
            self.whole[blob] = True

    @rule()
    def restart(self) -> None:
        trio.run(self.store.aclose)
        self.store = trio.run(Store.open, self.directory, 0)

    @precondition(lambda self: any(self.chunks))
    @rule()
    def every_chunk_here_reads_as_it_was_written(self) -> None:
        for blob, chunks in enumerate(self.chunks):
            for index, right in chunks.items():
                assert self.run_on(blob, _reader(index)) == self.bytes_for(blob, index, right)

    @invariant()
    def what_is_whole_is_right(self) -> None:
        sizes = {DIGESTS[blob]: len(BLOBS[blob]) for blob in (0, 1) if self.whole[blob]}
        assert self.store.blobs() == sizes
        for blob in (0, 1):
            if self.whole[blob]:
                read = trio.run(self.store.read, DIGESTS[blob], 0, len(BLOBS[blob]))
                assert read == BLOBS[blob]
                recipe = trio.run(self.store.recipe, DIGESTS[blob])
                assert recipe == Recipe.of(BLOBS[blob], DIGESTS[blob].algorithm)

    @invariant()
    def the_count_of_bytes_is_right(self) -> None:
        for digest in self.store.partials():
            blob = DIGESTS.index(digest)
            have = self.run_on(blob, _have)
            assert have == sum(len(self.bytes_for(blob, index, right=True)) for index in self.chunks[blob])


def _reader(index: int) -> Callable[[Partial | SmallBlob], Awaitable[bytes]]:
    return lambda partial: partial.read(index)


async def _have(partial: Partial | SmallBlob) -> int:
    return partial.have_bytes


def test_the_store_is_as_its_model() -> None:
    with structlog.testing.capture_logs():
        run_state_machine_as_test(
            StoreMachine,
            settings=settings(
                derandomize=True, database=None, deadline=None, max_examples=10, stateful_step_count=25
            ),
        )
