"""Passes as an operator deals with them: real processes, the real command line, clocks that go on."""

import hashlib
import json
import socket
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.processes import Node, Place, until

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(180)]

OFF = 10.0
"""Seconds after which a revoked node is off everywhere."""
LAYER = bytes(range(256)) * 4096


class Site:
    """`boss` made the fleet; the others joined by a token."""

    def __init__(self, place: Place, *names: str, passes: Mapping[str, float] | None = None) -> None:
        self.passes = dict(passes or {})
        self.place = place
        self.boss = self._node("boss")
        self.boss.run("init", "trains")
        self.boss.start()
        self.control = self.boss.wait_until_ready()["control_addresses"][0]
        self.token = self.boss.run("invite", "--uses", str(len(names))).stdout.strip()
        self.nodes = [self.boss]
        for name in names:
            node = self._node(name, peers=[self.multiaddr])
            node.run("join", self.token, "--peer", self.control)
            node.start()
            self.nodes.append(node)
        for node in self.nodes:
            node.wait_until_ready(peers=len(names))

    @property
    def multiaddr(self) -> str:
        host, _, port = self.control.rpartition(":")
        return f"/ip4/{host}/tcp/{port}/p2p/{self.boss.status()['peer']}"

    def _node(self, name: str, peers: list[str] | None = None) -> Node:
        sections: dict[str, dict[str, Any]] = {
            # Ports that stay, since a node that starts again has to be found where it was.
            "mesh": {
                "mdns": False,
                "peers": peers or [],
                "control_port": free_port(),
                "bulk_port": free_port(),
            },
            "uplink": {"enabled": False},
            "registry": {"resolve_timeout": 1.0},
        }
        if self.passes:
            sections["passes"] = self.passes
        return Node(self.place, name, sections)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def members(node: Node) -> dict[str, dict[str, Any]]:
    """By peer id."""
    return {one["peer"]: one for one in json.loads(node.run("fleet members", "--json").stdout)}


def push(node: Node) -> str:
    """An image `team/app:1` of one layer; the layer's digest."""
    transport = httpx.HTTPTransport(uds=str(node.data_dir / "api.sock"))
    with httpx.Client(transport=transport, base_url="http://node/v2/team/app/", timeout=10.0) as http:
        digests = []
        for data in (b"{}", LAYER):
            digests.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
            http.post("blobs/uploads/", params={"digest": digests[-1]}, content=data).raise_for_status()
        layer = "application/vnd.oci.image.layer.v1.tar"
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digests[0],
                "size": 2,
            },
            "layers": [{"mediaType": layer, "digest": digests[1], "size": len(LAYER)}],
        }
        answer = http.put(
            "manifests/1",
            content=json.dumps(manifest),
            headers={"Content-Type": str(manifest["mediaType"])},
        )
        answer.raise_for_status()
    return digests[1]


def test_a_revoked_node_is_off_within_seconds_and_needs_a_new_token(place: Place) -> None:
    site = Site(place, "good", "bad")
    boss, good, bad = site.nodes
    layer = push(boss)
    lost = bad.status()["peer"]
    assert members(boss)[lost]["name"] == "bad"

    boss.run("fleet revoke", "bad", "--reason", "stolen from a coach", "--yes")
    began = time.monotonic()
    until("it has no peer", lambda: bad.status()["peers"] == 0, OFF)
    for node in (boss, good):
        until("no session with it", lambda node=node: node.status()["peers"] == 1, OFF)  # type: ignore[misc]
    assert time.monotonic() - began < OFF
    for node in (boss, good):
        seen = members(node)[lost]
        assert (seen["state"], "stolen from a coach" in seen["why"]) == ("revoked", True)
    until("it says so", lambda: "stolen from a coach" in " ".join(bad.status()["problems"]), OFF)
    assert bad.status()["member"]["state"] == "revoked"

    # It gets nothing any more, also not after a restart of its own and of the one that told it.
    for node in (boss, bad):
        assert node.process is not None
        node.process.kill()
        node.start()
    for node in (boss, bad):
        until("it is ready", node.ready)
    boss.wait_until_ready(peers=1)
    assert bad.get(f"team/app/blobs/{layer}").status_code != 200
    assert bad.status()["peers"] == 0
    until("the others go on", lambda: good.get(f"team/app/blobs/{layer}").status_code == 200)

    # The token that let it in is worth nothing, with the old key or a new one.
    control = boss.status()["control_addresses"][0]
    refused = bad.run("join", site.token, "--peer", control, code=1)
    assert "revoked since" in refused.stderr
    before = bad.status()["peer"]
    assert before == lost
    token = boss.run("invite").stdout.strip()
    bad.run("join", token, "--peer", control)
    until("the running node begins anew with its new key", lambda: _peer(bad) not in (None, lost))
    bad.wait_until_ready(peers=2)
    assert bad.get(f"team/app/blobs/{layer}").status_code == 200


def _peer(node: Node) -> str | None:
    answer = node.ask("/api/v1/status")
    return None if answer is None else str(answer.json()["peer"])


def test_passes_of_a_few_seconds_are_renewed_again_and_again(place: Place) -> None:
    site = Site(place, "node", passes={"lifetime": 6.0, "grace": 30.0})
    boss, node = site.nodes
    serials: dict[str, set[str]] = {"boss": set(), "node": set()}
    end = time.monotonic() + 10
    while time.monotonic() < end:
        for one in (boss, node):
            serials[one.name].add(one.status()["member"]["serial"])
        time.sleep(0.2)
    assert all(len(seen) >= 3 for seen in serials.values()), serials
    until("they are together", lambda: boss.status()["peers"] == node.status()["peers"] == 1)
    assert "not renewed" not in " ".join(node.status()["problems"])


def test_a_node_takes_another_key_and_the_one_before_is_revoked(place: Place) -> None:
    site = Site(place, "node")
    boss, node = site.nodes
    layer = push(boss)
    until("it has the layer", lambda: node.get(f"team/app/blobs/{layer}").status_code == 200)
    old = node.status()["peer"]
    new = node.run("fleet rotate").stdout.split()[-1]
    assert new != old
    until("it is there with its new key", lambda: _peer(node) == new)
    until("the old one is revoked", lambda: members(boss).get(old, {}).get("state") == "revoked")
    until("they meet again", lambda: boss.status()["peers"] == 1)
    assert node.get(f"team/app/blobs/{layer}").status_code == 200
    assert "superseded" in members(boss)[old]["why"]
