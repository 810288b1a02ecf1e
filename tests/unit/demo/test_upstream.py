"""The demo's own registry and its own client, against each other: what runs where nothing is installed."""

import pytest
import trio

from meshsat.demo.client import pull_and_compare
from meshsat.demo.image import Image, make_image
from meshsat.demo.place import DemoError, open_place
from meshsat.demo.upstream import start_upstream


@pytest.fixture(scope="module")
def image() -> Image:
    return make_image(200_000)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without docker-registry and skopeo."""
    monkeypatch.setattr("shutil.which", lambda _program: None)


@pytest.mark.usefixtures("bare")
async def test_without_debians_registry_and_client_there_are_our_own(image: Image) -> None:
    async with open_place() as place, trio.open_nursery() as nursery:
        upstream = await start_upstream(place, nursery, image)
        at = f"{upstream.host}:{upstream.port}"
        assert await pull_and_compare(place, at, at, image) == "meshsat's own client"
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("bare")
async def test_another_image_than_the_one_pushed_is_noticed(image: Image) -> None:
    other = make_image(300_000)
    async with open_place() as place, trio.open_nursery() as nursery:
        upstream = await start_upstream(place, nursery, other)
        at = f"{upstream.host}:{upstream.port}"
        with pytest.raises(DemoError, match="another image"):
            await pull_and_compare(place, at, at, image)
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("bare")
async def test_a_node_that_serves_nothing_is_told_with_its_address(image: Image) -> None:
    async with open_place() as place:
        with pytest.raises(DemoError, match=r"GET http://127\.0\.0\.1:1/"):
            await pull_and_compare(place, "127.0.0.1:1", "127.0.0.1:1", image)
