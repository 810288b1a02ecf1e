"""Real clients against a registry with TLS from the fleet's key and users: who gets in, by which scheme, to what."""

import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from meshsat.config import RegistrySection
from meshsat.http.asgi import Receive, Scope, Send
from meshsat.http.server import TcpBind
from meshsat.http.tls import ServerTls
from meshsat.mesh.certificates import FleetCertificate
from meshsat.metrics import Metrics
from meshsat.registry.access import Access
from meshsat.registry.app import create_registry
from meshsat.registry.content import Name
from tests.clients.runtimes import Containerd, Podman, run, short_directory
from tests.fleet import Fleet
from tests.htpasswd import write_htpasswd
from tests.images import build_image, random_bytes, tar_layer
from tests.memory_content import MemoryContent
from tests.serving import served
from tests.tools import require_root, require_tool

pytestmark = pytest.mark.clients

IMAGE = build_image([tar_layer({"data": random_bytes(300_000, 1)})], ["linux/amd64"])
HUB = "docker.io"
USERS = {"ada": "secret", "bob": "hunter2"}
RULES = [
    {"users": ["ada"], "repositories": ["site.internal/team/*"], "actions": ["pull", "push", "delete"]},
    {"users": ["*"], "repositories": ["site.internal/public/*", f"{HUB}/**"], "actions": ["pull"]},
]
SCHEMES = pytest.mark.parametrize("scheme", ["basic", "bearer"])


@pytest.fixture
def short_path() -> Iterator[Path]:
    with short_directory() as path:
        yield path


class Registry:
    """`asked` lists (method, path, status-independent) of what came; `certs` is for clients' --cert-dir."""

    def __init__(self, directory: Path, **auth: Any) -> None:
        self.content = MemoryContent()
        for name in (
            Name(None, "team/app"),
            Name("site.internal", "team/app"),
            Name("site.internal", "public/app"),
            Name(HUB, "library/app"),
        ):
            self.content.add(name, "1", IMAGE)
        htpasswd = write_htpasswd(directory / "htpasswd", USERS)
        section = RegistrySection.model_validate({"auth": {"htpasswd": htpasswd, **auth}})
        self.app = create_registry(self.content, Metrics(), section, access=Access(section))
        self.certs = directory / "certs"
        self.certs.mkdir()
        identity = Fleet().member("boss", enroller=True)
        self.tls = ServerTls(FleetCertificate(identity, (), self.certs / "ca.crt"), time.time)
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.address = ""

    async def record(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append((scope["method"], scope["path"], headers))
        await self.app(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Registry"]:
        async with served(self.record, TcpBind("127.0.0.1", 0, self.tls.context)) as (self.address,):
            yield self

    def shown(self) -> set[str]:
        """The kinds of credential that were shown at the registry itself."""
        return {
            headers["authorization"].split()[0]
            for _, path, headers in self.asked
            if "authorization" in headers and path.startswith("/v2")
        }


async def skopeo(
    registry: Registry, path: str, user: str | None, directory: Path, *, check: bool = True
) -> CompletedProcess[bytes]:
    who = ["--src-no-creds"] if user is None else ["--src-creds", f"{user}:{USERS.get(user, 'guess')}"]
    return await run(
        "skopeo", "copy", "--src-cert-dir", str(registry.certs), *who,
        f"docker://{registry.address}/{path}:1", f"dir:{directory}", check=check,
    )  # fmt: skip


def assert_copied(directory: Path) -> None:
    assert (directory / "manifest.json").read_bytes() in IMAGE.manifests.values()


@SCHEMES
async def test_skopeo_pulls_what_its_user_may(tmp_path: Path, scheme: str) -> None:
    require_tool("skopeo")
    async with Registry(tmp_path, scheme=scheme, rules=RULES).running() as registry:
        for number, (user, path) in enumerate(
            [("ada", "team/app"), ("bob", "public/app"), ("bob", f"{HUB}/library/app")]
        ):
            await skopeo(registry, path, user, tmp_path / str(number))
            assert_copied(tmp_path / str(number))
        assert registry.shown() == {scheme.capitalize()}


@SCHEMES
@pytest.mark.parametrize(
    ("user", "path", "told"),
    [
        ("bob", "team/app", b"denied"),
        ("eve", "team/app", b"unauthorized"),
        (None, "team/app", b"unauthorized"),
    ],
)
async def test_skopeo_is_told_what_its_user_may_not(
    tmp_path: Path, scheme: str, user: str | None, path: str, told: bytes
) -> None:
    require_tool("skopeo")
    async with Registry(tmp_path, scheme=scheme, rules=RULES).running() as registry:
        done = await skopeo(registry, path, user, tmp_path / "out", check=False)
    assert done.returncode != 0
    assert told in done.stderr.lower()
    assert b"guess" not in done.stderr
    assert registry.content.asked == []


@SCHEMES
async def test_skopeo_pulls_without_a_credential_where_that_is_allowed(tmp_path: Path, scheme: str) -> None:
    require_tool("skopeo")
    async with Registry(tmp_path, scheme=scheme, anonymous=True).running() as registry:
        await skopeo(registry, "team/app", None, tmp_path / "out")
    assert_copied(tmp_path / "out")


async def test_skopeo_trusts_no_other_certificate(tmp_path: Path) -> None:
    require_tool("skopeo")
    async with Registry(tmp_path, anonymous=True).running() as registry:
        (registry.certs / "ca.crt").unlink()
        done = await skopeo(registry, "team/app", None, tmp_path / "out", check=False)
    assert b"x509: certificate signed by unknown authority" in done.stderr


class Login:
    """podman with an authentication file of its own."""

    def __init__(self, registry: Registry, directory: Path) -> None:
        self._podman = Podman(directory)
        self._registry = registry
        self._file = directory / "auth.json"
        self._options = ("--cert-dir", str(registry.certs), "--authfile", str(self._file))

    async def login(self, user: str, password: str, *, check: bool = True) -> CompletedProcess[bytes]:
        who = ("--username", user, "--password", password)
        return await self._podman("login", *self._options, *who, self._registry.address, check=check)

    async def pull(self, path: str, *, check: bool = True) -> CompletedProcess[bytes]:
        if not self._file.exists():
            self._file.write_text("{}")
        reference = f"{self._registry.address}/{path}:1"
        return await self._podman("pull", *self._options, reference, check=check)

    async def images(self) -> set[str]:
        return {
            image["Digest"] for image in json.loads((await self._podman("images", "--format", "json")).stdout)
        }


@SCHEMES
async def test_podman_logs_in_and_pulls(short_path: Path, scheme: str) -> None:
    require_root()
    require_tool("podman")
    async with Registry(short_path, scheme=scheme, rules=RULES).running() as registry:
        podman = Login(registry, short_path)
        assert b"Login Succeeded" in (await podman.login("ada", "secret")).stdout
        await podman.pull("team/app")
        assert await podman.images() <= {IMAGE.root, *IMAGE.manifests}
        assert registry.shown() == {scheme.capitalize()}


@SCHEMES
async def test_podman_is_told_that_the_password_is_wrong(short_path: Path, scheme: str) -> None:
    require_root()
    require_tool("podman")
    async with Registry(short_path, scheme=scheme, rules=RULES).running() as registry:
        podman = Login(registry, short_path)
        done = await podman.login("ada", "guess", check=False)
        assert done.returncode != 0
        assert b"invalid username/password" in done.stderr
        done = await podman.pull("team/app", check=False)
        assert done.returncode != 0


@SCHEMES
async def test_podman_pulls_without_login_where_that_is_allowed(short_path: Path, scheme: str) -> None:
    require_root()
    require_tool("podman")
    async with Registry(short_path, scheme=scheme, anonymous=True).running() as registry:
        await Login(registry, short_path).pull("team/app")


@SCHEMES
async def test_containerd_pulls_through_the_node_with_a_ca_and_a_credential(
    short_path: Path, scheme: str
) -> None:
    """`ctr --user` is a credential for all hosts; the origin is closed, so that only the node can have served it."""
    require_root()
    require_tool("containerd", "ctr")
    async with Registry(short_path, scheme=scheme, rules=RULES).running() as registry:
        containerd = Containerd(short_path)
        node = (f"https://{registry.address}", ('ca = "{}"'.format(registry.certs / "ca.crt"),))
        containerd.configure_hosts(HUB, [node], "http://127.0.0.1:9")
        async with containerd.running():
            reference = f"{HUB}/library/app:1"
            done = await containerd.pull(reference, check=False)
            assert done.returncode != 0
            await containerd.pull(reference, "--user", "bob:hunter2")
            listed = (await containerd("images", "ls")).stdout.decode()
    assert IMAGE.root in listed
    assert registry.shown() == {scheme.capitalize()}


async def test_containerd_takes_a_credential_from_hosts_toml(short_path: Path) -> None:
    """As `meshsat runtime` and kubelets have it: a header for this host alone."""
    require_root()
    require_tool("containerd", "ctr")
    async with Registry(short_path, rules=RULES).running() as registry:
        containerd = Containerd(short_path)
        header = f'[host."https://{registry.address}".header]\n  Authorization = "Basic Ym9iOmh1bnRlcjI="'
        node = (f"https://{registry.address}", ('ca = "{}"'.format(registry.certs / "ca.crt"), header))
        containerd.configure_hosts(HUB, [node], "http://127.0.0.1:9")
        async with containerd.running():
            await containerd.pull(f"{HUB}/library/app:1")


@SCHEMES
async def test_curl_takes_the_certificate(tmp_path: Path, scheme: str) -> None:
    """OpenSSL's clients, and a password where tokens are asked for."""
    require_tool("curl")
    async with Registry(tmp_path, scheme=scheme, rules=RULES).running() as registry:
        command: Sequence[str] = ("curl", "-sS", "--cacert", str(registry.certs / "ca.crt"))
        url = f"https://{registry.address}/v2/team/app/tags/list"
        done = await run(*command, "-u", "ada:secret", url)
        assert json.loads(done.stdout)["tags"] == ["1"]
        done = await run(*command, "-o", "/dev/null", "-w", "%{http_code}", url)
        assert done.stdout == b"401"
        port = registry.address.rpartition(":")[2]
        done = await run(*command, "-u", "ada:secret", f"https://localhost:{port}/v2/")
        assert done.stdout == b"{}"
