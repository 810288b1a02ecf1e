"""The wire: every byte counted, connections kept and closed, failures told for people."""

import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from meshsat.errors import InvalidInputError
from meshsat.limits import WanLimits
from meshsat.metrics import Metrics
from meshsat.uplink.meter import Meter
from meshsat.uplink.network import Answer, Line, WireError
from tests.certificates import PrivateCA
from tests.upstream import Upstream

Serve = Callable[[trio.SocketStream], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Pad: abc\r\n\r\nhello"


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[str]:
    async def contained(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await serve(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, contained, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/x?secret=1"
        nursery.cancel_scope.cancel()


async def request(stream: trio.SocketStream) -> bytes:
    """One request's bytes; empty when the connection ends."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        more = await stream.receive_some()
        if not more:
            return b""
        received += more
    return received


@asynccontextmanager
async def line(
    metrics: Metrics | None = None, rate: int = 0, tls: ssl.SSLContext | None = None, size: int = 4
) -> AsyncIterator[Line]:
    opened = Line(Meter(WanLimits(rate), metrics or Metrics()), tls, size)
    try:
        yield opened
    finally:
        await opened.aclose()


async def send(wire: Line, url: str, silence: float = 5.0, connect: float = 5.0) -> Answer:
    return await wire.send("GET", httpx.URL(url), {}, (connect, silence))


def counted(metrics: Metrics) -> tuple[float | None, float | None]:
    value = metrics.registry.get_sample_value
    return value("meshsat_wan_received_bytes_total"), value("meshsat_wan_sent_bytes_total")


async def test_every_byte_is_counted_both_ways() -> None:
    received = []

    async def serve(stream: trio.SocketStream) -> None:
        while asked := await request(stream):
            received.append(asked)
            await stream.send_all(OK)

    metrics = Metrics()
    async with server(serve) as url, line(metrics) as wire:
        for _ in range(3):
            async with await send(wire, url) as answer:
                assert await answer.body_untrusted(5) == b"hello"
    assert counted(metrics) == (3 * len(OK), sum(map(len, received)))
    assert b"accept-encoding: identity" in received[0].lower()
    assert b"host: 127.0.0.1:" in received[0].lower()


async def test_tls_is_counted_below(tmp_path: Path) -> None:
    ca = PrivateCA(tmp_path)
    metrics = Metrics()
    with Upstream(tls=ca.server_context("127.0.0.1")) as up:
        up.storage["x"] = bytes(300_000)
        trusted = ssl.create_default_context(cafile=str(ca.ca_file))
        async with (
            line(metrics, tls=trusted) as wire,
            await send(wire, f"https://{up.address}/storage/x") as answer,
        ):
            assert len(await answer.body_untrusted(300_000)) == 300_000
    came, went = counted(metrics)
    assert came is not None
    assert went is not None
    assert 301_000 < came < 306_000  # records, certificate and headers on top
    assert went > 400  # ClientHello and the rest


async def test_connection_is_kept_when_read_to_the_end_and_closed_when_not() -> None:
    streams = []

    async def serve(stream: trio.SocketStream) -> None:
        streams.append(stream)
        while await request(stream):
            await stream.send_all(OK)

    async with server(serve) as url, line() as wire:
        for _ in range(3):
            async with await send(wire, url) as answer:
                while await answer.part() is not None:
                    pass
        assert len(streams) == 1
        for _ in range(3):
            async with await send(wire, url):
                pass
        assert len(streams) == 3


async def test_closing_early_stops_the_sender_at_once() -> None:
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await request(stream)
        try:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                await stream.send_all(bytes(100_000))
        finally:
            ended.set()

    metrics = Metrics()
    async with server(serve) as url, line(metrics) as wire:
        async with await send(wire, url) as answer:
            await answer.part()
        with trio.fail_after(2):
            await ended.wait()
    assert (counted(metrics)[0] or 0) < 1_000_000


async def test_cancelling_a_read_closes_the_connection() -> None:
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        await stream.receive_some()
        ended.set()

    async with server(serve) as url, line() as wire:
        with trio.move_on_after(0.05):
            async with await send(wire, url) as answer:
                await answer.part()
        with trio.fail_after(2):
            await ended.wait()


async def test_silence_ends_a_read_but_rationing_does_not() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + bytes(19_999))
        await trio.sleep_forever()

    async with (
        server(serve) as url,
        line(rate=50_000) as wire,
        await send(wire, url, silence=0.1) as answer,
    ):
        read = 0
        while read < 19_999:
            read += len(await answer.part() or b"")
        with pytest.raises(WireError, match=r"127\.0\.0\.1:\d+ sent nothing for 0\.1 s"):
            await answer.part()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "without sending a response"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, "broke the exchange off or does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "does not speak HTTP"),
    ],
)
async def test_answers_that_are_none(said: bytes, reason: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await request(stream)
        await stream.send_all(said)

    async with server(serve) as url, line() as wire:
        with pytest.raises(WireError, match=reason) as failed:
            await send(wire, url)
        assert "secret" not in str(failed.value)


async def test_a_body_that_ends_early_or_is_too_long() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await request(stream)
        await stream.send_all(OK.replace(b": 5", b": 6"))

    async with server(serve) as url, line() as wire:
        async with await send(wire, url) as answer:
            with pytest.raises(WireError, match="broke the exchange off"):
                await answer.body_untrusted(100)
        async with await send(wire, url) as answer:
            with pytest.raises(InvalidInputError, match="more than 5 bytes"):
                await answer.body_untrusted(5)


async def test_a_body_without_length_is_bounded_while_it_comes() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(bytes(10_000))

    metrics = Metrics()
    async with server(serve) as url, line(metrics) as wire, await send(wire, url) as answer:
        with pytest.raises(InvalidInputError):
            await answer.body_untrusted(100_000)
    assert (counted(metrics)[0] or 0) < 400_000


async def test_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{unused.getsockname()[1]}"
    async with line() as wire:
        with pytest.raises(WireError, match=f"^{where} refuses connections; check that a registry listens"):
            await send(wire, f"http://{where}/")


async def test_a_host_that_drops_packets() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        async with line() as wire:
            with pytest.raises(WireError, match=r"does not answer within 0\.1 s; check the line"):
                await send(wire, f"http://127.0.0.1:{full.getsockname()[1]}/", connect=0.1)


class NoNames(trio.abc.HostnameResolver):
    async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


async def test_a_name_that_does_not_resolve() -> None:
    trio.socket.set_custom_hostname_resolver(NoNames())
    async with line() as wire:
        with pytest.raises(
            WireError, match=r"the name reg\.test cannot be resolved \(Name or service not known\)"
        ):
            await send(wire, "http://reg.test/")


async def test_tls_failures_say_what_to_do(tmp_path: Path) -> None:
    ca = PrivateCA(tmp_path)
    with Upstream(tls=ca.server_context("other.test")) as up, Upstream() as plain:
        async with line(tls=ssl.create_default_context()) as wire:
            with pytest.raises(
                WireError, match=r"not trusted \(.*\); if that CA is yours, set ca_file"
            ) as failed:
                await send(wire, f"https://{up.address}/")
            assert failed.value.permanent
            with pytest.raises(WireError, match=r"does not speak TLS; .* set plain_http = true") as failed:
                await send(wire, f"https://{plain.address}/")
            assert failed.value.permanent
        async with line(tls=ssl.create_default_context(cafile=str(ca.ca_file))) as wire:
            with pytest.raises(WireError, match=re.escape("IP address mismatch")):
                await send(wire, f"https://{up.address}/")


async def test_a_tls_handshake_that_hangs() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with server(serve) as url, line(tls=ssl.create_default_context()) as wire:
        with pytest.raises(WireError, match="did not finish the TLS handshake"):
            await send(wire, url.replace("http:", "https:"), connect=0.1)


async def test_rate_is_kept_at_the_socket() -> None:
    """The sender is held back by TCP: it cannot run ahead by more than the buffers between."""
    sent = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal sent
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        await request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            await stream.send_all(bytes(10_000))
            sent += 10_000

    metrics = Metrics()
    async with server(serve) as url, line(metrics, rate=1_000_000) as wire, await send(wire, url) as answer:
        began = trio.current_time()
        while trio.current_time() - began < 0.4:
            await answer.part()
    assert (counted(metrics)[0] or 0) < 0.5 * 1_000_000 + 2 * 65536
    assert sent < 1_500_000


def test_httpcore_does_not_log_headers() -> None:
    assert not logging.getLogger("httpcore.http11").isEnabledFor(logging.DEBUG)
