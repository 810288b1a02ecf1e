import json
from dataclasses import asdict

import pytest

from meshsat.cli.status import uplink_in_words
from tests.unit.cli.conftest import PEER, FakeNode, Meshsat, make_status


def test_one_screen_tells_it_all(meshsat: Meshsat, node: FakeNode) -> None:
    shown = meshsat("status", "--data-dir", node.data_dir).out
    for figure in (
        "coach-7",
        PEER,
        "trains-0123",
        "site train-1",
        "up 62 min",
        "40.1 MB in, 1.2 kB out",
        "0 B in, 160.0 MB out",
        "1 images, 6 blobs, 40.0 MB",
        "down, at most 2.5 MB/s: connection refused",
        "40.0 MB of 50.0 MB used, 7.0 MB free; 2 images evicted (9.0 MB); 1.0 kB collected",
        "5.0 kB scrubbed, 3 blobs due; 1 rotten",
        "127.0.0.1:5000",
        "10.0.0.7:4701",
        "25 % of 20.0 MB, 3 sources",
        "the disk is 97 % full",
    ):
        assert figure in shown


def test_json_is_the_snapshot_on_one_line(meshsat: Meshsat, node: FakeNode) -> None:
    ended = meshsat("status", "--data-dir", node.data_dir, "--json")
    assert ended.code == 0
    assert len(ended.out.splitlines()) == 1
    assert json.loads(ended.out) == json.loads(json.dumps(asdict(make_status())))


@pytest.mark.parametrize(
    ("enabled", "up", "words"),
    [(False, None, "off"), (True, None, "not tried yet"), (True, True, "up"), (True, False, "down: broken")],
)
def test_the_uplink_in_words(enabled: bool, up: bool | None, words: str) -> None:
    told = {"enabled": enabled, "up": up, "last_error": "broken", "rate": 0}
    assert uplink_in_words(told) == words


def test_how_long_the_uplink_is_down_and_when_it_is_tried_again() -> None:
    told = {"enabled": True, "up": False, "last_error": "status 503", "rate": 0}
    told |= {"failing_for": 12.0, "retry_in": 30.0}
    assert uplink_in_words(told) == "down: status 503 (for 12 s; next try in 30 s)"
