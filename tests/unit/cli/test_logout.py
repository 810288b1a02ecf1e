from pathlib import Path

from meshsat.vault.vault import Vault
from tests.unit.cli.conftest import FakeNode, Meshsat


def test_a_login_is_forgotten(meshsat: Meshsat, tmp_path: Path) -> None:
    Vault(tmp_path, {}).put("reg.test", "bob", "hunter2")
    assert meshsat("logout", "reg.test", "--data-dir", tmp_path).err == ""
    assert Vault(tmp_path, {}).get("reg.test") is None
    ended = meshsat("logout", "reg.test", "--data-dir", tmp_path)
    assert (ended.code, "no login" in ended.err) == (0, True)


def test_by_the_node(meshsat: Meshsat, node: FakeNode) -> None:
    node.vault.put("reg.test", "bob", "hunter2")
    assert meshsat("logout", "reg.test", "--data-dir", node.data_dir).code == 0
    assert node.vault.get("reg.test") is None
    assert [entry.event for entry in node.audit.entries] == ["credential.delete"]
