"""Harbor Satellite's other side for tests: state artifacts as its Ground Control pushes them, and that itself.

The artifacts are what go-containerregistry's `crane.Image` makes of one file, `artifacts.json`: a Docker schema 2
image, one gzip layer, a config without platform or time. `GroundControlStub` speaks the endpoints that satellites
use. Both stand in for the real ones, after whose sources they were made: neither Harbor nor Ground Control can be
had in a test.
"""

import base64
import gzip
import hashlib
import http.client
import io
import json
import re
import tarfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class StateArtifact:
    manifest: bytes
    config: bytes
    layer: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def layer_of(document: bytes, name: str = "artifacts.json") -> bytes:
    """As crane's Layer writes it: a tar of regular files of mode 0644, gzipped."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(document), 0o644
        archive.addfile(member, io.BytesIO(document))
    return gzip.compress(packed.getvalue(), mtime=0)


def state_artifact(document: object) -> StateArtifact:
    """Of a JSON value, or of the very bytes that `artifacts.json` is to hold."""
    raw = document if isinstance(document, bytes) else json.dumps(document, separators=(",", ":")).encode()
    layer = layer_of(raw)
    config = json.dumps(
        {
            "architecture": "",
            "created": "0001-01-01T00:00:00Z",
            "history": [{"created": "0001-01-01T00:00:00Z"}],
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(gzip.decompress(layer))]},
            "config": {},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": DOCKER_CONFIG, "size": len(config), "digest": digest_of(config)},
            "layers": [{"mediaType": DOCKER_LAYER, "size": len(layer), "digest": digest_of(layer)}],
        }
    ).encode()
    return StateArtifact(manifest, config, layer)


def artifact(
    repository: str, tags: Sequence[str] | None, digest: str, *, deleted: bool = False
) -> dict[str, Any]:
    """One of a group's, with the fields that Ground Control leaves out when they are empty left out."""
    told: dict[str, Any] = {
        "repository": repository,
        "tag": tags,
        "labels": None,
        "type": "IMAGE",
        "digest": digest,
    }
    if deleted:
        told["deleted"] = True
    return {name: value for name, value in told.items() if value is not None or name == "labels"}


def config_document(**app: Any) -> dict[str, Any]:
    """As Ground Control keeps a satellite's configuration."""
    return {
        "state_config": {"auth": {}},
        "app_config": {
            "log_level": "info",
            "use_unsecure": True,
            "state_replication_interval": "@every 00h00m30s",
            "register_satellite_interval": "@every 00h00m05s",
            "heartbeat_interval": "@every 00h00m30s",
            "metrics": {"collect_cpu": True},
            "local_registry": {"url": "http://127.0.0.1:8585"},
            **app,
        },
        "zot_config": {"http": {"address": "0.0.0.0", "port": "8585"}},
    }


class Harbor:
    """The states in a registry, at their usual places. `url` is what Ground Control calls Harbor."""

    def __init__(self, address: str, *, url: str | None = None, login: tuple[str, str] | None = None) -> None:
        self.address = address
        self.url = url or f"http://{address}"
        self._headers = {}
        if login is not None:
            self._headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
        self._moment = 1_790_000_000

    def group(self, name: str, artifacts: Sequence[Mapping[str, Any]]) -> str:
        document: dict[str, Any] = {"group": name, "registry": self.url}
        if artifacts:
            document["artifacts"] = list(artifacts)
        return self.push(f"satellite/group-state/{name}/state", document)

    def config(self, name: str, document: object) -> str:
        return self.push(f"satellite/config-state/{name}/state", document)

    def root(self, satellite: str, groups: Sequence[str], config: str = "default") -> str:
        document: dict[str, Any] = {
            "states": [f"{self.url}/satellite/group-state/{group}/state:latest" for group in groups],
            "config": f"{self.url}/satellite/config-state/{config}/state:latest",
        }
        if not groups:
            del document["states"]
        return self.push(f"satellite/satellite-state/{satellite}/state", document)

    def state_url(self, satellite: str) -> str:
        return f"{self.url}/satellite/satellite-state/{satellite}/state:latest"

    def push(self, repository: str, document: object) -> str:
        """Push it, and tag it with the time and `latest`; returns its digest."""
        made = state_artifact(document)
        for blob in (made.config, made.layer):
            self.push_blob(repository, blob)
        self._moment += 1
        for tag in (str(self._moment), "latest"):
            self.put_manifest(repository, tag, made.manifest, DOCKER_MANIFEST)
        return made.digest

    def push_blob(self, repository: str, data: bytes) -> None:
        place = self._ask("POST", f"/v2/{repository}/blobs/uploads/", 202, b"")
        target = re.sub(r"^https?://[^/]+", "", place)
        joined = "&" if "?" in target else "?"
        self._ask("PUT", f"{target}{joined}digest={digest_of(data)}", 201, data)

    def put_manifest(self, repository: str, reference: str, raw: bytes, media_type: str) -> None:
        self._ask("PUT", f"/v2/{repository}/manifests/{reference}", 201, raw, {"Content-Type": media_type})

    def delete(self, repository: str, digest: str) -> None:
        self._ask("DELETE", f"/v2/{repository}/manifests/{digest}", 202, b"")

    def _ask(
        self, method: str, target: str, expected: int, body: bytes, headers: Mapping[str, str] | None = None
    ) -> str:
        host, _, port = self.address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request(method, target, body, {**self._headers, **(headers or {})})
        answer = connection.getresponse()
        said = answer.read(4096)
        connection.close()
        assert answer.status == expected, (method, target, answer.status, said)
        return answer.headers.get("Location", "")


@dataclass
class GroundControlStub:
    """Ground Control's side for one satellite, in threads of its own: registration by a token that is good for
    once, reports, and (where `refreshes`) a new secret for the login."""

    harbor_url: str
    satellite: str
    token: str
    secret: str = "first-secret"
    username: str = ""
    refreshes: bool = True
    events: list[str] = field(default_factory=list)
    """Asked of the satellite in the answer to its next report."""
    faults: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Statuses and header fields of the next answers."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    registered: int = 0
    on_rotation: Any = None
    """Called with a new secret, before it is told."""

    def __enter__(self) -> Self:
        self.username = self.username or f"robot$satellite-{self.satellite}"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(
        self, method: str, path: str, authorization: str, body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        self.asked.append((method, path))
        if self.faults:
            status, headers = self.faults.pop(0)
            return status, b'{"message":"as ordered","code":0}', headers
        expected = base64.b64encode(f"{self.username}:{self.secret}".encode()).decode()
        known = authorization == f"Basic {expected}"
        if method == "GET" and path.startswith("/satellites/ztr/"):
            if path.removeprefix("/satellites/ztr/") != self.token:
                return 400, b'{"message":"Error: Invalid Token","code":400}', {}
            self.token = ""
            self.registered += 1
            self._rotate(f"secret-of-registration-{self.registered}")
            state = f"{self.harbor_url}/satellite/satellite-state/{self.satellite}/state:latest"
            auth = {"url": self.harbor_url, "username": self.username, "password": self.secret}
            return 200, json.dumps({"auth": auth, "state": state}).encode(), {}
        if method == "POST" and path == "/satellites/sync":
            if not known:
                return 401, b'{"error":"Invalid credentials"}', {}
            self.reports.append(json.loads(body))
            events, self.events = self.events, []
            return 200, json.dumps({"events": events}).encode() if events else b"", {}
        if method == "POST" and path == "/sat/refresh" and self.refreshes:
            if not known:
                return 401, b'{"error":"Invalid credentials"}', {}
            self._rotate(self.secret + "-renewed")
            return 200, json.dumps({"secret": self.secret}).encode(), {}
        return 404, b"404 page not found\n", {}

    def _rotate(self, secret: str) -> None:
        self.secret = secret
        if self.on_rotation is not None:
            self.on_rotation(secret)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                authorization = self.headers.get("Authorization", "")
                status, said, headers = stub.answer(self.command, self.path, authorization, body)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(said))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(said)

        return Handler
