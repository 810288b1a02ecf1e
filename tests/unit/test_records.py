"""What tags mean outlasts a restart, and a younger word is never replaced by an older one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from meshsat import records as module
from meshsat.errors import StorageError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.protocol.gossip import ImageRecord, seal
from meshsat.records import RecordKeeper, from_store_untrusted
from meshsat.store.records import TagRecord
from meshsat.store.store import Store
from meshsat.trust.keys import NodeKey

NOW = 1_800_000_000.0
KEY = NodeKey.generate()


def record(tag: str = "42", at: float = NOW, content: bytes = b"m") -> ImageRecord:
    reference = str(Digest.of(content)) if tag == "digest" else tag
    return seal(
        KEY,
        registry="up.example",
        repository="library/pos",
        reference=reference,
        media_type="application/vnd.oci.image.manifest.v1+json",
        digest=Digest.of(content),
        size=7,
        resolved_at=at,
    )


@asynccontextmanager
async def keeping(directory: Path) -> AsyncIterator[tuple[Store, RecordKeeper]]:
    async with await Store.open(directory, threads=0) as store, trio.open_nursery() as nursery:
        keeper = RecordKeeper(store)
        nursery.start_soon(keeper.run)
        yield store, keeper
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_record_outlasts_a_restart_and_can_still_be_passed_on(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (_, keeper):
        keeper.keep(record("1"))
        keeper.keep(record("2"))
        keeper.keep(record("3"))
    async with keeping(tmp_path) as (store, _):
        found = from_store_untrusted(store, NOW)
        assert sorted(found, key=lambda one: one.reference) == [record("1"), record("2"), record("3")]
        tag = store.tag("up.example", "library/pos", "1")
        assert tag is not None
        assert (tag.descriptor.size, tag.resolved_at, tag.author) == (7, NOW, KEY.peer_id)


async def test_the_younger_word_stays(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (store, keeper):
        young, old = record(at=NOW, content=b"young"), record(at=NOW - 1, content=b"old")
        for first, second in ((young, old), (old, young)):
            keeper.keep(first)
            keeper.keep(second)
            await trio.testing.wait_all_tasks_blocked()
            (tag,) = store.all_tags()
            assert tag.descriptor.digest == young.digest


async def test_answers_by_digest_are_not_kept_as_tags(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (store, keeper):
        keeper.keep(record("digest"))
        await trio.testing.wait_all_tasks_blocked()
        assert store.all_tags() == []


async def test_what_does_not_verify_is_left_out_and_still_resolves(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (store, _):
        good = record("good")
        row = TagRecord(*good.key, Descriptor("m", good.digest, 7), NOW, KEY.peer_id, good.sealed)
        await store.put_tag(row)
        await store.put_tag(replace(row, tag="lost", sealed=b""))
        await store.put_tag(
            replace(row, tag="rotten", sealed=good.sealed[:-1] + bytes([good.sealed[-1] ^ 1]))
        )
        await store.put_tag(replace(row, tag="future", sealed=record("future", NOW + 86_400).sealed))
        assert from_store_untrusted(store, NOW) == [good]
        assert len(store.all_tags()) == 4


async def test_a_full_disk_loses_a_record_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(tmp_path) as (store, keeper):
        put = store.put_tag

        async def full(row: TagRecord) -> None:
            if row.tag == "1":
                raise StorageError("no space left")
            await put(row)

        monkeypatch.setattr(store, "put_tag", full)
        keeper.keep(record("1"))
        keeper.keep(record("2"))
        await trio.testing.wait_all_tasks_blocked()
        assert [row.tag for row in store.all_tags()] == ["2"]


async def test_more_than_the_disk_takes_are_dropped_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE", 3)
    async with await Store.open(tmp_path, threads=0) as store:
        keeper = RecordKeeper(store)  # that does not run
        for number in range(5):
            keeper.keep(record(str(number)))
        with trio.move_on_after(0.1):
            await keeper.run()
        assert [row.tag for row in store.all_tags()] == ["0", "1", "2"]
