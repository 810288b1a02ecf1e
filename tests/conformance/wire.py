"""A small plain HTTP/1.1 client that hides nothing: what was sent and what came back, byte by byte.

Laws: one socket a connection; an answer is read to its end as RFC 9112 frames it and not a byte further, so
that what a server sends too much shows in the next answer. No redirects, no retries, no defaults but Host.
"""

import json
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

DEADLINE = 20.0
"""Seconds for one read. A registry on the same machine takes milliseconds."""
Headers = Sequence[tuple[str, str]]
Body = bytes | Iterable[bytes] | None
"""Bytes are sent with Content-Length, parts with `Transfer-Encoding: chunked`."""


@dataclass(frozen=True, slots=True)
class Answer:
    version: str
    status: int
    headers: list[tuple[str, str]]
    """Names in lower case, in the order of the wire."""
    body: bytes
    target: str
    """What was asked for: relative Locations are meant from here."""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def get(self, name: str) -> str | None:
        """The header's value; None when it is not there. Twice is a fault."""
        found = self.all(name)
        assert len(found) <= 1, (name, found)
        return found[0] if found else None

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        assert value is not None, f"no {name} in {self}"
        return value

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> set[str]:
        """Of the specification's error body."""
        return {error["code"] for error in self.json["errors"]}

    @property
    def closes(self) -> bool:
        """Whether the server said that it closes the connection."""
        tokens = ",".join(self.all("connection")).lower()
        return "close" in tokens or (self.version == "HTTP/1.0" and "keep-alive" not in tokens)


class BrokenOffError(Exception):
    """The connection ended before the answer did."""


class Connection:
    def __init__(self, address: str) -> None:
        """`address`: `HOST:PORT`, or `unix:PATH`."""
        self.host = address
        if address.startswith("unix:"):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(DEADLINE)
            self._socket.connect(address.removeprefix("unix:"))
            self.host = "node"
        else:
            host, _, port = address.rpartition(":")
            self._socket = socket.create_connection((host.strip("[]"), int(port)), DEADLINE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    # --- sending ----------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def shut(self) -> None:
        """No more will be sent; what comes is still read."""
        with suppress(OSError):  # the server may have closed it meanwhile
            self._socket.shutdown(socket.SHUT_WR)

    def head(self, method: str, target: str, headers: Headers = ()) -> bytes:
        """A request's line and fields; `Host` is added unless it is among them."""
        named = {name.lower() for name, _ in headers}
        host = [] if "host" in named else [("Host", self.host)]
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in [*host, *headers])]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"

    def ask(self, method: str, target: str, headers: Headers = (), body: Body = None) -> Answer:
        """An answer may come, and the server stop reading, before all of the body is sent."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._say(method, target, headers, body)
        return self.read(method, target)

    def _say(self, method: str, target: str, headers: Headers, body: Body) -> None:
        if body is None:
            self.send(self.head(method, target, headers))
        elif isinstance(body, bytes):
            self.send(self.head(method, target, [*headers, ("Content-Length", str(len(body)))]) + body)
        else:
            self.send(self.head(method, target, [*headers, ("Transfer-Encoding", "chunked")]))
            for part in body:
                self.send(b"%x\r\n%s\r\n" % (len(part), part))
            self.send(b"0\r\n\r\n")

    # --- reading ----------------------------------------------------------------------------------------------

    def read(self, method: str = "GET", target: str = "/") -> Answer:
        """The next final answer; those of 1xx before it are passed over."""
        while True:
            answer = self.read_one(method, target)
            if answer.status >= 200:
                return answer

    def read_one(self, method: str = "GET", target: str = "/") -> Answer:
        """The next answer, be it of 1xx."""
        line, *fields = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status = line.split(" ", 2)[:2]
        assert version in {"HTTP/1.0", "HTTP/1.1"}, line
        headers = [(name.lower(), value.strip()) for name, _, value in (one.partition(":") for one in fields)]
        answer = Answer(version, int(status), headers, b"", target)
        return Answer(version, int(status), headers, self._body(answer, method), target)

    def _body(self, answer: Answer, method: str) -> bytes:
        """RFC 9112 6.3."""
        if method == "HEAD" or answer.status < 200 or answer.status in {204, 304}:
            return b""
        if coding := answer.get("transfer-encoding"):
            assert coding.lower() == "chunked"
            return self._chunks()
        if (length := answer.get("content-length")) is not None:
            return self._exactly(int(length))
        return self.rest()

    def _chunks(self) -> bytes:
        whole = b""
        while size := int(self._until(b"\r\n").split(b";")[0], 16):
            whole += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        while self._until(b"\r\n"):
            pass  # trailer fields
        return whole

    def rest(self) -> bytes:
        """All that comes until the server closes; a reset counts as that."""
        while part := self._receive():
            self._buffer += part
        taken, self._buffer = self._buffer, b""
        return taken

    @property
    def early(self) -> bytes:
        """What came beyond the last answer."""
        return self._buffer

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(256 * 1024)
        except ConnectionResetError:
            return b""

    def _more(self) -> None:
        part = self._receive()
        if not part:
            raise BrokenOffError(self._buffer[:200])
        self._buffer += part

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._more()
        taken, _, self._buffer = self._buffer.partition(end)
        return taken

    def _exactly(self, size: int) -> bytes:
        parts = [self._buffer[:size]]
        self._buffer = self._buffer[size:]
        missing = size - len(parts[0])
        while missing:
            part = self._receive()
            if not part:
                raise BrokenOffError(size, missing)
            parts.append(part[:missing])
            self._buffer = part[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)
