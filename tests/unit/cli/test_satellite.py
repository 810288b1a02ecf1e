import json
import time

from meshsat.status import SatelliteGroup, SatelliteStatus
from tests.unit.cli.conftest import DIGEST, FakeNode, Meshsat

GROUP = "harbor.example/satellite/group-state/tills/state:latest"


def followed(**more: object) -> SatelliteStatus:
    settings: dict[str, object] = {
        "name": "till-7",
        "state": "harbor.example/satellite/satellite-state/till-7/state:latest",
        "shadow": False,
        "in_force": True,
        "version": "harbor-satellite-01",
        "state_digest": DIGEST,
        "config_digest": None,
        "registered_at": 1.0,
        "checked_at": time.time() - 7200,
        "poll": 30.0,
        "groups": (
            SatelliteGroup(GROUP, DIGEST, 3, time.time() - 60),
            SatelliteGroup("other", None, 0, None, "gone"),
        ),
        "images": ("harbor.example/library/pos:42",),
        "passed_over": ("zot_config",),
        "problems": ("the disk is full",),
        **more,
    }
    return SatelliteStatus(**settings)  # type: ignore[arg-type]


def test_how_the_states_are_followed(meshsat: Meshsat, node: FakeNode) -> None:
    node.followed = followed()
    shown = meshsat("satellite", "status", "--data-dir", node.data_dir).out
    for words in (
        "till-7",
        "in force, harbor-satellite-01",
        "2 h 0 min ago",
        f"{GROUP}  3 artifacts",
        "other  not known",
        "harbor.example/library/pos:42",
        "zot_config",
        "the disk is full",
    ):
        assert words in shown


def test_a_shadow_says_so_and_json_is_what_the_node_says(meshsat: Meshsat, node: FakeNode) -> None:
    node.followed = followed(shadow=True, in_force=False, state=None, name=None, checked_at=None)
    shown = meshsat("satellite", "status", "--data-dir", node.data_dir).out
    for words in ("in shadow", "(not registered)", "never"):
        assert words in shown
    told = json.loads(meshsat("satellite", "status", "--data-dir", node.data_dir, "--json").out)
    assert told["shadow"] is True


def test_a_node_that_follows_none_says_so(meshsat: Meshsat, node: FakeNode) -> None:
    ended = meshsat("satellite", "status", "--data-dir", node.data_dir)
    assert ended.code == 1
    assert "fleet.harbor_satellite" in ended.err
