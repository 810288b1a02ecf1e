from contextlib import suppress
from pathlib import Path

import pytest
import structlog
import trio

from meshsat.config import HttpSection
from meshsat.http.asgi import Receive, Scope, Send
from meshsat.http.server import TcpBind, UnixBind, serve_app
from tests.certificates import PrivateCA
from tests.serving import ANY, PING, ask, connect, connect_tls, hello, rest, served


async def test_it_tells_the_addresses_bound_and_serves_on_each(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with served(hello, ANY, UnixBind(path), ANY) as addresses:
        assert addresses[1] == f"unix:{path}"
        assert len({*addresses}) == 3
        for address in addresses:
            stream = await connect(address)
            assert (await ask(stream)).startswith(b"HTTP/1.1 200 OK\r\n")
            await stream.aclose()


async def test_stopping_ends_idle_connections_at_once() -> None:
    start = trio.current_time()
    async with served(hello, limits=HttpSection(grace=30)) as (address,):
        stream = await connect(address)
        await ask(stream)
    assert await stream.receive_some() == b""
    assert trio.current_time() - start < 5


async def test_stopping_lets_a_response_under_way_finish() -> None:
    started, go_on = trio.Event(), trio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        await go_on.wait()
        await hello(scope, receive, send)

    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve_app, slow, [ANY], HttpSection(grace=30))
        stream = await connect(address)
        await stream.send_all(PING)
        await started.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            with pytest.raises(OSError, match="all attempts to connect"):
                await connect(address)
            go_on.set()
            answer = await rest(stream)
    assert answer.endswith(b"hello")
    assert b"connection: close" in answer.lower()


async def test_stopping_cuts_what_does_not_finish_in_time() -> None:
    """Also a response to a client that takes nothing: it must not keep the node from ending."""
    endless = trio.Event()

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        endless.set()
        while True:
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})

    start = trio.current_time()
    async with served(flood, limits=HttpSection(grace=0.05)) as (address,):
        stream = await connect(address)
        await stream.send_all(PING)
        await endless.wait()
    assert trio.current_time() - start < 5


async def test_at_the_cap_the_connection_idle_for_longest_makes_room() -> None:
    async with served(hello, limits=HttpSection(max_connections=2)) as (address,):
        first, second = await connect(address), await connect(address)
        await ask(first)
        await ask(second)
        await ask(first)
        third = await connect(address)
        await ask(third)
        assert await second.receive_some() == b""
        await ask(first)


async def test_at_the_cap_each_newcomer_takes_another_ones_room() -> None:
    async with served(hello, limits=HttpSection(max_connections=3)) as (address,):
        old = [await connect(address) for _ in range(3)]
        for stream in old:
            await ask(stream)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(lambda: _ask_anew(address))
        for stream in old:
            assert await stream.receive_some() == b""


async def _ask_anew(address: str) -> None:
    await ask(await connect(address))


async def test_at_the_cap_a_newcomer_is_turned_away_when_all_are_busy() -> None:
    busy = trio.Event()

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        busy.set()
        await trio.sleep_forever()

    async with served(never, limits=HttpSection(max_connections=1, grace=0.01)) as (address,):
        first = await connect(address)
        await first.send_all(PING)
        await busy.wait()
        answer = await rest(await connect(address))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in answer


async def test_a_fault_of_an_application_does_not_bring_the_server_down() -> None:
    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/group":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise ValueError("in a nursery")
        if scope["path"] == "/fault":
            raise ValueError("plain")
        await hello(scope, receive, send)

    with structlog.testing.capture_logs() as logs:
        async with served(faulty) as (address,):
            for path in (b"/fault", b"/group"):
                stream = await connect(address)
                await stream.send_all(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await rest(stream)).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
            await ask(await connect(address))
    assert [entry["event"] for entry in logs] == ["request failed", "request failed"]


async def test_slow_beginners_keep_nobody_out() -> None:
    limits = HttpSection(max_connections=50, header_timeout=60)
    async with served(hello, limits=limits) as (address,):
        slow = [await connect(address) for _ in range(200)]
        for stream in slow:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(b"GET / HT")
        for _ in range(10):
            stream = await connect(address)
            with trio.fail_after(5):
                await ask(stream)


async def test_tls_is_served_on_all_addresses_too(tmp_path: Path) -> None:
    ca = PrivateCA(tmp_path)
    bind = TcpBind("0.0.0.0", 0, ca.server_context("127.0.0.1"))
    async with served(hello, bind) as (address,):
        with trio.fail_after(5):
            stream = await connect_tls(address.replace("0.0.0.0", "127.0.0.1"), ca)
            assert (await ask(stream)).endswith(b"hello")
