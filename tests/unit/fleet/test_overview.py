"""What one node tells of the site: its own stage first, the others' as they report it."""

from dataclasses import replace

from meshsat.fleet.meanings import Meaning
from meshsat.fleet.overview import BEHIND, overview
from meshsat.status import DesiredStatus
from tests.unit.fleet.test_desire import KEY, UNIX, V1, V2, Node, images


def seen(node: Node, others: list[Node], *, now: float = 1.0) -> DesiredStatus:
    reports = {one.peer: one.report(now) for one in others}
    names = {one.peer: f"n{number}" for number, one in enumerate((node, *others))}
    live = [one.peer for one in others]
    return overview(node.desire, node.meanings, reports, live, names.__getitem__, now, UNIX + now)


def test_stages_of_all_nodes() -> None:
    a, b, c = Node("a"), Node("b"), Node("c")
    for node in (a, b):
        node.follow(1, images(V2))
    a.meanings[KEY] = Meaning(V2, 0.0, before=(V1,))
    a.got(V2)
    a.look(1.0)
    (one,) = seen(a, [b, c]).images
    assert (one.reference, one.target, one.active, one.before) == (
        "r.example/pos:stable",
        str(V2),
        str(V2),
        (str(V1),),
    )
    assert [(at.name, at.stage, at.active) for at in one.nodes] == [
        ("n0", "whole", True),
        ("n1", "waiting", False),
        ("n2", BEHIND, False),
    ]


def test_progress_faults_and_deadlines() -> None:
    a, b = Node("a"), Node("b")
    wanted = [one.model_copy(update={"deadline": UNIX + 10}) for one in images(V1)]
    for node in (a, b):
        node.follow(1, wanted)
    b.one().fetching, b.one().have, b.one().total = True, 30, 100
    a.desire.failed(KEY, "nobody has it", 1.0)
    (one,) = seen(a, [b], now=2.0).images
    assert [(at.stage, at.percent, at.fault) for at in one.nodes] == [
        ("failed", None, "nobody has it"),
        ("fetching", 30, None),
    ]
    assert not one.late
    (one,) = seen(a, [b], now=11.0).images
    assert one.late
    a.got(V1)
    a.look(11.0)
    assert not seen(a, [b], now=12.0).images[0].late


def test_who_aims_at_another_digest_is_behind() -> None:
    a, b = Node("a"), Node("b")
    for node in (a, b):
        node.follow(1, images(V1))
    told = b.report(1.0)
    other = replace(told, marks=tuple(replace(mark, target=b"else") for mark in told.marks))
    found = overview(a.desire, {}, {b.peer: other}, [b.peer], str, 1.0, UNIX)
    assert found.images[0].nodes[1].stage == BEHIND
