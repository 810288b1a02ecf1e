"""`python -m sim.benchmark.http_client`: a worker that pulls one image from a registry as plain clients do.

Manifest by digest, then each blob in turn over the same connection, hashed and written as it comes. The task:
`host` (HOST:PORT), `repository`, `manifest` (digest), `directory` (must not exist).
"""

import hashlib
import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sim.benchmark.worker import work
from sim.images import MANIFEST

SLICE = 1024 * 1024
SILENCE_SECONDS = 120.0


def prepare(task: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    directory = Path(task["directory"])
    directory.mkdir(parents=True)
    return lambda: pull(task["host"], task["repository"], task["manifest"], directory)


def pull(host: str, repository: str, manifest: str, directory: Path) -> dict[str, Any]:
    """Raises `OSError`, `ConnectionError` for an answer that is not 200, `ValueError` for a wrong digest."""
    registry = http.client.HTTPConnection(host, timeout=SILENCE_SECONDS)
    try:
        _fetch(registry, f"/v2/{repository}/manifests/{manifest}", manifest, directory)
        told = json.loads((directory / manifest).read_bytes())
        for digest in (blob["digest"] for blob in (told["config"], *told["layers"])):
            _fetch(registry, f"/v2/{repository}/blobs/{digest}", digest, directory)
    except http.client.HTTPException as fault:
        raise ConnectionError(f"{type(fault).__name__}: {fault}") from None
    finally:
        registry.close()
    return {}


def _fetch(registry: http.client.HTTPConnection, path: str, digest: str, directory: Path) -> None:
    registry.request("GET", path, headers={"Accept": MANIFEST})
    answer = registry.getresponse()
    if answer.status != 200:
        raise ConnectionError(f"{answer.status} for {path.rpartition('/')[0]}")
    found = hashlib.sha256()
    with (directory / digest).open("wb") as file:
        while data := answer.read(SLICE):
            file.write(data)
            found.update(data)
    if f"sha256:{found.hexdigest()}" != digest:
        raise ValueError("a wrong digest came")


if __name__ == "__main__":
    work(prepare)
