import os
import socket
from pathlib import Path

import pytest

from meshsat.runtime import detect as module
from meshsat.runtime.catalog import RUNTIMES, Runtime
from meshsat.runtime.detect import Found, detect, parse_version_untrusted, started_at
from meshsat.runtime.disk import Disk
from tests.tools import require_root
from tests.unit.runtime.trees import CASES, Tree, runtime_of


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("podman")])
def test_a_runtime_is_found_by_its_configuration(tmp_path: Path, case: str) -> None:
    tree = Tree(tmp_path / "root", case)
    assert runtime_of(case) in {found.name for found in detect(tree.disk)}


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert detect(Disk(tmp_path)) == ()


def test_binaries_and_sockets(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root")
    tree.put("/usr/bin/podman", "")
    tree.put("/usr/bin/dockerd/oddity", "")
    (tmp_path / "root/run/k3s/containerd").mkdir(parents=True)
    where = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(tmp_path / "root/run/k3s/containerd")  # a socket's path may have 107 bytes
        try:
            listener.bind("containerd.sock")
        finally:
            os.chdir(where)
    found = {one.name: one for one in detect(tree.disk)}
    assert found == {
        "podman": Found("podman", ("/usr/bin/podman",)),
        "k3s": Found("k3s", ("/run/k3s/containerd/containerd.sock",)),
    }


def test_a_version_is_asked_of_roots_own_binary_only(tmp_path: Path) -> None:
    require_root()
    binary = tmp_path / "tool"
    binary.write_text("#!/bin/sh\necho tool version v1.22.333+k3s1\n")
    binary.chmod(0o755)
    assert module._version(binary) == "1.22.333+k3s1"
    binary.chmod(0o777)
    assert module._version(binary) is None
    binary.chmod(0o644)
    assert module._version(binary) is None


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (b"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n", "1.6.20~ds1"),
        (b"podman version 4.3.1\n", "4.3.1"),
        (b"k3s version v1.32.2+k3s1 (381620ef)\ngo version go1.23.6\n", "1.32.2+k3s1"),
        (b"Docker version 26.1, build x", "26.1"),
        (b"", None),
        (b"\xff\xfe1", None),
    ],
)
def test_versions(said: bytes, version: str | None) -> None:
    assert parse_version_untrusted(said) == version


def test_when_a_daemon_was_started(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu 1\nbtime 1000\n")
    for pid, name, ticks in ((7, "dockerd", 500), (9, "dockerd", 300), (11, "other (x)", 100)):
        place = tmp_path / str(pid)
        place.mkdir()
        (place / "comm").write_text(f"{name}\n")
        (place / "stat").write_text(f"{pid} ({name}) S {' '.join('0' * 18)} {ticks} 0\n")
    (tmp_path / "self").mkdir()
    assert started_at(("dockerd",), tmp_path) == 1000 + 300 / os.sysconf("SC_CLK_TCK")
    assert started_at(("crio",), tmp_path) is None


def test_this_host_is_looked_at_without_harm() -> None:
    names = [found.name for found in detect(Disk(Path("/")))]
    assert set(names) <= {runtime.name for runtime in RUNTIMES}
    assert detect(Disk(Path("/")), [Runtime("x", "x", ("no-such-binary",))]) == ()
