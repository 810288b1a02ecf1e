import json

from meshsat.oci.digest import Digest
from tests.unit.cli.conftest import FakeNode, Meshsat


def test_it_tells_what_went_and_why(meshsat: Meshsat, node: FakeNode) -> None:
    ended = meshsat("gc", "--data-dir", node.data_dir)
    assert ended.code == 0
    for word in (
        str(Digest.of(b"old")),
        "nothing refers to it",
        "evicted: reg.test/pos:1",
        "3.0 MB freed: 1 blobs",
    ):
        assert word in ended.out


def test_a_dry_run_says_what_would_go_and_why_nothing_can(meshsat: Meshsat, node: FakeNode) -> None:
    ended = meshsat("gc", "--dry-run", "--data-dir", node.data_dir)
    assert "3.0 MB would be freed" in ended.out
    assert "nothing is collected: cannot be known" in ended.err


def test_json_is_the_answer(meshsat: Meshsat, node: FakeNode) -> None:
    told = json.loads(meshsat("gc", "--json", "--data-dir", node.data_dir).out)
    assert (told["freed_bytes"], told["images"]) == (3_000_000, ["reg.test/pos:1"])
