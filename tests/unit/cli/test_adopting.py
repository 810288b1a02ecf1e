import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from meshsat.config import Config
from meshsat.vault.vault import Vault
from tests.unit.cli.conftest import Meshsat
from tests.unit.fleet.harbor_satellite.test_adoption import CONFIG, STATE

OWN = '# ours\nname = "till"  # as on the label\n\n[uplink]\nrate = 100000\n'


@pytest.fixture
def satellite(tmp_path: Path) -> Path:
    directory = tmp_path / "satellite"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "meshsat.toml"
    path.write_text(OWN + '\n[log]\nlevel = "info"\n')
    path.chmod(0o640)
    return path


def adopted(text: str) -> dict[str, Any]:
    return dict(tomllib.loads(text)["fleet"]["harbor_satellite"])


def test_without_apply_it_shows_and_changes_nothing(meshsat: Meshsat, satellite: Path, own: Path) -> None:
    before = own.read_text()
    ended = meshsat("satellite", "adopt", satellite, "--config", own, "--data-dir", own.parent / "data")
    assert ended.code == 0, ended.err
    for words in (
        "till-7",
        "robot$till-7",
        "app_config.registry_fallback: run",
        "[fleet.harbor_satellite]",
        "--apply",
    ):
        assert words in ended.out
    assert "hunter2" not in ended.out + ended.err
    assert own.read_text() == before
    assert not (own.parent / "data").exists()


def test_it_is_merged_and_the_login_is_kept(meshsat: Meshsat, satellite: Path, own: Path) -> None:
    data = own.parent / "data"
    ended = meshsat("satellite", "adopt", satellite, "--config", own, "--data-dir", data, "--apply")
    assert ended.code == 0, ended.err
    text = own.read_text()
    assert text.startswith(OWN)
    assert own.stat().st_mode & 0o777 == 0o640
    assert adopted(text) == {"state": STATE, "ground_control": "https://gc.example", "ca_file": "/etc/ca.pem"}
    assert tomllib.loads(text)["uplink"] == {
        "rate": 100000,
        "registries": [{"host": "harbor.example", "ca_file": "/etc/ca.pem"}],
    }
    login = Vault(data).get("harbor.example")
    assert login is not None
    assert (login.username, login.secret) == ("robot$till-7", "hunter2")
    loaded = Config.load(own)
    assert loaded.fleet.harbor_satellite is not None
    again = meshsat("satellite", "adopt", satellite, "--config", own, "--data-dir", data, "--apply")
    assert again.code == 2
    assert "already" in again.err
    assert own.read_text() == text


def test_in_shadow_ground_control_hears_nothing_of_it(meshsat: Meshsat, satellite: Path, own: Path) -> None:
    config = {**CONFIG, "app_config": {**CONFIG["app_config"], "harbor_registry_url": "http://10.0.0.1:8080"}}
    (satellite / "config.json").write_text(json.dumps(config))
    own.unlink()
    data = own.parent / "data"
    ended = meshsat(
        "satellite", "adopt", satellite, "--config", own, "--data-dir", data, "--apply", "--shadow"
    )
    assert ended.code == 0, ended.err
    assert adopted(own.read_text()) == {"state": STATE, "registry": "10.0.0.1:8080", "shadow": True}
    assert own.stat().st_mode & 0o777 == 0o600
    assert Config.load(own).uplink.registries[0].plain_http
    assert Vault(data).get("10.0.0.1:8080") is not None
    assert "the satellite goes on reporting" in ended.out


def test_what_cannot_be_done_is_told(meshsat: Meshsat, satellite: Path, own: Path, tmp_path: Path) -> None:
    empty = meshsat("satellite", "adopt", tmp_path / "nothing", "--config", own)
    assert (empty.code, "no config.json" in empty.err) == (2, True)
    nowhere = meshsat("satellite", "adopt", satellite, "--apply")
    assert (nowhere.code, "--config" in nowhere.err) == (2, True)
    own.write_text("not toml [")
    broken = meshsat("satellite", "adopt", satellite, "--config", own)
    assert (broken.code, "TOML" in broken.err) == (2, True)
    (satellite / "config.json").write_text('{"version": 1, "salt": "eA==", "data": "eA=="}')
    sealed = meshsat("satellite", "adopt", satellite, "--config", own)
    assert sealed.code != 0
    assert "encrypted" in sealed.err
