"""Bundles between real nodes, and between meshsat and the tools that write and read archives of images."""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.bundle_place import layout_files, save_directory, tar
from tests.clients.runtimes import Podman, run, short_directory, skopeo_copy
from tests.images import Image, build_artifact, build_image, descriptor, digest_of, random_bytes, tar_layer
from tests.processes import Node, Place, clean_environment, until
from tests.tools import require_root, require_tool

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(180)]

SHARED = tar_layer({"shared": random_bytes(2_000_000)})
PLAIN = tar_layer({"etc/app": b"v1" * 1000}, compress=False)
OLD = build_image([SHARED, tar_layer({"app": b"v1"})], ["linux/amd64", "linux/arm64"])
NEW = build_image([SHARED, tar_layer({"app": b"v2"})], ["linux/amd64", "linux/arm64"])
DOCKER = build_image([SHARED, PLAIN], docker=True)
ONE = build_image([SHARED, tar_layer({"app": b"one"})])
SBOM = build_artifact(b'{"sbom": true}', "application/spdx+json", descriptor(NEW.media_type, NEW.raw))
SIGNATURE = build_image([b"signature of the index"])
HOME = "reg.example.test/pos/app"
DARK: dict[str, dict[str, Any]] = {"uplink": {"enabled": False}, "mesh": {"mdns": False}}


@dataclass(frozen=True, slots=True)
class World:
    """`head` is where images come from; `one` and `two` are a site of another fleet, without an uplink."""

    head: Node
    one: Node
    two: Node
    directory: Path


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with short_directory() as directory:
        place = Place(directory)
        try:
            yield start(place)
        finally:
            place.close()


def start(place: Place) -> World:
    head = Node(place, "head", DARK)
    head.run("init", "headquarters")
    head.start()
    one = Node(place, "one", DARK)
    one.run("init", "trains")
    one.start()
    (control,) = one.wait_until_ready()["control_addresses"]
    host, _, port = control.rpartition(":")
    address = f"/ip4/{host}/tcp/{port}/p2p/{one.status()['peer']}"
    two = Node(place, "two", {**DARK, "mesh": {"mdns": False, "peers": [address]}})
    two.run("join", one.run("invite").stdout.strip(), "--peer", control)
    two.start()
    two.wait_until_ready(peers=1)
    head.wait_until_ready()
    files: dict[str, bytes] = {}
    entries = []
    for tag, image in (("1", OLD), ("2", NEW), ("docker", DOCKER), ("one", ONE)):
        files |= layout_files(image, f"{HOME}:{tag}")
        entries += json.loads(files["index.json"])["manifests"]
    for name, artifact in ((f"{HOME}@{SBOM.root}", SBOM), (f"{HOME}:sha256-{NEW.root[7:]}.sig", SIGNATURE)):
        files |= layout_files(artifact, name)
        entries += json.loads(files["index.json"])["manifests"]
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    head.run("import", str(save_directory(directory := place.directory / "source", files)))
    assert directory.is_dir()
    return World(head, one, two, place.directory)


def resolved_at(node: Node, reference: str) -> float:
    images = json.loads(node.run("images", "--json").stdout)
    moment: float = next(image["resolved_at"] for image in images if image["reference"] == reference)
    return moment


def serves(node: Node, image: Image, tag: str, home: str = HOME) -> None:
    """Every manifest and blob of the image, byte for byte, from the node's own registry."""

    def come() -> bool:
        told: str = node.get(f"{home}/manifests/{tag}").headers.get("docker-content-digest", "")
        return told == image.root

    until(f"{node.name} serves {home}:{tag}", come)
    for digest, raw in image.manifests.items():
        assert node.get(f"{home}/manifests/{digest}").content == raw
    for digest, data in image.blobs.items():
        assert node.get(f"{home}/blobs/{digest}").content == data


@pytest.mark.parametrize("name", ["site.tar", "site.tar.zst", "stick"])
async def test_a_site_is_filled_by_one_node_and_another_gives_it_to_skopeo(
    world: World, tmp_path: Path, name: str
) -> None:
    require_tool("skopeo")
    path = tmp_path / name
    world.head.run("export", f"{HOME}:2", "-o", str(path))
    world.one.run("import", str(path))
    serves(world.two, NEW, "2")
    serves(world.two, SIGNATURE, f"sha256-{NEW.root[7:]}.sig")
    referrers = world.two.get(f"{HOME}/referrers/{NEW.root}").json()["manifests"]
    assert [one["digest"] for one in referrers] == [SBOM.root]
    address = world.two.status()["registry_address"]
    await skopeo_copy(f"{address}/{HOME}:2", tmp_path / "pulled", "--all")
    assert (tmp_path / "pulled" / "manifest.json").read_bytes() == NEW.raw
    assert {digest[7:] for digest in NEW.blobs} <= {one.name for one in (tmp_path / "pulled").iterdir()}
    assert resolved_at(world.two, f"{HOME}:2") == pytest.approx(
        resolved_at(world.head, f"{HOME}:2"), abs=0.01
    )
    assert world.two.status()["wan_bytes_in"] == 0


async def test_only_what_is_new(world: World, tmp_path: Path) -> None:
    path = tmp_path / "update.tar"
    world.head.run("export", f"{HOME}:2", "--since", f"{HOME}:1", "--no-referrers", "-o", str(path))
    with tarfile.open(path) as archive:
        there = {member.name.rpartition("/")[2] for member in archive}
    assert digest_of(SHARED)[7:] not in there
    assert path.stat().st_size < 30_000
    with short_directory() as directory:
        place = Place(directory)
        try:
            fresh = Node(place, "fresh", DARK)
            fresh.run("init", "trams")
            fresh.start()
            fresh.wait_until_ready()
            refused = fresh.run("import", str(path), code=1)
            assert digest_of(SHARED) in refused.stderr
            assert f"meshsat pull {HOME}:1@{OLD.root}" in refused.stderr
            assert fresh.status()["blobs"] == 0
            world.head.run("export", f"{HOME}:1", "-o", str(tmp_path / "old"))
            fresh.run("import", str(tmp_path / "old"))
            fresh.run("import", str(path))
            serves(fresh, NEW, "2")
        finally:
            place.close()


async def test_one_platform_of_an_index(world: World, tmp_path: Path) -> None:
    with short_directory() as directory:
        place = Place(directory)
        try:
            fresh = Node(place, "fresh", DARK)
            fresh.run("init", "trams")
            fresh.start()
            fresh.wait_until_ready()
            path = str(tmp_path / "arm.tar")
            world.head.run("export", f"{HOME}:2", "--platform", "linux/arm64", "-o", path)
            assert "1 of its platforms are left out" in fresh.run("import", path).stdout
            assert fresh.get(f"{HOME}/manifests/2").content == NEW.raw
            await skopeo_copy(
                f"{fresh.status()['registry_address']}/{HOME}:2", tmp_path / "x", "--override-arch", "arm64",
                "--override-os", "linux",
            )  # fmt: skip
            refused = fresh.run("export", f"{HOME}:2", "-o", str(tmp_path / "y.tar"), code=1)
            assert "linux/amd64" in refused.stderr
            fresh.run("export", f"{HOME}:2", "--platform", "linux/arm64", "-o", str(tmp_path / "y.tar"))
            assert (tmp_path / "y.tar").read_bytes() == (tmp_path / "arm.tar").read_bytes()
        finally:
            place.close()


async def test_skopeo_and_podman_read_what_meshsat_writes(world: World, tmp_path: Path) -> None:
    require_root()
    require_tool("skopeo", "podman", "runc")
    world.head.run("export", f"{HOME}:2", "-o", str(tmp_path / "a.tar"))
    world.head.run("export", f"{HOME}:2", "-o", str(tmp_path / "stick"))
    for source in (f"oci-archive:{tmp_path / 'a.tar'}", f"oci:{tmp_path / 'stick'}:{HOME}:2"):
        raw = await run("skopeo", "inspect", "--raw", source)
        assert raw.stdout == NEW.raw
        await run("skopeo", "copy", "--all", source, f"dir:{tmp_path / 'out'}")
        assert (tmp_path / "out" / "manifest.json").read_bytes() == NEW.raw
    world.head.run("export", f"{HOME}:one", "-o", str(tmp_path / "one.tar"))
    with short_directory() as directory:
        podman = Podman(directory)
        await podman("load", "-i", str(tmp_path / "one.tar"))
        named = await podman("images", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}")
        assert named.stdout.decode().split() == [f"{HOME}:one", ONE.root]


@pytest.mark.parametrize("form", ["oci-archive", "oci", "dir"])
async def test_what_skopeo_writes(world: World, tmp_path: Path, form: str) -> None:
    require_tool("skopeo")
    address = world.head.status()["registry_address"]
    home = f"reg.example.test/{form}/app"
    path = tmp_path / "x"
    target = f"dir:{path}" if form == "dir" else f"{form}:{path}:{home}:2"
    source = f"docker://{address}/{HOME}:2"
    await run("skopeo", "copy", "--all", "--src-tls-verify=false", source, target)
    named = ["--as", f"{home}:2"] if form == "dir" else []
    world.one.run("import", str(path), *named)
    serves(world.two, NEW, "2", home)


async def test_what_podman_and_skopeo_save_for_docker(world: World, tmp_path: Path) -> None:
    require_root()
    require_tool("skopeo", "podman", "runc")
    address = world.head.status()["registry_address"]
    name = "reg.example.test/saved/app:1"
    with short_directory() as directory:
        podman = Podman(directory)
        await podman.pull(f"{address}/{HOME}:docker")
        await podman("tag", f"{address}/{HOME}:docker", name)
        await podman("save", "-o", str(tmp_path / "podman.tar"), name)
        packed = subprocess.run(["gzip", "-k", str(tmp_path / "podman.tar")], check=True)
        assert packed.returncode == 0
        options = ("--src-tls-verify=false", f"docker://{address}/{HOME}:docker")
        await run("skopeo", "copy", *options, f"docker-archive:{tmp_path / 'skopeo.tar'}:{name}")
        roots = set()
        for file in ("podman.tar", "podman.tar.gz", "skopeo.tar"):
            shown = world.one.run("import", str(tmp_path / file), "--as", "reg.example.test/saved/app:2")
            roots.add(shown.stdout.split()[1])
        assert len(roots) == 1  # the same image, whoever saved it
        (root,) = roots
        until(
            "two serves it",
            lambda: (
                world.two.get("reg.example.test/saved/app/manifests/2").headers.get("docker-content-digest")
                == root
            ),
        )
        manifest = world.two.get(f"reg.example.test/saved/app/manifests/{root}").json()
        assert manifest["config"]["digest"] == json.loads(DOCKER.raw)["config"]["digest"]
        two = world.two.status()["registry_address"]
        await podman.pull(f"{two}/reg.example.test/saved/app:2")
        ids = await podman("images", "--no-trunc", "--format", "{{.ID}}")
        assert len(set(ids.stdout.split())) == 1  # the image's id is that of the original


def test_site_content_and_another_name(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "x.tar")
    world.head.run("export", f"{HOME}:one", "-o", path)
    world.one.run("import", path, "--as", "site.internal/team/app:1")
    serves(world.two, ONE, "1", "team/app")
    world.one.run("export", "site.internal/team/app:1", "-o", str(tmp_path / "y.tar"))
    world.head.run("import", str(tmp_path / "y.tar"))
    serves(world.head, ONE, "1", "team/app")
    world.one.run("import", path, "--as", "site.internal/other/app:1")  # whose blobs are there already
    serves(world.two, ONE, "1", "other/app")


def meshsat(node: Node, *arguments: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    verb, *rest = arguments
    command = (sys.executable, "-m", "meshsat", verb, "--config", str(node.config), *rest)
    return subprocess.run(
        command, check=False, env=clean_environment(), timeout=60, **{"capture_output": True, **more}
    )


@pytest.mark.parametrize("packed", ["none", "zstd"])
def test_through_a_pipe(world: World, packed: str) -> None:
    made = meshsat(world.head, "export", f"{HOME}:1", f"{HOME}:2", "-o", "-", "--compression", packed)
    assert made.returncode == 0, made.stderr
    read = meshsat(world.one, "import", "-", "--as", f"reg.example.test/pipe-{packed}", input=made.stdout)
    assert read.returncode == 0, read.stderr
    serves(world.two, NEW, "2", f"reg.example.test/pipe-{packed}")
    serves(world.two, OLD, "1", f"reg.example.test/pipe-{packed}")


def test_a_damaged_layer_stops_no_other_image(world: World, tmp_path: Path) -> None:
    good = build_image([tar_layer({"good": random_bytes(1000, 7)})])
    bad = build_image([layer := tar_layer({"bad": random_bytes(1000, 8)})])
    files = {**layout_files(good, "reg.example.test/good:1")}
    entries = json.loads(files["index.json"])["manifests"]
    files |= layout_files(bad, "reg.example.test/bad:1")
    entries += json.loads(files["index.json"])["manifests"]
    files["index.json"] = json.dumps({"manifests": entries}).encode()
    files[f"blobs/sha256/{digest_of(layer)[7:]}"] = layer[:-1] + b"!"
    for path in (save_directory(tmp_path / "stick", files), tar(tmp_path / "x.tar", files.items())):
        ended = world.one.run("import", str(path), code=1)
        assert "reg.example.test/good:1" in ended.stdout
        assert f"{digest_of(layer)} is damaged" in ended.stderr
        serves(world.two, good, "1", "reg.example.test/good")
        assert world.one.get("reg.example.test/bad/manifests/1").status_code == 404


def test_a_full_disk_is_told(world: World) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = meshsat(world.head, "export", f"{HOME}:1", "-o", "-", stdout=full, capture_output=False,
                        stderr=subprocess.PIPE)  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr == b"meshsat: stdout can't be written: there is no room left\n"


def test_a_node_that_goes_away_is_told_and_the_import_goes_on_later(tmp_path: Path) -> None:
    image = build_image([random_bytes(3_000_000, seed) for seed in range(5)])
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        order = sorted(layout_files(image, f"{HOME}:big").items(), key=lambda item: len(item[1]))
        for name, data in sorted(order, key=lambda item: item[0] not in ("index.json", "oci-layout")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with short_directory() as directory:
        place = Place(directory)
        try:
            node = Node(place, "one", DARK)
            node.run("init", "trains")
            process = node.start()
            node.wait_until_ready()
            command = (sys.executable, "-m", "meshsat", "import", "--config", str(node.config), "-")
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
            ) as importing:
                assert importing.stdin is not None
                assert importing.stderr is not None
                importing.stdin.write(raw.getvalue()[:8_000_000])
                importing.stdin.flush()
                until("two layers are there", lambda: node.status()["blobs"] >= 2)
                process.kill()
                with suppress(BrokenPipeError):
                    importing.stdin.write(raw.getvalue()[8_000_000:])
                    importing.stdin.close()
                said = importing.stderr.read().decode()
                assert importing.wait(60) == 1
            assert "what was done stays done" in said
            node.start()
            node.wait_until_ready()
            before = node.status()["blobs"]
            assert before >= 2
            (tmp_path / "x.tar").write_bytes(raw.getvalue())
            lines = node.run("import", str(tmp_path / "x.tar"), "--json").stdout.splitlines()
            assert json.loads(lines[0])["total_bytes"] <= image.size - 2 * 3_000_000
            serves(node, image, "big")
        finally:
            place.close()
