"""The ASGI types, and the one thing that each of our applications does with them beyond answering.

ASGI 3.0 (asgi.readthedocs.io, "HTTP & WebSocket ASGI Message Format", 2.3).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import trio

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

PEER = "meshsat.peer"
"""Our extension in a scope of a Unix socket: `{"pid": ..., "uid": ...}` of the process that connected."""


@asynccontextmanager
async def cancelled_by_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel what is inside as soon as the client has gone away: nobody is left to do it for.

    What is raised inside leaves in an exception group.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        yield
        nursery.cancel_scope.cancel()


async def respond(send: Send, status: int, headers: Headers, body: bytes = b"") -> None:
    """Send a whole response; `headers` must tell its Content-Length. The server drops the body of a HEAD."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
