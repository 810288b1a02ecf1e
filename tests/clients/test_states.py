"""A desired state by the real command line, through real nodes and a real registry, over a kill -9."""

import json
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from meshsat.config import UplinkSection, UpstreamRegistry
from meshsat.errors import DeniedError
from meshsat.fleet.artifact import STATE_ARTIFACT, artifact_of
from meshsat.metrics import Metrics
from meshsat.oci.reference import Reference
from meshsat.uplink.client import Uplink
from meshsat.uplink.pushing import push
from tests.authors import Signers
from tests.certificates import PrivateCA
from tests.clients.test_two_nodes import REPOSITORY, Upstream, write_uplink
from tests.clients.test_uplink_registry import docker_registry
from tests.processes import Node, Place, until
from tests.states import state_file

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(180)]

POLL = 10.0


def state_of(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.run("state show", "--json").stdout)
    return found


def follows(node: Node, revision: int) -> bool:
    return bool(state_of(node)["revision"] == revision)


def write_state(place: Place, upstream: Upstream, tag: str) -> Path:
    path = place.directory / "site.toml"
    image = f"{upstream.host}/{REPOSITORY}:{tag}@{upstream.image.manifest}"
    path.write_text(f'[[images]]\nreference = "{image}"\n')
    return path


def wholes(node: Node) -> list[bool]:
    desired = json.loads(node.run("desired", "--json").stdout)
    return [one["stage"] == "whole" for image in desired["images"] for one in image["nodes"]]


def test_from_nothing_over_gossip_a_registry_and_a_stick(place: Place) -> None:
    upstream = Upstream(place)
    reference = f"{upstream.host}/fleet/state:latest"
    up = Node(place, "up", {"fleet": {"state": reference, "poll": POLL}})
    write_uplink(up, upstream)
    dark = Node(place, "dark", {"uplink": {"enabled": False}, "fleet": {"state": reference, "poll": POLL}})
    up.run("init", "trains")
    up.start()
    up.wait_until_ready()
    dark.run("join", up.run("invite").stdout.strip())
    dark.start()
    dark.wait_until_ready()

    # The first one, to the node, and from there by gossip.
    up.run(
        "state publish", str(write_state(place, upstream, "one")), "-o", str(place.directory / "one.state")
    )
    assert follows(up, 1)
    until("it is at the other node", lambda: follows(dark, 1))
    until("the image is everywhere", lambda: wholes(dark) == [True, True])

    # The second, to the registry alone; the dark node has its bytes from the other.
    told = up.run("state publish", str(write_state(place, upstream, "two")), "--to", reference).stdout
    assert told == f"revision 2 is in {reference}\n"
    until("the registry was polled", lambda: follows(up, 2), 3 * POLL)
    until("it is at the other node", lambda: follows(dark, 2), 3 * POLL)
    assert any("registry" in state_of(node)["source"] for node in (up, dark))  # whichever polled first
    assert state_of(up)["sources"] == {f"registry {reference}": None}

    # kill -9: it is in force when the node is back, before it met anybody.
    assert up.process is not None
    assert dark.process is not None
    up.process.kill()
    dark.process.kill()
    dark.start()
    until("it answers", lambda: dark.ask("/healthz"))
    assert follows(dark, 2)

    # The third by stick, while the one that signs is away; an older one is refused.
    dark.run("state publish", str(place.directory / "one.state"), code=1)
    up.start()
    until("it answers", lambda: up.ask("/healthz"))
    bundle = place.directory / "stick.tar"
    up.run("state publish", str(write_state(place, upstream, "three")), "--bundle", str(bundle))
    assert follows(up, 2)
    assert "revision 3 holds" in dark.run("import", str(bundle)).stdout
    until("it is at the other node", lambda: follows(up, 3))


async def test_pushed_to_a_registry_with_tls_and_users(tmp_path: Path) -> None:
    ca = PrivateCA(tmp_path)
    cert, key = ca.issue("127.0.0.1")
    (tmp_path / "htpasswd").write_bytes(b"bob:" + bcrypt.hashpw(b"hunter2", bcrypt.gensalt(4)) + b"\n")
    tls = f"  tls:\n    certificate: {cert}\n    key: {key}\n"
    auth = f"auth:\n  htpasswd:\n    realm: test\n    path: {tmp_path}/htpasswd\n"
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    secret.chmod(0o600)
    artifact = artifact_of(state_file(Signers(), 3))
    with docker_registry(tmp_path, tls, auth) as (address, _):
        stranger = UpstreamRegistry(host=address, ca_file=ca.ca_file)
        known = UpstreamRegistry(host=address, ca_file=ca.ca_file, username="bob", password_file=secret)
        reference = Reference.parse_untrusted(f"{address}/fleet/state:latest")
        with pytest.raises(DeniedError):
            await push(
                UplinkSection(registries=(stranger,)),
                reference,
                artifact.manifest,
                artifact.blobs,
                environ={},
            )
        section = UplinkSection(registries=(known,))
        for _ in range(2):
            await push(section, reference, artifact.manifest, artifact.blobs, environ={})
        async with Uplink(section, Metrics(), environ={}) as uplink:
            found = await uplink.manifest(address, "fleet/state", "latest")
    assert found.raw == artifact.manifest.raw
    assert found.artifact_type == STATE_ARTIFACT
