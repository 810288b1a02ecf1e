import json

from meshsat.errors import UnavailableError
from meshsat.web.view import PullEvent
from tests.unit.cli.conftest import DIGEST, FakeNode, Meshsat

REFERENCE = "registry.test/pos:42"
PROGRESS = PullEvent("progress", REFERENCE, have_bytes=1_000, total_bytes=4_000, digest=DIGEST)
DONE = PullEvent("done", REFERENCE, have_bytes=4_000, total_bytes=4_000, digest=DIGEST)


def lines(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def test_json_gives_each_event_on_a_line_and_ends_with_done(meshsat: Meshsat, node: FakeNode) -> None:
    node.events = [PROGRESS, DONE]
    ended = meshsat("pull", REFERENCE, "--data-dir", node.data_dir, "--json")
    assert ended.code == 0
    first, last = lines(ended.out)
    assert (first["event"], first["have_bytes"], first["total_bytes"]) == ("progress", 1_000, 4_000)
    assert (last["event"], last["digest"]) == ("done", DIGEST)
    assert node.pulled == [(REFERENCE, False)]


def test_without_a_terminal_the_result_alone_is_printed(meshsat: Meshsat, node: FakeNode) -> None:
    node.events = [PROGRESS, DONE]
    ended = meshsat("pull", REFERENCE, "--pin", "--data-dir", node.data_dir)
    assert (ended.code, ended.out) == (0, f"{REFERENCE}  {DIGEST}  4.0 kB\n")
    assert node.pulled == [(REFERENCE, True)]


def test_a_pull_that_fails_says_why(meshsat: Meshsat, node: FakeNode) -> None:
    node.events = [PROGRESS, UnavailableError("no uplink, and no peer has it")]
    ended = meshsat("pull", REFERENCE, "--data-dir", node.data_dir, "--json")
    assert ended.code == 1
    assert lines(ended.out)[-1]["event"] == "error"
    assert "no uplink, and no peer has it" in ended.err


def test_a_node_that_breaks_off_is_an_error(meshsat: Meshsat, node: FakeNode) -> None:
    node.events = [PROGRESS]
    ended = meshsat("pull", REFERENCE, "--data-dir", node.data_dir, "--json")
    assert ended.code == 1
    assert lines(ended.out)[-1]["event"] == "error"


def test_a_reference_that_is_none_is_refused_by_the_node(meshsat: Meshsat, node: FakeNode) -> None:
    ended = meshsat("pull", "not a reference", "--data-dir", node.data_dir)
    assert ended.code == 1
    assert node.pulled == []
