"""Keys and files that the verbs of `meshsat state` work on: found, read once they are safe, and told when not."""

import io
import sys
from pathlib import Path

import pytest

from meshsat.cli.state_place import StatePlace, key_id, read_key
from meshsat.config import Config
from meshsat.errors import ConfigError, InvalidInputError
from meshsat.fleet.state_file import StateFile
from meshsat.trust.keys import NodeKey
from tests.authors import Signers, key_of
from tests.states import state_file
from tests.unit.cli.conftest import Meshsat


def kept(path: Path, key: NodeKey, passphrase: bytes | None = None) -> Path:
    path.write_bytes(key.to_pem(passphrase))
    path.chmod(0o600)
    return path


def test_a_key_is_named_by_its_id_or_its_file(tmp_path: Path) -> None:
    key = key_of("one")
    assert key_id(key.peer_id) == key.peer_id
    assert key_id(str(kept(tmp_path / "k", key))) == key.peer_id
    with pytest.raises(InvalidInputError, match="neither the id of a key"):
        key_id("12D3KooWnone")


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    path = kept(tmp_path / "k", key_of("one"))
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_key(path, None)


def test_an_encrypted_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept(tmp_path / "k", key_of("one"), b"sesame")
    secret = tmp_path / "secret"
    secret.write_text("sesame\n")
    assert read_key(path, secret) == key_of("one")
    secret.write_text("other\n")
    with pytest.raises(ConfigError, match="another passphrase"):
        read_key(path, secret)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(ConfigError, match="--passphrase-file"):
        read_key(path, None)


def test_the_verbs_that_make_and_show_keys(meshsat: Meshsat, tmp_path: Path) -> None:
    path, secret = tmp_path / "k", tmp_path / "secret"
    secret.write_text("sesame\n")
    made = meshsat("state", "key", "new", path, "--passphrase-file", secret)
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in path.read_bytes()
    shown = meshsat("state", "key", "show", path, "--passphrase-file", secret)
    assert (made.code, shown.code) == (0, 0)
    assert made.out == shown.out
    assert meshsat("state", "key", "new", path).code == 2
    secret.write_text("\n")
    assert (
        "protects nothing" in meshsat("state", "key", "new", tmp_path / "x", "--passphrase-file", secret).err
    )
    assert not (tmp_path / "x").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    place = StatePlace(Config(data_dir=tmp_path))
    with pytest.raises(ConfigError, match="cannot be read"):
        place.read(tmp_path / "none")
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(InvalidInputError, match=str(tmp_path / "x")):
        place.read(tmp_path / "x")
    with (tmp_path / "big").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ConfigError, match="has more than"):
        place.read(tmp_path / "big")


def test_what_is_known_comes_from_a_file_where_there_is_no_node(tmp_path: Path) -> None:
    place = StatePlace(Config(data_dir=tmp_path))
    place.write(tmp_path / "x.state", state_file(Signers(), 7))
    known, following = place.known(tmp_path / "x.state")
    assert (known, following) == (state_file(Signers(), 7), 8)
    place.write(tmp_path / "root.state", StateFile((Signers().first(),)))
    assert place.known(tmp_path / "root.state")[1] == 1


def test_a_machine_that_is_no_member(tmp_path: Path) -> None:
    place = StatePlace(Config(data_dir=tmp_path))
    assert place.fleet() is None
    assert place.anchor is None
    with pytest.raises(ConfigError, match="belongs to no fleet"):
        place.require_fleet()
    with pytest.raises(ConfigError, match="there is no key to sign with"):
        place.require_keys([], None)
