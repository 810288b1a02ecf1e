"""A container runtime that never stops pulling, run in a node's namespace: `python -m sim.watcher URL TAG`.

`URL` is a repository's (`http://127.0.0.1:5000/v2/test/app`). Each turn pulls the tag whole, as a client
does: the manifest, then every blob of it, all checked against their digests. A line of JSON a turn: when it
began and ended (seconds of CLOCK_MONOTONIC, the same for all processes), the digest, and what went wrong:
nothing, `down` where nobody listens or the connection broke, or a text.
"""

import hashlib
import json
import sys
import time
from typing import Any

import httpx

PAUSE = 0.1
PATIENCE = 20.0
ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"


def pull(http: httpx.Client, url: str, tag: str) -> tuple[str | None, str | None]:
    """The digest, and what went wrong."""
    digest: str | None = None
    try:
        answer = http.get(f"{url}/manifests/{tag}", headers={"Accept": ACCEPT})
        if answer.status_code != 200:
            return None, f"manifest: {answer.status_code} {answer.text[:200]}"
        digest = answer.headers["docker-content-digest"]
        if _digest(answer.content) != digest:
            return digest, "the manifest has not its digest"
        manifest: dict[str, Any] = answer.json()
        for blob in (manifest["config"], *manifest["layers"]):
            whole = hashlib.sha256()
            with http.stream("GET", f"{url}/blobs/{blob['digest']}") as stream:
                if stream.status_code != 200:
                    return digest, f"blob {blob['digest']}: {stream.status_code}"
                for part in stream.iter_bytes():
                    whole.update(part)
            if f"sha256:{whole.hexdigest()}" != blob["digest"]:
                return digest, f"blob {blob['digest']} has not its digest"
    except httpx.TransportError as broken:
        return digest, "timeout" if isinstance(broken, httpx.TimeoutException) else "down"
    return digest, None


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def main(url: str, tag: str) -> None:
    with httpx.Client(timeout=PATIENCE, trust_env=False) as http:
        while True:
            began = time.monotonic()
            digest, fault = pull(http, url, tag)
            row = {"began": began, "ended": time.monotonic(), "digest": digest, "fault": fault}
            print(json.dumps(row), flush=True)
            time.sleep(PAUSE)


if __name__ == "__main__":
    main(*sys.argv[1:])
