"""The unit of docs/guides/hardening.md: systemd understands it, and the node needs nothing that it forbids."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from meshsat.vault.machine_keys import CREDENTIAL
from tests.processes import Node, Place, until
from tests.tools import ROOT, require_tool

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(120)]

GUIDE = ROOT / "docs" / "guides" / "hardening.md"
TRACED = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?([a-z][a-z0-9_]+)\((.*)$")


def unit() -> str:
    found = re.search(r"^```ini\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "meshsat.service"
    path.write_text(
        re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable} -m meshsat", unit(), flags=re.MULTILINE)
    )
    return path


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    require_tool("systemd-analyze")
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_systemd_understands_every_line(file: Path) -> None:
    done = analyze("verify", file)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_little_is_left_open(file: Path) -> None:
    """The guide tells the figure."""
    told = re.search(r"gives it ([0-9.]+) of 10", GUIDE.read_text())
    assert told
    done = analyze("security", "--offline=true", f"--threshold={round(float(told[1]) * 10)}", file)
    assert done.returncode == 0, done.stdout
    assert f": {told[1]} " in done.stdout.splitlines()[-1]


def syscalls_of(names: Iterable[str]) -> set[str]:
    """What groups of systemd's mean, all groups in them opened."""
    found: set[str] = set()
    for name in names:
        if not name.startswith("@"):
            found.add(name)
            continue
        lines = analyze("syscall-filter", name).stdout.splitlines()
        found |= syscalls_of(
            line.strip() for line in lines[1:] if line.strip() and not line.strip().startswith("#")
        )
    return found


def test_the_node_asks_the_kernel_for_nothing_that_is_forbidden(place: Place) -> None:
    require_tool("strace")
    node = Node(place, "node", {"mesh": {"mdns": True}})
    node.run("init", "trains")
    trace = place.directory / "strace"
    command = ("strace", "-D", "-f", "-o", str(trace), sys.executable, "-m", "meshsat", "node")
    process = place.start("node.log", *command, "--config", str(node.config))
    until("the node is up", lambda: "node is up" in process.said)
    assert node.get("local/x/manifests/1").status_code >= 400
    node.ask("/api/v1/secrets")
    assert process.terminate()[0] == 0
    until("the tracer is done", lambda: "+++ exited with 0 +++" in trace.read_text(errors="replace"))

    allowed, forbidden = set[str](), set[str]()
    for value in settings()["SystemCallFilter"]:
        names = syscalls_of(value.removeprefix("~").split())
        if value.startswith("~"):
            forbidden |= names
        else:
            allowed |= names
    calls = [
        found.groups()
        for line in trace.read_text(errors="replace").splitlines()
        if (found := TRACED.match(line))
    ]
    used = {name for name, _ in calls} - {"fchown"}  # as root only: a file belongs to its directory's owner
    assert len(used) > 40
    assert used - (allowed - forbidden) == set()

    families = set(settings()["RestrictAddressFamilies"][0].split())
    opened = {rest.partition(",")[0] for name, rest in calls if name in ("socket", "socketpair")}
    assert opened <= families
    assert "AF_INET" in opened

    written = {
        found[1]
        for name, rest in calls
        if name in ("open", "openat", "creat", "mkdir", "rename", "unlink", "symlink")
        and (name not in ("open", "openat") or re.search(r"O_(WRONLY|RDWR|CREAT)", rest))
        and (found := re.search(r'"(/[^"]*)"', rest))
    }
    outside = {
        path for path in written if not path.startswith((str(node.data_dir), "/dev/", "/tmp/", "/proc/self/"))
    }
    assert {path for path in outside if "__pycache__" not in path} == set()


def test_the_key_that_the_unit_gets_is_the_one_that_the_node_looks_for() -> None:
    (loaded,) = settings()["LoadCredentialEncrypted"]
    assert loaded.partition(":")[0] == CREDENTIAL
