"""Runs an application on a real socket beside the test, and speaks HTTP to it byte by byte."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from meshsat.config import HttpSection
from meshsat.http.asgi import App, Receive, Scope, Send, respond
from meshsat.http.server import Bind, TcpBind, serve_app
from tests.certificates import PrivateCA

ANY = TcpBind("127.0.0.1", 0)
PING = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, 200, [(b"content-length", b"5")], b"hello")


@asynccontextmanager
async def served(app: App, *binds: Bind, limits: HttpSection | None = None) -> AsyncIterator[list[str]]:
    """The bound addresses; leaving cancels the server."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(serve_app, app, binds or (ANY,), limits)
        nursery.cancel_scope.cancel()


async def connect(address: str) -> trio.SocketStream:
    if address.startswith("unix:"):
        return trio.SocketStream(await unix_socket(address.removeprefix("unix:")))
    host, _, port = address.rpartition(":")
    return await trio.open_tcp_stream(host.strip("[]"), int(port))


async def unix_socket(path: str) -> trio.socket.SocketType:
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.connect(path)
    return sock


async def ask(stream: trio.abc.Stream, request: bytes = PING) -> bytes:
    """One response whose body ends in `hello`."""
    await stream.send_all(request)
    got = b""
    while not got.endswith(b"hello"):
        part = await stream.receive_some()
        assert part, got
        got += part
    return got


async def rest(stream: trio.abc.Stream) -> bytes:
    got = b""
    while part := await stream.receive_some():
        got += part
    return got


def tls_bind(ca: PrivateCA) -> TcpBind:
    return TcpBind("127.0.0.1", 0, ca.server_context("127.0.0.1"))


async def connect_tls(
    address: str, ca: PrivateCA, *, alpn: str | None = "http/1.1"
) -> trio.SSLStream[trio.SocketStream]:
    """A client that holds the end of TCP alone for a cut, and the handshake done."""
    context = ca.trusting(ca.ca_file)
    if alpn:
        context.set_alpn_protocols([alpn])
    stream = trio.SSLStream(await connect(address), context, server_hostname="127.0.0.1")
    await stream.do_handshake()
    return stream
