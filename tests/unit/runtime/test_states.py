from dataclasses import replace
from pathlib import Path

import pytest

from meshsat.runtime import states
from meshsat.runtime.catalog import runtime_untrusted
from meshsat.runtime.record import INSTALLING
from meshsat.runtime.states import Standing, State, standing
from tests.unit.runtime.trees import MIRROR, NODE, Tree

CONFIG = "/etc/containerd/config.toml"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "root", "containerd-debian")
    with made.records.locked():
        made.applier.install("containerd", ["containerd"], MIRROR)
    return made


def look(tree: Tree, name: str = "containerd") -> Standing:
    return standing(runtime_untrusted(name), tree.disk, tree.records, tree.applier)


def test_configured_and_not(tree: Tree) -> None:
    one = look(tree)
    assert (one.state, one.node, one.why) == (State.CONFIGURED, NODE, "")
    assert CONFIG in one.files
    assert look(tree, "docker") == Standing(State.NONE)


def test_changed_by_hand(tree: Tree) -> None:
    tree.put(CONFIG, tree.get(CONFIG).replace("/usr/lib/cni", "/opt/cni"))
    one = look(tree)
    assert one.state == State.EDITED
    assert CONFIG in one.why


def test_edited_among_our_lines(tree: Tree) -> None:
    tree.put(CONFIG, tree.get(CONFIG).replace('config_path = "/etc/containerd/certs.d"', 'config_path = ""'))
    one = look(tree)
    assert one.state == State.BROKEN
    assert "by hand" in one.why


def test_outdated_by_a_file_that_came_since(tree: Tree) -> None:
    tree.put("/etc/containerd/certs.d/quay.io/hosts.toml", '[host."https://q"]\n')
    one = look(tree)
    assert one.state == State.OUTDATED
    assert one.why == "run: meshsat runtime install containerd"


def test_interrupted(tree: Tree) -> None:
    record = tree.records.load("containerd")
    assert record is not None
    tree.records.save("containerd", replace(record, phase=INSTALLING))
    assert look(tree).state == State.INTERRUPTED


@pytest.mark.parametrize(("started", "pending"), [(None, False), (999.0, True), (1001.0, False)])
def test_a_daemon_that_was_started_before_has_not_read_the_files(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, started: float | None, pending: bool
) -> None:
    monkeypatch.setattr(states, "started_at", lambda processes: started)
    assert look(tree).wake_pending == pending
