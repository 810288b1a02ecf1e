import json

from meshsat.status import ShadowDay, ShadowImage, ShadowReport
from tests.unit.cli.conftest import DIGEST, FakeNode, Meshsat

COUNTED = ShadowReport(
    5,
    "2026-12-01",
    40_000_000,
    200_000_000,
    120_000_000,
    9_000,
    160_000_000,
    (ShadowImage("harbor.example/library/pos:42", DIGEST, 40_000_000, 30_000_000),),
    (ShadowDay("2026-12-01", 40_000_000, 200_000_000, 120_000_000, 9_000, 5, 160_000_000),),
    ("harbor.example/library/gone:1: no such image",),
)


def test_what_is_saved_by_day_and_image_and_what_is_not_known(meshsat: Meshsat, node: FakeNode) -> None:
    node.counted = COUNTED
    shown = meshsat("shadow", "--data-dir", node.data_dir, "--nodes", "5").out
    assert node.compared == [5]
    for words in (
        "160.0 MB (80 %)",
        "2026-12-01",
        "harbor.example/library/pos:42",
        "30.0 MB",
        "no such image",
        "9.0 kB",
    ):
        assert words in shown


def test_json_and_a_node_that_is_no_shadow(meshsat: Meshsat, node: FakeNode) -> None:
    ended = meshsat("shadow", "--data-dir", node.data_dir)
    assert ended.code == 1
    assert "no shadow" in ended.err
    node.counted = COUNTED
    told = json.loads(meshsat("shadow", "--data-dir", node.data_dir, "--json").out)
    assert (told["saved"], told["days"][0]["day"]) == (160_000_000, "2026-12-01")
    assert node.compared[-1] is None
