"""Zero copy: what the client sees must be what reading the file would have given."""

import os
from pathlib import Path
from typing import IO, Any

import pytest
import structlog
import trio

from meshsat.config import HttpSection
from meshsat.http import files
from meshsat.http.asgi import App, Receive, Scope, Send
from meshsat.http.connection import JOINED, ZERO_COPY
from meshsat.http.listening import Bind, UnixBind
from tests.certificates import PrivateCA
from tests.serving import ANY, PING, ask, connect, connect_tls, rest, served, tls_bind

SIZE = 5 * 1024 * 1024 + 17


@pytest.fixture
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(content)
    return path


def sending(file: Path, length: int | None, *spans: dict[str, Any]) -> App:
    """Sends these spans of the file, after a header that tells `length`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert ZERO_COPY in scope["extensions"]
        told = [] if length is None else [(b"content-length", b"%d" % length)]
        await send({"type": "http.response.start", "status": 200, "headers": told})
        with file.open("rb") as opened:
            for number, span in enumerate(spans, 1):
                more = number < len(spans)
                await send({"type": ZERO_COPY, "file": opened, "more_body": more, **span})

    return app


async def fetch(stream: trio.abc.Stream, request: bytes) -> tuple[bytes, bytes]:
    await stream.send_all(request)
    header, _, body = (await rest(stream)).partition(b"\r\n\r\n")
    return header, body


LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("plane", ["tcp", "unix", "tls"])
@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, SIZE), (0, 0), (1, 1), (SIZE - 1, 1), (4097, JOINED), (5, JOINED + 1), (3, 3 * files.STRETCH)],
)
async def test_a_span_of_a_file_is_sent(
    tmp_path: Path, file: Path, content: bytes, plane: str, offset: int, count: int
) -> None:
    ca = PrivateCA(tmp_path)
    binds: dict[str, Bind] = {"tcp": ANY, "unix": UnixBind(tmp_path / "s"), "tls": tls_bind(ca)}
    async with served(sending(file, count, {"offset": offset, "count": count}), binds[plane]) as (address,):
        stream = await (connect_tls(address, ca) if plane == "tls" else connect(address))
        _, body = await fetch(stream, LAST)
    assert body == content[offset : offset + count]


async def test_without_offset_and_count_it_is_the_rest_of_the_file(file: Path, content: bytes) -> None:
    async with served(sending(file, SIZE, {})) as (address,):
        _, body = await fetch(await connect(address), LAST)
    assert body == content


async def test_several_spans_are_one_body_in_chunks_or_with_a_length(file: Path, content: bytes) -> None:
    first, second = {"offset": 0, "count": 100_000}, {"offset": 200_000, "count": 100_000}
    wanted = content[:100_000] + content[200_000:300_000]
    async with served(sending(file, 200_000, first, second)) as (address,):
        assert (await fetch(await connect(address), LAST))[1] == wanted
    async with served(sending(file, None, first, second)) as (address,):
        header, body = await fetch(await connect(address), LAST)
    assert b"chunked" in header
    assert body == b"186a0\r\n%b\r\n186a0\r\n%b\r\n0\r\n\r\n" % (wanted[:100_000], wanted[100_000:])


async def test_head_sends_no_byte_of_it(file: Path) -> None:
    async with served(sending(file, SIZE, {})) as (address,):
        header, body = await fetch(await connect(address), LAST.replace(b"GET", b"HEAD"))
    assert b"content-length: %d" % SIZE in header
    assert body == b""


@pytest.mark.parametrize("lacking", [1, SIZE - 100, SIZE])
@pytest.mark.parametrize("tls", [False, True])
async def test_a_file_shorter_than_told_is_a_cut(
    tmp_path: Path, file: Path, lacking: int, *, tls: bool
) -> None:
    ca = PrivateCA(tmp_path)
    app = sending(file, SIZE, {"offset": lacking, "count": SIZE})
    with structlog.testing.capture_logs() as logs:
        async with served(app, tls_bind(ca) if tls else ANY) as (address,):
            if tls:
                stream = await connect_tls(address, ca)
                with pytest.raises(trio.BrokenResourceError):  # no close_notify
                    await fetch(stream, PING)
            else:
                _, body = await fetch(await connect(address), PING)
                assert len(body) < SIZE
    assert [entry["event"] for entry in logs] == ["request failed"]


async def test_what_cannot_be_sent_is_a_fault_of_the_application(tmp_path: Path, file: Path) -> None:
    closed: list[IO[bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with file.open("rb") as opened:
            number = opened.fileno()
            closed.append(opened)
        await send({"type": ZERO_COPY, "file": number, "offset": 0, "count": SIZE})

    with structlog.testing.capture_logs() as logs:
        async with served(app) as (address,):
            _, body = await fetch(await connect(address), PING)
    assert len(body) < SIZE
    assert [entry["event"] for entry in logs] == ["request failed"]


async def test_a_client_that_goes_away_ends_it_quietly(file: Path) -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            with file.open("rb") as opened:
                while True:
                    await send({"type": ZERO_COPY, "file": opened, "offset": 0, "more_body": True})
        finally:
            ended.set()

    with structlog.testing.capture_logs() as logs:
        async with served(app) as (address,):
            stream = await connect(address)
            await stream.send_all(PING)
            await stream.receive_some()
            stream.socket.close()
            with trio.fail_after(5):
                await ended.wait()
    assert logs == []


async def test_a_client_that_takes_too_little_is_cut_off(file: Path) -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with file.open("rb") as opened:
            try:
                while True:
                    await send({"type": ZERO_COPY, "file": opened, "offset": 0, "more_body": True})
            except OSError:
                ended.set()
                raise

    async with served(app, limits=HttpSection(send_timeout=0.05)) as (address,):
        stream = await connect(address)
        await stream.send_all(PING)
        with trio.fail_after(20):
            await ended.wait()
        with pytest.raises(trio.BrokenResourceError):
            await rest(stream)


async def test_a_small_file_leaves_with_the_header_in_one_packet(tmp_path: Path) -> None:
    file = tmp_path / "small"
    file.write_bytes(b"hello")
    async with served(sending(file, 5, {})) as (address,):
        stream = await connect(address)
        await stream.send_all(PING)
        assert (await stream.receive_some()).endswith(b"hello")
        await ask(stream)


async def test_what_the_page_cache_lacks_is_sent_by_a_thread(
    file: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nobody else waits for the disk. Which pages are in memory is the kernel's affair, and here ours."""
    monkeypatch.setattr(files, "_cached", lambda _source, _offset: False)
    where: list[bool] = []
    real = files._send_cold

    def noting(*arguments: Any) -> int | None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            where.append(True)
        return real(*arguments)

    monkeypatch.setattr(files, "_send_cold", noting)
    async with served(sending(file, SIZE, {"offset": 0, "count": SIZE})) as (address,):
        _, body = await fetch(await connect(address), LAST)
    assert body == content
    assert len(where) >= SIZE // files.STRETCH


async def test_reading_gives_what_is_there(file: Path, content: bytes) -> None:
    with file.open("rb") as opened:
        source = opened.fileno()
        assert files.read_cached(source, 1, 10) == content[1:11]
        assert files.read_cached(source, SIZE - 1, 2) is None
        assert await files.read(source, SIZE - 5, 10) == content[-5:]
        assert await files.read(source, SIZE, 10) == b""
