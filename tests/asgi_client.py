"""Calls an ASGI application in this process: no socket, so a fake clock may run."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from meshsat.http.asgi import App, Message


@dataclass
class Answer:
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __getitem__(self, name: str) -> str:
        (value,) = (value for key, value in self.headers if key == name)
        return value

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self.headers)

    @property
    def code(self) -> str:
        """Of the distribution specification's error body."""
        (error,) = self.json["errors"]
        assert error["message"]
        return str(error["code"])


def request_scope(
    method: str, target: str, headers: Sequence[tuple[str, str]] = (), **more: Any
) -> dict[str, Any]:
    """ASGI's scope of one request; `more` replaces parts of it."""
    raw_path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": raw_path,
        "raw_path": raw_path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": None,
        "server": None,
        "state": {},
        **more,
    }


def basic(name: str, password: str) -> tuple[str, str]:
    """The Authorization field of RFC 7617."""
    return "Authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


async def call(
    app: App,
    method: str,
    target: str,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    *,
    gone: trio.Event | None = None,
    on_piece: Callable[[Answer], Any] | None = None,
) -> Answer:
    """One request. The client goes away when `gone` is set; `on_piece` sees the answer grow, and may wait."""
    answer = Answer()
    to_receive: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if to_receive:
            return to_receive.pop()
        await (gone if gone is not None else trio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            assert answer.status == 0, "two responses to one request"
            answer.status = message["status"]
            answer.headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
            return
        assert not answer.complete
        answer.pieces.append(bytes(message.get("body", b"")) if method != "HEAD" else b"")
        answer.complete = not message.get("more_body", False)
        if on_piece is not None:
            await on_piece(answer)

    scope = request_scope(method, target, headers)
    await app(scope, receive, send)
    return answer
