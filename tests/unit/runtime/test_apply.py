import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshsat.errors import InvalidInputError, StorageError
from meshsat.runtime.apply import Outcome
from tests.unit.runtime.trees import CASES, MIRROR, NODE, OTHER, Tree, place_of, runtime_of

HANDS = ["containerd-by-hand", "k3s-by-hand", "podman-by-hand", "docker-by-hand", "containerd-crlf"]


class CrashError(BaseException):
    """The process ends here."""


@contextmanager
def counted(
    monkeypatch: pytest.MonkeyPatch, crash: Callable[[], None], at: int | None = None
) -> Iterator[list[str]]:
    """Every step that changes the disk, by its name; `crash` is called before the one numbered `at`."""
    steps: list[str] = []

    def before(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            if at is not None and len(steps) == at:
                crash()
            steps.append(name)
            return real(*args, **kwargs)

        patch.setattr(owner, name, step)

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink", "mkdir", "rmdir"):
            before(Path, name)
        before(os, "fsync")
        yield steps


def die() -> None:
    raise CrashError


def install(tree: Tree, case: str, mirror: Any = MIRROR) -> Outcome:
    with tree.records.locked():
        return tree.applier.install(place_of(case), [runtime_of(case)], mirror)


def uninstall(tree: Tree, case: str) -> Outcome:
    with tree.records.locked():
        return tree.applier.uninstall(place_of(case), [runtime_of(case)])


@pytest.mark.parametrize("case", CASES)
def test_install_twice_then_uninstall_gives_every_byte_back(tmp_path: Path, case: str) -> None:
    tree = Tree(tmp_path / "root", case)
    before = tree.files()
    first = install(tree, case)
    installed = tree.files()
    assert first.changes
    assert any(NODE.partition("//")[2].encode() in (change.then or b"") for change in first.changes)
    record = tree.get(f"/var/lib/meshsat/runtime/{place_of(case)}/record.json")
    tree.now += 100
    assert install(tree, case).changes == ()
    assert tree.files() == installed
    assert tree.get(f"/var/lib/meshsat/runtime/{place_of(case)}/record.json") == record
    uninstall(tree, case)
    assert tree.files() == before
    assert not (tree.root / "var/lib/meshsat/runtime" / place_of(case)).exists()
    assert uninstall(tree, case).changes == ()


@pytest.mark.parametrize("case", CASES)
def test_a_changed_wish_is_as_if_it_had_been_the_first(tmp_path: Path, case: str) -> None:
    tree, straight = Tree(tmp_path / "root", case), Tree(tmp_path / "straight", case)
    before = tree.files()
    install(tree, case)
    install(tree, case, OTHER)
    install(straight, case, OTHER)
    assert tree.files() == straight.files()
    uninstall(tree, case)
    assert tree.files() == before


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_tells_and_touches_nothing(tmp_path: Path, case: str) -> None:
    tree = Tree(tmp_path / "root", case)
    before = tree.files()
    told = tree.applier.install(place_of(case), [runtime_of(case)], MIRROR, dry=True)
    assert tree.files() == before
    assert not (tree.root / "var").exists()
    done = install(tree, case)
    assert done == told
    installed = tree.files()
    assert tree.applier.uninstall(place_of(case), [runtime_of(case)], dry=True).changes
    assert tree.files() == installed


@pytest.mark.slow
@pytest.mark.parametrize("case", HANDS)
def test_a_crash_at_any_step_is_made_good(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every write of an install, of one over another, and of an uninstall; gone on from in both directions."""
    ways: list[tuple[Callable[[Tree], object], ...]] = [
        (lambda tree: None, lambda tree: install(tree, case)),
        (lambda tree: install(tree, case, OTHER), lambda tree: install(tree, case)),
        (lambda tree: install(tree, case), lambda tree: uninstall(tree, case)),
    ]
    original = Tree(tmp_path / "original", case).files()
    good = Tree(tmp_path / "good", case)
    install(good, case)
    number = 0
    for prepare, act in ways:
        whole = Tree(tmp_path / f"whole{number}", case)
        prepare(whole)
        with counted(monkeypatch, die) as steps:
            act(whole)
        assert len(steps) > 5
        for at in range(len(steps)):
            for again in (install, uninstall):
                number += 1
                tree = Tree(tmp_path / f"{number}", case)
                prepare(tree)
                with pytest.raises(CrashError), counted(monkeypatch, die, at):
                    act(tree)
                again(tree, case)
                assert tree.files() == (good.files() if again is install else original), (steps[at], at)
                uninstall(tree, case)
                assert tree.files() == original


@pytest.mark.slow
@pytest.mark.parametrize("case", ["containerd-by-hand", "docker-plain"])
def test_kill_minus_9_at_any_step_is_made_good(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Tree(tmp_path / "original", case).files()
    good = Tree(tmp_path / "good", case)
    with counted(monkeypatch, die) as steps:
        install(good, case)
    for at in range(len(steps)):
        tree = Tree(tmp_path / str(at), case)
        child = os.fork()
        if child == 0:  # a process of its own, that ends as if somebody pulled the plug
            with counted(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL), at):
                install(tree, case)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        install(tree, case)
        assert tree.files() == good.files()
        uninstall(tree, case)
        assert tree.files() == original


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_fails_halfway_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int) -> None:
    case = "containerd-by-hand"
    tree = Tree(tmp_path / "root", case)
    before = tree.files()
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target.name == "config.toml":
            raise OSError(fault, os.strerror(fault), str(target))
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(StorageError, match=r"cannot write /etc/containerd/config\.toml"):
            install(tree, case)
    assert tree.files() == before
    assert tree.records.load("containerd") is None
    install(tree, case)
    uninstall(tree, case)
    assert tree.files() == before


def test_a_file_that_cannot_be_parsed_stops_the_runtime_before_anything_is_written(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root", "containerd-crlf")
    tree.put("/etc/containerd/certs.d/quay.io/hosts.toml", 'server = "x"\n[host."a"\n')
    before = tree.files()
    with pytest.raises(InvalidInputError, match=r"quay\.io/hosts\.toml is not valid TOML.*line 2"):
        install(tree, "containerd-crlf")
    assert tree.files() == before


EDITS: list[tuple[str, str, str, str]] = [
    ("containerd-debian", "/etc/containerd/config.toml", "version = 2\n", "version = 2\noom_score = -999\n"),
    ("containerd-gke-inline", "/etc/containerd/config.toml", "/home/kubernetes/bin", "/opt/cni/bin"),
    ("k3s-docs", "/etc/rancher/k3s/registries.yaml", "xxxxxx # this is the registry username", "me"),
    ("docker-mirrors", "/etc/docker/daemon.json", '"live-restore": true', '"live-restore": false'),
]


@pytest.mark.parametrize(("case", "path", "old", "new"), EDITS)
def test_edits_made_since_are_kept_and_only_ours_is_taken_out(
    tmp_path: Path, case: str, path: str, old: str, new: str
) -> None:
    tree = Tree(tmp_path / "root", case)
    before = tree.get(path)
    install(tree, case)
    tree.put(path, tree.get(path).replace(old, new))
    told = uninstall(tree, case)
    assert tree.get(path) == before.replace(old, new)
    assert any("edited since" in note for note in told.notes)


@pytest.mark.parametrize(("case", "path", "old", "new"), EDITS)
def test_edits_made_since_survive_another_install(
    tmp_path: Path, case: str, path: str, old: str, new: str
) -> None:
    tree = Tree(tmp_path / "root", case)
    before = tree.get(path)
    install(tree, case)
    tree.put(path, tree.get(path).replace(old, new))
    assert install(tree, case).changes == ()
    install(tree, case, OTHER)
    assert new in tree.get(path)
    uninstall(tree, case)
    assert tree.get(path) == before.replace(old, new)


def test_an_edit_among_our_lines_is_nobodys_to_undo(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root", "containerd-crlf")
    install(tree, "containerd-crlf")
    path = "/etc/containerd/certs.d/docker.io/hosts.toml"
    edited = tree.put(
        path,
        (tree.root / path[1:])
        .read_bytes()
        .replace(b'["pull", "resolve"]', b'["pull"]\r\n  skip_verify = true'),
    )
    there = edited.read_bytes()
    for verb in (install, uninstall):
        with pytest.raises(StorageError, match="edited among the lines"):
            verb(tree, "containerd-crlf")
        assert edited.read_bytes() == there
    lines = there.splitlines(keepends=True)
    edited.write_bytes(
        b"".join(
            line for line in lines if b'5000"]  #' not in line and b"pull" not in line and b"skip" not in line
        )
    )
    uninstall(tree, "containerd-crlf")
    assert b"127.0.0.1" not in edited.read_bytes()
    assert b"cache in the rack" in edited.read_bytes()


def test_a_file_that_somebody_removed_stays_removed(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root", "docker-plain")
    install(tree, "docker-plain")
    (tree.root / "etc/docker/daemon.json").unlink()
    uninstall(tree, "docker-plain")
    assert not (tree.root / "etc/docker/daemon.json").exists()


def test_what_others_put_into_our_directories_stays(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root", "containerd-debian")
    install(tree, "containerd-debian")
    tree.put("/etc/containerd/certs.d/quay.io/hosts.toml", '[host."https://q.example.com"]\n')
    uninstall(tree, "containerd-debian")
    assert tree.get("/etc/containerd/certs.d/quay.io/hosts.toml") == '[host."https://q.example.com"]\n'
    assert not (tree.root / "etc/containerd/certs.d/_default").exists()


def test_runtimes_that_share_files_leave_one_by_one(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root", "cri-o")
    before = tree.files()
    with tree.records.locked():
        first = tree.applier.install("containers", ["podman"], MIRROR)
        second = tree.applier.install("containers", ["cri-o"], MIRROR)
        assert first.waking == ()
        assert second.changes == ()
        assert second.waking == ("cri-o",)
        left = tree.applier.uninstall("containers", ["podman"])
        assert left.changes == ()
        assert "cri-o" in left.notes[0]
        assert tree.files() != before
        tree.applier.uninstall("containers", ["cri-o"])
    assert tree.files() == before


def test_only_a_file_read_at_start_wakes_a_daemon_and_it_is_remembered(tmp_path: Path) -> None:
    hosts_only, both = Tree(tmp_path / "a", "containerd-crlf"), Tree(tmp_path / "b", "containerd-debian")
    assert install(hosts_only, "containerd-crlf").waking == ()
    assert install(both, "containerd-debian").waking == ("containerd",)
    assert install(both, "containerd-debian").waking == ("containerd",)
    both.applier.forget_waking("containerd", "containerd")
    assert install(both, "containerd-debian").waking == ()
    assert uninstall(hosts_only, "containerd-crlf").waking == ()
    assert uninstall(both, "containerd-debian").waking == ("containerd",)


def test_somebody_who_writes_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path / "root", "docker-plain")
    save = tree.records.save

    def busy(place: str, record: Any) -> None:
        save(place, record)
        tree.put("/etc/docker/daemon.json", "{}\n")

    monkeypatch.setattr(tree.records, "save", busy)
    with pytest.raises(StorageError, match="by somebody else just now"):
        install(tree, "docker-plain")
    assert tree.get("/etc/docker/daemon.json") == "{}\n"


def test_links_mode_and_owner_stay(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root", "docker-plain")
    link, real = tree.root / "etc/docker/daemon.json", tree.root / "srv/daemon.json"
    real.parent.mkdir()
    link.rename(real)
    link.symlink_to("/srv/daemon.json")
    real.chmod(0o640)
    install(tree, "docker-plain")
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert NODE in real.read_text()
    uninstall(tree, "docker-plain")
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert NODE not in real.read_text()
