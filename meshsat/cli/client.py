"""The CLI's side of a node's API: HTTP over the Unix socket `api.sock` in the data directory."""

import json
import os
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from meshsat.errors import DeniedError, MeshsatError, UnavailableError

SOCKET = "api.sock"
ANSWER_LIMIT = 10.0
"""Seconds for a snapshot. It is made from memory: a node that takes longer is stuck."""
SILENCE_LIMIT = 30.0
"""Seconds without a line from a pull. A node gives one at least each second, also while it waits."""
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For a socket that speaks none: httpx would load the machine's authorities for it, which takes 30 ms."""


class NodeClient:
    """Asks the node that runs on `data_dir`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def get(self, path: str) -> Any:
        """The JSON of GET `path`. Raises `UnavailableError`, `DeniedError`, `MeshsatError`."""
        with self._connected(ANSWER_LIMIT) as http, self._told():
            answer = http.get(path)
            self._check(answer)
            return self._json(answer.text)

    def post(self, path: str, body: dict[str, Any], patience: float = ANSWER_LIMIT) -> dict[str, Any]:
        """The JSON object that POST `body` to `path` gives within `patience` seconds. Raises like `get`."""
        with self._connected(patience) as http, self._told():
            answer = http.post(path, json=body)
            self._check(answer)
            told: dict[str, Any] = self._json(answer.text)
            return told

    def post_raw(self, path: str, body: bytes) -> dict[str, Any]:
        """As `post`, of bytes that are JSON already."""
        with self._connected(SILENCE_LIMIT) as http, self._told():
            answer = http.post(path, content=body)
            self._check(answer)
            told: dict[str, Any] = self._json(answer.text)
            return told

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """POST `body` to `path`; each line of the answer, a JSON object. Raises as `get` does."""
        with (
            self._connected(SILENCE_LIMIT) as http,
            self._told(),
            http.stream("POST", path, json=body) as answer,
        ):
            if answer.is_error:
                answer.read()
            self._check(answer)
            for line in answer.iter_lines():
                if line.strip():
                    yield self._json(line)

    @contextmanager
    def _connected(self, silence: float) -> Iterator[httpx.Client]:
        self.require_node()
        timeout = httpx.Timeout(silence, connect=ANSWER_LIMIT)
        transport = httpx.HTTPTransport(uds=os.fspath(self.data_dir / SOCKET), verify=NO_TLS)
        with httpx.Client(transport=transport, base_url="http://node", timeout=timeout) as http:
            yield http

    def require_node(self) -> None:
        path = self.data_dir / SOCKET
        try:
            found = stat.S_ISSOCK(path.stat().st_mode)
        except FileNotFoundError:
            found = False
        except PermissionError:
            raise self.denied() from None
        if not found:
            raise self.not_running()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what can go wrong with the node into words for its operator."""
        try:
            yield
        except httpx.ConnectError as refused:
            if any(isinstance(cause, PermissionError) for cause in _causes(refused)):
                raise self.denied() from None
            raise self.not_running() from None
        except httpx.TimeoutException:
            raise UnavailableError(
                f"the node on {self.data_dir} does not answer; see its log, and restart it if that stays so"
            ) from None
        except httpx.TransportError as broken:
            raise UnavailableError(f"the node on {self.data_dir} went away in mid-answer: {broken}") from None

    def not_running(self) -> UnavailableError:
        return UnavailableError(
            f"no node runs on {self.data_dir}; start it with: meshsat node --data-dir {self.data_dir}"
            " (or name another directory with --data-dir or MESHSAT_DATA_DIR)"
        )

    def denied(self) -> DeniedError:
        return DeniedError(
            f"not allowed to talk to the node on {self.data_dir}: run this as the user who runs the node"
        )

    @staticmethod
    def _check(answer: httpx.Response) -> None:
        if answer.is_error:
            raise MeshsatError(f"the node says: {_reason(answer.text)} ({answer.status_code})")

    @staticmethod
    def _json(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            raise MeshsatError(f"the node's answer is not JSON: {text[:80]!r}") from None


def _causes(fault: BaseException | None) -> Iterator[BaseException]:
    """`fault` and what lies behind it, through the layers of httpx."""
    while fault is not None:
        yield fault
        fault = fault.__cause__ or fault.__context__


def _reason(text: str) -> str:
    """The message of the API's error body (docs/reference/http.md), or the body itself."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return text.strip()[:200] or "nothing more"
