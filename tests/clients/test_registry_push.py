"""Real clients push to one node of a dark site and pull from another: what each sends, and that every byte stays.

Not here: what a registry must answer, request by request (tests/conformance); pulls from upstreams (beside this).
"""

import gzip
import hashlib
import json
import platform
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from tests.clients.runtimes import Containerd, Podman, run, short_directory
from tests.conformance.registry import Registry, located
from tests.conformance.wire import Answer
from tests.images import (
    OCI_INDEX,
    OCI_MANIFEST,
    Image,
    build_artifact,
    build_image,
    descriptor,
    digest_of,
    random_bytes,
    tar_layer,
)
from tests.processes import Node, Place, until
from tests.tools import require_root, require_tool

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(180)]

SAID = b"pushed here, run there\n"


def program() -> bytes:
    """A static program for x86-64 Linux that writes `SAID` and ends: two system calls and an ELF header."""
    code = (
        bytes.fromhex("b801000000 bf01000000 488d3510000000 ba")
        + len(SAID).to_bytes(4, "little")
        + bytes.fromhex("0f05 b83c000000 31ff 0f05")
        + SAID
    )
    size = (120 + len(code)).to_bytes(8, "little")
    head = bytes.fromhex("7f454c46 020101 00 0000000000000000 0200 3e00 01000000 7800400000000000")
    head += bytes.fromhex("4000000000000000 0000000000000000 00000000 4000 3800 0100 0000 0000 0000")
    segment = bytes.fromhex("01000000 05000000 0000000000000000 0000400000000000 0000400000000000")
    return head + segment + size + size + bytes.fromhex("0010000000000000") + code


LAYERS = [tar_layer({f"data{seed}": random_bytes(300_000, seed)}) for seed in (1, 2)]
RUNNABLE = tar_layer({"bin/hello": program()})
INDEX = build_image(LAYERS, ["linux/amd64", "linux/arm64"])
DOCKER = build_image([LAYERS[0], RUNNABLE], docker=True)
ZSTD = build_image([tar_layer({"bin/hello": program(), "data": random_bytes(50_000)}, zstd=True)])
HELLO = build_image([RUNNABLE, LAYERS[1]])


@dataclass(frozen=True, slots=True)
class Site:
    """Two nodes without an uplink. `one` takes pushes, `two` is as a node is by default: it only reads."""

    one: Registry
    two: Registry
    nodes: tuple[Node, Node]

    async def everywhere(self, name: str, reference: str) -> bytes:
        """The manifest as both nodes serve it, once the second has heard of it."""
        first = self.one.manifest(name, reference)
        assert first.status == 200, first
        second = await eventually(self.two, name, reference, first["docker-content-digest"])
        assert (second.body, second["content-type"]) == (first.body, first["content-type"])
        return first.body


async def eventually(registry: Registry, name: str, reference: str, digest: str) -> Answer:
    """What a tag means spreads by gossip: within seconds."""
    with trio.fail_after(30):
        while True:
            answer = await trio.to_thread.run_sync(registry.manifest, name, reference)
            if answer.status == 200 and answer["docker-content-digest"] == digest:
                return answer
            await trio.sleep(0.1)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with short_directory() as directory:
        place = Place(directory)
        try:
            yield start_site(place)
        finally:
            place.close()


def start_site(place: Place) -> Site:
    dark: dict[str, dict[str, Any]] = {"uplink": {"enabled": False}, "mesh": {"mdns": False}}
    one = Node(place, "one", {**dark, "registry": {"push": True, "delete": True}})
    one.run("init", "trains")
    one.start()
    (control,) = one.wait_until_ready()["control_addresses"]
    host, _, port = control.rpartition(":")
    address = f"/ip4/{host}/tcp/{port}/p2p/{one.status()['peer']}"
    two = Node(place, "two", {**dark, "mesh": {"mdns": False, "peers": [address]}})
    two.run("join", one.run("invite").stdout.strip(), "--peer", control)
    two.start()
    two.wait_until_ready(peers=1)
    until("both know each other", lambda: one.status()["peers"] == 1)
    addresses = [node.status()["registry_address"] for node in (one, two)]
    return Site(Registry(addresses[0]), Registry(addresses[1]), (one, two))


@pytest.fixture
def short_path() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def write_layout(image: Image, directory: Path) -> str:
    """An OCI image layout of it, as `skopeo` and `podman` name it."""
    store = directory / "blobs" / "sha256"
    store.mkdir(parents=True)
    for digest, data in image.contents.items():
        (store / digest.partition(":")[2]).write_bytes(data)
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entry = {
        "mediaType": image.media_type,
        "digest": image.root,
        "size": len(image.raw),
        "annotations": {"org.opencontainers.image.ref.name": "it"},
    }
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return f"oci:{directory}:it"


def write_directory(image: Image, directory: Path) -> str:
    """skopeo's `dir:`, for the types that an OCI layout cannot hold."""
    directory.mkdir()
    (directory / "version").write_text("Directory Transport Version: 1.1\n")
    (directory / "manifest.json").write_bytes(image.raw)
    for digest, data in image.contents.items():
        if digest != image.root:
            name = digest.partition(":")[2]
            is_manifest = digest in image.manifests
            (directory / (f"{name}.manifest.json" if is_manifest else name)).write_bytes(data)
    return f"dir:{directory}"


async def skopeo(*arguments: str, check: bool = True) -> tuple[int, bytes, bytes]:
    require_tool("skopeo")
    done = await run("skopeo", *arguments, check=check)
    return done.returncode, done.stdout, done.stderr


async def push(source: str, registry: Registry, name: str, *options: str) -> None:
    plain = ("--dest-tls-verify=false", "--quiet")
    await skopeo("copy", *plain, *options, source, f"docker://{registry.address}/{name}")


async def pull(registry: Registry, name: str, target: str, *options: str) -> None:
    plain = ("--src-tls-verify=false", "--quiet")
    await skopeo("copy", *plain, *options, f"docker://{registry.address}/{name}", target)


def held(directory: Path) -> set[str]:
    """Digests of all files of skopeo's `dir:`, as they are."""
    files = [path for path in directory.iterdir() if path.name != "version"]
    return {f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files}


# --- skopeo ---------------------------------------------------------------------------------------------------


async def test_skopeo_copies_an_index_there_and_back(site: Site, tmp_path: Path) -> None:
    await push(write_layout(INDEX, tmp_path / "source"), site.one, "skopeo/index:1", "--all")
    assert await site.everywhere("skopeo/index", "1") == INDEX.raw
    await pull(site.two, "skopeo/index:1", f"dir:{tmp_path / 'back'}", "--all")
    assert held(tmp_path / "back") == set(INDEX.contents)


async def test_skopeo_copies_dockers_types_there_and_back(site: Site, tmp_path: Path) -> None:
    await push(write_directory(DOCKER, tmp_path / "source"), site.one, "skopeo/docker:1")
    assert await site.everywhere("skopeo/docker", "1") == DOCKER.raw
    await pull(site.two, f"skopeo/docker@{DOCKER.root}", f"dir:{tmp_path / 'back'}")
    assert held(tmp_path / "back") == set(DOCKER.contents)


async def test_skopeo_copies_zstd_layers_there_and_back(site: Site, tmp_path: Path) -> None:
    await push(write_layout(ZSTD, tmp_path / "source"), site.one, "skopeo/zstd:1")
    assert await site.everywhere("skopeo/zstd", "1") == ZSTD.raw
    await pull(site.two, "skopeo/zstd:1", f"dir:{tmp_path / 'back'}")
    assert held(tmp_path / "back") == set(ZSTD.contents)


async def test_skopeo_copies_from_node_to_node_and_mounts(site: Site, tmp_path: Path) -> None:
    """The second push finds the layers in another repository."""
    await push(write_layout(HELLO, tmp_path / "source"), site.one, "mount/first:1")
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
    names = [f"docker://{site.one.address}/mount/{name}:1" for name in ("first", "second")]
    _, _, said = await skopeo("--debug", "copy", *plain, *names)
    assert said.count(b"mount OK") == len(HELLO.blobs) - 1, said
    assert await site.everywhere("mount/second", "1") == HELLO.raw
    for digest, data in HELLO.blobs.items():
        assert site.one.blob("mount/second", digest).body == data


async def test_skopeo_syncs_a_repository(site: Site, tmp_path: Path) -> None:
    await push(write_layout(INDEX, tmp_path / "index"), site.one, "sync/app:1", "--all")
    await push(write_layout(HELLO, tmp_path / "hello"), site.one, "sync/app:2")
    address = site.one.address
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false", "--all")
    source = ("--src", "docker", f"{address}/sync/app")
    await skopeo("sync", *plain, *source[:2], "--dest", "docker", source[2], f"{address}/synced")
    assert site.one.tags("synced/app") == ["1", "2"]
    assert await site.everywhere("synced/app", "1") == INDEX.raw
    assert await site.everywhere("synced/app", "2") == HELLO.raw
    await eventually(site.two, "sync/app", "2", HELLO.root)
    await skopeo(
        "sync", plain[0], "--all", *source[:2], "--dest", "dir", f"{site.two.address}/sync/app", str(tmp_path)
    )
    found = held(tmp_path / "app:1") | held(tmp_path / "app:2")
    assert found == {*INDEX.contents, *HELLO.contents}


async def test_skopeo_lists_inspects_and_deletes(site: Site, tmp_path: Path) -> None:
    for tag in ("1", "2"):
        await push(write_layout(HELLO, tmp_path / tag), site.one, f"deleted/app:{tag}")
    name = f"docker://{site.one.address}/deleted/app"
    plain = "--tls-verify=false"
    _, listed, _ = await skopeo("list-tags", plain, name)
    assert json.loads(listed)["Tags"] == ["1", "2"]
    _, raw, _ = await skopeo("inspect", "--raw", plain, f"{name}:1")
    assert raw == HELLO.raw
    _, told, _ = await skopeo("inspect", plain, f"{name}:2")
    assert json.loads(told)["Digest"] == HELLO.root
    await skopeo("delete", plain, f"{name}:1")
    for tag in ("1", "2"):  # it deletes by digest
        assert site.one.manifest("deleted/app", tag).status == 404
    code, _, said = await skopeo("inspect", plain, f"{name}:1", check=False)
    assert code != 0
    assert b"unknown" in said


async def test_a_push_to_a_node_that_only_reads_is_refused_at_once(site: Site, tmp_path: Path) -> None:
    source = write_layout(HELLO, tmp_path / "source")
    target = f"docker://{site.two.address}/refused/app:1"
    began = time.monotonic()
    code, _, said = await skopeo("copy", "--dest-tls-verify=false", source, target, check=False)
    assert code != 0
    assert b"read-only" in said or b"registry.push" in said
    assert time.monotonic() - began < 10
    assert site.two.ask("GET", "/v2/refused/app/tags/list").status == 404


# --- podman, buildah ------------------------------------------------------------------------------------------


def require_runnable() -> None:
    require_root()
    require_tool("podman", "runc", "skopeo")
    if platform.machine() != "x86_64":
        pytest.skip("the program in the image is for x86-64")


def podman_in(directory: Path, name: str) -> Podman:
    (directory / name).mkdir()
    return Podman(directory / name)


async def runs(podman: Podman, reference: str) -> bytes:
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
    isolation = ("--network", "none", "--runtime", "runc")
    return (await podman("run", "--rm", *limits, *isolation, reference, "/bin/hello")).stdout


async def test_podman_pushes_to_one_node_and_runs_from_the_other(site: Site, short_path: Path) -> None:
    require_runnable()
    here, there = podman_in(short_path, "a"), podman_in(short_path, "b")
    await here("pull", "--quiet", write_layout(HELLO, short_path / "source"))
    (image,) = json.loads((await here("images", "--format", "json")).stdout)
    digests = short_path / "digest"
    name = f"{site.one.address}/podman/app:1"
    await here("push", "--tls-verify=false", "--digestfile", str(digests), image["Id"], name)
    raw = await site.everywhere("podman/app", "1")
    assert digest_of(raw) == digests.read_text().strip()
    for part in (json.loads(raw)["config"], *json.loads(raw)["layers"]):
        blob = site.two.blob("podman/app", part["digest"])
        assert (blob.status, digest_of(blob.body)) == (200, part["digest"])
    await there.pull(f"{site.two.address}/podman/app:1")
    assert await runs(there, f"{site.two.address}/podman/app:1") == SAID
    again = f"{site.one.address}/podman/again:1"
    done = await here("--log-level=debug", "push", "--tls-verify=false", image["Id"], again)
    assert done.stderr.count(b"mount OK") == len(json.loads(raw)["layers"]), done.stderr
    assert await site.everywhere("podman/again", "1") == raw


async def test_podman_runs_an_image_of_zstd_layers(site: Site, short_path: Path) -> None:
    require_runnable()
    await push(write_layout(ZSTD, short_path / "source"), site.one, "podman/zstd:1")
    await eventually(site.two, "podman/zstd", "1", ZSTD.root)
    podman = podman_in(short_path, "a")
    await podman.pull(f"{site.two.address}/podman/zstd:1")
    assert await runs(podman, f"{site.two.address}/podman/zstd:1") == SAID


async def test_buildah_builds_and_pushes(site: Site, short_path: Path) -> None:
    require_root()
    require_tool("buildah")
    (short_path / "hello").write_bytes(program())
    (short_path / "hello").chmod(0o755)
    own = (
        "--root",
        str(short_path / "root"),
        "--runroot",
        str(short_path / "run"),
        "--storage-driver",
        "vfs",
    )

    async def buildah(*arguments: str) -> str:
        return (await run("buildah", *own, *arguments)).stdout.decode().strip()

    container = await buildah("from", "scratch")
    await buildah("copy", container, str(short_path / "hello"), "/bin/hello")
    await buildah("config", "--cmd", "/bin/hello", container)
    await buildah("commit", "--timestamp", "1700000000", container, "built")
    digests = short_path / "digest"
    for tag, kind in (("oci", "oci"), ("docker", "v2s2")):
        target = f"docker://{site.one.address}/buildah/app:{tag}"
        options = ("--tls-verify=false", "--format", kind, "--digestfile", str(digests))
        await buildah("push", *options, "built", target)
        raw = await site.everywhere("buildah/app", tag)
        assert digest_of(raw) == digests.read_text().strip()
        for part in (json.loads(raw)["config"], *json.loads(raw)["layers"]):
            assert digest_of(site.two.blob("buildah/app", part["digest"]).body) == part["digest"]
    await buildah("manifest", "create", "many")
    await buildah(
        "manifest", "add", "many", f"docker://{site.one.address}/buildah/app:oci", "--tls-verify=false"
    )
    await buildah(
        "manifest",
        "push",
        "--all",
        "--tls-verify=false",
        "many",
        f"docker://{site.one.address}/buildah/app:many",
    )
    assert json.loads(await site.everywhere("buildah/app", "many"))["manifests"]


# --- containerd -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def containerd_at(directory: Path, mirrors: list[str], origin: str) -> AsyncIterator[Containerd]:
    require_root()
    require_tool("containerd", "ctr")
    containerd = Containerd(directory)
    containerd.configure("site.internal", mirrors, origin)
    async with containerd.running():
        yield containerd


async def test_containerd_pulls_what_is_the_sites_own_and_goes_on_without_a_node(
    site: Site, tmp_path: Path, short_path: Path
) -> None:
    """Through hosts.toml: a first mirror that is not there any more, the node, and no origin at all."""
    await push(write_layout(INDEX, tmp_path / "source"), site.one, "containerd/app:1", "--all")
    await eventually(site.two, "containerd/app", "1", INDEX.root)
    stopped = "http://127.0.0.1:1"
    async with containerd_at(short_path, [stopped, f"http://{site.two.address}"], stopped) as containerd:
        await containerd.pull("site.internal/containerd/app:1")
        digests = set((await containerd("content", "ls", "--quiet")).stdout.decode().split())
        raw = await containerd("content", "get", INDEX.root)
    assert raw.stdout == INDEX.raw
    entries = json.loads(INDEX.raw)["manifests"]
    (mine,) = (entry["digest"] for entry in entries if entry["platform"]["architecture"] == "amd64")
    manifest = json.loads(INDEX.manifests[mine])
    parts = [manifest["config"], *manifest["layers"]]
    assert {INDEX.root, mine, *(part["digest"] for part in parts)} <= digests


async def test_containerd_pushes(site: Site, tmp_path: Path, short_path: Path) -> None:
    await push(write_layout(HELLO, tmp_path / "source"), site.one, "containerd/pushed:1")
    origin = f"http://{site.one.address}"
    async with containerd_at(short_path, [origin], origin) as containerd:
        await containerd.pull("site.internal/containerd/pushed:1")
        target = f"{site.one.address}/containerd/again:1"
        await containerd("images", "tag", "site.internal/containerd/pushed:1", target)
        await containerd("images", "push", "--plain-http", target)
    assert await site.everywhere("containerd/again", "1") == HELLO.raw


# --- artifacts, as their own tools send them --------------------------------------------------------------------


def send_as_oras(registry: Registry, name: str, artifact: Image, reference: str | None = None) -> Answer:
    """Blobs that are not there yet by POST and PUT, then the manifest; then it looks for OCI-Subject."""
    for digest, data in artifact.blobs.items():
        if registry.blob(name, digest, method="HEAD").status == 404:
            started = registry.ask("POST", f"/v2/{name}/blobs/uploads/", body=b"")
            assert registry.close(located(started), digest, data).status == 201
    answer = registry.put(name, reference or artifact.root, artifact.raw, artifact.media_type)
    assert answer.status == 201, answer
    return answer


def referrers(registry: Registry, name: str, digest: str, kind: str | None = None) -> set[str]:
    query = f"?artifactType={quote(kind, safe='')}" if kind else ""
    answer = registry.ask("GET", f"/v2/{name}/referrers/{digest}{query}")
    assert (answer.status, answer["content-type"]) == (200, OCI_INDEX)
    return {entry["digest"] for entry in answer.json["manifests"]}


async def test_oras_attaches_artifacts_and_finds_them_on_every_node(site: Site) -> None:
    name = "oras/app"
    site.one.push(name, HELLO, "1")
    subject = {"mediaType": HELLO.media_type, "digest": HELLO.root, "size": len(HELLO.raw)}
    sbom = build_artifact(b'{"spdxVersion": "SPDX-2.3"}', "application/spdx+json", subject)
    of_sbom = {"mediaType": OCI_MANIFEST, "digest": sbom.root, "size": len(sbom.raw)}
    signature = build_artifact(b"signature", "application/vnd.cncf.notary.signature", of_sbom)
    assert send_as_oras(site.one, name, sbom)["oci-subject"] == HELLO.root
    assert send_as_oras(site.one, name, signature)["oci-subject"] == sbom.root
    assert referrers(site.one, name, HELLO.root) == {sbom.root}
    assert referrers(site.one, name, HELLO.root, "application/spdx+json") == {sbom.root}
    assert referrers(site.one, name, sbom.root) == {signature.root}
    with trio.fail_after(30):
        while referrers(site.two, name, HELLO.root) != {sbom.root}:
            await trio.sleep(0.1)
        while referrers(site.two, name, sbom.root) != {signature.root}:
            await trio.sleep(0.1)
    for artifact in (sbom, signature):
        pulled = site.two.manifest(name, artifact.root)
        assert (pulled.status, pulled.body) == (200, artifact.raw)
        for digest, data in artifact.blobs.items():
            assert site.two.blob(name, digest).body == data


def cosign_signature(image: Image, *, attached: bool) -> Image:
    """The manifest that cosign pushes: one layer, its signature in an annotation."""
    claim = {
        "critical": {
            "image": {"docker-manifest-digest": image.root},
            "type": "cosign container image signature",
        }
    }
    payload = json.dumps(claim).encode()
    config = json.dumps({"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    layer = descriptor(
        "application/vnd.dev.cosign.simplesigning.v1+json",
        payload,
        annotations={"dev.cosignproject.cosign/signature": "MEUCIQDx"},
    )
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [layer],
    }
    if attached:
        document["artifactType"] = "application/vnd.dev.cosign.artifact.sig.v1+json"
        document["subject"] = {"mediaType": image.media_type, "digest": image.root, "size": len(image.raw)}
    raw = json.dumps(document).encode()
    blobs = {digest_of(data): data for data in (payload, config)}
    return Image(digest_of(raw), {digest_of(raw): raw}, blobs, {digest_of(raw): OCI_MANIFEST})


async def test_a_signed_image_keeps_its_signature(site: Site, tmp_path: Path) -> None:
    """By its tag, as cosign has it, and as a referrer; skopeo copies both like any image."""
    name = "signed/app"
    await push(write_layout(INDEX, tmp_path / "source"), site.one, f"{name}:1", "--all")
    tag = INDEX.root.replace(":", "-") + ".sig"
    by_tag, by_subject = (cosign_signature(INDEX, attached=attached) for attached in (False, True))
    send_as_oras(site.one, name, by_tag, tag)
    assert send_as_oras(site.one, name, by_subject)["oci-subject"] == INDEX.root
    assert await site.everywhere(name, tag) == by_tag.raw
    assert site.one.tags(name) == ["1", tag]
    await pull(site.two, f"{name}:{tag}", f"dir:{tmp_path / 'back'}")
    assert held(tmp_path / "back") == set(by_tag.contents)
    assert referrers(site.one, name, INDEX.root) == {by_subject.root}


async def test_a_chart_is_pushed_as_helm_does(site: Site) -> None:
    config = b'{"name":"pos","version":"1.2.3","apiVersion":"v2"}'
    chart = gzip.compress(
        tar_layer({"pos/Chart.yaml": b"name: pos\nversion: 1.2.3\n"}, compress=False), mtime=0
    )
    document = {
        "schemaVersion": 2,
        "config": descriptor("application/vnd.cncf.helm.config.v1+json", config),
        "layers": [descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip", chart)],
        "annotations": {"org.opencontainers.image.title": "pos"},
    }
    raw = json.dumps(document).encode()
    blobs = {digest_of(data): data for data in (config, chart)}
    image = Image(digest_of(raw), {digest_of(raw): raw}, blobs, {digest_of(raw): OCI_MANIFEST})
    assert send_as_oras(site.one, "charts/pos", image, "1.2.3").status == 201
    assert await site.everywhere("charts/pos", "1.2.3") == raw
    for digest, data in blobs.items():
        assert site.two.blob("charts/pos", digest).body == data
