"""The demo's own client, and the comparison, against the demo's own registry."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshsat.demo import client
from meshsat.demo.client import pull_and_compare
from meshsat.demo.image import Image, make_image
from meshsat.demo.place import DemoError, Place, open_place
from meshsat.demo.upstream import start_upstream


@pytest.fixture(scope="module")
def image() -> Image:
    return make_image(200_000)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without docker-registry and skopeo."""
    monkeypatch.setattr("shutil.which", lambda _program: None)


@asynccontextmanager
async def registry(image: Image) -> AsyncIterator[tuple[Place, str]]:
    async with open_place() as place, trio.open_nursery() as nursery:
        upstream = await start_upstream(place, nursery)
        await upstream.fill(image)
        yield place, f"{upstream.host}:{upstream.port}"
        nursery.cancel_scope.cancel()


async def test_an_image_that_arrives_whole_is_the_upstreams(image: Image) -> None:
    async with registry(image) as (place, at):
        assert await pull_and_compare(place, at, at, image) == "meshsat's own client"
        assert not (place.directory / "pulled").exists()


async def test_another_image_is_noticed(image: Image) -> None:
    async with registry(make_image(300_000)) as (place, at):
        with pytest.raises(DemoError, match=r"another image: .* wrong files, .* missing"):
            await pull_and_compare(place, at, at, image)


async def test_a_part_of_the_image_is_noticed(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    async def pull_part(_node: str, target: Path) -> None:
        (target / "manifest.json").write_bytes(image.manifests[image.index][1])
        (target / "version").write_text("Directory Transport Version: 1.1")

    monkeypatch.setattr(client, "pull_everything", pull_part)
    async with registry(image) as (place, at):
        with pytest.raises(DemoError, match="0 wrong files, 8 missing"):
            await pull_and_compare(place, at, at, image)


async def test_an_upstream_that_has_another_manifest_by_now_is_noticed(image: Image) -> None:
    async with registry(image) as (place, at), registry(make_image(300_000)) as (_, other):
        with pytest.raises(DemoError, match="different manifests"):
            await pull_and_compare(place, at, other, image)


async def test_a_node_that_serves_nothing_is_told_with_its_address(image: Image) -> None:
    async with open_place() as place:
        with pytest.raises(DemoError, match=r"GET http://127\.0\.0\.1:1/"):
            await pull_and_compare(place, "127.0.0.1:1", "127.0.0.1:1", image)


async def test_a_node_that_does_not_have_it_is_told_with_its_answer(image: Image) -> None:
    async with open_place() as place, trio.open_nursery() as nursery:
        empty = await start_upstream(place, nursery)
        at = f"{empty.host}:{empty.port}"
        with pytest.raises(DemoError, match=r"404 .*MANIFEST_UNKNOWN"):
            await pull_and_compare(place, at, at, image)
        nursery.cancel_scope.cancel()
