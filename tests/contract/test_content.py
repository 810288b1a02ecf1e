"""What the registry may rely on, whoever gives it its content. Add each implementation to `CONTENTS`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from meshsat.oci.digest import Digest
from meshsat.registry.content import Content, Name
from tests.images import Image, build_image, random_bytes
from tests.memory_content import MemoryContent
from tests.mesh.full_node import full_site, hold

POS = Name("reg.example.test", "library/pos")
IMAGE = build_image([random_bytes(700_000), b"", b"small"], ["linux/amd64", "linux/arm64"])
BIG = max(IMAGE.blobs, key=lambda digest: len(IMAGE.blobs[digest]))

Holding = Callable[[Name, str, Image], AbstractAsyncContextManager[Content]]


@asynccontextmanager
async def memory(name: Name, tag: str, image: Image) -> AsyncIterator[Content]:
    content = MemoryContent()
    content.add(name, tag, image)
    yield content


@asynccontextmanager
async def fetcher(name: Name, tag: str, image: Image, *, held: bool) -> AsyncIterator[Content]:
    """A dark node whose neighbour has an uplink; a client has looked at the manifests, or has pulled it all."""
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, image, tag, name)
        assert await dark.fetcher.manifest(name, tag) is not None
        for digest in image.manifests:
            assert await dark.fetcher.manifest(name, Digest.parse_untrusted(digest)) is not None
        if held:
            await dark.pull(f"{name}:{tag}")
            up.site.kill(up.node)
        await trio.sleep(1)
        yield dark.fetcher


CONTENTS: list[Holding] = [memory, partial(fetcher, held=False), partial(fetcher, held=True)]
"""Each gives a content that holds one image under one tag."""


@pytest.fixture(params=CONTENTS, ids=["memory", "arriving", "held"])
async def content(request: pytest.FixtureRequest) -> AsyncIterator[Content]:
    async with request.param(POS, "42", IMAGE) as one:
        yield one


async def test_a_tag_and_each_digest_give_the_very_bytes(content: Content, autojump_clock: MockClock) -> None:
    references: dict[str | Digest, str] = {Digest.parse_untrusted(text): text for text in IMAGE.manifests}
    for reference, digest in {"42": IMAGE.root, **references}.items():
        served = await content.manifest(POS, reference)
        assert served is not None
        assert (served.raw, str(served.digest)) == (IMAGE.manifests[digest], digest)
        assert served.media_type == IMAGE.media_types[digest]


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (0, 1), (1, 262_145), (262_144, 524_288), (699_999, None)]
)
async def test_a_blob_is_read_over_any_range(
    content: Content, autojump_clock: MockClock, start: int, stop: int | None
) -> None:
    reader = await content.open_blob(POS, Digest.parse_untrusted(BIG))
    assert reader is not None
    assert reader.size == len(IMAGE.blobs[BIG])
    got = []
    async with reader, aclosing(reader.stream(start, stop or reader.size)) as pieces:
        async for piece in pieces:
            assert 0 < len(piece) <= 4 * 2**20
            got.append(piece)
    assert b"".join(got) == IMAGE.blobs[BIG][start:stop]


async def test_an_empty_blob_has_no_pieces(content: Content, autojump_clock: MockClock) -> None:
    reader = await content.open_blob(POS, Digest.of(b""))
    assert reader is not None
    assert reader.size == 0
    async with reader, aclosing(reader.stream(0, 0)) as pieces:
        assert [piece async for piece in pieces] == []


async def test_what_is_not_there_is_none(content: Content, autojump_clock: MockClock) -> None:
    nothing = Digest.of(b"nothing")
    assert await content.manifest(POS, "43") is None
    assert await content.manifest(POS, nothing) is None
    assert await content.open_blob(POS, nothing) is None
    assert await content.tags(Name(POS.registry, "nobody")) is None


async def test_tags_are_listed(content: Content, autojump_clock: MockClock) -> None:
    assert await content.tags(POS) == ["42"]
