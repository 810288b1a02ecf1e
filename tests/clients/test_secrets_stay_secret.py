"""A real node with a known secret in every place, through success and failure; then everything that it said and wrote
is searched for each of them."""

import base64
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.certificates import PrivateCA
from tests.htpasswd import write_htpasswd
from tests.processes import DEADLINE, Place, Process, clean_environment, until
from tests.upstream import Fault, Upstream, Users

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NAMES = (
    "vault", "password_file", "docker", "wrong", "tls", "lost", "proxy", "client", "client_wrong", "client_as_name",
)  # fmt: skip
CRASHING = """
import sys
from pathlib import Path
from meshsat.cli.main import main
from meshsat.uplink import auth

whole = auth.Authenticator._fill

async def fails_with_the_secret_at_hand(self, slot, challenge, registry, repository):
    credential = await self._credentials.find(registry, repository)
    await whole(self, slot, challenge, registry, repository)
    if Path(CRASH).exists():
        raise ZeroDivisionError(f"with {len(credential.secret)} characters at hand")

CRASH = sys.argv.pop(1)
auth.Authenticator._fill = fails_with_the_secret_at_hand
main()
"""
"""The node, with a defect where it handles a secret: as soon as a file is there, it raises."""


class Site:
    """A node and its upstreams; `out` gathers what was said to whoever asked."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.directory = place.directory
        self.data_dir = place.directory / "data"
        self.config = place.directory / "meshsat.toml"
        self.trace = place.directory / "trace"
        self.secrets = {name: f"{name}-{secrets.token_hex(16)}" for name in NAMES}
        self.crash = place.directory / "crash"
        self.out: list[str] = []
        self.meant: set[Path] = set()
        """Files that hold a secret because an operator put it there."""

    def run(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        command = [sys.executable, "-m", "meshsat", *arguments, "--config", str(self.config)]
        done = subprocess.run(
            command,
            input=stdin, capture_output=True, text=True, timeout=DEADLINE, check=False, env=clean_environment(),
        )  # fmt: skip
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        self.out += [done.stdout, done.stderr]
        return done.stdout

    def api(self, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=str(self.data_dir / "api.sock"))
        with httpx.Client(transport=transport, timeout=DEADLINE) as http:
            url = f"http://node{path}"
            answer = http.get(url) if body is None else http.post(url, json=body)
        self.out.append(answer.text)
        return answer

    def start(self) -> Process:
        proxy = f"http://user:{self.secrets['proxy']}@127.0.0.1:9"
        command = (
            "env",
            f"HTTPS_PROXY={proxy}",
            f"HTTP_PROXY={proxy}",
            sys.executable,
            "-c",
            CRASHING,
            str(self.crash),
        )
        node = self.place.start(
            "node.log", *command, "node", "--config", str(self.config), "--record", str(self.trace)
        )
        until("the node is up", lambda: "node is up" in node.said)
        return node

    def pull(self, upstream: Upstream) -> dict[str, Any]:
        """The last line of a pull."""
        answer = self.api("/api/v1/pull", {"reference": f"{upstream.address}/library/pos:42"})
        last: dict[str, Any] = json.loads(answer.text.splitlines()[-1])
        return last

    def found(self, secret: str) -> list[str]:
        """Where any spelling of a secret stands that should not."""
        spellings = {secret, quote(secret, safe="")}
        for prefix in ("", "bob:", "user:", ":"):  # at each of the three offsets that base64 has
            encoded = base64.b64encode((prefix + secret).encode()).decode().rstrip("=")
            spellings.add(encoded[4:-4])
        wanted = [spelling.encode() for spelling in spellings]
        places = [
            f"answer {number}"
            for number, text in enumerate(self.out)
            if any(s.decode() in text for s in wanted)
        ]
        for path in self.directory.rglob("*"):
            if path.is_file() and path not in self.meant:
                content = path.read_bytes()
                places += [str(path)] * any(spelling in content for spelling in wanted)
        return places


@pytest.fixture
def site(place: Place) -> Site:
    return Site(place)


@pytest.fixture
def upstreams(site: Site) -> Iterator[dict[str, Upstream]]:
    ca = PrivateCA(site.directory)
    users = {"bob": site.secrets["vault"]}
    storage = Upstream()
    made = {
        "vault": Upstream(users=Users("basic", users)),
        "password_file": Upstream(users=Users("bearer", {"bob": site.secrets["password_file"]})),
        "docker": Upstream(users=Users("bearer", {"bob": site.secrets["docker"]}), redirect=storage),
        "wrong": Upstream(users=Users("bearer", {"bob": "another"})),
        "tls": Upstream(
            users=Users("basic", {"bob": site.secrets["tls"]}), tls=ca.server_context("127.0.0.1")
        ),
        "lost": Upstream(users=Users("basic", {"bob": site.secrets["lost"]})),
        "storage": storage,
    }
    for number, upstream in enumerate(made.values()):
        upstream.add_image("library/pos", "42", [b"layer %d" % number * 1000])
        upstream.__enter__()
    yield made
    for upstream in made.values():
        upstream.close()


def configure(site: Site, upstreams: dict[str, Upstream]) -> None:
    password, docker = site.directory / "password", site.directory / "docker.json"
    password.write_text(site.secrets["password_file"] + "\n")
    token = base64.b64encode(f"bob:{site.secrets['docker']}".encode()).decode()
    docker.write_text(json.dumps({"auths": {upstreams["docker"].address: {"auth": token}}}))
    site.meant |= {password, docker}
    for path in site.meant:
        path.chmod(0o600)
    users = write_htpasswd(site.directory / "users", {"ada": site.secrets["client"]})
    lines = [
        f"data_dir = {json.dumps(str(site.data_dir))}",
        'log = { level = "debug", json_lines = true }',
        "api = { port = 0 }",
        'mesh = { listen = "127.0.0.1", control_port = 0, bulk_port = 0, mdns = false }',
        "[registry]",
        "port = 0",
        "resolve_timeout = 2.0",
        "push = true",
        f'auth = {{ htpasswd = {json.dumps(str(users))}, scheme = "bearer" }}',
        "[uplink]",
        f"docker_config = {json.dumps(str(docker))}",
        "attempts = 1",
    ]
    for name, upstream in upstreams.items():
        lines += ["[[uplink.registries]]", f'host = "{upstream.address}"']
        if name != "tls":
            lines.append("plain_http = true")
        if name == "password_file":
            lines += ['username = "bob"', f"password_file = {json.dumps(str(password))}"]
    site.config.write_text("\n".join(lines) + "\n")


def pull_everything(site: Site, upstreams: dict[str, Upstream]) -> None:
    upstreams["storage"].add_fault(Fault("/storage/", status=403))
    for name in ("vault", "password_file", "docker"):
        assert site.pull(upstreams[name])["event"] == "done", name
    for name, why in (("wrong", "password is wrong"), ("lost", "meshsat login")):
        last = site.pull(upstreams[name])
        assert last["event"] == "error", name
        assert why in last["message"], last


def come_as_a_client(site: Site, unreachable: Upstream) -> str:
    """The token that the registry gave."""
    address = site.api("/api/v1/status").json()["registry_address"]
    with httpx.Client(base_url=f"http://{address}", trust_env=False) as http:

        def ask(path: str, user: str, password: str) -> httpx.Response:
            answer = http.get(path, auth=(user, password))
            site.out.append(answer.text if answer.status_code != 200 else "")
            return answer

        token = str(
            ask("/token?service=meshsat&scope=repository:a:pull", "ada", site.secrets["client"]).json()[
                "token"
            ]
        )
        for user, password in (("ada", "client_wrong"), ("client_as_name", "client_wrong")):
            assert ask("/v2/", site.secrets.get(user, user), site.secrets[password]).status_code == 401
        for shown in (f"Bearer {token}", f"Bearer {token}x", f"Negotiate {token}", f"Basic {token}"):
            site.out.append(http.get("/v2/a/manifests/1", headers={"Authorization": shown}).text)
        site.out.append(
            http.put("/v2/a/manifests/1", auth=("ada", site.secrets["client"]), content=b"{").text
        )
        path = f"/v2/{unreachable.address}/library/pos/manifests/42"
        assert ask(path, "ada", site.secrets["client"]).status_code >= 400
    problems = " ".join(site.api("/api/v1/status").json()["problems"])
    assert "certificate" in problems
    assert "cannot be opened" in problems
    return token


def test_no_secret_is_in_what_a_node_says_or_writes(site: Site, upstreams: dict[str, Upstream]) -> None:
    configure(site, upstreams)
    site.run("init", "acme", "--name", "node")
    site.run("login", upstreams["lost"].address, "-u", "bob", "--password-stdin", stdin=site.secrets["lost"])
    (site.data_dir / "secrets" / "machine.key").unlink()
    node = site.start()
    login = ("login", upstreams["vault"].address, "-u", "bob", "--password-stdin")
    site.run(*login, stdin=site.secrets["vault"])
    for registry, name in (
        (upstreams["wrong"].address, "wrong"),
        (upstreams["tls"].address, "tls"),
        ("-", "vault"),
    ):
        site.api("/api/v1/login", {"registry": registry, "username": "bob", "secret": site.secrets[name]})
    pull_everything(site, upstreams)
    token = come_as_a_client(site, upstreams["tls"])
    for path in ("status", "peers", "images", "secrets"):
        assert site.api(f"/api/v1/{path}").status_code == 200
    site.api("/metrics")

    # A token that lets a machine in, one that is used up, and one in a place where none belongs.
    invitation = site.run("invite").strip()
    site.out.pop(-2)
    other = site.directory / "other"
    contact = site.api("/api/v1/status").json()["control_addresses"][0]
    for directory, code in ((other, 0), (site.directory / "third", 1)):
        place = ("--data-dir", str(directory), "--peer", contact, "--timeout", "20s")
        site.run("join", "-", *place, stdin=invitation, code=code)
    site.api("/api/v1/pull", {"reference": invitation})
    site.out.pop()  # it may tell whoever asked what they asked for

    site.run("secrets", "list", "--json")
    site.run("secrets", "rotate", code=1)  # one login is lost
    site.api("/api/v1/logout", {"registry": upstreams["wrong"].address})
    site.run("audit", "tail", "-n", "1000")

    # What the system shows of the process; its environment is its caller's.
    process = Path(f"/proc/{node.pid}")
    site.out.append(process.joinpath("cmdline").read_bytes().decode())
    environment = process.joinpath("environ").read_bytes().decode()
    assert site.secrets["proxy"] in environment
    site.out.append(environment.replace(site.secrets["proxy"], ""))
    assert "Max core file size        0                    0 " in process.joinpath("limits").read_text()

    # The end: a defect where a secret is at hand, with its traceback.
    site.crash.touch()
    upstreams["vault"].add_image("library/other", "1")
    with pytest.raises(httpx.TransportError):
        site.api("/api/v1/pull", {"reference": f"{upstreams['vault'].address}/library/other:1"})
    until("the node crashed", lambda: node.exit_code is not None)
    assert "ZeroDivisionError" in node.said

    tokens = [issued for upstream in upstreams.values() for issued in upstream.tokens]
    assert len(tokens) >= 2
    looked_for = {**site.secrets, "invitation": invitation, "client token": token, "signature": "topsecret"}
    looked_for |= {f"upstream token {number}": issued for number, issued in enumerate(tokens)}
    leaks = {name: places for name, secret in looked_for.items() if (places := site.found(secret))}
    assert leaks == {}
    events = {
        json.loads(line)["event"]
        for line in (site.data_dir / "audit" / "audit.jsonl").read_text().splitlines()
    }
    assert events >= {
        "fleet.create", "credential.create", "credential.delete", "credential.rotate", "node.start", "node.register",
        "token.create", "user.login", "manifest.create",
    }  # fmt: skip


def test_the_search_finds_what_is_there(site: Site) -> None:
    """Or the test above could not fail."""
    secret = site.secrets["vault"]
    site.directory.joinpath("log").write_text(
        f"Authorization: Basic {base64.b64encode(f'bob:{secret}'.encode()).decode()}"
    )
    site.out.append(f"https://bob:{secret}@host/")
    assert len(site.found(secret)) == 2
    site.meant.add(site.directory / "log")
    assert site.found(secret) == ["answer 0"]
