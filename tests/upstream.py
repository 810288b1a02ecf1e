"""A registry that misbehaves on request: real sockets, own threads, read side of the distribution API.

    with Upstream() as up:
        image = up.add_image("library/pos", "42", layers=[b"..."])
        up.add_fault(Fault("/blobs/", cut_after=1000))
        ... pull image.root from up.address, then look at up.requests

Faults match in the order in which they were added; one that is used up (`times`) is dropped.
Not here: pushes. It speaks HTTP/1.1 with keep-alive, and TLS where it is given a context.
"""

import base64
import json
import re
import secrets
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.images import OCI_INDEX, Image, build_image, digest_of

PIECE = 16 * 1024


@dataclass(slots=True)
class Fault:
    """What goes wrong with requests whose path (or path?query) contains `match`. Sizes are of the body sent."""

    match: str = ""
    times: int | None = 1
    """None: until the end."""
    method: str | None = None
    skip: int = 0
    """Matching requests to let pass first."""
    status: int | None = None
    """Answer with this and a short error body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Set on the answer, in place of what it would carry."""
    body: bytes | None = None
    """Sent in place of the content."""
    reset: bool = False
    """Connection reset instead of any answer."""
    cut_after: int | None = None
    """Connection closed after so many body bytes."""
    stall_after: int | None = None
    """Silence after so many body bytes; -1: before the status line. Ends when the server is closed."""
    corrupt_at: int | None = None
    """The body byte at this offset is inverted."""
    ignore_range: bool = False
    range_shift: int = 0
    """The range served begins so many bytes later (or earlier) than asked, and says so."""
    extra: bytes = b""
    """Sent after the body, beyond what Content-Length says."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


@dataclass(frozen=True, slots=True)
class Users:
    """Who may pull. `scheme` is "basic" or "bearer" (tokens from `/token`)."""

    scheme: str = "bearer"
    passwords: Mapping[str, str] = field(default_factory=dict)
    anonymous: bool = False
    """Bearer: a token is given to whoever asks."""
    token_lifetime: int | None = 300
    """Seconds, as told; None: not told."""
    realm: str | None = None
    """Bearer: told in place of the server's own `/token`."""


class Upstream:
    """`address` is `127.0.0.1:PORT`. With `redirect`, blobs are redirected there (to another Upstream's
    `/storage/DIGEST?X-Signature=...`), as registries do with object storage."""

    def __init__(
        self,
        *,
        users: Users | None = None,
        redirect: "Upstream | None" = None,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        rate: float | None = None,
    ) -> None:
        self.users = users
        self.redirect = redirect
        self.referrers: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
        """What is listed of each digest; None: there is no such API."""
        self.referrers_page = 100
        self.rate = rate
        """Body bytes per second of each answer; None: as fast as it goes."""
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.repositories: dict[str, dict[str, Image]] = {}
        self.storage: dict[str, bytes] = {}
        self.tokens: dict[str, str] = {}
        """Token -> scope."""
        self.body_bytes = 0
        """Body bytes handed to the sockets."""
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.scheme = "https" if tls else "http"
        self._server = _Server((host, 0), self, tls)
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,), name="upstream")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.break_connections()
        self._server.server_close()
        self._thread.join()

    # What it holds.

    def add_image(self, repository: str, tag: str, layers: Sequence[bytes] = (), **build: Any) -> Image:
        """Build an image (see `build_image` for `build`) and hold it under `repository:tag`."""
        return self.hold(repository, tag, build_image(layers, **build))

    def hold(self, repository: str, tag: str, image: Image) -> Image:
        self.repositories.setdefault(repository, {})[tag] = image
        for digest, data in image.blobs.items():
            self.storage[digest] = data
            if self.redirect is not None:
                self.redirect.storage[digest] = data
        return image

    def add_blob(self, repository: str, data: bytes, algorithm: str = "sha256") -> str:
        """A blob that no manifest names; returns its digest."""
        digest = digest_of(data, algorithm)
        self.hold(repository, f"blob-{digest[-12:]}", Image(digest, {}, {digest: data}, {}))
        return digest

    def add_fault(self, fault: Fault) -> Fault:
        with self.lock:
            self.faults.append(fault)
        return fault

    # What was asked of it.

    def asked(self, part: str, method: str | None = None) -> list[Request]:
        """The requests so far whose path contains `part`."""
        with self.lock:
            return [r for r in self.requests if part in r.path and method in (None, r.method)]

    def revoke_tokens(self) -> None:
        with self.lock:
            self.tokens.clear()

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._server.open)

    @property
    def accepted(self) -> int:
        """Connections since the start."""
        return self._server.accepted

    def take_fault(self, method: str, target: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.match not in target or fault.method not in (None, method):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], upstream: Upstream, tls: ssl.SSLContext | None) -> None:
        self.upstream = upstream
        self.tls = tls
        self.open: set[socket.socket] = set()
        self.accepted = 0
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        connection: socket.socket = request
        with self.upstream.lock:
            self.open.add(connection)
            self.accepted += 1
        try:
            if self.tls is not None:
                connection.settimeout(10)
                wrapped = self.tls.wrap_socket(connection, server_side=True)
                with self.upstream.lock:
                    self.open.discard(connection)
                    self.open.add(wrapped)
                connection = wrapped
            connection.settimeout(None)
            if not self.upstream.closing.is_set():
                super().finish_request(connection, client_address)
        except (OSError, ValueError):
            pass  # the other side went away, or does not like our certificate
        finally:
            with self.upstream.lock:
                self.open.discard(connection)
            with suppress(OSError):
                connection.close()

    def break_connections(self) -> None:
        with self.upstream.lock:
            still_open = list(self.open)
        for connection in still_open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
        pass

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    @property
    def up(self) -> Upstream:
        return self.server.upstream

    def answer(self) -> None:
        target = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, target.path, target.query, headers, body)
        with self.up.lock:
            self.up.requests.append(request)
        self.fault = self.up.take_fault(self.command, self.path) or Fault()
        if self.fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif self.fault.stall_after == -1:
            self.stall()
        elif self.fault.status is not None:
            self.send(self.fault.status, {}, self.error_body("FAULT", "as ordered"))
        else:
            self.route(request)

    def route(self, request: Request) -> None:
        if request.path == "/token":
            return self.token(request)
        if request.path.startswith("/storage/"):
            return self.content(request, request.path.removeprefix("/storage/"), "application/octet-stream")
        refusal = self.refusal(request)
        if refusal is not None:
            return self.send(
                401, {"WWW-Authenticate": refusal}, self.error_body("UNAUTHORIZED", "log in first")
            )
        if request.path == "/v2/":
            return self.send(200, {}, b"{}")
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs|referrers)/([^/]+)", request.path)
        repository = self.up.repositories.get(match[1]) if match else None
        if match is None or repository is None:
            return self.send(404, {}, self.error_body("NAME_UNKNOWN", "repository name not known"))
        if match[2] == "referrers":
            return self.list_referrers(request, match[3])
        if match[2] == "manifests":
            return self.manifest(repository, match[3])
        if not any(match[3] in image.blobs for image in repository.values()):
            return self.send(404, {}, self.error_body("BLOB_UNKNOWN", "blob unknown to registry"))
        if self.up.redirect is not None:
            there = self.up.redirect
            url = f"{there.scheme}://{there.address}/storage/{match[3]}?X-Signature=topsecret"
            return self.send(307, {"Location": url}, b"")
        return self.content(request, match[3], "application/octet-stream")

    def manifest(self, repository: dict[str, Image], reference: str) -> None:
        found = repository.get(reference)
        digest = found.root if found else reference
        for image in repository.values():
            raw = image.manifests.get(digest)
            if raw is not None:
                kind = image.media_types[digest]
                told = {"Content-Type": kind, "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}
                if self.headers.get("If-None-Match") == told["ETag"]:
                    return self.send(304, told, b"")
                return self.send(200, told, raw)
        return self.send(404, {}, self.error_body("MANIFEST_UNKNOWN", "manifest unknown"))

    def list_referrers(self, request: Request, subject: str) -> None:
        if self.up.referrers is None:
            return self.send(404, {}, b"404 page not found")
        at = int(dict(urllib.parse.parse_qsl(request.query)).get("at", 0))
        listed = self.up.referrers.get(subject, ())
        page = [dict(one) for one in listed[at : at + self.up.referrers_page]]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page}
        headers = {"Content-Type": OCI_INDEX}
        if at + len(page) < len(listed):
            headers["Link"] = f'<{request.path}?at={at + len(page)}>; rel="next"'
        return self.send(200, headers, json.dumps(index).encode())

    def content(self, request: Request, digest: str, media_type: str) -> None:
        data = self.up.storage.get(digest)
        if data is None:
            return self.send(404, {}, b"no such object")
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if not asked or self.fault.ignore_range:
            return self.send(200, headers, data)
        start = max(0, int(asked[1]) + self.fault.range_shift)
        stop = min(len(data), int(asked[2]) + 1 if asked[2] else len(data))
        if start >= stop:
            return self.send(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return self.send(206, headers, data[start:stop])

    # Who may.

    def refusal(self, request: Request) -> str | None:
        """The challenge for a request that may not pass; None for one that may."""
        users = self.up.users
        if users is None:
            return None
        scheme, _, secret = (request.authorization or "").partition(" ")
        if users.scheme == "basic":
            return None if scheme == "Basic" and self.login(secret) else 'Basic realm="test registry"'
        name = request.path.removeprefix("/v2/").rpartition("/")[0].rpartition("/")[0]
        scope = f"repository:{name}:pull"
        if scheme == "Bearer" and self.up.tokens.get(secret) == scope:
            return None
        realm = users.realm or f"{self.up.scheme}://{self.up.address}/token"
        return f'Bearer realm="{realm}",service="test registry",scope="{scope}"'

    def login(self, secret: str) -> str | None:
        try:
            name, _, password = base64.b64decode(secret).decode().partition(":")
        except ValueError:
            return None
        assert self.up.users is not None
        return name if self.up.users.passwords.get(name) == password else None

    def token(self, request: Request) -> None:
        users = self.up.users or Users(anonymous=True)
        asked = urllib.parse.parse_qs(request.query or request.body.decode())
        scheme, _, secret = (request.authorization or "").partition(" ")
        refresh = asked.get("refresh_token", [""])[0]
        if scheme == "Basic":
            known = self.login(secret) is not None
        else:
            known = refresh in users.passwords.values() if refresh else users.anonymous
        if not known:
            return self.send(401, {}, self.error_body("UNAUTHORIZED", "wrong name or password"))
        token = secrets.token_hex(16)
        with self.up.lock:
            self.up.tokens[token] = asked.get("scope", [""])[0]
        told: dict[str, Any] = {"token": token}
        if users.token_lifetime is not None:
            told["expires_in"] = users.token_lifetime
        return self.send(200, {"Content-Type": "application/json"}, json.dumps(told).encode())

    # How it is sent.

    @staticmethod
    def error_body(code: str, message: str) -> bytes:
        return json.dumps({"errors": [{"code": code, "message": message}]}).encode()

    def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        fault = self.fault
        if fault.body is not None:
            body = fault.body
        if fault.corrupt_at is not None and body:
            at = fault.corrupt_at % len(body)
            body = body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]
        self.send_response(status)
        length = {} if status == 304 else {"Content-Length": str(len(body))}
        for name, value in {**length, **headers, **fault.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD" or status == 304:
            return
        if fault.cut_after is not None:
            self.write(body[: fault.cut_after])
            self.close_connection = True
        elif fault.stall_after is not None:
            self.write(body[: fault.stall_after])
            self.stall()
        else:
            self.write(body + fault.extra)

    def write(self, body: bytes) -> None:
        began, sent = time.monotonic(), 0
        while sent < len(body) and not self.up.closing.is_set():
            piece = body[sent : sent + PIECE]
            self.wfile.write(piece)
            sent += len(piece)
            with self.up.lock:
                self.up.body_bytes += len(piece)
            if self.up.rate is not None:
                self.up.closing.wait(max(0.0, began + sent / self.up.rate - time.monotonic()))

    def stall(self) -> None:
        self.up.closing.wait(60)
        self.close_connection = True
