import json

from meshsat.reload import Reloaded
from tests.unit.cli.conftest import FakeNode, Meshsat


def test_what_changed_and_what_waits_for_a_restart(meshsat: Meshsat, node: FakeNode) -> None:
    node.reloaded = Reloaded(("uplink.quota.day", "uplink.rate"), ("mesh.listen",))
    ended = meshsat("reload", "--data-dir", node.data_dir)
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "in force now: uplink.quota.day, uplink.rate",
        "waiting for a restart: mesh.listen",
    ]
    assert json.loads(meshsat("reload", "--data-dir", node.data_dir, "--json").out)["restart"] == [
        "mesh.listen"
    ]


def test_nothing_new(meshsat: Meshsat, node: FakeNode) -> None:
    node.reloaded = Reloaded((), ())
    assert meshsat("reload", "--data-dir", node.data_dir).out == "in force now: nothing new\n"


def test_a_configuration_that_is_wrong_is_told_and_fails(meshsat: Meshsat, node: FakeNode) -> None:
    ended = meshsat("reload", "--data-dir", node.data_dir)
    assert ended.code == 1
    assert "uplink.rate: must be a number" in ended.err
