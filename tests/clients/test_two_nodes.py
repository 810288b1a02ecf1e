"""Two nodes as an operator runs them: real processes on loopback, a real registry, the real command line."""

import hashlib
import json
import sys
from pathlib import Path

import httpx
import pytest

from sim.images import Layout, random_image
from sim.push import push
from tests.processes import LISTENING, Node, Place, until
from tests.tools import require_tool

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(180)]

REPOSITORY, TAG = "test/random", "42"


class Upstream:
    def __init__(self, place: Place, layer_bytes: int = 3_000_000) -> None:
        require_tool("docker-registry")
        settings = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "text", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(place.directory / "upstream")}},
            "http": {"addr": "127.0.0.1:0", "secret": "only for this test"},
        }
        config = place.directory / "upstream.yml"
        config.write_text(json.dumps(settings))  # which is YAML
        self.process = place.start("upstream.log", "docker-registry", "serve", str(config))
        found = until("the upstream listens", lambda: LISTENING.search(self.process.said))
        self.host = found[1]
        self.image: Layout = random_image(place.directory / "image", layer_bytes, layers=2)
        push(self.host, REPOSITORY, TAG, self.image.directory)

    @property
    def reference(self) -> str:
        return f"{self.host}/{REPOSITORY}:{TAG}"

    def content(self, digest: str) -> bytes:
        return (self.image.directory / "blobs" / Path(*digest.split(":"))).read_bytes()


def write_uplink(node: Node, upstream: Upstream) -> None:
    with node.config.open("a") as config:
        config.write(f'[[uplink.registries]]\nhost = "{upstream.host}"\nplain_http = true\n')


def client_pulls(node: Node, upstream: Upstream) -> httpx.Response:
    """By tag, then every blob, as a client does; all bytes are the upstream's. Returns the manifest's answer."""
    name = f"{upstream.host}/{REPOSITORY}"
    answer = until(
        "the manifest is served",
        lambda: found if (found := node.get(f"{name}/manifests/{TAG}")).status_code == 200 else None,
    )
    assert answer.content == upstream.content(upstream.image.manifest)
    assert answer.headers["docker-content-digest"] == upstream.image.manifest
    manifest = json.loads(answer.content)
    for part in (manifest["config"], *manifest["layers"]):
        blob = node.get(f"{name}/blobs/{part['digest']}")
        assert blob.status_code == 200
        assert f"sha256:{hashlib.sha256(blob.content).hexdigest()}" == part["digest"]
    return answer


def test_a_site_from_nothing_by_mdns_and_what_is_left_of_it_in_the_dark(place: Place) -> None:
    upstream = Upstream(place)
    up = Node(place, "up", {})
    write_uplink(up, upstream)
    dark = Node(place, "dark", {"uplink": {"enabled": False}})
    up.run("init", "trains")
    uplinked = up.start()
    up.wait_until_ready()

    # The second one joins by a token, while it runs already.
    process = dark.start()
    until("it says what to do", lambda: "meshsat join" in process.said)
    token = up.run("invite").stdout.strip()
    dark.run("join", token)
    until("it goes on by itself", lambda: "node is up" in process.said)
    dark.wait_until_ready(peers=1)
    (peer,) = json.loads(dark.run("peers", "--json").stdout)
    assert (peer["name"], peer["state"]) == ("up", "connected")

    # A pull through the dark one.
    lines = [json.loads(line) for line in dark.run("pull", "--json", upstream.reference).stdout.splitlines()]
    have = [line["have_bytes"] for line in lines]
    assert have == sorted(have)
    assert (lines[-1]["event"], lines[-1]["digest"]) == ("done", upstream.image.manifest)
    assert lines[-1]["have_bytes"] == lines[-1]["total_bytes"] == upstream.image.size
    client_pulls(dark, upstream)
    size = upstream.image.size
    here, there = (json.loads(node.run("status", "--json").stdout) for node in (dark, up))
    assert (here["wan_bytes_in"], here["images"], here["blobs"]) == (0, 1, 4)
    assert (here["blob_bytes"], here["uplink"]["enabled"]) == (size, False)
    assert size <= here["lan_bytes_in"] <= 1.1 * size
    assert size <= there["wan_bytes_in"] <= 1.02 * size
    assert there["lan_bytes_out"] >= size

    # Nobody else runs on its directory.
    refused = dark.run("node", code=2)
    assert str(dark.data_dir) in refused.stderr
    assert str(process.pid) in refused.stderr

    # The upstream goes, the power goes: tags and images stay, and how old they are is told.
    upstream.process.kill()
    uplinked.kill()
    process.kill()
    process = dark.start()
    dark.wait_until_ready()
    answer = client_pulls(dark, upstream)
    assert int(answer.headers["age"]) >= 2
    assert answer.headers["warning"].startswith("299 ")
    (image,) = json.loads(dark.run("images", "--json").stdout)
    assert (image["reference"], image["complete"]) == (upstream.reference, True)
    assert dark.status()["wan_bytes_in"] == 0
    code, seconds = process.terminate()
    assert code == 0, process.said
    assert seconds < 3.0


def test_two_nodes_that_know_each_others_addresses_need_no_mdns(place: Place) -> None:
    upstream = Upstream(place)
    up = Node(place, "up", {"mesh": {"mdns": False}})
    write_uplink(up, upstream)
    up.run("init", "trains")
    process = up.start()
    (control,) = up.wait_until_ready()["control_addresses"]
    token = up.run("invite").stdout.strip()
    host, _, port = control.rpartition(":")
    address = f"/ip4/{host}/tcp/{port}/p2p/{up.status()['peer']}"
    dark = Node(place, "dark", {"uplink": {"enabled": False}, "mesh": {"mdns": False, "peers": [address]}})
    dark.run("join", token, "--peer", control)
    other = dark.start()
    dark.wait_until_ready(peers=1)
    until(
        "they moved to the bulk plane",
        lambda: [peer["plane"] for peer in json.loads(dark.run("peers", "--json").stdout)] == ["tls"],
    )
    answer = client_pulls(dark, upstream)
    assert "warning" not in answer.headers
    status = until("the image is shown as whole", lambda: one if (one := dark.status())["images"] else None)
    assert status["wan_bytes_in"] == 0
    for one in (other, process):
        code, seconds = one.terminate()
        assert code == 0, one.said
        assert seconds < 3.0


def test_with_only_a_data_directory_it_says_what_to_do_and_ends_when_told(place: Place) -> None:
    data_dir = place.directory / "data"
    command = (sys.executable, "-m", "meshsat", "node", "--data-dir", str(data_dir))
    process = place.start("alone.log", *command)
    until("it says what to do", lambda: "meshsat init" in process.said and "meshsat join" in process.said)
    assert str(data_dir) in process.said
    assert process.exit_code is None
    code, seconds = process.terminate()
    assert code == 0
    assert seconds < 3.0
