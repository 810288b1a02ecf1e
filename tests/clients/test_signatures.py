"""Signed images, as an operator has them: docker-registry with what cosign leaves there, real nodes with a rule that
blocks, skopeo and podman as their clients. (What cosign itself writes: tests/golden/test_cosign.py.)"""

import json
from pathlib import Path

import httpx
import pytest

from tests import signing
from tests.clients.runtimes import Podman, short_directory, skopeo_copy
from tests.images import Image, build_image, random_bytes, tar_layer
from tests.processes import LISTENING, Node, Place, until
from tests.signing import make_key, public_pem, referrers_tag, signature_tag, signed_by
from tests.tools import require_root, require_tool

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(180)]

REPOSITORY = "test/app"
KEY = make_key()
IMAGE = build_image([tar_layer({"app": random_bytes(400_000, 1)})], ["linux/amd64", "linux/arm64"])
UNSIGNED = build_image([tar_layer({"app": random_bytes(300_000, 2)})])
LOCAL = build_image([tar_layer({"app": random_bytes(100_000, 4)})])
BUNDLED = build_image([tar_layer({"app": random_bytes(200_000, 3)})])


def push(base: str, image: Image, tag: str) -> None:
    with httpx.Client(trust_env=False) as client:
        for digest, data in image.blobs.items():
            begun = client.post(f"{base}/v2/{REPOSITORY}/blobs/uploads/").raise_for_status()
            place = httpx.URL(base).join(begun.headers["Location"]).copy_merge_params({"digest": digest})
            client.put(place, content=data).raise_for_status()
        for reference, raw in [*image.manifests.items(), (tag, image.raw)]:
            kind = image.media_types.get(reference, image.media_type)
            client.put(
                f"{base}/v2/{REPOSITORY}/manifests/{reference}", content=raw, headers={"Content-Type": kind}
            ).raise_for_status()


class Upstream:
    def __init__(self, place: Place) -> None:
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
        self.host = until("the upstream listens", lambda: LISTENING.search(self.process.said))[1]

    def push(self, image: Image, tag: str) -> None:
        push(f"http://{self.host}", image, tag)


def node(place: Place, name: str, upstream: Upstream, action: str = "block", *, uplink: bool) -> Node:
    key = place.directory / "cosign.pub"
    key.write_bytes(public_pem(KEY))
    made = Node(
        place, name, {"uplink": {"enabled": uplink}, "registry": {"upstream": upstream.host, "push": True}}
    )
    with made.config.open("a") as config:
        config.write(f'[[uplink.registries]]\nhost = "{upstream.host}"\nplain_http = true\n')
        for pattern in (f"{upstream.host}/**", "site.internal/team/**"):
            config.write(f'[[signatures]]\npattern = "{pattern}"\naction = "{action}"\nkeys = ["{key}"]\n')
    return made


def two_nodes(place: Place, upstream: Upstream) -> tuple[Node, Node]:
    up, dark = (node(place, name, upstream, uplink=name == "up") for name in ("up", "dark"))
    up.run("init", "trains")
    up.start()
    up.wait_until_ready()
    dark.start()
    dark.run("join", up.run("invite").stdout.strip())
    dark.wait_until_ready(peers=1)
    return up, dark


def address(of: Node) -> str:
    told: str = of.status()["registry_address"]
    return told


async def sign_at_the_site(up: Node, dark: Node, tmp_path: Path) -> None:
    """What is pushed to one node is refused by the other until its signature is pushed too."""
    base = f"http://{address(up)}"

    def status() -> int:
        return dark.get("team/app/manifests/1").status_code

    with httpx.Client(trust_env=False) as client:
        for image, tag in (
            (LOCAL, "1"),
            (signed_by(KEY, digest=LOCAL.root), signature_tag(LOCAL.root)),
        ):
            if image is not LOCAL:
                until("the image is at the other node", lambda: status() == 403)
                said = await skopeo_copy(f"{address(dark)}/team/app:1", tmp_path / "site-no", check=False)
                assert "it has no signature" in said.decode()
            for digest, data in image.blobs.items():
                begun = client.post(f"{base}/v2/team/app/blobs/uploads/").raise_for_status()
                at = httpx.URL(base).join(begun.headers["Location"]).copy_merge_params({"digest": digest})
                client.put(at, content=data).raise_for_status()
            client.put(
                f"{base}/v2/team/app/manifests/{tag}",
                content=image.raw,
                headers={"Content-Type": image.media_type},
            ).raise_for_status()

    until("the signature is at the other node", lambda: status() == 200)
    await skopeo_copy(f"{address(dark)}/team/app:1", tmp_path / "site-yes")


async def test_only_what_is_signed_is_pulled_with_and_without_an_uplink(place: Place, tmp_path: Path) -> None:
    require_tool("skopeo", "podman")
    require_root()
    upstream = Upstream(place)
    upstream.push(IMAGE, "1")
    upstream.push(signed_by(KEY, digest=IMAGE.root), signature_tag(IMAGE.root))
    upstream.push(UNSIGNED, "2")
    upstream.push(BUNDLED, "3")
    bundle = signing.bundle_of(signing.statement_for(BUNDLED.root), KEY)
    upstream.push(
        signing.referrers_index(signing.bundle_referrer(bundle, BUNDLED)), referrers_tag(BUNDLED.root)
    )
    up, dark = two_nodes(place, upstream)

    # What nobody signed: refused everywhere, with the reason, and nothing of it fetched.
    reason = "it has no signature (asked for by rule 1 of signatures"
    for one in (dark, up):
        said = await skopeo_copy(f"{address(one)}/{REPOSITORY}:2", tmp_path / "no", check=False)
        assert reason in said.decode()
    with short_directory() as directory:
        podman = Podman(directory)
        done = await podman("pull", "--tls-verify=false", f"{address(dark)}/{REPOSITORY}:2", check=False)
        assert done.returncode != 0
        assert reason in done.stderr.decode()
    assert reason in dark.run("pull", f"{upstream.host}/{REPOSITORY}:2", code=1).stderr
    for one in (dark, up):
        assert one.run("images", "--json").stdout.strip() in ("", "[]")
        assert one.status()["blobs"] == 0
    (problem,) = [one for one in up.status()["problems"] if "signed" in one]
    assert f"{REPOSITORY}@{UNSIGNED.root}" in problem

    # What is signed: a client at the node without an uplink, which verifies what the LAN gives it.
    await skopeo_copy(f"{address(dark)}/{REPOSITORY}:1", tmp_path / "index", "--all")
    await skopeo_copy(f"{address(dark)}/{REPOSITORY}:3", tmp_path / "bundled")
    assert dark.status()["wan_bytes_in"] == 0
    images = {one["reference"]: one for one in json.loads(dark.run("images", "--json").stdout)}
    shown = images[f"{upstream.host}/{REPOSITORY}:1"]
    assert (shown["signature"], shown["complete"]) == ("verified", True)
    assert "cosign.pub" in shown["signature_reason"]

    await sign_at_the_site(up, dark, tmp_path)

    # The uplink goes, and the node that had it; after a restart what is held is proven again.
    upstream.process.kill()
    assert up.process is not None
    assert dark.process is not None
    up.process.kill()
    dark.process.kill()
    dark.start()
    dark.wait_until_ready()
    await skopeo_copy(f"{address(dark)}/{REPOSITORY}:1", tmp_path / "again", "--all")
    await skopeo_copy(f"{address(dark)}/{REPOSITORY}:3", tmp_path / "again2")
    dark.run("pull", f"{upstream.host}/{REPOSITORY}:1")
    listed = json.loads((dark.data_dir / "store" / "index.json").read_text())["manifests"]
    assert UNSIGNED.root not in {one["digest"] for one in listed}
