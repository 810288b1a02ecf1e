import stat
from pathlib import Path

from meshsat.cli.init import node_name
from meshsat.mesh.identity import load
from tests.unit.cli.conftest import Meshsat


def test_a_fleet_is_made_and_this_machine_its_first_member(meshsat: Meshsat, tmp_path: Path) -> None:
    ended = meshsat("init", "trains", "--site", "train-1", "--name", "coach-7", "--data-dir", tmp_path)
    assert ended.code == 0
    member = load(tmp_path).member
    assert (member.site, member.name) == ("train-1", "coach-7")
    assert member.fleet.startswith("trains-")
    assert member.fleet in ended.out
    assert f"meshsat node --data-dir {tmp_path}" in ended.out
    assert stat.S_IMODE((tmp_path / "identity" / "root.key").stat().st_mode) == 0o600


def test_a_second_fleet_in_the_same_place_is_refused(meshsat: Meshsat, tmp_path: Path) -> None:
    meshsat("init", "trains", "--data-dir", tmp_path)
    ended = meshsat("init", "boats", "--data-dir", tmp_path)
    assert ended.code == 2
    assert "trains" in ended.err


def test_a_name_that_is_not_allowed_is_misuse(meshsat: Meshsat, tmp_path: Path) -> None:
    ended = meshsat("init", "All Trains!", "--data-dir", tmp_path)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1


def test_a_node_is_called_as_its_host_unless_told_otherwise() -> None:
    assert node_name("coach-7") == "coach-7"
    assert node_name(None)
    assert "." not in node_name(None)
