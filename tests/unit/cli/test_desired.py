"""`meshsat desired` tells at a glance what is whole, active, late and broken."""

import json
from typing import Any

from meshsat.status import DesiredImageStatus, DesiredStatus, StageStatus
from tests.unit.cli.conftest import DIGEST, FakeNode, Meshsat


def at(name: str, stage: str, *, active: bool = False, **words: Any) -> StageStatus:
    return StageStatus(name, name, stage, active, **words)


def image(name: str, *nodes: StageStatus, **words: Any) -> DesiredImageStatus:
    told: dict[str, Any] = {
        "target": DIGEST,
        "active": None,
        "before": (),
        "copies": "all",
        "priority": 50,
        "deadline": None,
        "late": False,
        **words,
    }
    return DesiredImageStatus(name, nodes=nodes, **told)


DESIRED = DesiredStatus(
    7,
    (
        image("r.example/a:1", at("here", "whole", active=True), at("there", "whole", active=True)),
        image("r.example/b:1", at("here", "whole"), at("there", "fetching", percent=40)),
        image("r.example/c:1", at("here", "failed", fault="nobody has it"), late=True, target=None),
        image("r.example/d:1", at("here", "elsewhere"), at("there", "whole"), copies=1),
    ),
)


def test_a_line_an_image(meshsat: Meshsat, node: FakeNode) -> None:
    node.wanted = DESIRED
    lines = [line.split() for line in meshsat("desired", "--data-dir", node.data_dir).out.splitlines()]
    assert lines[0] == ["revision", "7"]
    assert lines[2] == ["r.example/a:1", DIGEST[:19], "2/2", "2/2", "whole"]
    assert lines[3][2:] == ["1/2", "0/2", "whole,", "not", "active", "yet"]
    assert lines[4][1:] == ["(not", "known", "yet)", "0/1", "0/1", "failed:", "nobody", "has", "it,", "LATE"]
    assert lines[5][2:] == ["1/1", "0/2", "elsewhere"]


def test_a_line_an_image_and_node(meshsat: Meshsat, node: FakeNode) -> None:
    node.wanted = DESIRED
    shown = meshsat("desired", "--nodes", "--data-dir", node.data_dir).out
    lines = [line.split() for line in shown.splitlines()]
    assert lines[4] == ["r.example/b:1", "there", "fetching", "40", "%", "no"]
    assert lines[5] == ["r.example/c:1", "here", "failed", "no", "nobody", "has", "it"]


def test_for_programs_and_where_there_is_nothing(meshsat: Meshsat, node: FakeNode) -> None:
    assert meshsat("desired", "--data-dir", node.data_dir).out == "nothing is desired of this site\n"
    node.wanted = DESIRED
    told = json.loads(meshsat("desired", "--data-dir", node.data_dir, "--json").out)
    assert [len(one["nodes"]) for one in told["images"]] == [2, 2, 1, 2]
