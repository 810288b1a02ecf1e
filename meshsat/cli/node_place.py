"""The node of this machine as the place that images are taken from and brought to, over `api.sock`.

On the standard library's HTTP client, not httpx as the other verbs: it reads into and sends from one buffer,
which moves a layer two to three times as fast. Law: what the node says is passed on in its own words.
"""

import http.client
import io
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from meshsat.bundle.place import PART, Count, Found, Repository, Stream
from meshsat.cli.client import SOCKET, NodeClient
from meshsat.errors import (
    DeniedError,
    DigestMismatchError,
    InvalidInputError,
    MeshsatError,
    NotFoundError,
    StorageFullError,
    UnavailableError,
)
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.fields import take_objects
from meshsat.oci.manifest import MANIFEST_LIMIT, Manifest, parse_manifest_untrusted
from meshsat.oci.reference import SITE, Reference

SILENCE_LIMIT = 60.0
"""Seconds without a byte. A manifest may have to come over the uplink."""
AT_ONCE = 500
"""Digests that the node is asked about in one request."""
ANSWER_LIMIT = 16 * 1024 * 1024
"""Bytes of an answer that is no blob."""
PAGES = 1000
_NEXT = re.compile(r"<([^>]{1,4096})>; *rel=\"?next\"?")


class NodePlace:
    """`meshsat.bundle.place.Origin` and `Receiver`."""

    def __init__(self, data_dir: Path) -> None:
        self._client = NodeClient(data_dir)
        self._data_dir = data_dir
        self._connection: http.client.HTTPConnection | None = None
        self._moments: dict[tuple[str, str], float] | None = None

    # --- Origin ---

    def manifest(self, repository: Repository, reference: str | Digest) -> Found | None:
        answer = self._ask("GET", _path(repository, f"manifests/{reference}"))
        if answer.status == 404:
            return None
        self._check(answer)
        said = Digest.parse_untrusted(answer.headers.get("Docker-Content-Digest"))
        media_type = answer.headers.get("Content-Type")
        manifest = parse_manifest_untrusted(answer.body, media_type, MANIFEST_LIMIT, said.algorithm)
        wanted = reference if isinstance(reference, Digest) else said
        if manifest.digest != wanted:
            raise DigestMismatchError(f"{repository}: the node gave {manifest.digest} for {wanted}")
        if isinstance(reference, Digest):
            return Found(manifest)
        return Found(manifest, self._moment(f"{repository}:{reference}", manifest.digest, answer))

    def _moment(self, reference: str, digest: Digest, answer: "_Answer") -> float | None:
        """When an upstream last said so: the node's list has it exactly, the header in seconds."""
        if self._moments is None:
            listed = self._client.get("/api/v1/images")["images"]
            self._moments = {(one["reference"], one["digest"]): one["resolved_at"] for one in listed}
        age = answer.headers.get("Age", "")
        told = time.time() - int(age) if age.isdigit() else None
        return self._moments.get((reference, str(digest)), told)

    def tags(self, repository: Repository) -> list[str]:
        found: list[str] = []
        for answer in self._pages(_path(repository, "tags/list")):
            found += [tag for tag in take_objects(_object(answer), "tags") if isinstance(tag, str)]
        return found

    def referrers(self, repository: Repository, subject: Digest) -> list[Descriptor]:
        found: list[Descriptor] = []
        for answer in self._pages(_path(repository, f"referrers/{subject}")):
            found += map(Descriptor.parse_untrusted, take_objects(_object(answer), "manifests"))
        return found

    def _pages(self, path: str) -> Iterator["_Answer"]:
        for _ in range(PAGES):
            answer = self._ask("GET", path)
            if answer.status == 404:
                return
            self._check(answer)
            yield answer
            following = _NEXT.search(answer.headers.get("Link", ""))
            if following is None:
                return
            path = following[1]

    @contextmanager
    def open_blob(self, repository: Repository, blob: Descriptor) -> Iterator[Stream]:
        with self._told():
            answer = self._send("GET", _path(repository, f"blobs/{blob.digest}"))
        if answer.status != 200:
            with self._told():
                self._check(_Answer(answer), blob.digest)
        try:
            yield _Blob(answer, blob.digest)
        finally:
            if not answer.isclosed():
                self._close()

    # --- Receiver ---

    def lacking(self, repository: Repository, digests: Iterable[Digest]) -> set[Digest]:
        asked = list(digests)
        held: set[Digest] = set()
        for start in range(0, len(asked), AT_ONCE):
            body = {"digests": [str(digest) for digest in asked[start : start + AT_ONCE]]}
            held |= set(map(Digest.parse_untrusted, self._post("/api/v1/held", body)["held"]))
        if repository.registry == SITE:
            held = {digest for digest in held if self._mount(repository, digest)}
        return set(asked) - held

    def _mount(self, repository: Repository, digest: Digest) -> bool:
        """What is pushed belongs to its repository; what is held for another may come to it as well."""
        answer = self._check(self._ask("POST", _path(repository, "blobs/uploads/", mount=str(digest))))
        if answer.status == 201:
            return True
        self._ask("DELETE", answer.headers["Location"])
        return False

    def put_blob(self, repository: Repository, blob: Descriptor, data: Stream, count: Count) -> None:
        begun = self._check(self._ask("POST", _path(repository, "blobs/uploads/")))
        location = begun.headers["Location"]
        mark = "&" if "?" in location else "?"
        try:
            answer = self._put(f"{location}{mark}digest={blob.digest}", blob.size, data, count)
        except BaseException:
            self._close()
            raise
        if answer.status == 400 and answer.code in ("DIGEST_INVALID", "SIZE_INVALID"):
            raise DigestMismatchError(answer.reason)
        self._check(answer)

    def _put(self, path: str, size: int, data: Stream, count: Count) -> "_Answer":
        with self._told():
            connection = self._connected()
            connection.putrequest("PUT", path)
            connection.putheader("Content-Length", str(size))
            connection.putheader("Content-Type", "application/octet-stream")
            connection.endheaders()
        room = memoryview(bytearray(min(PART, size) or 1))
        while read := data.readinto(room):
            with self._told():
                try:
                    connection.send(room[:read])
                except OSError:
                    # A node that has seen enough says why before it hangs up.
                    answer = _Answer(connection.getresponse())
                    self._close()
                    return answer
            count(read)
        with self._told():
            return _Answer(connection.getresponse())

    def put_manifest(self, repository: Repository, manifest: Manifest) -> None:
        path = _path(repository, f"manifests/{manifest.digest}")
        self._check(self._ask("PUT", path, manifest.raw, manifest.media_type))

    def tag(self, reference: Reference, manifest: Digest, resolved_at: float | None) -> bool:
        moment = None if resolved_at is None else min(resolved_at, time.time())
        name = str(Reference(reference.registry, reference.repository, reference.tag))
        body = {"reference": name, "digest": str(manifest), "resolved_at": moment}
        return bool(self._post("/api/v1/tag", body)["taken"])

    # --- HTTP ---

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return _object(self._check(self._ask("POST", path, json.dumps(body).encode(), "application/json")))

    def _ask(self, method: str, path: str, body: bytes = b"", media_type: str | None = None) -> "_Answer":
        with self._told():
            return _Answer(self._send(method, path, body, media_type))

    def _send(
        self, method: str, path: str, body: bytes = b"", media_type: str | None = None
    ) -> http.client.HTTPResponse:
        """A connection that the node closed meanwhile, being idle, is made anew."""
        headers = {"Content-Type": media_type} if media_type else {}
        if method in ("POST", "PUT"):
            headers["Content-Length"] = str(len(body))
        for fresh in (self._connection is None, True):
            connection = self._connected()
            try:
                connection.request(method, path, body or None, headers)
                return connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._close()
                if fresh:
                    raise
        raise AssertionError

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            self._client.require_node()
            self._connection = _UnixConnection(self._data_dir / SOCKET)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what can go wrong with the node into words for its operator."""
        try:
            yield
        except PermissionError:
            raise self._client.denied() from None
        except ConnectionRefusedError:
            raise self._client.not_running() from None
        except (OSError, http.client.HTTPException) as broken:
            self._close()
            reason = str(broken) or type(broken).__name__
            raise UnavailableError(
                f"the node on {self._data_dir} went away or does not answer: {reason}; see its log, and run"
                " this again: what was done stays done"
            ) from None

    @staticmethod
    def _check(answer: "_Answer", wanted: Digest | None = None) -> "_Answer":
        """Raises what the node's refusal means."""
        if answer.status < 300:
            return answer
        text = f"the node says: {answer.reason} ({answer.status})"
        match answer.status:
            case 401 | 403:
                raise DeniedError(text)
            case 404 if wanted is not None:
                raise NotFoundError(f"{wanted} is not here, and can't be had now: {text}")
            case 503:
                raise UnavailableError(text)
            case 507:
                raise StorageFullError(f"{text}; make room, and run this again: what was done stays done")
            case status if 400 <= status < 500 and status != 429:
                raise InvalidInputError(text)
        raise MeshsatError(text)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("node", timeout=SILENCE_LIMIT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


class _Answer:
    """One that is no blob: read whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read(ANSWER_LIMIT)
        if not response.isclosed():
            raise http.client.HTTPException(f"an answer of more than {ANSWER_LIMIT} bytes")

    @property
    def code(self) -> str:
        return self._told("code")

    @property
    def reason(self) -> str:
        return self._told("message") or self.body.decode("utf-8", "replace").strip()[:200] or "nothing more"

    def _told(self, field: str) -> str:
        """Of the error bodies of the registry and of the API (docs/reference/http.md)."""
        try:
            body = json.loads(self.body)
            return str((body["errors"][0] if "errors" in body else body["error"])[field])
        except (ValueError, LookupError, TypeError):
            return ""


class _Blob:
    """A blob as it comes from the node."""

    def __init__(self, answer: http.client.HTTPResponse, digest: Digest) -> None:
        self._answer = answer
        self._digest = digest

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            return self._answer.readinto(buffer)
        except (OSError, http.client.HTTPException) as broken:
            raise UnavailableError(
                f"{self._digest} was cut off by the node: {broken}; its log says why"
            ) from None


def _object(answer: _Answer) -> dict[str, Any]:
    try:
        body = json.load(io.BytesIO(answer.body))
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise MeshsatError(f"the node's answer is not a JSON object: {answer.body[:80]!r}")
    return body


def _path(repository: Repository, rest: str, **options: str) -> str:
    return f"/v2/{quote(repository.name)}/{rest}?{urlencode({'ns': repository.registry, **options})}"
