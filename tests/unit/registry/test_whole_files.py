"""A blob that stands in a file: the answer is the same as one that is streamed, with and without zero copy."""

import os
from pathlib import Path

import pytest
import trio

from meshsat.http.asgi import Message
from meshsat.http.ranges import Span
from meshsat.metrics import Metrics
from meshsat.registry.app import create_registry
from meshsat.registry.content import Name
from meshsat.registry.whole_files import COUNTED, ZERO_COPY, send_whole_file
from tests.memory_content import MemoryContent
from tests.serving import connect, rest, served

DATA = os.urandom(300_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    return path


async def fetch(
    content: MemoryContent, metrics: Metrics, *lines: str, method: str = "GET"
) -> tuple[str, bytes]:
    digest = content.add_blob(DATA)
    async with served(create_registry(content, metrics)) as (address,):
        stream = await connect(address)
        target = f"/v2/docker.io/library/pos/blobs/{digest}"
        request = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]
        await stream.send_all("\r\n".join(request).encode())
        header, _, body = (await rest(stream)).partition(b"\r\n\r\n")
    kept = [line for line in header.decode().split("\r\n") if not line.startswith("date:")]
    return "\n".join(kept), body


@pytest.mark.parametrize(
    "lines", [(), ("Range: bytes=100-299",), ("Range: bytes=-5",), ("Range: bytes=9999999-",)]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_it_is_the_same_answer_from_a_file(file: Path, lines: tuple[str, ...], method: str) -> None:
    streamed, whole = MemoryContent(), MemoryContent()
    whole.file = file
    counted = [Metrics(), Metrics()]
    first = await fetch(streamed, counted[0], *lines, method=method)
    second = await fetch(whole, counted[1], *lines, method=method)
    assert first == second
    assert [reader.entered for reader in whole.readers] == [False]
    sent = [one.registry.get_sample_value("meshsat_registry_sent_bytes_total") for one in counted]
    assert sent[0] == sent[1] is not None


@pytest.mark.parametrize("fault", ["missing", "short", "long"])
async def test_a_file_that_is_not_what_it_should_be_is_not_begun(file: Path, fault: str) -> None:
    content = MemoryContent()
    content.file = file
    if fault == "missing":
        file.unlink()
    else:
        os.truncate(file, len(DATA) + (1 if fault == "long" else -1))
    _, body = await fetch(content, Metrics())
    assert body == DATA
    assert content.readers[0].entered


async def test_what_is_large_is_counted_on_the_way(tmp_path: Path) -> None:
    size = 2 * COUNTED + 1
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, size)
    sent: list[Message] = []
    counted: list[int] = []

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    assert await send_whole_file(send, path, Span(0, size, size), (200, []), counted.append)
    parts = [(one["offset"], one["count"], one["more_body"]) for one in sent if one["type"] == ZERO_COPY]
    assert parts == [(0, COUNTED, True), (COUNTED, COUNTED, True), (2 * COUNTED, 1, False)]
    assert counted == [COUNTED, COUNTED, 1]


async def test_an_empty_blob_has_an_answer_too(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    content = MemoryContent()
    content.file = path
    digest = content.add_blob(b"")
    async with served(create_registry(content, Metrics())) as (address,):
        stream = await connect(address)
        name = Name("docker.io", "library/pos")
        await stream.send_all(f"GET /v2/{name}/blobs/{digest} HTTP/1.0\r\n\r\n".encode())
        answer = await rest(stream)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: 0\r\n" in answer
