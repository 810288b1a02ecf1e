"""`meshsat runtime` on the tree of an image; what it does to a host is the business of tests/clients."""

import json
import os
from pathlib import Path

import pytest

from meshsat.errors import UnavailableError
from meshsat.runtime import waking
from meshsat.runtime.catalog import Wake
from tests.certificates import PrivateCA
from tests.unit.cli.conftest import Meshsat
from tests.unit.runtime.trees import STATE, Tree


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    for name in list(os.environ):
        if name.startswith("MESHSAT_"):
            monkeypatch.delenv(name)
    return Tree(tmp_path / "root", "containerd-debian")


def test_there_and_back_again(meshsat: Meshsat, tree: Tree) -> None:
    root = ("--root", tree.root)
    before = tree.files()
    dry = meshsat("runtime", "install", *root, "--dry-run")
    assert (dry.code, tree.files()) == (0, before)
    assert '+  config_path = "/etc/containerd/certs.d"' in dry.out
    done = meshsat("runtime", "install", *root)
    assert done.code == 0
    assert "containerd: changed" in done.out
    assert "~ /etc/containerd/config.toml" in done.out
    assert "+ /etc/containerd/certs.d/_default/hosts.toml" in done.out
    assert "systemctl" not in done.out  # nothing of an image runs
    assert "nothing to change" in meshsat("runtime", "install", *root).out
    assert "config_path" in meshsat("runtime", "uninstall", *root, "--dry-run").out
    gone = meshsat("runtime", "uninstall", *root)
    assert gone.code == 0
    assert "- /etc/containerd/certs.d/_default/hosts.toml" in gone.out
    assert tree.files() == before
    again = meshsat("runtime", "uninstall", *root)
    assert (again.code, again.out) == (0, "")


def test_what_is_found(meshsat: Meshsat, tree: Tree) -> None:
    shown = meshsat("runtime", "detect", "--root", tree.root)
    assert "containerd" in shown.out
    assert "/etc/containerd" in shown.out
    (one,) = json.loads(meshsat("runtime", "detect", "--root", tree.root, "--json").out)
    assert one == {"name": "containerd", "where": ["/etc/containerd"], "version": None, "running": False}


def test_how_it_stands(meshsat: Meshsat, tree: Tree) -> None:
    node = ("--node", "http://127.0.0.1:9")
    meshsat("runtime", "install", *node, "--root", tree.root)
    shown = meshsat("runtime", "status", *node, "--root", tree.root)
    assert "does not answer" in shown.out
    told = json.loads(
        meshsat("runtime", "status", "containerd", "docker", *node, "--root", tree.root, "--json").out
    )
    assert (told["node"], told["answers"]) == ("http://127.0.0.1:9", False)
    containerd, docker = told["runtimes"]
    assert (containerd["name"], containerd["state"], containerd["node"]) == (
        "containerd",
        "configured",
        node[1],
    )
    assert "/etc/containerd/config.toml" in containerd["files"]
    assert (docker["state"], docker["found"]) == ("not configured", None)


def test_the_nodes_configuration_says_where_it_is_and_what_it_knows(
    meshsat: Meshsat, tree: Tree, tmp_path: Path
) -> None:
    config = tmp_path / "meshsat.toml"
    config.write_text(
        '[registry]\nlisten = "localhost"\nport = 5005\nupstream = "harbor.example.com"\n'
        '[[uplink.registries]]\nhost = "lab.lan:5000"\nplain_http = true\n'
    )
    meshsat("runtime", "install", "podman", "--root", tree.root, "--config", config)
    text = tree.get("/etc/containers/registries.conf.d/zz-meshsat.conf")
    assert 'location = "localhost:5005/harbor.example.com"' in text
    assert 'location = "localhost:5005/lab.lan_5000"' in text


def test_a_registry_with_the_fleets_certificate_is_reached_by_https_with_its_ca(
    meshsat: Meshsat, tree: Tree, tmp_path: Path
) -> None:
    config = tmp_path / "meshsat.toml"
    config.write_text(
        f'data_dir = "{tmp_path}"\n[registry]\nlisten = "0.0.0.0"\nupstream = "harbor.example.com"\n'
        "[registry.tls]\nfleet = true\n"
    )
    (tmp_path / "registry-ca.crt").write_bytes(PrivateCA(tmp_path).ca_file.read_bytes())
    meshsat("runtime", "install", "containerd", "--root", tree.root, "--config", config)
    text = tree.get("/etc/containerd/certs.d/_default/hosts.toml")
    assert '[host."https://127.0.0.1:5000"]' in text
    assert f'ca = "{tmp_path / "registry-ca.crt"}"' in text
    assert meshsat("runtime", "install", "docker", "--root", tree.root, "--config", config).out.count(
        "left alone"
    )


def test_only_the_registries_given(meshsat: Meshsat, tree: Tree) -> None:
    meshsat("runtime", "install", "--registry", "quay.io", "--registry", "GHCR.io", "--root", tree.root)
    hosts = tree.root / "etc/containerd/certs.d"
    assert sorted(path.name for path in hosts.iterdir()) == ["ghcr.io", "quay.io"]


def test_a_runtime_that_fails_does_not_hold_up_the_others(meshsat: Meshsat, tree: Tree) -> None:
    tree.put("/etc/docker/daemon.json", "{,}")
    tree.put("/etc/rancher/k3s/registries.yaml", "mirrors: [\n")
    ended = meshsat("runtime", "install", "--root", tree.root)
    assert ended.code == 2
    assert "docker: /etc/docker/daemon.json is not valid JSON: line 1" in ended.err
    assert "k3s: /etc/rancher/k3s/registries.yaml is not valid YAML: line 2" in ended.err
    assert "containerd: changed" in ended.out
    assert tree.get("/etc/docker/daemon.json") == "{,}"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["rkt"], "none of those known"),
        (["--node", "127.0.0.1:5000"], "no URL of a registry"),
        (["--registry", "*.example.com"], "not HOST or HOST:PORT"),
        (["--ca-file", "ca.pem"], "https node"),
        (["--restart"], "--restart is for this host"),
    ],
)
def test_misuse_is_told(meshsat: Meshsat, tree: Tree, flags: list[str], said: str) -> None:
    before = tree.files()
    ended = meshsat("runtime", "install", *flags, "--root", tree.root)
    assert ended.code == 2
    assert said in ended.err
    assert tree.files() == before


def test_a_root_that_is_not_there_and_one_with_nothing_on_it(meshsat: Meshsat, tmp_path: Path) -> None:
    assert "no directory" in meshsat("runtime", "uninstall", "--root", tmp_path / "none").err
    ended = meshsat("runtime", "install", "--root", tmp_path)
    assert ended.code == 1
    assert "name one of: containerd" in ended.err


def test_only_root_changes_a_host(meshsat: Meshsat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ended = meshsat("runtime", "install", "docker")
    assert ended.code == 1
    assert "run this as root" in ended.err


def test_a_restart_is_done_where_it_is_asked_for_and_told_of_elsewhere(
    meshsat: Meshsat, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meshsat.cli import runtime

    monkeypatch.setattr(runtime.Host, "is_this_host", True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    woken: list[str] = []

    def wake_up(wake: Wake) -> str | None:
        woken.append(wake.units[0])
        if len(woken) == 1:
            raise UnavailableError("systemctl restart containerd ended with 1")
        return wake.units[0]

    monkeypatch.setattr(waking, "wake_up", wake_up)
    flags = ("--root", tree.root, "--node", "http://127.0.0.1:9")
    first = meshsat("runtime", "install", *flags)
    assert "to do: systemctl restart containerd" in first.out
    assert "does not answer" in first.err
    assert woken == []
    assert meshsat("runtime", "install", *flags, "--restart").code == 1  # it fails, and stays to be done
    assert "restart: containerd" in meshsat("runtime", "install", *flags, "--restart").out
    assert "to do" not in meshsat("runtime", "install", *flags).out
    assert woken == ["containerd", "containerd"]
    assert (tree.root / STATE[1:] / "containerd/record.json").exists()
