from pathlib import Path

import pytest

from meshsat.cli.options import settings
from meshsat.errors import ConfigError


def test_a_flag_that_was_not_given_leaves_the_file_and_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "node.toml"
    file.write_text('data_dir = "/srv/a"\n[uplink]\nrate = 5\n[mesh]\ncontrol_port = 1\nbulk_port = 2\n')
    monkeypatch.setenv("MESHSAT_MESH__BULK_PORT", "3")
    config = settings(
        file, data_dir=None, uplink={"enabled": False, "rate": None}, mesh={"mdns": None}, api={"port": 0}
    )
    assert config.data_dir == Path("/srv/a")
    assert (config.uplink.enabled, config.uplink.rate) == (False, 5)
    assert (config.mesh.control_port, config.mesh.bulk_port) == (1, 3)
    assert config.api.port == 0


def test_flags_are_stronger_than_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "node.toml"
    file.write_text('name = "file"\n')
    monkeypatch.setenv("MESHSAT_NAME", "environment")
    assert settings(file, name="flag").name == "flag"
    assert settings(file, name=None).name == "environment"


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[mesh]\ncontrol_prot = 1\n")
    with pytest.raises(ConfigError, match="control_prot") as told:
        settings(file)
    assert "\n" not in str(told.value)
