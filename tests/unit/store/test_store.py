"""What the contract suite cannot see: faults of the disk, and what is done when nothing has changed."""

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio

from meshsat.errors import StorageError, StoreLockedError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.oci.media_types import OCI_MANIFEST
from meshsat.oci.reference import SITE
from meshsat.store.database import Database
from meshsat.store.records import TagRecord
from meshsat.store.store import SOURCES_LIMIT, Store
from tests.images import build_image

DIGEST = Digest.of(b"manifest")


def no_space(*_: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["write", "fsync"])
async def test_a_put_without_space_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with await Store.open(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, step, no_space)
            with pytest.raises(StorageError, match="free some space"):
                await store.put(b"manifest", DIGEST)
        assert store.blob_size(DIGEST) is None
        assert list((tmp_path / "store" / "incoming").iterdir()) == []
        await store.put(b"manifest", DIGEST)


async def test_a_start_that_changes_nothing_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await Store.open(tmp_path) as store:
        await store.put(b"manifest", DIGEST)
    monkeypatch.setattr("meshsat.store.disk.write_file", no_space)
    async with await Store.open(tmp_path) as store:
        assert store.blob_size(DIGEST) == 8


async def test_a_start_that_fails_lets_go_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Database, "contents", no_space)
        with pytest.raises(OSError, match="No space"):
            await Store.open(tmp_path)
    async with await Store.open(tmp_path):
        with pytest.raises(StoreLockedError):
            await Store.open(tmp_path)


async def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot make directory"):
        await Store.open(tmp_path / "file")


async def test_a_blob_cut_short_behind_our_back_is_not_padded(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        await store.put(b"manifest", DIGEST)
        path = tmp_path / "store" / "blobs" / "sha256" / DIGEST.hex
        path.chmod(0o600)
        os.truncate(path, 3)
        assert await store.read(DIGEST, 0, 3) == b"man"
        with pytest.raises(StorageError, match="too early"):
            await store.read(DIGEST, 0, 8)


async def test_sources_of_a_blob_are_bounded(tmp_path: Path) -> None:
    manifest = parse_manifest_untrusted(build_image([b"x"]).raw)
    async with await Store.open(tmp_path) as store:
        for number in range(SOURCES_LIMIT + 5):
            await store.learn(manifest, "reg.test", f"r{number}")
        facts = store.facts(manifest.digest)
        assert facts is not None
        assert len(facts.sources) == SOURCES_LIMIT
        assert ("reg.test", f"r{SOURCES_LIMIT + 4}") in facts.sources
    async with await Store.open(tmp_path) as store:
        assert store.facts(manifest.digest) == facts


async def test_many_ask_for_one_blob_at_once(tmp_path: Path) -> None:
    partials = []

    async def ask(store: Store) -> None:
        partials.append(await store.partial(DIGEST, 8))

    async with await Store.open(tmp_path) as store, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask, store)
    assert len(partials) == 5
    assert len(set(partials)) == 1


def told(author: str, number: int, registry: str = "reg.test") -> TagRecord:
    target = Descriptor(OCI_MANIFEST, DIGEST, 8)
    return TagRecord(registry, "a/b", f"{author}{number}", target, 1000.0 + number, author, b"sealed")


async def test_one_author_has_so_many_tags_kept_and_costs_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshsat.store.store.AUTHOR_LIMIT", 3)
    others = [told("a", 1), told("b", 2), told("c", 3, SITE)]
    async with await Store.open(tmp_path) as store:
        for record in others:
            await store.put_tag(record)
        for number in range(20):
            await store.put_tag(told("c", 100 + number))
        await store.put_tag(told("c", 5))  # older than its others: in, and out at once
        kept = [*others, *(told("c", number) for number in (117, 118, 119))]
        assert sorted(store.records(), key=lambda record: record.version) == kept
    async with await Store.open(tmp_path) as store:
        assert sorted(store.records(), key=lambda record: record.version) == kept


async def test_authors_that_showed_no_pass_count_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshsat.store.store.AUTHOR_LIMIT", 3)
    async with await Store.open(tmp_path) as store:
        store.is_member = lambda author: author == "a"
        honest = [told("a", number) for number in range(3)]
        for record in honest:
            await store.put_tag(record)
        for number in range(20):
            await store.put_tag(told(f"made up {number}", 100 + number))
        assert sorted(store.records(), key=lambda record: record.version)[:3] == honest
        assert len(store.records()) == 6


async def test_all_tags_together_have_a_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with await Store.open(tmp_path) as store:
        for number in range(10):
            await store.put_tag(told(f"author {number}", number))
    monkeypatch.setattr("meshsat.store.store.TAGS_LIMIT", 4)
    async with await Store.open(tmp_path) as store:  # as left by a version that kept more
        assert {record.resolved_at for record in store.records()} == {1006.0, 1007.0, 1008.0, 1009.0}
        await store.put_tag(told("another", 20))
        assert min(record.resolved_at for record in store.records()) == 1007.0
