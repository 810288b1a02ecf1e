"""The guide docs/guides/registry-on-the-lan.md, line by line: its files, its commands, real nodes and podman."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from meshsat.mesh import identity
from meshsat.trust.issuing import issue_pass
from meshsat.trust.passes import Subject
from sim.images import random_image
from tests.clients.runtimes import short_directory
from tests.processes import Place, clean_environment, until
from tests.tools import ROOT, require_root, require_tool

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(180)]

GUIDE = (ROOT / "docs" / "guides" / "registry-on-the-lan.md").read_text()
COMMANDS, CONFIGURATIONS = (
    re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL) for language in ("sh", "toml")
)
SCHEMES = pytest.mark.parametrize("scheme", ["basic", "bearer"])
PASSWORDS = {"ada": "secret", "till": "PASSWORD"}


@pytest.fixture
def place() -> Iterator[Place]:
    with short_directory() as directory:
        made = Place(directory)
        try:
            yield made
        finally:
            made.close()


class LanNode:
    """A node with one of the guide's configurations: on a free port, its mesh on loopback."""

    def __init__(self, place: Place, name: str) -> None:
        self._place = place
        self._name = name
        self.directory = place.directory
        self.data_dir = place.directory / name
        self.config = place.directory / f"{name}.toml"

    def shell(self, line: str, stdin: str = "", **replaced: str) -> str:
        """One of the guide's lines, at this test's places."""
        for told, here in replaced.items():
            line = line.replace(told, here)
        line = line.replace("/etc/meshsat", str(self.directory))
        done = subprocess.run(
            ["sh", "-ec", line], cwd=self.directory, input=stdin, capture_output=True, text=True,
            timeout=60, check=False, env=clean_environment(),
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout

    def start(self, *configurations: str) -> None:
        settings = "".join(configurations).replace("/etc/meshsat", str(self.directory))
        settings = settings.replace("[registry]\n", "[registry]\nport = 0\n", 1)
        self.config.write_text(
            f'data_dir = "{self.data_dir}"\n{settings}\n[api]\nport = 0\n'
            '[mesh]\nlisten = "127.0.0.1"\ncontrol_port = 0\nbulk_port = 0\nmdns = false\n'
        )
        command = (sys.executable, "-m", "meshsat", "node", "--config", str(self.config))
        process = self._place.start(f"{self._name}.log", *command)
        until("the node listens", lambda: self.status() or process.exit_code)
        assert process.exit_code is None, process.said

    def status(self) -> dict[str, object] | None:
        transport = httpx.HTTPTransport(uds=str(self.data_dir / "api.sock"))
        try:
            with httpx.Client(transport=transport, timeout=5.0) as http:
                found: dict[str, object] = http.get("http://node/api/v1/status").json()
        except httpx.TransportError:
            return None
        return found if found.get("registry_address") else None

    @property
    def port(self) -> str:
        status = self.status()
        assert status is not None
        return str(status["registry_address"]).rpartition(":")[2]

    def curl(self, path: str, *more: str, host: str, ca: Path) -> str:
        where = ("--resolve", f"{host}:{self.port}:127.0.0.1", "--cacert", str(ca))
        done = subprocess.run(
            ["curl", "-sS", *where, *more, f"https://{host}:{self.port}{path}"],
            capture_output=True, text=True, timeout=60, check=True, env=clean_environment(),
        )  # fmt: skip
        return done.stdout


@pytest.fixture
def node(place: Place) -> LanNode:
    """The guide's first node, of the fleet that was made on it."""
    require_tool("curl")
    identity.init_fleet(place.directory / "node-1", "trains", "train-1", "node-1", 1.7e9)
    return LanNode(place, "node-1")


def make_users(node: LanNode) -> None:
    require_tool("htpasswd")
    for line in COMMANDS[0].splitlines():
        password = PASSWORDS.get(line.split()[-1], "")
        node.shell(line.replace("htpasswd -B", "htpasswd -i -B"), password)  # from stdin, not the terminal


def trusting(node: LanNode) -> Path:
    """A client's directory with the node's CA."""
    certs = node.directory / "certs"
    certs.mkdir()
    (certs / "ca.crt").write_bytes((node.data_dir / "registry-ca.crt").read_bytes())
    return certs


def with_scheme(configuration: str, scheme: str) -> str:
    return configuration.replace("[registry.auth]\n", f'[registry.auth]\nscheme = "{scheme}"\n', 1)


@SCHEMES
def test_podman_logs_in_pushes_and_pulls_as_the_guide_says(node: LanNode, scheme: str) -> None:
    require_root()
    require_tool("podman")
    make_users(node)
    node.start(with_scheme(CONFIGURATIONS[0], scheme))
    certs = trusting(node)
    (node.directory / "password").write_text(PASSWORDS["ada"])
    conf = node.directory / "registries.conf"
    conf.write_text("")
    places = " ".join(f"--{one} {node.directory / one}" for one in ("root", "runroot", "tmpdir"))
    podman = f"podman {places} --storage-driver vfs --cgroup-manager cgroupfs --events-backend file"
    replaced = {"node-1.lan:5000": f"127.0.0.1:{node.port}"}
    for verb in ("login", "push", "pull"):
        options = f"--cert-dir {certs} --authfile {node.directory / 'auth.json'}"
        replaced[f"podman {verb}"] = f"CONTAINERS_REGISTRIES_CONF={conf} {podman} {verb} {options}"
    node.shell(f"echo hello > hello; tar cf layer.tar hello; {podman} import layer.tar app:1")
    for line in COMMANDS[1].splitlines():
        node.shell(line, **replaced)
    images = json.loads(node.shell(f"{podman} images --format json"))
    assert any(f"127.0.0.1:{node.port}/team/app:1" in image["Names"] for image in images)
    push = f"{replaced['podman push']} app:1 127.0.0.1:{node.port}/other/app:1"
    with pytest.raises(AssertionError, match=r"ada may not push other/app|denied"):
        node.shell(push)


@SCHEMES
def test_skopeo_pushes_mounts_and_deletes_what_its_user_may(node: LanNode, scheme: str) -> None:
    require_tool("skopeo")
    make_users(node)
    more = CONFIGURATIONS[0].replace('actions = ["push"]', 'actions = ["push", "delete"]')
    node.start(with_scheme(more.replace("push = true", "push = true\ndelete = true"), scheme))
    certs = trusting(node)
    image = random_image(node.directory / "image", 200_000, layers=2)
    place, registry = f"oci:{image.directory}", f"docker://127.0.0.1:{node.port}"

    def skopeo(verb: str, *arguments: str, user: str = "ada:secret") -> str:
        side = {"copy": "--dest"}.get(verb, "-")
        options = [f"{side}-cert-dir {certs}", f"{side}-creds {user}"]
        if verb == "copy":
            options += ["--preserve-digests", f"--src-cert-dir {certs}", f"--src-creds {user}"]
        return node.shell(f"skopeo {verb} {' '.join((*options, *arguments))}")

    skopeo("copy", f"{place}", f"{registry}/team/app:1")
    skopeo("copy", f"{registry}/team/app:1", f"{registry}/team/copy:1")
    assert (
        json.loads(skopeo("inspect", f"{registry}/team/copy:1", user="till:PASSWORD"))["Digest"]
        == image.manifest
    )
    with pytest.raises(AssertionError, match=r"denied|unauthorized"):
        skopeo("copy", place, f"{registry}/other/app:1")
    with pytest.raises(AssertionError, match="till may not delete team/app"):
        skopeo("delete", f"{registry}/team/app:1", user="till:PASSWORD")
    skopeo("delete", f"{registry}/team/app:1")
    with pytest.raises(AssertionError, match=r"manifest unknown|no 1 of team/app"):
        skopeo("inspect", f"{registry}/team/app:1")
    skopeo("inspect", f"{registry}/team/copy:1")


def test_who_may_what_on_the_guides_node(node: LanNode) -> None:
    make_users(node)
    node.start(CONFIGURATIONS[0])

    def status(path: str, *more: str) -> str:
        found = ("-o", "/dev/null", "-w", "%{http_code}", *more)
        return node.curl(path, *found, host="node-1.lan", ca=node.data_dir / "registry-ca.crt")

    assert status("/v2/") == "401"
    assert status("/v2/", "-u", "till:PASSWORD") == "200"
    assert status("/v2/", "-u", "till:guess") == "401"
    header = re.search(r'authorization = "(.*)"', GUIDE)
    assert header is not None
    assert status("/v2/", "-H", f"Authorization: {header[1]}") == "200"
    upload = "/v2/team/app/blobs/uploads/"
    assert status(upload, "-X", "POST", "-u", "ada:secret") == "202"
    assert status(upload, "-X", "POST", "-u", "till:PASSWORD") == "403"
    assert status("/v2/other/blobs/uploads/", "-X", "POST", "-u", "ada:secret") == "403"


def test_another_node_gets_its_certificate_from_the_first(place: Place, node: LanNode) -> None:
    command = f"{sys.executable} -m meshsat certificate --data-dir {node.data_dir} "
    for line in COMMANDS[2].splitlines():
        node.shell(line, **{"meshsat certificate ": command})
    issued = place.directory / "node-2"
    for name in ("tls.crt", "tls.key"):
        (issued / name).rename(place.directory / name)
    ca = (issued / "ca.crt").rename(place.directory / "ca.crt")
    issued.rmdir()
    second = LanNode(place, "node-2")
    founder = identity.load(node.data_dir)
    assert founder.issuer is not None
    key = identity.node_key(second.data_dir)
    chain = issue_pass(founder.issuer, Subject(key.peer_id, "train-1", "node-2"), 1.7e9, lifetime=1e9)
    identity.accept_pass(second.data_dir, founder.root, chain)
    second.start(CONFIGURATIONS[2])
    assert second.curl("/v2/", host="node-2.lan", ca=ca) == "{}"


def test_what_the_guides_policy_denies_is_told_with_its_reason(node: LanNode) -> None:
    node.start(
        CONFIGURATIONS[3].replace(
            "[registry.pull_through]", '[registry]\nlisten = "127.0.0.1"\n[registry.pull_through]', 1
        )
    )
    answer = httpx.get(f"http://127.0.0.1:{node.port}/v2/quay.io/a/b/manifests/1", trust_env=False)
    assert answer.status_code == 403
    (error,) = answer.json()["errors"]
    assert error["code"] == "DENIED"
    assert "quay.io/a/b:1 is not fetched over the uplink" in error["message"]
    answer = httpx.get(f"http://127.0.0.1:{node.port}/v2/harbor.example.org/a/manifests/1", trust_env=False)
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("configuration", "told"),
    [
        ('[registry]\nlisten = "0.0.0.0"\n', "set registry.tls"),
        ('[registry]\nlisten = "0.0.0.0"\npush = true\n[registry.tls]\nfleet = true\n', "set registry.auth"),
    ],
)
def test_what_is_not_safe_does_not_start(node: LanNode, configuration: str, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        node.start(configuration)


def test_the_guide_has_what_these_tests_run() -> None:
    starts: list[Callable[[str], bool]] = [
        lambda text: "htpasswd" in text,
        lambda text: "podman login" in text,
        lambda text: "meshsat certificate" in text,
    ]
    assert len(COMMANDS) == len(starts)
    assert all(check(text) for check, text in zip(starts, COMMANDS, strict=True))
    assert len(CONFIGURATIONS) == 4
