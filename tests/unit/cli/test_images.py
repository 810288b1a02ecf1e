import json
import time

from meshsat.status import ImageStatus
from tests.unit.cli.conftest import DIGEST, FakeNode, Meshsat


def image(complete: bool, have: int) -> ImageStatus:
    return ImageStatus("registry.test/pos:42", DIGEST, 40_000_000, have, complete, time.time() - 7200)


def test_a_line_an_image_with_the_age_of_what_is_known(meshsat: Meshsat, node: FakeNode) -> None:
    node.image_list = [image(True, 40_000_000), image(False, 10_000_000)]
    _, whole, part = meshsat("images", "--data-dir", node.data_dir).out.splitlines()
    for word in ("registry.test/pos:42", DIGEST, "40.0 MB", "whole", "2 h 0 min ago"):
        assert word in whole
    assert "25 %" in part


def test_json_is_an_array(meshsat: Meshsat, node: FakeNode) -> None:
    node.image_list = [image(True, 40_000_000)]
    told = json.loads(meshsat("images", "--data-dir", node.data_dir, "--json").out)
    assert [(one["digest"], one["complete"]) for one in told] == [(DIGEST, True)]


def test_without_images_it_says_how_to_get_one(meshsat: Meshsat, node: FakeNode) -> None:
    assert "meshsat pull" in meshsat("images", "--data-dir", node.data_dir).out
