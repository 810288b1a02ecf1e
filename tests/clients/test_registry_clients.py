"""Real clients against the registry application, with content from memory: what each sends, and what breaks it."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshsat.config import RegistrySection
from meshsat.errors import UnavailableError
from meshsat.http.asgi import Receive, Scope, Send
from meshsat.metrics import Metrics
from meshsat.registry.app import create_registry
from meshsat.registry.content import Name
from tests.clients.runtimes import Containerd, Podman, run, short_directory, skopeo_copy
from tests.images import Image, build_image, random_bytes, tar_layer
from tests.memory_content import MemoryContent
from tests.serving import served
from tests.tools import require_root, require_tool

pytestmark = pytest.mark.clients

UPSTREAM = "reg.example.test"
POS = "library/pos"
LAYERS = [tar_layer({f"data{seed}": random_bytes(1_000_000, seed)}) for seed in (1, 2)]
IMAGE = build_image(LAYERS, ["linux/amd64", "linux/arm64"])
DOCKER = build_image(LAYERS[:1], docker=True)
"""Another image, not only other types: podman takes those with the same config for one."""


@pytest.fixture
def short_path() -> Iterator[Path]:
    with short_directory() as path:
        yield path


class Registry:
    """One registry of ours; `requests` lists (method, path, query, headers) of all that it was asked."""

    def __init__(self) -> None:
        self.content = MemoryContent()
        for name in (Name(None, POS), Name(UPSTREAM, POS)):
            self.content.add(name, "42", IMAGE)
            self.content.add(name, "docker", DOCKER)
        self.app = create_registry(self.content, Metrics(), RegistrySection())
        self.requests: list[tuple[str, str, str, dict[str, str]]] = []
        self.address = ""

    async def record(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append((scope["method"], scope["path"], scope["query_string"].decode(), headers))
        await self.app(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Registry"]:
        async with served(self.record) as (self.address,):
            yield self

    def asked_for(self, kind: str) -> int:
        return sum(f"/{kind}/" in path for _, path, _, _ in self.requests)


def assert_copied(directory: Path, image: Image, *, manifests: set[str]) -> None:
    """skopeo's `dir:` holds exactly these bytes; `manifests`: those wanted of an index, by digest."""
    assert (directory / "manifest.json").read_bytes() in {image.manifests[digest] for digest in manifests}
    for digest in manifests:
        manifest = json.loads(image.manifests[digest])
        for part in [manifest["config"], *manifest["layers"]] if "config" in manifest else []:
            name = part["digest"].partition(":")[2]
            assert (directory / name).read_bytes() == image.blobs[part["digest"]]


def manifest_for(image: Image, architecture: str) -> str:
    entries = json.loads(image.raw)["manifests"]
    (found,) = (entry["digest"] for entry in entries if entry["platform"]["architecture"] == architecture)
    return str(found)


# --- skopeo ---------------------------------------------------------------------------------------------------


async def test_skopeo_copies_by_tag_and_digest(tmp_path: Path) -> None:
    require_tool("skopeo")
    async with Registry().running() as registry:
        for number, reference in enumerate((":42", f"@{IMAGE.root}")):
            target = tmp_path / str(number)
            source = f"{registry.address}/{POS}{reference}"
            await skopeo_copy(source, target, "--override-arch=arm64")
            assert_copied(target, IMAGE, manifests={manifest_for(IMAGE, "arm64")})


async def test_skopeo_copies_an_index_with_all_that_it_lists(tmp_path: Path) -> None:
    require_tool("skopeo")
    async with Registry().running() as registry:
        await skopeo_copy(f"{registry.address}/{POS}:42", tmp_path / "all", "--all")
    assert_copied(tmp_path / "all", IMAGE, manifests=set(IMAGE.manifests))


async def test_skopeo_copies_dockers_types(tmp_path: Path) -> None:
    require_tool("skopeo")
    async with Registry().running() as registry:
        await skopeo_copy(f"{registry.address}/{POS}:docker", tmp_path / "docker")
    assert_copied(tmp_path / "docker", DOCKER, manifests={DOCKER.root})


async def test_skopeo_inspects_the_very_bytes_and_lists_tags() -> None:
    require_tool("skopeo")
    async with Registry().running() as registry:
        plain = "--tls-verify=false"
        raw = await run("skopeo", "inspect", "--raw", plain, f"docker://{registry.address}/{POS}:42")
        assert raw.stdout == IMAGE.raw
        tags = await run("skopeo", "list-tags", plain, f"docker://{registry.address}/{POS}")
        assert json.loads(tags.stdout)["Tags"] == ["42", "docker"]


async def test_skopeo_is_told_that_it_cannot_push(tmp_path: Path) -> None:
    require_tool("skopeo")
    async with Registry().running() as registry:
        await skopeo_copy(f"{registry.address}/{POS}:docker", tmp_path / "docker")
        target = f"docker://{registry.address}/{POS}:new"
        push = await run(
            "skopeo", "copy", "--dest-tls-verify=false", f"dir:{tmp_path / 'docker'}", target, check=False
        )
    assert push.returncode != 0
    assert b"read-only" in push.stderr


async def test_skopeo_is_told_of_a_blob_that_breaks_off(tmp_path: Path) -> None:
    require_tool("skopeo")
    registry = Registry()
    registry.content.cut_at = registry.content.piece
    async with registry.running():
        said = await skopeo_copy(f"{registry.address}/{POS}:docker", tmp_path / "broken", check=False)
    assert b"unexpected EOF" in said


# --- podman ---------------------------------------------------------------------------------------------------


async def test_podman_pulls_by_tag_and_digest_through_a_mirror(short_path: Path) -> None:
    require_root()
    require_tool("podman")
    async with Registry().running() as mirror, Registry().running() as origin:
        podman = Podman(short_path, {UPSTREAM: (f"{mirror.address}/{UPSTREAM}", origin.address)})
        await podman.pull(f"{UPSTREAM}/{POS}:42")
        await podman.pull(f"{UPSTREAM}/{POS}@{DOCKER.root}")
        images = json.loads((await podman("images", "--format", "json")).stdout)
    assert {image["Digest"] for image in images} <= {DOCKER.root, *IMAGE.manifests}
    assert len(images) == 2
    assert origin.requests == []
    assert all(path.startswith(f"/v2/{UPSTREAM}/") for _, path, _, _ in mirror.requests if path != "/v2/")


@pytest.mark.parametrize("fault", [None, UnavailableError("nobody has it")])
async def test_podman_goes_to_the_origin_for_what_the_mirror_lacks(
    short_path: Path, fault: Exception | None
) -> None:
    require_root()
    require_tool("podman")
    empty = Registry()
    empty.content = MemoryContent()
    empty.content.fault = fault
    empty.app = create_registry(empty.content, Metrics())
    async with empty.running() as mirror, Registry().running() as origin:
        podman = Podman(short_path, {UPSTREAM: (f"{mirror.address}/{UPSTREAM}", origin.address)})
        await podman.pull(f"{UPSTREAM}/{POS}:42")
    assert mirror.asked_for("manifests") == 1
    assert mirror.asked_for("blobs") == 0
    assert origin.asked_for("blobs") > 0


# --- containerd -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def containerd_with(directory: Path, mirror: Registry, origin: Registry) -> AsyncIterator[Containerd]:
    require_root()
    require_tool("containerd", "ctr")
    containerd = Containerd(directory)
    containerd.configure(UPSTREAM, [f"http://{mirror.address}"], f"http://{origin.address}")
    async with containerd.running():
        yield containerd


async def held(containerd: Containerd) -> set[str]:
    return set((await containerd("content", "ls", "--quiet")).stdout.decode().split())


def wanted(image: Image, architecture: str | None = None) -> set[str]:
    """Digests of the root and of what one platform needs."""
    digest = manifest_for(image, architecture) if architecture else image.root
    manifest = json.loads(image.manifests[digest])
    parts = [manifest["config"], *manifest["layers"]]
    return {image.root, digest, *(part["digest"] for part in parts)}


async def test_containerd_pulls_by_tag_and_digest_and_tells_the_namespace(short_path: Path) -> None:
    async with (
        Registry().running() as mirror,
        Registry().running() as origin,
        containerd_with(short_path, mirror, origin) as containerd,
    ):
        await containerd.pull(f"{UPSTREAM}/{POS}:42")
        await containerd.pull(f"{UPSTREAM}/{POS}@{DOCKER.root}")
        digests = await held(containerd)
        raw = await containerd("content", "get", IMAGE.root)
    assert wanted(IMAGE, "amd64") | wanted(DOCKER) <= digests
    assert raw.stdout == IMAGE.raw
    assert origin.requests == []
    assert {query for _, _, query, _ in mirror.requests} == {f"ns={UPSTREAM}"}
    assert {call[1] for call in mirror.content.asked} == {Name(UPSTREAM, POS)}


@pytest.mark.parametrize("fault", [None, UnavailableError("nobody has it")])
async def test_containerd_goes_to_the_origin_for_what_the_mirror_lacks(
    short_path: Path, fault: Exception | None
) -> None:
    lacking = Registry()
    lacking.content.blobs.clear()
    lacking.content.fault = fault
    async with (
        lacking.running() as mirror,
        Registry().running() as origin,
        containerd_with(short_path, mirror, origin) as containerd,
    ):
        await containerd.pull(f"{UPSTREAM}/{POS}:42")
    assert mirror.asked_for("manifests") > 0
    assert origin.asked_for("blobs") > 0


async def test_containerd_resumes_a_blob_that_broke_off(short_path: Path) -> None:
    """The source fails once in the middle of each blob: the rest is asked for with a Range, of the same host."""
    flaky = Registry()
    broken: set[str] = set()

    async def break_once(scope: Scope, receive: Receive, send: Send) -> None:
        blob = scope["path"].rpartition("/")[2]
        big = len(flaky.content.blobs.get(blob, b"")) > 4 * flaky.content.piece
        flaky.content.cut_at = 3 * flaky.content.piece if big and blob not in broken else None
        broken.add(blob)
        async with one_at_a_time:
            await recorded(scope, receive, send)

    one_at_a_time = trio.Lock()
    recorded, flaky.record = flaky.record, break_once  # type: ignore[method-assign]
    async with (
        flaky.running() as mirror,
        Registry().running() as origin,
        containerd_with(short_path, mirror, origin) as containerd,
    ):
        await containerd.pull(f"{UPSTREAM}/{POS}:docker")
        assert wanted(DOCKER) <= await held(containerd)
    ranges = [headers["range"] for _, _, _, headers in mirror.requests if "range" in headers]
    assert ranges
    assert origin.requests == []


# --- curl -----------------------------------------------------------------------------------------------------


async def test_curl_gets_ranges_and_conditions() -> None:
    require_tool("curl")
    data = random_bytes(500_000)
    async with Registry().running() as registry:
        digest = registry.content.add_blob(data)
        url = f"http://{registry.address}/v2/{POS}/blobs/{digest}"
        assert (await run("curl", "-sS", "--fail", url)).stdout == data
        assert (await run("curl", "-sS", "--fail", "-r", "100-199", url)).stdout == data[100:200]
        assert (await run("curl", "-sS", "--fail", "-r", "-77", url)).stdout == data[-77:]
        head = (await run("curl", "-sS", "--fail", "-I", url)).stdout.decode().lower()
        assert "content-length: 500000" in head
        show = ("-o", "/dev/null", "-w", "%{http_code}")
        none_match = ("-H", f'If-None-Match: "{digest}"')
        assert (await run("curl", "-sS", *show, *none_match, url)).stdout == b"304"
        assert (await run("curl", "-sS", *show, "-r", "500000-", url)).stdout == b"416"
        assert (await run("curl", "-sS", *show, "--http1.0", url)).stdout == b"200"
        twice = await run("curl", "-sS", *show, "-w", "%{num_connects}", url, "-o", "/dev/null", url)
        assert twice.stdout == b"10"


async def test_curl_sees_a_cut_and_resumes(tmp_path: Path) -> None:
    require_tool("curl")
    data = random_bytes(500_000)
    file = tmp_path / "blob"
    async with Registry().running() as registry:
        digest = registry.content.add_blob(data)
        url = f"http://{registry.address}/v2/{POS}/blobs/{digest}"
        registry.content.cut_at = 3 * registry.content.piece
        cut = await run("curl", "-sS", "-o", str(file), url, check=False)
        assert cut.returncode == 18  # CURLE_PARTIAL_FILE
        assert file.read_bytes() == data[: 3 * registry.content.piece]
        registry.content.cut_at = None
        await run("curl", "-sS", "--fail", "-C", "-", "-o", str(file), url)
    assert file.read_bytes() == data


async def test_curl_has_the_first_byte_while_the_rest_is_still_on_its_way(tmp_path: Path) -> None:
    """And when it goes away, its interest is withdrawn at once."""
    require_tool("curl")
    async with Registry().running() as registry:
        content = registry.content
        digest = content.add_blob(random_bytes(500_000))
        first = trio.Event()
        first.set()
        content.arrived = lambda offset: first if offset == 0 else trio.Event()
        url = f"http://{registry.address}/v2/{POS}/blobs/{digest}"
        process = await trio.lowlevel.open_process(["curl", "-sSN", url], stdout=-1)
        assert process.stdout is not None
        try:
            with trio.fail_after(20):
                got = 0
                while got < content.piece:
                    got += len(await process.stdout.receive_some())
                (reader,) = content.readers
                assert not reader.left
                process.kill()
                await reader.gone.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
