"""The demo's own registry: what runs where docker-registry is not installed. And the pusher, against a stub."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trio

from meshsat.demo import upstream as upstreams
from meshsat.demo.image import REPOSITORY, Image, make_image
from meshsat.demo.place import DemoError, open_place
from meshsat.demo.upstream import push, start_upstream


@pytest.fixture(scope="module")
def image() -> Image:
    return make_image(200_000)


async def test_without_debians_registry_there_is_our_own(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _program: None)
    async with open_place() as place, trio.open_nursery() as nursery:
        upstream = await start_upstream(place, nursery)
        url = f"http://{upstream.host}:{upstream.port}/v2/{REPOSITORY}"
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{url}/manifests/1")).status_code == 404
            await upstream.fill(image)
            for digest, (media_type, raw) in image.manifests.items():
                answer = await http.get(f"{url}/manifests/{digest}", headers={"Accept": media_type})
                assert (answer.content, answer.headers["Content-Type"]) == (raw, media_type)
            for digest, data in image.blobs.items():
                assert (await http.get(f"{url}/blobs/{digest}")).content == data
            assert (await http.get(f"{url}/manifests/1")).content == image.manifests[image.index][1]
            assert (await http.get(f"{url}/tags/list")).json()["tags"] == ["1"]
            assert (await http.get(f"{url}x/tags/list")).status_code == 404
        nursery.cancel_scope.cancel()


async def test_a_registry_that_does_not_start_is_told_with_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "docker-registry"
    program.write_text("#!/bin/sh\necho no such option; sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda _program: str(program))
    monkeypatch.setattr(upstreams, "START_LIMIT", 0.5)
    with pytest.RaisesGroup(pytest.RaisesExc(DemoError, match="did not start within")) as told:
        async with open_place() as place, trio.open_nursery() as nursery:
            await start_upstream(place, nursery)
    (fault,) = told.value.exceptions
    assert isinstance(fault, DemoError)
    assert "no such option" in fault.log


Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Have httpx answer by a function, without a network."""

    def answer_by(answer: Answer) -> None:
        real = httpx.AsyncClient

        def client(**options: object) -> httpx.AsyncClient:
            return real(transport=httpx.MockTransport(answer), base_url=str(options["base_url"]))

        monkeypatch.setattr(httpx, "AsyncClient", client)

    return answer_by


async def test_blobs_are_pushed_before_manifests_and_the_index_last_under_its_tag(
    image: Image, answering: Callable[[Answer], None]
) -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.raw_path.decode()))
        return httpx.Response(202, headers={"Location": "http://up.test/session?state=a%3D"})

    answering(answer)
    await push("http://up.test", image)
    puts = [path for method, path in asked if method == "PUT"]
    assert len(puts) == len(image.blobs) + len(image.manifests)
    assert all(path.startswith("/session?state=a%3D&digest=sha256%3A") for path in puts[: len(image.blobs)])
    assert puts[-1] == f"/v2/{REPOSITORY}/manifests/1"


async def test_a_push_that_is_refused_is_told(image: Image, answering: Callable[[Answer], None]) -> None:
    answering(lambda _: httpx.Response(507, text="no room"))
    with pytest.raises(DemoError, match="507 to a push: no room"):
        await push("http://up.test", image)


async def test_a_push_that_breaks_off_is_told(image: Image, answering: Callable[[Answer], None]) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset")

    answering(answer)
    with pytest.raises(DemoError, match="could not be filled"):
        await push("http://up.test", image)
