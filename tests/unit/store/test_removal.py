"""A blob is let go of: at once from view, then from the disk; and nothing that began to rely on it is lost."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from meshsat.errors import NotFoundError, StorageError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.store.removal import QUARANTINE_FILES
from meshsat.store.store import Store
from tests.images import build_artifact, build_image, descriptor, random_bytes

DATA = random_bytes(700_000)
DIGEST = Digest.of(DATA)


def yes() -> bool:
    return True


async def test_it_is_gone_for_good_and_can_come_again(tmp_path: Path) -> None:
    dropped: list[Digest] = []
    async with await Store.open(tmp_path) as store:
        store.removal.on_dropped = dropped.append
        await store.put(DATA, DIGEST)
        assert await store.removal.drop(DIGEST, yes) == len(DATA)
        assert dropped == [DIGEST]
        assert await store.removal.drop(DIGEST, yes) == 0
        assert store.blob_size(DIGEST) is None
        assert not store.blob_path(DIGEST).exists()
        with pytest.raises(NotFoundError):
            await store.read(DIGEST, 0, 1)
        with pytest.raises(NotFoundError):
            await store.recipe(DIGEST)
    async with await Store.open(tmp_path) as store:
        assert store.blobs() == {}
        assert store.lost() == set()
        await store.put(DATA, DIGEST)
        assert await store.read(DIGEST, 0, 10) == DATA[:10]


async def test_who_is_asked_last_decides(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        await store.put(DATA, DIGEST)
        assert await store.removal.drop(DIGEST, lambda: False) == 0
        assert store.blob_size(DIGEST) == len(DATA)


@pytest.mark.parametrize("how", ["put", "partial", "adopt"])
async def test_what_comes_while_it_goes_is_not_lost(tmp_path: Path, how: str) -> None:
    """Begun while the file is being removed, in either order: at the end it is here, whole."""
    async with await Store.open(tmp_path) as store:
        for _ in range(20):
            await store.put(DATA, DIGEST)

            async def come() -> None:
                if how == "put":
                    await store.put(DATA, DIGEST)
                elif how == "adopt":
                    upload = await store.uploads.begin("site.internal/app")
                    async with upload.turn():
                        await upload.write(DATA)
                        await store.uploads.finish(upload, DIGEST)
                else:
                    while store.blob_size(DIGEST) is not None:
                        await trio.lowlevel.checkpoint()
                    partial = await store.partial(DIGEST, len(DATA))
                    for index in range(partial.cut.count):
                        offset, length = partial.cut.span(index)
                        await partial.write(index, DATA[offset : offset + length])
                    await partial.publish()

            async with trio.open_nursery() as nursery:
                # As a round asks: not what was claimed after it was chosen.
                age = store.ages.age(DIGEST)
                chosen_at = trio.current_time() - age
                await trio.sleep(0.002)
                nursery.start_soon(
                    store.removal.drop,
                    DIGEST,
                    lambda at=chosen_at: trio.current_time() - store.ages.age(DIGEST) <= at + 1e-4,
                )
                nursery.start_soon(come)
            assert store.blob_size(DIGEST) == len(DATA)
            assert store.blob_path(DIGEST).read_bytes() == DATA
            await store.removal.drop(DIGEST, yes)
    async with await Store.open(tmp_path) as store:
        assert store.blobs() == {}


async def test_killed_between_file_and_row_the_row_goes(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        await store.put(DATA, DIGEST)

        def killed(digest: Digest) -> None:
            raise StorageError("killed here")

        store._backing.database.drop_blob = killed  # type: ignore[method-assign]
        with pytest.raises(StorageError):
            await store.removal.drop(DIGEST, yes)
        assert store.blob_size(DIGEST) is None
    async with await Store.open(tmp_path) as store:
        assert store.blobs() == {}
        assert store.lost() == {DIGEST}


async def test_a_referrer_that_goes_refers_no_longer(tmp_path: Path) -> None:
    image = build_image([b"layer"])
    sbom = build_artifact(b"sbom", "application/x.sbom", descriptor(image.media_type, image.raw))
    subject, root = Digest.parse_untrusted(image.root), Digest.parse_untrusted(sbom.root)
    async with await Store.open(tmp_path) as store:
        await store.put(sbom.raw, root)
        await store.learn(parse_manifest_untrusted(sbom.raw), "reg.test", "pos")
        assert store.repositories.referrers("reg.test", "pos", subject)
        await store.removal.drop(root, yes)
        assert not store.repositories.referrers("reg.test", "pos", subject)


async def test_what_is_rotten_is_put_away_and_no_longer_served(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        await store.put(DATA, DIGEST)
        assert await store.removal.quarantine(DIGEST) == len(DATA)
        assert store.blob_size(DIGEST) is None
        assert store.lost() == {DIGEST}
        kept = tmp_path / "store" / "quarantine" / f"sha256-{DIGEST.hex}"
        assert kept.read_bytes() == DATA
        assert (store.removal.quarantined, store.room.quarantined) == (1, len(DATA))
        await store.put(DATA, DIGEST)
        assert store.lost() == set()


async def test_the_quarantine_keeps_the_newest_within_its_bounds(tmp_path: Path) -> None:
    async with await Store.open(tmp_path, 0) as store:
        store.removal.quarantine_limit = 10_000
        many = [f"{number:05d}".encode() for number in range(QUARANTINE_FILES + 6)]
        for data in many:
            await store.put(data, Digest.of(data))
            await store.removal.quarantine(Digest.of(data))
        kept = {path.read_bytes() for path in (tmp_path / "store" / "quarantine").iterdir()}
        assert kept == set(many[-QUARANTINE_FILES:])
        large = random_bytes(9_990)
        await store.put(large, Digest.of(large))
        await store.removal.quarantine(Digest.of(large))
        kept = {path.read_bytes() for path in (tmp_path / "store" / "quarantine").iterdir()}
        assert large in kept
        assert len(kept) == 3
        assert store.room.quarantined <= 10_000
        store.removal.quarantine_limit = 0
        await store.put(DATA, DIGEST)
        await store.removal.quarantine(DIGEST)
        assert not list((tmp_path / "store" / "quarantine").iterdir())


async def test_what_is_put_while_the_file_goes_has_its_file_afterwards(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        await store.put(DATA, DIGEST)
        unlink, begun, published = store.removal._unlink, threading.Event(), threading.Event()
        add_blobs = store._backing.database.add_blobs

        def slow(digest: Digest) -> None:
            begun.set()
            published.wait(0.2)  # who does not wait for the turn of this blob comes in between
            unlink(digest)

        def add(rows: Sequence[tuple[Digest, int, bytes]]) -> None:
            add_blobs(rows)
            published.set()

        store.removal._unlink = slow  # type: ignore[method-assign]
        store._backing.database.add_blobs = add  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.removal.drop, DIGEST, yes)
            await trio.to_thread.run_sync(begun.wait)
            await store.put(DATA, DIGEST)
        assert store.blob_path(DIGEST).read_bytes() == DATA
    async with await Store.open(tmp_path) as store:
        assert store.blob_size(DIGEST) == len(DATA)
