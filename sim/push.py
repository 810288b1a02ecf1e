"""`python -m sim.push HOST:PORT REPOSITORY TAG LAYOUT`: pushes an OCI image layout over plain http.

Laws: bytes go up as they are (skopeo would compress a layer that does not look compressed); what the layout's
index names goes up depth first, so that the registry never sees a manifest before what it refers to. Waits up
to 10 s for the registry to come up. OCI distribution-spec 1.1, "Pushing": POST, then one PUT.
"""

import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

WAIT_SECONDS = 10.0


def push(address: str, repository: str, tag: str, layout: Path) -> None:
    """Raises `OSError` when the registry is not there, `ConnectionError` when it refuses."""
    registry = _connect(address)
    index = json.loads((layout / "index.json").read_bytes())
    for top in index["manifests"]:
        _push_manifest(registry, repository, layout, top, tag)
    registry.close()


def _push_manifest(
    registry: http.client.HTTPConnection,
    repository: str,
    layout: Path,
    descriptor: dict[str, Any],
    reference: str,
) -> None:
    raw = _blob(layout, descriptor["digest"]).read_bytes()
    manifest = json.loads(raw)
    for child in manifest.get("manifests", ()):
        _push_manifest(registry, repository, layout, child, child["digest"])
    for blob in (*([manifest["config"]] if "config" in manifest else ()), *manifest.get("layers", ())):
        _push_blob(registry, repository, layout, blob["digest"])
    path = f"/v2/{repository}/manifests/{reference}"
    with _blob(layout, descriptor["digest"]).open("rb") as body:
        _ask(
            registry,
            "PUT",
            path,
            201,
            body,
            {"Content-Type": descriptor["mediaType"], "Content-Length": str(len(raw))},
        )


def _push_blob(registry: http.client.HTTPConnection, repository: str, layout: Path, digest: str) -> None:
    place = _ask(registry, "POST", f"/v2/{repository}/blobs/uploads/", 202)
    upload = urlsplit(place)
    query = f"{upload.query}&" if upload.query else ""
    target = f"{upload.path}?{query}digest={digest}"
    size = _blob(layout, digest).stat().st_size
    with _blob(layout, digest).open("rb") as body:
        _ask(registry, "PUT", target, 201, body, {"Content-Length": str(size)})


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / Path(*digest.split(":", 1))


def _ask(
    registry: http.client.HTTPConnection,
    method: str,
    target: str,
    expected: int,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> str:
    """Returns the answer's Location."""
    registry.request(method, target, body=body, headers=headers or {})
    answer = registry.getresponse()
    said = answer.read(4096)
    if answer.status != expected:
        raise ConnectionError(f"{method} {target}: {answer.status} {said!r}")
    return answer.headers.get("Location", "")


def _connect(address: str) -> http.client.HTTPConnection:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        registry = http.client.HTTPConnection(host, int(port), timeout=60)
        registry.blocksize = 1024 * 1024
        try:
            registry.connect()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return registry


def main() -> None:
    address, repository, tag, layout = sys.argv[1:]
    push(address, repository, tag, Path(layout))


if __name__ == "__main__":
    main()
