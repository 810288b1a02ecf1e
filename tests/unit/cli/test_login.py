import io
from pathlib import Path

import pytest

from meshsat.vault.vault import Vault
from tests.unit.cli.conftest import FakeNode, Meshsat

SECRET = "correct horse battery staple"


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def secret_in(data_dir: Path, registry: str = "reg.test") -> str | None:
    login = Vault(data_dir, {}).get(registry)
    return None if login is None else login.secret


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_before_the_node_first_runs(
    meshsat: Meshsat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    typed(monkeypatch, SECRET + end)
    ended = meshsat("login", "reg.test", "--username", "bob", "--password-stdin", "--data-dir", tmp_path)
    assert ended.code == 0
    assert "key file" in ended.out
    assert SECRET not in ended.out + ended.err
    assert secret_in(tmp_path) == SECRET
    assert "credential.create  success  reg.test" in meshsat("audit", "tail", "--data-dir", tmp_path).out


def test_with_the_node_running_it_is_the_node_that_seals(
    meshsat: Meshsat, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, SECRET)
    ended = meshsat("login", "reg.test", "-u", "bob", "--password-stdin", "--data-dir", node.data_dir)
    assert ended.code == 0
    assert secret_in(node.data_dir) == SECRET
    (entry,) = node.audit.entries
    assert (entry.event, entry.actor.kind) == ("credential.create", "operator")


def test_a_password_is_asked_for_on_a_terminal_alone(
    meshsat: Meshsat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, SECRET)
    ended = meshsat("login", "reg.test", "-u", "bob", "--data-dir", tmp_path)
    assert (ended.code, "--password-stdin" in ended.err) == (2, True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _prompt: SECRET)
    assert meshsat("login", "reg.test", "-u", "bob", "--data-dir", tmp_path).code == 0
    assert secret_in(tmp_path) == SECRET


@pytest.mark.parametrize("text", ["", "\n", f"{SECRET}\n{SECRET}\n", SECRET * 1000])
def test_what_is_no_password(
    meshsat: Meshsat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    typed(monkeypatch, text)
    ended = meshsat("login", "reg.test", "-u", "bob", "--password-stdin", "--data-dir", tmp_path)
    assert ended.code == 2
    assert SECRET not in ended.err
    assert secret_in(tmp_path) is None


def test_no_flag_takes_a_password(meshsat: Meshsat) -> None:
    ended = meshsat("login", "reg.test", "-u", "bob", "--password", SECRET)
    assert ended.code == 2
    assert SECRET not in ended.err
