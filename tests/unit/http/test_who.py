import os
import socket
from pathlib import Path
from typing import Any

import trio

from meshsat.audit.event import Actor
from meshsat.http.asgi import Receive, Scope, Send, respond
from meshsat.http.server import TcpBind, UnixBind
from meshsat.http.who import caller_of, operator_of
from tests.serving import served


async def test_the_system_says_who_calls_over_the_unix_socket(tmp_path: Path) -> None:
    scopes: list[Any] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send, 200, [(b"content-length", b"0")])

    path = tmp_path / "api.sock"
    async with served(app, UnixBind(path), TcpBind("127.0.0.1", 0)) as (_, address):
        host, _, port = address.rpartition(":")
        for family, where in ((socket.AF_UNIX, str(path)), (socket.AF_INET, (host, int(port)))):
            with trio.socket.socket(family) as sock:
                await sock.connect(where)
                await sock.send(b"GET / HTTP/1.1\r\nHost: x\r\nmeshsat.peer: 1\r\n\r\n")
                await sock.recv(100)
    unix, tcp = scopes
    me = Actor("operator", f"uid:{os.getuid()}", f"pid:{os.getpid()}")
    assert operator_of(unix) == caller_of(unix, None) == me
    assert caller_of(tcp, "bob") == Actor("client", "bob", "127.0.0.1")
    assert caller_of(tcp, None) == Actor("client", "", "127.0.0.1")
    assert operator_of(tcp) == Actor("operator")
