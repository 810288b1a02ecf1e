"""A disk that loses things, under real node processes: what is lost is noticed, never served wrong, and comes back."""

import json
import os
from functools import partial
from pathlib import Path

import pytest

from tests.conformance.conftest import lone_node, serving
from tests.conformance.registry import Registry
from tests.images import Image, build_image, digest_of, random_bytes
from tests.processes import Node, Place, until

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(180)]

IMAGE = build_image([random_bytes(2_000_000, 1), random_bytes(300_000, 2)])
OTHER = build_image([random_bytes(100_000, 3)])


def blob_path(node: Node, digest: str) -> Path:
    return node.data_dir / "store" / "blobs" / "sha256" / digest.removeprefix("sha256:")


def is_right(path: Path, digest: str) -> bool:
    return path.exists() and digest_of(path.read_bytes()) == digest


def assert_serves(registry: Registry, name: str, image: Image) -> None:
    assert registry.manifest(name, "1").body == image.raw
    assert registry.manifest(name, image.root).body == image.raw
    for digest, data in image.blobs.items():
        assert registry.blob(name, digest).body == data


@pytest.mark.parametrize("harm", ["half", "empty", "garbage", "no pages"])
def test_a_database_that_is_cut_short(place: Place, harm: str) -> None:
    """Killed, harmed, started again: it is set aside and rebuilt, and what was pushed is served."""
    node = lone_node(place)
    registry = serving(node)
    registry.push("app", IMAGE, "1")
    registry.push("till", OTHER, "1")
    assert node.process is not None
    node.process.kill()
    database = node.data_dir / "store" / "state.sqlite"
    for path in (database, database.with_name("state.sqlite-wal")):
        size = path.stat().st_size
        match harm:
            case "half":
                os.truncate(path, size // 2)
            case "empty":
                os.truncate(path, 0)
            case "garbage":
                path.write_bytes(random_bytes(size, 9))
            case "no pages":
                path.write_bytes(path.read_bytes()[:100] + bytes(max(0, size - 100)))
    registry = serving(node)
    assert_serves(registry, "app", IMAGE)
    assert_serves(registry, "till", OTHER)
    # And it goes on as it should: what is there is collected only when nothing refers to it.
    done = json.loads(node.run("gc", "--json").stdout)
    assert (done["refused"], done["blobs"], done["images"]) == (None, 0, [])
    registry.push("app", OTHER, "2")
    assert_serves(registry, "app", IMAGE)


def test_files_that_are_gone_come_back_from_a_peer(place: Place) -> None:
    one = lone_node(place)
    one.configure({"uplink": {"enabled": False}, "registry": {"push": True}})
    two = Node(place, "two", {"uplink": {"enabled": False}})
    registry = serving(one)
    registry.push("app", IMAGE, "1")
    two.run("join", one.run("invite").stdout.strip())
    other = serving(two)
    two.wait_until_ready(peers=1)
    until("it hears of the image", lambda: other.manifest("app", "1").status == 200)
    assert_serves(other, "app", IMAGE)
    until("the image is shown", lambda: two.status()["images"] == 1)
    layers = [digest for digest, data in IMAGE.blobs.items() if len(data) >= 300_000]
    blob_path(two, layers[0]).unlink()
    blob_path(two, layers[1]).chmod(0o600)
    os.truncate(blob_path(two, layers[1]), 1000)
    for digest in layers:
        answer = other.blob("app", digest)
        assert answer.status != 200 or answer.body == IMAGE.blobs[digest], "never wrong, never short"
        until("it is there again", partial(is_right, blob_path(two, digest), digest))
    assert_serves(other, "app", IMAGE)
    until("the image is shown again", lambda: two.status()["images"] == 1)
    status = two.status()
    assert status["disk"]["rotten"] == 2
    assert status["disk"]["quarantined"] == 1
    assert any("2 blobs proved rotten" in problem for problem in status["problems"])


def test_an_operator_has_the_node_collect(place: Place) -> None:
    node = lone_node(place, {"push": True, "delete": True, "pin_pushed": False})
    registry = serving(node)
    registry.push("app", IMAGE, "1")
    registry.push("till", OTHER, "1")
    assert registry.ask("DELETE", f"/v2/app/manifests/{IMAGE.root}").status == 202
    told = node.run("gc", "--dry-run").stdout
    assert "0 B would be freed" in told, "it was pushed less than the grace ago"
    assert "disk" in node.run("status").stdout
    assert node.status()["disk"]["used"] >= IMAGE.size + OTHER.size
