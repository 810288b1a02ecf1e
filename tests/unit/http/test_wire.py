"""TLS: what is promised of a connection holds on it too, and a bad handshake costs that connection only."""

import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
import trio

from meshsat.config import HttpSection
from meshsat.http.asgi import Receive, Scope, Send, respond
from meshsat.http.wire import ClientGoneError, PlainWire
from tests.certificates import PrivateCA
from tests.serving import PING, ask, connect, connect_tls, hello, rest, served, tls_bind


@pytest.fixture
def ca(tmp_path: Path) -> PrivateCA:
    return PrivateCA(tmp_path)


async def test_a_connection_with_tls_is_used_again_and_ends_clean(ca: PrivateCA) -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await hello(scope, receive, send)

    async with served(app, tls_bind(ca)) as (address,):
        stream = await connect_tls(address, ca)
        assert stream.selected_alpn_protocol() == "http/1.1"
        for _ in range(3):
            await ask(stream)
        await stream.send_all(PING + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await rest(stream)).count(b"hello") == 2
    assert {scope["scheme"] for scope in scopes} == {"https"}


async def test_who_speaks_no_http_1_1_is_told_in_the_handshake(ca: PrivateCA) -> None:
    """Nothing in common: OpenSSL goes on without a protocol, and such a client then gives up."""
    async with served(hello, tls_bind(ca)) as (address,):
        stream = await connect_tls(address, ca, alpn="h2")
        assert stream.selected_alpn_protocol() is None


async def test_large_bodies_pass_both_ways(ca: PrivateCA) -> None:
    body = bytes(range(256)) * 8192

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        parts = []
        while True:
            message = await receive()
            parts.append(message["body"])
            if not message["more_body"]:
                break
        await respond(send, 200, [(b"content-length", b"%d" % len(body))], b"".join(parts))

    async with served(echo, tls_bind(ca)) as (address,):
        stream = await connect_tls(address, ca)
        request = b"PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        await stream.send_all(request + body)
        assert (await rest(stream)).partition(b"\r\n\r\n")[2] == body


async def test_an_unfinished_response_has_no_clean_end(ca: PrivateCA) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})

    async with served(app, tls_bind(ca)) as (address,):
        stream = await connect_tls(address, ca)
        await stream.send_all(PING)
        with pytest.raises(trio.BrokenResourceError):
            await rest(stream)


@pytest.mark.parametrize("sent", [PING, b"\x16\x03\x01\x00\x05hello", bytes(100)], ids=["http", "tls", "nul"])
async def test_a_failed_handshake_costs_that_connection_only(ca: PrivateCA, sent: bytes) -> None:
    with structlog.testing.capture_logs() as logs:
        async with served(hello, tls_bind(ca)) as (address,):
            stream = await connect(address)
            await stream.send_all(sent)
            with trio.fail_after(5), suppress(trio.BrokenResourceError):
                await rest(stream)
            await ask(await connect_tls(address, ca))
    assert logs == []


async def test_a_client_that_does_not_trust_us_goes_quietly(ca: PrivateCA, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with structlog.testing.capture_logs() as logs:
        async with served(hello, tls_bind(ca)) as (address,):
            with pytest.raises(trio.BrokenResourceError):
                await connect_tls(address, PrivateCA(tmp_path / "other"))
            await ask(await connect_tls(address, ca))
    assert logs == []


async def test_a_handshake_must_come_in_time(ca: PrivateCA) -> None:
    async with served(hello, tls_bind(ca), limits=HttpSection(header_timeout=0.05)) as (address,):
        stream = await connect(address)
        with trio.fail_after(5):
            assert await rest(stream) == b""


async def test_handshakes_that_never_end_keep_nobody_out(ca: PrivateCA) -> None:
    limits = HttpSection(max_connections=50, header_timeout=60)
    async with served(hello, tls_bind(ca), limits=limits) as (address,):
        stream = await connect_tls(address, ca)
        await ask(stream)
        half = [await connect(address) for _ in range(200)]
        for one in half[:100]:
            await one.send_all(b"\x16\x03\x01")
        with trio.fail_after(10):
            await ask(await connect_tls(address, ca))
        for one in half:
            one.socket.close()


async def test_a_client_that_stops_reading_is_cut_off(ca: PrivateCA) -> None:
    gone = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
        except ClientGoneError:
            gone.set()
            raise

    async with served(app, tls_bind(ca), limits=HttpSection(send_timeout=0.05)) as (address,):
        stream = await connect_tls(address, ca)
        await stream.send_all(PING)
        with trio.fail_after(20):
            await gone.wait()


async def test_the_application_sees_a_tls_client_go(ca: PrivateCA) -> None:
    seen = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        seen.set()

    async with served(app, tls_bind(ca)) as (address,):
        for cut in (True, False):
            stream = await connect_tls(address, ca)
            await stream.send_all(PING)
            await trio.testing.wait_all_tasks_blocked(0.01)
            if cut:
                stream.transport_stream.socket.close()
            else:
                await stream.aclose()
            with trio.fail_after(5):
                await seen.wait()
            seen = trio.Event()


async def test_renegotiation_is_not_done(ca: PrivateCA) -> None:
    bind = tls_bind(ca)
    assert bind.tls is not None
    async with served(hello, bind) as (address,):
        assert bind.tls.options & ssl.OP_NO_RENEGOTIATION
        await ask(await connect_tls(address, ca))


def test_a_plain_wire_tells_nothing_from_an_end() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    wire = PlainWire(ours)
    assert wire.receive(10) is None
    theirs.send(b"abc")
    assert wire.receive(10) == b"abc"
    theirs.close()
    assert wire.receive(10) == b""
    with pytest.raises(ClientGoneError):
        wire.send(b"abc")
    with pytest.raises(ClientGoneError):
        wire.send_before_more(b"abc")
    wire.end_sending()
    wire.close(reset=True)


def test_a_wire_tells_what_its_client_has_not_taken() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    wire = PlainWire(ours)
    assert wire.queued() == 0
    wire.send(b"abc")
    assert wire.queued() > 0
    theirs.recv(10)
    assert wire.queued() == 0
