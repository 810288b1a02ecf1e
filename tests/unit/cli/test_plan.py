import json
from pathlib import Path
from typing import Any

import pytest

from meshsat.cli.plan import read_state_untrusted
from meshsat.errors import ConfigError, InvalidInputError
from meshsat.fleet.planner import Plan, PlannedImage, PlannedNode
from meshsat.fleet.state_file import encode_state_file
from meshsat.planning import Planned
from tests.authors import Signers
from tests.states import state_file
from tests.unit.cli.conftest import FakeNode, Meshsat

REFERENCE = "up.example/library/pos:42"
IMAGE = PlannedImage(
    REFERENCE, "sha256:aa", 40_000_000, 30_000_000, 60_000_000, 1_781_000_000.0, 1_781_000_120.0
)
PLAN = Plan(
    (IMAGE,), (PlannedNode("till-1", 40_000_000, 10**9),), 30_000_000, 60_000_000, 1_781_000_120.0, ()
)


def listed(directory: Path) -> Path:
    file = directory / "images"
    file.write_text(f"# what the tills run\n{REFERENCE}  # today\n\n")
    return file


def test_what_it_takes_in_a_table(meshsat: Meshsat, node: FakeNode, tmp_path: Path) -> None:
    node.steps = [Planned(0, 1), Planned(1, 1, PLAN, 1234)]
    ended = meshsat("plan", listed(tmp_path), "--data-dir", node.data_dir)
    assert ended.code == 0
    for figure in (
        REFERENCE,
        "40.0 MB",
        "30.0 MB of content, and headers",
        "60.0 MB",
        "till-1: 40.0 MB more, 1.0 GB can be had",
        "1.2 kB over the WAN, for manifests",
    ):
        assert figure in ended.out
    assert json.loads(node.planned[0])["images"] == [{"reference": REFERENCE}]


def test_what_is_refused_fails_and_says_why(meshsat: Meshsat, node: FakeNode, tmp_path: Path) -> None:
    refused = Plan((IMAGE,), (), 30_000_000, 0, None, ("does not fit on till-1",), ("no rate",))
    node.steps = [Planned(1, 1, refused, 0)]
    ended = meshsat("plan", listed(tmp_path), "--data-dir", node.data_dir)
    assert ended.code == 1
    assert "does not fit on till-1" in ended.out
    ended = meshsat("plan", listed(tmp_path), "--data-dir", node.data_dir, "--json")
    assert (ended.code, json.loads(ended.out)["refusals"]) == (1, ["does not fit on till-1"])


def test_a_fault_of_the_node_is_told(meshsat: Meshsat, node: FakeNode, tmp_path: Path) -> None:
    node.steps = [InvalidInputError("windows mean nothing")]
    ended = meshsat("plan", listed(tmp_path), "--data-dir", node.data_dir)
    assert (ended.code, ended.out) == (1, "")
    assert "windows mean nothing" in ended.err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("state.toml", f'[[images]]\nreference = "{REFERENCE}"\ndeadline = 2026-12-01T00:00:00Z\n'),
        ("state.yaml", f'images:\n- reference: {REFERENCE}\n  deadline: "2026-12-01T00:00:00Z"\n'),
        (
            "state.json",
            json.dumps({"images": [{"reference": REFERENCE, "deadline": "2026-12-01T00:00:00Z"}]}),
        ),
    ],
)
def test_states_in_every_form(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    (image,) = read_state_untrusted(file).images
    assert (image.reference, image.deadline) == (REFERENCE, 1_796_083_200.0)


def test_a_state_that_is_to_be_signed(tmp_path: Path) -> None:
    file = tmp_path / "x.state"
    file.write_bytes(encode_state_file(state_file(Signers(), 3)))
    (image,) = read_state_untrusted(file).images
    assert image.reference == "r.example/a:3"


@pytest.mark.parametrize(
    ("name", "raw", "told"),
    [
        ("state.toml", b"[images", "state.toml"),
        ("state.yaml", b"a: [", "state.yaml"),
        ("state.yaml", b"- 1", "is a table"),
        ("state.json", b"\xff", "not UTF-8"),
        ("list", b"\xff", "no text"),
        ("x.state", b'{"roots": []}', "roots alone"),
        ("state.toml", b"unheard = 1", "unheard"),
        ("list", b"not a reference", "reference"),
        ("list", b"x" * (4 * 1024 * 1024 + 1), "more than"),
        ("none", None, "cannot be read"),
    ],
)
def test_what_is_no_state_is_told(tmp_path: Path, name: str, raw: Any, told: str) -> None:
    file = tmp_path / name
    if raw is not None:
        file.write_bytes(raw)
    with pytest.raises((InvalidInputError, ConfigError), match=told):
        read_state_untrusted(file)
