"""What every part of the house may rely on from the store. Run with worker threads, and on the event loop itself
(`threads=0`), which is what tests under a mock clock use."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from meshsat.chunking.cut import MIN_CHUNK
from meshsat.chunking.recipe import Recipe
from meshsat.errors import DigestMismatchError, NotFoundError, StorageError, StoreLockedError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.store.partial import AlreadyPublishedError, Partial
from meshsat.store.published import READ_LIMIT
from meshsat.store.records import TagRecord
from meshsat.store.store import Store
from meshsat.store.whole import SmallBlob
from tests.images import Image, build_image, random_bytes

DATA = random_bytes(4 * MIN_CHUNK + 11)
DIGEST = Digest.of(DATA)
REGISTRY, REPOSITORY = "reg.example.test", "library/pos"


@pytest.fixture(params=[4, 0], ids=["threads", "inline"])
def threads(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


@pytest.fixture
async def store(tmp_path: Path, threads: int) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path, threads) as opened:
        yield opened


def chunk(index: int, data: bytes = DATA) -> bytes:
    return data[index * MIN_CHUNK : (index + 1) * MIN_CHUNK]


async def fill(partial: Partial | SmallBlob, data: bytes, order: list[int] | None = None) -> None:
    for index in order or range(partial.cut.count):
        await partial.write(index, chunk(index, data))


async def put_image(store: Store, image: Image, leave_out: str | None = None) -> Digest:
    for digest, data in image.contents.items():
        if digest != leave_out:
            await store.put(data, Digest.parse_untrusted(digest))
    return Digest.parse_untrusted(image.root)


# Blobs


async def test_a_blob_comes_back(store: Store) -> None:
    digest = Digest.of(b"manifest")
    assert store.blob_size(digest) is None
    await store.put(b"manifest", digest)
    await store.put(bytearray(b"manifest"), digest)
    assert store.blob_size(digest) == 8
    assert store.blobs() == {digest: 8}
    assert await store.read(digest, 0, 8) == b"manifest"
    assert await store.read(digest, 3, 5) == b"if"
    assert await store.read(digest, -5, 100) == b"manifest"
    assert await store.read(digest, 8, 100) == await store.read(digest, 5, 2) == b""
    assert await store.recipe(digest) == Recipe.of(b"manifest")


async def test_bytes_under_a_wrong_name_are_refused(store: Store) -> None:
    with pytest.raises(DigestMismatchError):
        await store.put(b"other", DIGEST)
    assert store.blobs() == {}
    with pytest.raises(NotFoundError):
        await store.read(DIGEST, 0, 1)
    with pytest.raises(NotFoundError):
        await store.recipe(DIGEST)


async def test_one_read_is_bounded(store: Store) -> None:
    data = bytes(READ_LIMIT + 1)
    await store.put(data, Digest.of(data))
    assert len(await store.read(Digest.of(data), 1, READ_LIMIT + 1)) == READ_LIMIT
    with pytest.raises(ValueError, match="more than"):
        await store.read(Digest.of(data), 0, READ_LIMIT + 1)


# Blobs on their way


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_chunks_in_any_order_become_the_blob(store: Store, order: list[int], algorithm: str) -> None:
    digest = Digest.of(DATA, algorithm)
    partial = await store.partial(digest, len(DATA))
    assert store.partials() == {digest: len(DATA)}
    await fill(partial, DATA, order)
    assert partial.have_bytes == len(DATA)
    assert store.blob_size(digest) is None
    await partial.publish()
    await partial.publish()
    assert store.blob_size(digest) == len(DATA)
    assert store.partials() == {}
    assert await store.read(digest, 0, len(DATA)) == DATA
    assert await store.recipe(digest) == Recipe.of(DATA, algorithm)
    with pytest.raises(AlreadyPublishedError):
        await store.partial(digest, len(DATA))
    assert await partial.write(1, chunk(1)) == partial.chunks[1]  # a late duplicate
    assert await partial.read(1) == chunk(1)
    await partial.discard()
    await partial.aclose()
    assert await store.read(digest, 0, 3) == DATA[:3]


@pytest.mark.parametrize("data", [b"", b"x", random_bytes(MIN_CHUNK, 3)])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_blobs_of_one_chunk_or_none(store: Store, data: bytes, algorithm: str) -> None:
    digest = Digest.of(data, algorithm)
    partial = await store.partial(digest, len(data))
    await fill(partial, data)
    await partial.publish()
    assert await store.read(digest, 0, MIN_CHUNK) == data
    assert await store.recipe(digest) == Recipe.of(data, algorithm)


async def test_an_empty_blob_must_be_the_empty_blob(store: Store) -> None:
    partial = await store.partial(DIGEST, 0)
    with pytest.raises(DigestMismatchError):
        await partial.publish()


async def test_the_only_chunk_is_known_by_the_blobs_digest(store: Store) -> None:
    partial = await store.partial(Digest.of(b"right"), 5)
    with pytest.raises(DigestMismatchError):
        await partial.write(0, b"wrong")
    assert not partial.chunks
    await partial.write(0, b"right")
    await partial.publish()


async def test_wrong_chunks_are_not_kept(store: Store) -> None:
    partial = await store.partial(DIGEST, len(DATA))
    right = Recipe.of(DATA).chunks
    with pytest.raises(DigestMismatchError):
        await partial.write(1, chunk(0), expect=right[1])
    with pytest.raises(DigestMismatchError):
        await partial.write(1, chunk(1)[:-1])
    with pytest.raises(DigestMismatchError):
        await partial.write(4, chunk(0))
    for index in (-1, 5):
        with pytest.raises(IndexError):
            await partial.write(index, chunk(0))
    assert not partial.chunks
    assert partial.have_bytes == 0
    with pytest.raises(NotFoundError):
        await partial.read(1)
    assert await partial.write(1, chunk(1), expect=right[1]) == right[1]
    assert dict(partial.chunks) == {1: right[1]}


async def test_what_is_recorded_stands_until_it_is_forgotten(store: Store) -> None:
    partial = await store.partial(DIGEST, len(DATA))
    await partial.write(0, chunk(1))
    wrong = Recipe.of(chunk(1)).chunks[0]
    right = Recipe.of(DATA).chunks[0]
    assert await partial.write(0, memoryview(chunk(1))) == wrong
    for expect in (None, right):
        with pytest.raises(DigestMismatchError):
            await partial.write(0, chunk(0), expect=expect)
    assert await partial.read(0) == chunk(1)
    await partial.forget([0, 3])
    assert (len(partial.chunks), partial.have_bytes) == (0, 0)
    assert await partial.write(0, chunk(0), expect=right) == right


async def test_a_blob_of_wrong_chunks_is_not_published_and_can_be_mended(store: Store) -> None:
    partial = await store.partial(DIGEST, len(DATA))
    await fill(partial, DATA, [0, 2, 3, 4])
    with pytest.raises(StorageError, match="1 of its chunks"):
        await partial.publish()
    await partial.write(1, chunk(2))
    with pytest.raises(DigestMismatchError):
        await partial.publish()
    assert store.blob_size(DIGEST) is None
    assert len(partial.chunks) == 5
    await partial.forget([1])
    await partial.write(1, chunk(1))
    await partial.publish()
    assert await store.read(DIGEST, 0, len(DATA)) == DATA


async def test_parts_of_chunks(store: Store) -> None:
    partial = await store.partial(DIGEST, len(DATA))
    await partial.write(4, chunk(4))
    assert await partial.read(4) == chunk(4)
    assert await partial.read(4, 3) == chunk(4)[3:]
    assert await partial.read(4, 3, 5) == chunk(4)[3:5]
    assert await partial.read(4, 3, 500) == chunk(4)[3:]
    assert await partial.read(4, 7, 3) == b""
    with pytest.raises(IndexError):
        await partial.read(5)


async def test_many_writers_at_once(store: Store) -> None:
    partial = await store.partial(DIGEST, len(DATA))
    outcomes: list[bytes] = []

    async def write(index: int) -> None:
        outcomes.append(await partial.write(index, chunk(index)))

    async with trio.open_nursery() as nursery:
        for index in [*range(5), *range(5)]:
            nursery.start_soon(write, index)
    assert sorted(outcomes) == sorted(Recipe.of(DATA).chunks * 2)
    assert partial.have_bytes == len(DATA)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial.publish)
        nursery.start_soon(partial.publish)
    assert store.blob_size(DIGEST) == len(DATA)


async def test_a_writer_that_is_cancelled_leaves_nothing_half_done(store: Store) -> None:
    partial = await store.partial(DIGEST, len(DATA))
    with trio.CancelScope() as scope:
        scope.cancel()
        await partial.write(0, chunk(0))
    assert not partial.chunks
    await fill(partial, DATA)
    with trio.CancelScope() as scope:
        scope.cancel()
        await partial.publish()
    await partial.publish()
    assert await store.read(DIGEST, 0, len(DATA)) == DATA


async def test_one_object_for_one_blob_on_its_way(store: Store) -> None:
    partial = await store.partial(DIGEST, len(DATA))
    assert await store.partial(DIGEST, len(DATA)) is partial
    with pytest.raises(StorageError, match="not 7"):
        await store.partial(DIGEST, 7)
    await partial.write(0, chunk(0))
    await partial.aclose()
    for closed in (partial.write(1, chunk(1)), partial.publish(), partial.forget([0])):
        with pytest.raises(StorageError, match="closed"):
            await closed
    with pytest.raises(NotFoundError):
        await partial.read(0)
    again = await store.partial(DIGEST, len(DATA))
    assert again is not partial
    assert dict(again.chunks) == dict(partial.chunks)


async def test_told_another_size_it_begins_anew(store: Store) -> None:
    liar = await store.partial(DIGEST, 2 * MIN_CHUNK)
    await liar.write(0, chunk(1))
    await liar.aclose()
    partial = await store.partial(DIGEST, len(DATA))
    assert not partial.chunks
    await fill(partial, DATA)
    await partial.publish()


async def test_discarded_means_gone(store: Store, tmp_path: Path) -> None:
    partial = await store.partial(DIGEST, len(DATA))
    await fill(partial, DATA, [0, 1])
    await partial.discard()
    await partial.discard()
    assert store.partials() == {}
    assert list((tmp_path / "store" / "partial").iterdir()) == []
    with pytest.raises(StorageError, match="discarded"):
        await partial.write(2, chunk(2))
    with pytest.raises(NotFoundError):
        await partial.read(0)
    again = await store.partial(DIGEST, len(DATA))
    assert not again.chunks


async def test_what_is_on_its_way_is_sparse(store: Store, tmp_path: Path) -> None:
    partial = await store.partial(DIGEST, 10**9)
    await partial.write(17, chunk(0))
    (file,) = (tmp_path / "store" / "partial").iterdir()
    assert file.stat().st_size == 10**9
    assert file.stat().st_blocks * 512 < 4 * 1024 * 1024


# What is remembered


def record(tag: str, data: bytes = b"m") -> TagRecord:
    image = build_image([data])
    return TagRecord(
        REGISTRY, REPOSITORY, tag, parse_manifest_untrusted(image.raw).descriptor, 1.5, "12D3KooWx", b"signed"
    )


async def test_tags(store: Store) -> None:
    await store.put_tag(record("2"))
    await store.put_tag(record("1"))
    await store.put_tag(record("1", b"newer"))
    assert store.tag(REGISTRY, REPOSITORY, "1") == record("1", b"newer")
    assert store.tag(REGISTRY, REPOSITORY, "3") is None
    assert [tag.tag for tag in store.tags(REGISTRY, REPOSITORY)] == ["1", "2"]
    assert store.tags(REGISTRY, "library") == []
    assert len(store.all_tags()) == 2


async def test_facts_of_manifests(store: Store) -> None:
    image = build_image([b"one"], ("linux/amd64", "linux/arm64"))
    index = parse_manifest_untrusted(image.raw)
    await store.learn(index, REGISTRY, REPOSITORY)
    await store.learn(index, REGISTRY, "another")
    child = index.manifests[0]
    facts = store.facts(child.digest)
    assert facts is not None
    assert (facts.size, facts.media_type) == (child.size, child.media_type)
    assert facts.sources == ((REGISTRY, "another"), (REGISTRY, REPOSITORY))
    assert store.facts(index.digest) is not None
    assert store.facts(DIGEST) is None


async def test_an_image_is_shown_only_when_it_is_whole(store: Store, tmp_path: Path) -> None:
    image = build_image([b"one", b"two"], ("linux/amd64", "linux/arm64"))
    layer = next(iter(image.blobs))
    root = await put_image(store, image, leave_out=layer)
    with pytest.raises(NotFoundError, match=layer):
        await store.publish_image(REGISTRY, REPOSITORY, "1", root)
    assert store.images() == []
    await put_image(store, image)
    await store.publish_image(REGISTRY, REPOSITORY, "1", root)
    await store.publish_image(REGISTRY, REPOSITORY, None, root)
    untagged, tagged = sorted(store.images(), key=lambda row: row.tag or "")
    assert (tagged.size, tagged.descriptor.digest) == (image.size, root)
    assert untagged.tag is None
    shown = json.loads((tmp_path / "store" / "index.json").read_bytes())["manifests"]
    names = {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in shown}
    assert names == {f"{REGISTRY}/{REPOSITORY}:1", f"{REGISTRY}/{REPOSITORY}@{root}"}


async def test_a_tag_that_moves_moves_its_image(store: Store) -> None:
    for layer in (b"one", b"two"):
        root = await put_image(store, build_image([layer]))
        await store.publish_image(REGISTRY, REPOSITORY, "1", root)
    (row,) = store.images()
    assert row.descriptor.digest == root


async def test_pins_have_reasons(store: Store) -> None:
    await store.pin(DIGEST, "desired")
    await store.pin(DIGEST, "by hand")
    assert store.pins() == {DIGEST: {"desired", "by hand"}}
    await store.unpin(DIGEST, "desired")
    await store.unpin(DIGEST, "never")
    assert store.pins() == {DIGEST: {"by hand"}}
    await store.unpin(DIGEST, "by hand")
    assert store.pins() == {}


async def test_everything_survives_a_restart(tmp_path: Path, threads: int) -> None:
    image = build_image([b"one"])
    async with await Store.open(tmp_path, threads) as store:
        root = await put_image(store, image)
        manifest = parse_manifest_untrusted(image.raw)
        await store.publish_image(REGISTRY, REPOSITORY, "1", root)
        await store.put_tag(record("1"))
        await store.learn(manifest, REGISTRY, REPOSITORY)
        await store.pin(root, "desired")
        partial = await store.partial(DIGEST, len(DATA))
        await fill(partial, DATA, [3, 1])
        before = (store.blobs(), store.images(), store.all_tags(), store.facts(root), store.pins())
    await store.aclose()
    async with await Store.open(tmp_path, threads) as store:
        assert before == (store.blobs(), store.images(), store.all_tags(), store.facts(root), store.pins())
        assert store.partials() == {DIGEST: len(DATA)}
        partial = await store.partial(DIGEST, len(DATA))
        assert sorted(partial.chunks) == [1, 3]
        assert await partial.read(3) == chunk(3)
        await fill(partial, DATA, [0, 2, 4])
        await partial.publish()
        assert await store.recipe(DIGEST) == Recipe.of(DATA)


async def test_a_second_process_is_told_who_has_the_directory(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreLockedError) as refusal:
        await Store.open(tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert f"process {os.getpid()}" in str(refusal.value)
    assert "stop that one first" in str(refusal.value)


async def test_a_closed_store_says_so(tmp_path: Path, threads: int) -> None:
    async with await Store.open(tmp_path, threads) as store:
        pass
    with pytest.raises(StorageError):
        await store.put(b"x", Digest.of(b"x"))
    async with await Store.open(tmp_path, threads):
        pass
