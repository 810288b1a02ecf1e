"""A fleet of Harbor Satellite's, moved over: a real registry with its state artifacts, a node as a process.

Harbor's part is docker-registry's, Ground Control's an own stand-in (tests/harbor_satellite.py).
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harbor_satellite import GroundControlStub, Harbor, artifact, config_document
from tests.htpasswd import write_htpasswd
from tests.images import Image, build_image, random_bytes
from tests.processes import LISTENING, Node, Place, until
from tests.tools import require_tool

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(180)]

SATELLITE = "till-7"
TOKEN = "a0b1c2d3e4f5a0b1c2d3e4f5a0b1c2d3"


class Registry:
    """docker-registry, with all its requests in a log."""

    def __init__(self, place: Place, name: str = "harbor", htpasswd: Path | None = None) -> None:
        require_tool("docker-registry")
        settings: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "text"},
            "storage": {
                "filesystem": {"rootdirectory": str(place.directory / name)},
                "delete": {"enabled": True},
            },
            "http": {"addr": "127.0.0.1:0", "secret": "only for this test"},
        }
        if htpasswd is not None:
            settings["auth"] = {"htpasswd": {"realm": "harbor", "path": str(htpasswd)}}
        config = place.directory / f"{name}.yml"
        config.write_text(json.dumps(settings))  # which is YAML
        self.process = place.start(f"{name}.log", "docker-registry", "serve", str(config))
        self.host = until("the registry listens", lambda: LISTENING.search(self.process.said))[1]

    def gets(self, part: str) -> list[str]:
        """Paths of GET and HEAD requests so far that contain `part`."""
        asked = re.findall(r'"(?:GET|HEAD) (/v2/\S*) HTTP', self.process.said)
        return [path for path in asked if part in path]


def hold(harbor: Harbor, repository: str, tag: str, image: Image) -> str:
    for data in image.blobs.values():
        harbor.push_blob(repository, data)
    for digest, raw in image.manifests.items():
        if digest != image.root:
            harbor.put_manifest(repository, digest, raw, image.media_types[digest])
    harbor.put_manifest(repository, tag, image.raw, image.media_types[image.root])
    return image.root


def wanted(node: Node) -> list[str]:
    answer = node.ask("/api/v1/satellite")
    assert answer is not None
    images: list[str] = answer.json()["images"]
    return images


def told(node: Node) -> dict[str, Any]:
    answer = node.ask("/api/v1/satellite")
    assert answer is not None
    status: dict[str, Any] = answer.json()
    return status


def wants(node: Node, *references: str) -> Callable[[], bool]:
    return lambda: wanted(node) == sorted(references)


def serves(node: Node, host: str, images: dict[str, Image]) -> Callable[[], bool]:
    """By tag, with the bytes and the digest that they have in Harbor, and all that they consist of."""

    def look() -> bool:
        for name, image in images.items():
            repository, _, tag = name.partition(":")
            answer = node.get(f"{host}/{repository}/manifests/{tag}")
            if answer.status_code != 200 or answer.content != image.raw:
                return False
            assert answer.headers["docker-content-digest"] == image.root
            held = {path.name for path in (node.data_dir / "store" / "blobs").glob("*/*")}
            if not {digest.partition(":")[2] for digest in image.contents} <= held:
                return False
        return True

    return look


def write_registry(node: Node, host: str) -> None:
    with node.config.open("a") as config:
        config.write(f'[[uplink.registries]]\nhost = "{host}"\nplain_http = true\n')


def follow(node: Node, **settings: Any) -> None:
    with node.config.open("a") as config:
        config.write("[fleet.harbor_satellite]\n")
        config.writelines(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())


@pytest.fixture
def registry(place: Place) -> Registry:
    return Registry(place)


@pytest.fixture
def token_file(place: Place) -> Path:
    path = place.directory / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def control(registry: Registry) -> Iterator[GroundControlStub]:
    with GroundControlStub(f"http://{registry.host}", SATELLITE, TOKEN) as stub:
        yield stub


def test_a_satellite_registers_and_follows_its_groups_whatever_becomes_of_them(
    place: Place, registry: Registry, control: GroundControlStub, token_file: Path
) -> None:
    harbor = Harbor(registry.host)
    pos = build_image([random_bytes(50_000, 1)])
    newer = build_image([random_bytes(50_000, 2)])
    multi = build_image([random_bytes(30_000, 3)], ["linux/amd64", "linux/arm64"])
    docker = build_image([random_bytes(20_000, 4)], docker=True)
    digests = {
        "pos": hold(harbor, "library/pos", "42", pos),
        "multi": hold(harbor, "team/multi/app", "v1", multi),
        "docker": hold(harbor, "other/pos", "42", docker),
    }
    host = registry.host
    pos_42 = f"{host}/library/pos:42@{digests['pos']}"
    multi_v1 = f"{host}/team/multi/app:v1@{digests['multi']}"
    other_42 = f"{host}/other/pos:42@{digests['docker']}"
    harbor.config("default", config_document())
    shared = artifact("library/pos", ["42"], digests["pos"])
    harbor.group("tills", [shared, artifact("team/multi/app", ["v1"], digests["multi"])])
    harbor.group("shop", [shared, artifact("other/pos", ["42"], digests["docker"])])
    harbor.root(SATELLITE, ["tills", "shop"])

    node = Node(place, "node", {"mesh": {"mdns": False}})
    write_registry(node, host)
    follow(node, ground_control=control.url, plain_http=True, token_file=str(token_file), poll=1.0)
    node.run("init", "shops")
    process = node.start()
    node.wait_until_ready()

    # Two groups that share an image; the same name and tag in two repositories; an index, whole.
    until("it follows", wants(node, pos_42, multi_v1, other_42))
    until(
        "it holds them",
        serves(node, host, {"library/pos:42": pos, "team/multi/app:v1": multi, "other/pos:42": docker}),
    )
    asked = [path for path in registry.gets("/blobs/") if "/satellite/" not in path]
    assert len(asked) == len(set(asked)) == len({*pos.blobs, *multi.blobs, *docker.blobs}), (
        "each once, and all"
    )
    status = told(node)
    assert (status["name"], status["in_force"], status["problems"]) == (SATELLITE, True, [])
    assert status["state_digest"]
    assert "zot_config" in status["passed_over"]
    assert control.registered == 1
    assert (node.data_dir / "fleet" / "satellite.json").stat().st_mode & 0o777 == 0o600
    for secret in (TOKEN, control.secret):
        assert secret not in process.said
        assert secret not in json.dumps([node.status(), status])
        assert secret not in (node.data_dir / "fleet" / "satellite.json").read_text()
    assert "library/pos:42" in node.run("satellite status").stdout

    # One group lets go of the shared image, then calls another one deleted.
    harbor.group("tills", [artifact("team/multi/app", ["v1"], digests["multi"])])
    harbor.group("shop", [shared, artifact("other/pos", ["42"], digests["docker"], deleted=True)])
    until("what is deleted is gone, what is shared stays", wants(node, pos_42, multi_v1))

    # A tag moves.
    digests["newer"] = hold(harbor, "library/pos", "42", newer)
    harbor.group("shop", [artifact("library/pos", ["42"], digests["newer"])])
    newer_42 = f"{host}/library/pos:42@{digests['newer']}"
    until("the tag moved", wants(node, newer_42, multi_v1))
    until("it means the new one", serves(node, host, {"library/pos:42": newer, "team/multi/app:v1": multi}))

    # A group that is broken, or gone from Harbor, stays as it was; the other goes on.
    harbor.push("satellite/group-state/shop/state", b'{"group": "shop", "artifacts": [')
    harbor.group("tills", [])
    until("the broken one stays", wants(node, newer_42))
    until("it is told", lambda: any("group-state/shop" in one for one in node.status()["problems"]))
    gone = harbor.group("shop", [artifact("other/pos", ["42"], digests["docker"])])
    until("it is well again", wants(node, other_42))
    harbor.delete("satellite/group-state/shop/state", gone)
    harbor.group("tills", [shared])
    until("the one that is gone stays", wants(node, pos_42, other_42))

    # A group dropped from the satellite, then the last.
    harbor.root(SATELLITE, ["tills"])
    until("a group is dropped", wants(node, pos_42))
    harbor.root(SATELLITE, [])
    until("no group is left", wants(node))
    harbor.root(SATELLITE, ["tills"])
    until("one came back", wants(node, pos_42))

    # Harbor and Ground Control go, the power goes: what was wanted is wanted.
    registry.process.kill()
    process.kill()
    node.start()
    node.wait_until_ready()
    until("it remembers", wants(node, pos_42))
    assert told(node)["in_force"]
    until("it serves in the dark", serves(node, host, {"library/pos:42": pos}))
    assert control.registered == 1, "the token is good for once"


def test_logins_come_with_the_registration_and_are_renewed_when_harbor_refuses_them(
    place: Place, token_file: Path
) -> None:
    htpasswd = place.directory / "htpasswd"
    users = {"admin": "admin-password"}

    def write_users() -> None:
        write_htpasswd(htpasswd, users)

    write_users()
    registry = Registry(place, htpasswd=htpasswd)
    harbor = Harbor(registry.host, login=("admin", "admin-password"))
    pos = hold(harbor, "library/pos", "42", build_image([b"layer"]))
    harbor.config("default", config_document())
    harbor.group("tills", [artifact("library/pos", ["42"], pos)])
    harbor.root(SATELLITE, ["tills"])
    pos_42 = f"{registry.host}/library/pos:42@{pos}"

    with GroundControlStub(f"http://{registry.host}", SATELLITE, TOKEN) as control:

        def rotate(secret: str) -> None:
            users[control.username] = secret
            write_users()

        control.on_rotation = rotate
        control.faults = [(429, {"Retry-After": "1"})]
        node = Node(place, "node", {"mesh": {"mdns": False}, "uplink": {"attempts": 1}})
        write_registry(node, registry.host)
        follow(node, ground_control=control.url, plain_http=True, token_file=str(token_file), poll=1.0)
        node.run("init", "shops")
        process = node.start()
        node.wait_until_ready()
        until("it follows", wants(node, pos_42))

        # The robot account expires.
        del users[control.username]
        users["nobody"] = "x"
        write_users()
        until("it asks for another secret", lambda: control.secret.endswith("-renewed"))
        newer = hold(harbor, "library/pos", "43", build_image([b"other"]))
        harbor.group("tills", [artifact("library/pos", ["43"], newer)])
        until("it follows again", wants(node, f"{registry.host}/library/pos:43@{newer}"))
        assert ("POST", "/sat/refresh") in control.asked
        for secret in (TOKEN, control.secret):
            assert secret not in process.said


def test_a_shadow_counts_what_a_site_would_save_and_fetches_no_image(
    place: Place, registry: Registry
) -> None:
    harbor = Harbor(registry.host, url="http://harbor.internal:8080")
    shared = random_bytes(100_000, 1)
    first = build_image([shared, random_bytes(40_000, 2)])
    second = build_image([shared, random_bytes(60_000, 3)], ["linux/amd64", "linux/arm64"])
    harbor.config("default", config_document())
    harbor.group(
        "tills",
        [
            artifact("library/pos", ["42"], hold(harbor, "library/pos", "42", first)),
            artifact("library/kiosk", ["7"], hold(harbor, "library/kiosk", "7", second)),
        ],
    )
    harbor.root(SATELLITE, ["tills"])
    node = Node(place, "node", {"mesh": {"mdns": False}})
    write_registry(node, registry.host)
    follow(node, state=harbor.state_url(SATELLITE), registry=registry.host, poll=1.0, shadow=True)
    node.run("init", "shops")
    process = node.start()
    node.wait_until_ready()

    def report(nodes: int = 5) -> dict[str, Any]:
        answer = node.ask(f"/api/v1/shadow?nodes={nodes}")
        assert answer is not None
        counted: dict[str, Any] = answer.json()
        return counted

    both = {**first.contents, **second.contents}
    once = sum(map(len, both.values()))
    until("it counted", lambda: len(report()["images"]) == 2)
    counted = report()
    assert (counted["once"], counted["each"], counted["saved"]) == (once, 5 * once, 4 * once)
    sizes = {image["reference"].rpartition("/")[2]: image["size"] for image in counted["images"]}
    assert sizes == {"pos:42": first.size, "kiosk:7": second.size}
    amd64 = json.loads(second.raw)["manifests"][0]["digest"]
    taken = json.loads(second.manifests[amd64])
    parts = {amd64, taken["config"]["digest"], *(layer["digest"] for layer in taken["layers"])}
    assert counted["single"] == 5 * sum(len(both[digest]) for digest in parts | set(first.contents))

    # Only what is new counts when a tag moves, and nothing counts again after a restart.
    third = build_image([shared, random_bytes(70_000, 4)])
    moved = hold(harbor, "library/pos", "42", third)
    harbor.group("tills", [artifact("library/pos", ["42"], moved)])
    new = sum(len(data) for digest, data in third.contents.items() if digest not in both)
    until("it counted what is new", lambda: report()["once"] == once + new)
    process.kill()
    node.start()
    node.wait_until_ready()
    until("it remembers", lambda: report()["since"] is not None and len(report()["images"]) == 1)
    assert report(2)["each"] == 2 * (once + new)
    printed = json.loads(node.run("shadow", "--nodes", "3", "--json").stdout)
    assert printed["saved"] == 2 * (once + new)
    assert "SATELLITES" in node.run("shadow").stdout

    # Not one blob of an image was asked for, and nothing is in force.
    assert registry.gets("/library/pos/manifests/")
    assert registry.gets("/satellite/group-state/tills/state/blobs/")
    assert registry.gets("/library/pos/blobs/") == registry.gets("/library/kiosk/blobs/") == []
    assert told(node)["in_force"] is False
    assert told(node)["shadow"] is True
    assert 0 < counted["own"] < 100_000
    assert node.status()["images"] == 0
