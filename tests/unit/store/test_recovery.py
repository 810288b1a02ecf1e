"""A store is filled, closed, harmed as a crash or a bad disk would harm it, and opened again."""

import os
import sqlite3
from pathlib import Path

import pytest

from meshsat.chunking.cut import MIN_CHUNK
from meshsat.chunking.recipe import Recipe
from meshsat.errors import StorageError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.store.database import SCHEMA_VERSION
from meshsat.store.layout import Layout
from meshsat.store.records import TagRecord
from meshsat.store.store import Store
from tests.images import build_image, random_bytes

DATA = random_bytes(3 * MIN_CHUNK + 1)
DIGEST = Digest.of(DATA)
IMAGE = build_image([b"layer"])
ROOT = Digest.parse_untrusted(IMAGE.root)


def chunk(index: int) -> bytes:
    return DATA[index * MIN_CHUNK : (index + 1) * MIN_CHUNK]


@pytest.fixture
async def filled(tmp_path: Path) -> Layout:
    """A closed store with a whole image, and a blob of which chunks 0 and 2 have come."""
    async with await Store.open(tmp_path) as store:
        for text, data in IMAGE.contents.items():
            await store.put(data, Digest.parse_untrusted(text))
        await store.publish_image("reg.test", "pos", "1", ROOT)
        descriptor = parse_manifest_untrusted(IMAGE.raw).descriptor
        await store.put_tag(TagRecord("reg.test", "pos", "1", descriptor, 5.0, "author"))
        partial = await store.partial(DIGEST, len(DATA))
        for index in (0, 2):
            await partial.write(index, chunk(index))
    return Layout(tmp_path)


async def test_what_was_being_written_is_cleared_away(filled: Layout) -> None:
    (filled.incoming_dir / "7").write_bytes(b"half a manifest")
    (filled.partial_dir / "sha256-stray").write_bytes(b"no row knows it")
    async with await Store.open(filled.data_dir) as store:
        assert list(store.partials()) == [DIGEST]
    assert list(filled.incoming_dir.iterdir()) == []
    assert list(filled.partial_dir.iterdir()) == [filled.partial(DIGEST)]


async def test_a_blob_named_but_not_yet_recorded_is_adopted_when_it_is_right(filled: Layout) -> None:
    filled.partial(DIGEST).write_bytes(DATA)
    filled.partial(DIGEST).rename(filled.blob(DIGEST))
    wrong = filled.blob(Digest.of(b"something else"))
    wrong.write_bytes(b"not that")
    foreign = filled.blob_dirs[0] / "README"
    foreign.write_bytes(b"left by a person")
    async with await Store.open(filled.data_dir) as store:
        assert store.blob_size(DIGEST) == len(DATA)
        assert await store.recipe(DIGEST) == Recipe.of(DATA)
        assert store.partials() == {}
        assert len(store.blobs()) == len(IMAGE.contents) + 1
    assert not wrong.exists()
    assert foreign.exists()


async def test_a_partial_without_its_file_is_forgotten(filled: Layout) -> None:
    filled.partial(DIGEST).unlink()
    async with await Store.open(filled.data_dir) as store:
        assert store.partials() == {}
        partial = await store.partial(DIGEST, len(DATA))
        assert not partial.chunks


async def test_a_partial_of_another_length_is_forgotten(filled: Layout) -> None:
    os.truncate(filled.partial(DIGEST), 100)
    async with await Store.open(filled.data_dir) as store:
        assert store.partials() == {}
    assert list(filled.partial_dir.iterdir()) == []


async def test_rotten_chunks_are_dropped_before_anyone_sees_them(filled: Layout) -> None:
    with filled.partial(DIGEST).open("r+b") as file:
        file.seek(2 * MIN_CHUNK + 77)
        file.write(b"!")
    async with await Store.open(filled.data_dir) as store:
        partial = await store.partial(DIGEST, len(DATA))
        assert list(partial.chunks) == [0]
        assert partial.have_bytes == MIN_CHUNK
        for index in (1, 2, 3):
            await partial.write(index, chunk(index))
        await partial.publish()
        assert await store.read(DIGEST, 0, len(DATA)) == DATA


@pytest.mark.parametrize("harm", ["removed", "cut short", "grown"])
async def test_images_that_lost_a_blob_are_no_longer_shown(filled: Layout, harm: str) -> None:
    layer = filled.blob(Digest.of(b"layer"))
    layer.chmod(0o600)
    if harm == "removed":
        layer.unlink()
    elif harm == "cut short":
        layer.write_bytes(b"lay")
    else:
        layer.write_bytes(b"layer and more")
    async with await Store.open(filled.data_dir) as store:
        assert store.images() == []
        assert store.blob_size(Digest.of(b"layer")) is None
        assert b"reg.test" not in filled.index.read_bytes()
        assert store.tag("reg.test", "pos", "1") is not None
        await store.put(b"layer", Digest.of(b"layer"))
        await store.publish_image("reg.test", "pos", "1", ROOT)
    assert b"reg.test/pos:1" in filled.index.read_bytes()


async def check_rebuilt(layout: Layout) -> None:
    async with await Store.open(layout.data_dir) as store:
        assert store.blobs() == {
            Digest.parse_untrusted(text): len(data) for text, data in IMAGE.contents.items()
        }
        (image,) = store.images()
        assert (image.name, image.descriptor.digest, image.size) == ("reg.test/pos:1", ROOT, IMAGE.size)
        tag = store.tag("reg.test", "pos", "1")
        assert tag is not None
        assert (tag.descriptor.digest, tag.resolved_at) == (ROOT, 0.0)
        facts = store.facts(Digest.of(b"layer"))
        assert facts is not None
        assert facts.sources == (("reg.test", "pos"),)
        assert store.partials() == {}
    assert list(layout.partial_dir.iterdir()) == []
    async with await Store.open(layout.data_dir) as store:
        assert len(store.images()) == 1


@pytest.mark.parametrize("harm", ["garbage", "header", "half", "page", "empty", "gone", "no table"])
async def test_a_broken_database_is_rebuilt_from_the_disk(filled: Layout, harm: str) -> None:
    raw = filled.database.read_bytes()
    if harm == "gone":
        filled.database.unlink()
    elif harm == "no table":
        connection = sqlite3.connect(filled.database)
        connection.execute("DROP TABLE image")
        connection.close()
    else:
        filled.database.write_bytes(
            {
                "garbage": b"this is no database" * 1000,
                "header": b"\0" * 100 + raw[100:],
                "half": raw[: len(raw) // 2],
                "page": raw[:4096] + b"\xa5" * (len(raw) - 4096),
                "empty": b"",
            }[harm]
        )
    await check_rebuilt(filled)
    assert filled.broken_database.exists() == (harm not in ("gone", "empty"))


async def test_rebuilding_that_was_cut_off_is_done_again(
    filled: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.database.write_bytes(b"garbage")
    with monkeypatch.context() as patch:
        patch.setattr("meshsat.store.recovery.decode_index_untrusted", lambda raw: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await Store.open(filled.data_dir)
    await check_rebuilt(filled)


async def test_a_database_of_a_newer_meshsat_stops_the_start_and_stays(filled: Layout) -> None:
    connection = sqlite3.connect(filled.database)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StorageError, match="newer meshsat"):
        await Store.open(filled.data_dir)
    assert not filled.broken_database.exists()


async def test_an_index_that_cannot_be_read_costs_the_names_not_the_blobs(filled: Layout) -> None:
    filled.database.unlink()
    filled.index.write_bytes(b"{")
    async with await Store.open(filled.data_dir) as store:
        assert len(store.blobs()) == len(IMAGE.contents)
        assert store.images() == []
    assert filled.index.read_bytes().startswith(b"{\n")


async def test_an_image_that_a_power_cut_took_from_the_database_is_taken_from_the_index(
    filled: Layout,
) -> None:
    """The last transactions may be missing, the index is durable."""
    connection = sqlite3.connect(filled.database)
    connection.execute("DELETE FROM image")
    connection.execute("DELETE FROM tag")
    connection.commit()
    connection.close()
    async with await Store.open(filled.data_dir) as store:
        (image,) = store.images()
        assert (image.name, image.descriptor.digest) == ("reg.test/pos:1", ROOT)
        tag = store.tag("reg.test", "pos", "1")
        assert tag is not None
        assert tag.resolved_at == 0.0


@pytest.mark.parametrize("known", ["another meaning", "gone"])
async def test_what_the_database_knows_better_is_not_taken_from_the_index(filled: Layout, known: str) -> None:
    connection = sqlite3.connect(filled.database)
    connection.execute("DELETE FROM image")
    if known == "gone":
        connection.execute("UPDATE tag SET size = 0")
    else:
        connection.execute("UPDATE tag SET digest = ?", (str(DIGEST),))
    connection.commit()
    connection.close()
    async with await Store.open(filled.data_dir) as store:
        assert store.images() == []
        (tag,) = store.records()
        assert tag.is_gone is (known == "gone")
        assert tag.resolved_at == 5.0


async def test_a_database_that_broke_in_use_is_not_opened_again(filled: Layout) -> None:
    """Whatever a check says of it: it broke."""
    filled.rotten_database.touch()
    async with await Store.open(filled.data_dir) as store:
        assert [image.name for image in store.images()] == ["reg.test/pos:1"]
        assert store.records()[0].resolved_at == 0.0
    assert filled.broken_database.exists()
    assert not filled.rotten_database.exists()
