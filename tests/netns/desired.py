"""Sites in namespaces under a desired state: published on one node, watched on all."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshsat.cli.client import NodeClient
from meshsat.errors import MeshsatError
from sim.images import Layout
from sim.nodes import Node
from sim.site import Site

WAIT = 60.0


def until(what: str, look: Callable[[], bool], seconds: float = WAIT, every: float = 0.1) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not look():
        assert time.monotonic() < began + seconds, f"not within {seconds:g} s: {what}"
        time.sleep(every)
    return time.monotonic() - began


def publish(site: Site, version: int, *images: dict[str, Any], node: Node | None = None) -> None:
    """As an operator would, on the machine where the fleet was made."""
    first = node or site.nodes[0]
    authored = site.directory / f"state-{version}.yaml"  # JSON is YAML
    authored.write_text(json.dumps({"expires": "90d", "images": list(images)}))
    command = (
        sys.executable,
        "-m",
        "meshsat",
        "state",
        "publish",
        str(authored),
        "--config",
        str(first.config),
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)


def pinned(
    site: Site, image: Layout, name: str = "test/app", tag: str = "stable", **words: Any
) -> dict[str, Any]:
    return {"reference": f"{site.upstream.host}/{name}:{tag}@{image.manifest}", **words}


def desired(node: Node) -> dict[str, Any]:
    """What the node tells of the first image; nothing while it does not answer."""
    try:
        images = NodeClient(node.data_dir).get("/api/v1/desired")["images"]
    except MeshsatError:
        return {}
    return dict(images[0]) if images else {}


def is_active(node: Node, image: Layout) -> bool:
    return desired(node).get("active") == image.manifest


def is_whole(node: Node, image: Layout) -> bool:
    told = desired(node)
    return bool(told) and told["target"] == image.manifest and told["nodes"][0]["stage"] == "whole"


def holds(node: Node, image: Layout) -> bool:
    """All of it is on the node's disk."""
    blobs = node.data_dir / "store" / "blobs" / "sha256"
    return all((blobs / digest.partition(":")[2]).exists() for digest in (image.manifest, *image.blobs))


@dataclass(frozen=True, slots=True)
class Turn:
    """One pull of a watcher."""

    began: float
    ended: float
    digest: str | None
    fault: str | None


class Watcher:
    """Pulls from one node, over and over; `sim.watcher`."""

    def __init__(self, node: Node, directory: Path, name: str = "test/app", tag: str = "stable") -> None:
        self.node = node
        self._file = directory / f"watched-{node.name}.jsonl"
        with self._file.open("wb") as output:
            url = f"http://{node.registry}/v2/{name}"
            self._process = node.host.namespace.start(
                sys.executable, "-m", "sim.watcher", url, tag, output=output
            )

    def stop(self) -> list[Turn]:
        self._process.kill()
        self._process.wait()
        lines = self._file.read_text().splitlines()
        return [Turn(**json.loads(line)) for line in lines if line.endswith("}")]
