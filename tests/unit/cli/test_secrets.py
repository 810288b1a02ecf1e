import json
from pathlib import Path

import pytest

from meshsat.vault.machine_keys import KEY_FILE
from meshsat.vault.vault import Vault
from tests.unit.cli.conftest import FakeNode, Meshsat

SECRET = "correct horse battery staple"


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    vault = Vault(tmp_path, {}, lambda: 1_800_000_000.0)
    vault.put("reg.test", "robot$train", SECRET)
    return vault


def test_a_list_shows_who_and_since_when(meshsat: Meshsat, vault: Vault, tmp_path: Path) -> None:
    ended = meshsat("secrets", "list", "--data-dir", tmp_path)
    assert ended.code == 0
    first, _, row = ended.out.splitlines()
    assert first == "key: key file"
    assert row.split() == ["reg.test", "robot$train", "2027-01-15T08:00:00.000Z"]
    told = json.loads(meshsat("secrets", "list", "--json", "--data-dir", tmp_path).out)
    assert told["logins"][0]["username"] == "robot$train"
    assert SECRET not in ended.out + str(told)


def test_a_lost_key_is_told(meshsat: Meshsat, vault: Vault, tmp_path: Path) -> None:
    (vault.directory / KEY_FILE).unlink()
    ended = meshsat("secrets", "list", "--data-dir", tmp_path)
    assert "meshsat login reg.test" in ended.err
    ended = meshsat("secrets", "rotate", "--data-dir", tmp_path)
    assert (ended.code, "reg.test" in ended.err) == (1, True)


def test_a_rotation_beside_the_data_directory_and_by_the_node(
    meshsat: Meshsat, vault: Vault, tmp_path: Path, node: FakeNode
) -> None:
    key = (vault.directory / KEY_FILE).read_bytes()
    assert "1 logins" in meshsat("secrets", "rotate", "--data-dir", tmp_path).out
    assert (vault.directory / KEY_FILE).read_bytes() != key
    node.vault.put("reg.test", "bob", SECRET)
    assert "1 logins" in meshsat("secrets", "rotate", "--data-dir", node.data_dir).out
    assert [entry.event for entry in node.audit.entries] == ["credential.rotate"]


def test_nothing_is_there(meshsat: Meshsat, tmp_path: Path) -> None:
    assert meshsat("secrets", "list", "--data-dir", tmp_path).code == 0
    assert meshsat("secrets", "rotate", "--data-dir", tmp_path).code == 0
