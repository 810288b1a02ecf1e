import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
import structlog
import trio

from meshsat.config import HttpSection
from meshsat.http.asgi import Receive, Scope, Send, cancelled_by_disconnect, respond
from meshsat.http.wire import ClientGoneError
from tests.serving import PING, ask, connect, hello, rest, served

NO_PATIENCE = HttpSection(header_timeout=0.05, idle_timeout=0.05, send_timeout=0.05, grace=0.05)


def request(method: str, target: str, *headers: str, version: str = "1.1", body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: x", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def test_the_scope_is_that_of_the_request() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await hello(scope, receive, send)

    async with served(app) as (address,):
        stream = await connect(address)
        await ask(stream, request("GET", "/a%2Fb/%C3%A9?x=%20&y", "Accept: a", "Accept: b"))
        await ask(stream, request("GET", "http://other:1/p?q"))
    first, second = scopes
    assert (first["type"], first["method"], first["http_version"]) == ("http", "GET", "1.1")
    assert (first["path"], first["raw_path"]) == ("/a/b/é", b"/a%2Fb/%C3%A9")
    assert first["query_string"] == b"x=%20&y"
    assert [value for name, value in first["headers"] if name == b"accept"] == [b"a", b"b"]
    assert first["client"][0] == "127.0.0.1"
    assert f"127.0.0.1:{first['server'][1]}" == address
    assert (second["path"], second["query_string"]) == ("/p", b"q")


async def test_a_connection_is_used_again() -> None:
    async with served(hello) as (address,):
        stream = await connect(address)
        for _ in range(3):
            answer = await ask(stream)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\ndate: " in answer.lower()


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with cancelled_by_disconnect(receive):
            await trio.testing.wait_all_tasks_blocked(0.01)  # so that it reads what was sent ahead
            await respond(send, 200, [(b"content-length", b"1")], scope["raw_path"][1:])

    async with served(app) as (address,):
        stream = await connect(address)
        await stream.send_all(request("GET", "/a") + request("GET", "/b"))
        await stream.send_all(request("GET", "/c", "Connection: close"))
        answer = await rest(stream)
    assert [part[-1:] for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == [b"a", b"b", b"c"]


async def test_head_has_the_length_and_no_body() -> None:
    async with served(hello) as (address,):
        stream = await connect(address)
        await stream.send_all(request("HEAD", "/"))
        head = await stream.receive_some()
        assert head.endswith(b"\r\n\r\n")
        assert b"content-length: 5" in head.lower()
        await ask(stream)


@pytest.mark.parametrize(("version", "extra"), [("1.0", ()), ("1.1", ("Connection: close",))])
async def test_the_connection_ends_where_the_client_wants_it(version: str, extra: tuple[str, ...]) -> None:
    async with served(hello) as (address,):
        stream = await connect(address)
        await stream.send_all(request("GET", "/", *extra, version=version))
        assert (await rest(stream)).endswith(b"hello")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            await respond(send, 200, [(b"content-length", str(len(body)).encode())], body)
            return


@pytest.mark.parametrize(
    "sent",
    [
        request("POST", "/", "Content-Length: 5", body=b"hello"),
        request("POST", "/", "Transfer-Encoding: chunked", body=b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
    ],
)
async def test_a_body_is_received(sent: bytes) -> None:
    async with served(echo) as (address,):
        stream = await connect(address)
        await ask(stream, sent)
        await ask(stream, sent)


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on() -> None:
    async with served(echo) as (address,):
        stream = await connect(address)
        await stream.send_all(request("POST", "/", "Content-Length: 5", "Expect: 100-continue"))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"hello")
        assert (await stream.receive_some()).endswith(b"hello")


async def test_a_body_that_nobody_reads_is_thrown_away() -> None:
    async with served(hello) as (address,):
        stream = await connect(address)
        await ask(stream, request("POST", "/", "Content-Length: 100000", body=bytes(100_000)))
        await ask(stream)


async def test_a_body_without_end_is_not_read_for_ever_and_the_answer_arrives() -> None:
    async with served(hello, limits=HttpSection(grace=0.1)) as (address,):
        stream = await connect(address)
        await stream.send_all(request("PATCH", "/", "Content-Length: 2000000000"))
        sent = 0
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                nonlocal sent
                while True:
                    await stream.send_all(bytes(2**16))
                    sent += 2**16

            async def flood_until_cut() -> None:
                with pytest.raises((trio.BrokenResourceError, trio.Cancelled)):
                    await flood()

            nursery.start_soon(flood_until_cut)
            assert (await stream.receive_some()).endswith(b"hello")
            nursery.cancel_scope.cancel()
        assert sent < 64 * 2**20


async def test_a_client_that_still_sends_can_read_our_last_answer() -> None:
    """Closing over bytes not read would reset the connection, and take the answer with it."""
    async with served(hello, limits=HttpSection(grace=5)) as (address,):
        stream = await connect(address)
        await stream.send_all(request("PATCH", "/", "Content-Length: 2000000000"))
        await stream.send_all(bytes(400_000))
        assert (await rest(stream)).endswith(b"hello")
        await stream.aclose()


async def test_what_is_sent_ahead_is_kept_up_to_a_limit() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with cancelled_by_disconnect(receive):
            await trio.sleep_forever()

    sent = 0

    async def flood() -> None:
        nonlocal sent
        while sent < 64 * 2**20:
            await stream.send_all(bytes(2**16))
            sent += 2**16

    async with served(app, limits=HttpSection(grace=0.01)) as (address,):
        stream = await connect(address)
        await stream.send_all(PING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await trio.testing.wait_all_tasks_blocked(0.1)
            nursery.cancel_scope.cancel()
        assert sent < 32 * 2**20
        await stream.aclose()


async def test_a_client_that_goes_away_is_noticed_while_nothing_is_sent() -> None:
    waiting, noticed = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with cancelled_by_disconnect(receive):
            waiting.set()
            await trio.sleep_forever()
        noticed.set()

    async with served(app) as (address,):
        for close in (_close, _reset):
            stream = await connect(address)
            await stream.send_all(PING)
            await waiting.wait()
            close(stream)
            with trio.fail_after(5):
                await noticed.wait()
            waiting, noticed = trio.Event(), trio.Event()


def _close(stream: trio.SocketStream) -> None:
    stream.socket.close()


def _reset(stream: trio.SocketStream) -> None:
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def test_sending_to_a_client_that_has_gone_says_so_quietly() -> None:
    raised = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
        except ClientGoneError:
            raised.set()
            assert await receive() == {"type": "http.disconnect"}
            raise

    with structlog.testing.capture_logs() as logs:
        async with served(app) as (address,):
            stream = await connect(address)
            await stream.send_all(PING)
            await stream.receive_some()
            _reset(stream)
            with trio.fail_after(5):
                await raised.wait()
    assert logs == []


async def test_what_a_slow_client_does_not_take_is_not_made() -> None:
    """Memory is bounded by what the kernel holds for the socket."""
    made = 0
    full = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal made
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            with trio.move_on_after(0.2) as blocked:
                await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
                made += 2**20
            if blocked.cancelled_caught:
                full.set()
                await trio.sleep_forever()

    async with served(app, limits=HttpSection(grace=0.01)) as (address,):
        stream = await connect(address)
        await stream.send_all(PING)
        with trio.fail_after(20):
            await full.wait()
        assert made < 64 * 2**20
        await stream.aclose()


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
        except ClientGoneError:
            ended.set()

    async with served(app, limits=NO_PATIENCE) as (address,):
        stream = await connect(address)
        await stream.send_all(PING)
        with trio.fail_after(20):
            await ended.wait()
        with pytest.raises(trio.BrokenResourceError):
            await rest(stream)


@pytest.mark.parametrize(
    ("begun", "limits"),
    [
        (b"", HttpSection(idle_timeout=0.05)),
        (b"GET / HT", HttpSection(header_timeout=0.05)),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA", HttpSection(header_timeout=0.05)),
    ],
)
async def test_a_header_must_come_in_time(begun: bytes, limits: HttpSection) -> None:
    async with served(hello, limits=limits) as (address,):
        stream = await connect(address)
        if begun:
            await stream.send_all(begun)
        with trio.fail_after(5):
            assert await rest(stream) == b""


async def test_a_body_must_come_in_time() -> None:
    async with served(echo, limits=NO_PATIENCE) as (address,):
        stream = await connect(address)
        await stream.send_all(request("POST", "/", "Content-Length: 5", body=b"h"))
        with trio.fail_after(5):
            assert await rest(stream) == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000, b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), b"400"),
    ],
)
async def test_what_is_no_request_is_refused(sent: bytes, status: bytes) -> None:
    with structlog.testing.capture_logs() as logs:
        async with served(hello) as (address,):
            stream = await connect(address)
            await stream.send_all(sent)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 " + status)
            await stream.aclose()
            await ask(await connect(address))
    assert logs == []


Unfinished = Callable[[Send], Awaitable[None]]


async def _nothing(send: Send) -> None:
    pass


async def _head_only(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})


async def _too_little(send: Send) -> None:
    await _head_only(send)
    await send({"type": "http.response.body", "body": b"hello"})


async def _unended(send: Send) -> None:
    await _head_only(send)
    await send({"type": "http.response.body", "body": b"hello", "more_body": True})


async def _unended_chunks(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello", "more_body": True})


@pytest.mark.parametrize("answer", [_nothing, _head_only])
async def test_an_application_that_answers_nothing_is_a_500(answer: Unfinished) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    async with served(app) as (address,):
        stream = await connect(address)
        await stream.send_all(PING)
        assert (await rest(stream)).startswith(b"HTTP/1.1 500 ")


async def test_a_response_shorter_than_it_says_is_cut() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await _too_little(send)

    with structlog.testing.capture_logs() as logs:
        async with served(app) as (address,):
            stream = await connect(address)
            await stream.send_all(PING)
            assert await rest(stream) == b""
    assert [entry["event"] for entry in logs] == ["request failed"]


@pytest.mark.parametrize("answer", [_unended, _unended_chunks])
async def test_an_unfinished_response_is_cut(answer: Unfinished) -> None:
    """With a length or in chunks, the client sees at the end of the connection that something is missing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    with structlog.testing.capture_logs():
        async with served(app) as (address,):
            stream = await connect(address)
            await stream.send_all(PING)
            got = await rest(stream)
    assert b"\r\n0\r\n" not in got
    assert b"content-length: 9" in got.lower() or b"chunked" in got.lower()


async def test_an_unfinished_response_without_a_length_is_reset() -> None:
    """To HTTP/1.0 the end of the connection is that of the body: only a reset shows that it came too early."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await _unended_chunks(send)
        await sent.wait()

    sent = trio.Event()
    async with served(app) as (address,):
        stream = await connect(address)
        await stream.send_all(request("GET", "/", version="1.0"))
        assert (await stream.receive_some()).endswith(b"hello")
        sent.set()
        with pytest.raises(trio.BrokenResourceError):
            await rest(stream)


async def test_a_response_is_one_packet_where_it_is_small() -> None:
    """Head and body written apart cost a client on keep-alive 40 ms (Nagle, delayed acknowledgement)."""
    async with served(hello) as (address,):
        stream = await connect(address)
        await stream.send_all(PING)
        assert (await stream.receive_some()).endswith(b"hello")


async def test_line_breaks_before_a_request_mean_nothing() -> None:
    async with served(hello) as (address,):
        stream = await connect(address)
        await ask(stream, b"\r\n\r\n" + PING)
        await ask(stream, b"\r\n" + PING)


@pytest.mark.parametrize("size", [1, 3, 20])
async def test_a_header_may_come_in_any_parts(size: int) -> None:
    sent = b"\r\n" + request("GET", "/", "A: b")
    async with served(hello) as (address,):
        stream = await connect(address)
        for start in range(0, len(sent), size):
            await stream.send_all(sent[start : start + size])
            await trio.testing.wait_all_tasks_blocked()
        assert (await stream.receive_some()).endswith(b"hello")


async def test_the_header_limit_is_one_of_bytes() -> None:
    limits = HttpSection(header_limit=1024)
    padding = 1024 - len(request("GET", "/", "A: "))
    async with served(hello, limits=limits) as (address,):
        stream = await connect(address)
        await ask(stream, request("GET", "/", "A: " + "a" * padding))
        await stream.send_all(request("GET", "/", "A: " + "a" * (padding + 1)))
        assert (await rest(stream)).startswith(b"HTTP/1.1 431 ")


async def test_a_request_for_an_upgrade_is_answered_as_any_other() -> None:
    async with served(echo) as (address,):
        stream = await connect(address)
        upgrade = ("Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5")
        await stream.send_all(request("POST", "/", *upgrade, body=b"hello") + request("GET", "/"))
        answer = b""
        while answer.count(b"HTTP/1.1 200 OK") < 2:
            answer += await stream.receive_some()
        assert b"hello" in answer


async def test_who_was_not_told_to_go_on_may_not_go_on() -> None:
    """It may send the body, or leave it out: what comes next could be either."""
    async with served(hello) as (address,):
        stream = await connect(address)
        await stream.send_all(request("PUT", "/", "Content-Length: 50", "Expect: 100-continue"))
        answer = await rest(stream)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in answer


async def test_a_request_in_the_wake_of_chunks_is_not_answered() -> None:
    """It was read with them; its client sees that the connection has ended, and asks again."""
    chunks = request("POST", "/", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n")
    async with served(echo) as (address,):
        stream = await connect(address)
        await stream.send_all(chunks + PING)
        answer = await rest(stream)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in answer


async def test_bad_chunks_end_the_request() -> None:
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            pass
        ended.append(message["type"])

    async with served(app) as (address,):
        stream = await connect(address)
        await stream.send_all(request("PUT", "/", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\nzz\r\n"))
        await rest(stream)
    assert ended == ["http.disconnect"]


@pytest.mark.parametrize("coding", ["Content-Length: 8388608", "Transfer-Encoding: chunked"])
async def test_a_large_body_comes_in_large_parts_and_only_as_fast_as_it_is_taken(coding: str) -> None:
    size = 8 * 2**20
    taken: list[int] = []
    sent = 0
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        while (message := await receive())["more_body"]:
            taken.append(len(message["body"]))
        taken.append(len(message["body"]))
        await hello(scope, receive, send)

    async def upload() -> None:
        nonlocal sent
        await stream.send_all(request("PUT", "/", coding))
        for _ in range(size // 2**16):
            part = bytes(2**16)
            await stream.send_all(part if "Length" in coding else b"10000\r\n%b\r\n" % part)
            sent += 2**16
        if "chunked" in coding:
            await stream.send_all(b"0\r\n\r\n")

    async with served(app) as (address,):
        stream = await connect(address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert sent < size
            go_on.set()
        assert (await stream.receive_some()).endswith(b"hello")
    assert sum(taken) == size
    assert max(taken) <= 256 * 1024


async def test_a_body_that_only_drips_is_given_up() -> None:
    """Each byte comes in time, but at that speed it would hold its connection for ever."""
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "http.request":
            pass
        ended.set()

    async def drip() -> None:
        while True:
            await stream.send_all(b"a")
            await trio.sleep(0.01)

    async with served(app, limits=HttpSection(header_timeout=5, send_timeout=0.2)) as (address,):
        stream = await connect(address)
        await stream.send_all(request("PUT", "/", "Content-Length: 1000000"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            with trio.fail_after(10):
                await ended.wait()
            nursery.cancel_scope.cancel()


async def test_an_application_that_gives_up_halfway_through_a_part_has_cut_the_response() -> None:
    """What the client took of it can't be taken back: more would come out of place."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with trio.move_on_after(0.05):
            while True:
                await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
        with pytest.raises(ClientGoneError):
            await send({"type": "http.response.body", "body": b"out of place", "more_body": False})

    with structlog.testing.capture_logs() as logs:
        async with served(app) as (address,):
            stream = await connect(address)
            await stream.send_all(PING)
            await trio.sleep(0.1)
            assert b"out of place" not in await rest(stream)
    assert logs == []


async def test_after_the_response_there_is_nobody_to_receive_from() -> None:
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        told.append((await receive())["type"])

    async with served(app) as (address,):
        await ask(await connect(address))
    assert told == ["http.disconnect"]
