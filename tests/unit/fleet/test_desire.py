"""What a node does about a desired state: when it fetches, when a tag changes, what it tells the others."""

import random
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.fleet.desire import ABSENT, BACKOFF, FETCHES, Decision, Desire, Wanted
from meshsat.fleet.document import DesiredImage, state_of
from meshsat.fleet.meanings import Key, Meaning
from meshsat.fleet.report import IMAGES_TOLD, Mark, Report, Stage
from meshsat.oci.digest import Digest
from meshsat.trust.keys import PeerId
from tests.brain import peer

V1, V2 = Digest.of(b"v1"), Digest.of(b"v2")
PATIENCE = 60.0
UNIX = 1_800_000_000.0
KEY: Key = ("r.example", "pos", "stable")


def images(*digests: Digest, **words: Any) -> list[DesiredImage]:
    rows = [
        {"reference": f"r.example/pos:{number or 'stable'}@{digest}", **words}
        for number, digest in enumerate(digests)
    ]
    return list(state_of({"images": rows}).images)


class Node:
    """One of a site: its decisions, what it holds, and what its tags mean."""

    def __init__(self, name: str, *roles: str) -> None:
        self.peer: PeerId = peer(name)
        self.desire = Desire(self.peer, frozenset(roles or ("node",)), PATIENCE, random.Random(1))
        self.meanings: dict[Key, Meaning] = {}
        self.held: set[Digest] = set()
        self.at = 0

    def follow(self, version: int, wanted: list[DesiredImage]) -> None:
        self.desire.follow(version, bytes([version]) * 8, wanted)
        self.look(0.0)

    def look(self, now: float) -> None:
        for key, one in self.desire.wanted.items():
            if one.target is not None:
                self.desire.looked(key, one.target, now, whole=one.target in self.held)

    def step(self, now: float, live: list["Node"], reports: dict[PeerId, Report] | None = None) -> Decision:
        self.look(now)
        told = {node.peer: node.report(now) for node in live} if reports is None else reports
        decision = self.desire.decide(now, UNIX + now, [node.peer for node in live], told, self.meanings)
        for one in decision.fetch:
            one.fetching = True
        for one in decision.flip:
            assert one.target is not None
            known = self.meanings.get(one.key)
            if known is not None:
                assert one.target in self.held or not one.mine, "a running version gave way to nothing"
            self.meanings[one.key] = (
                Meaning(one.target, now) if known is None else replace(known, digest=one.target)
            )
        return decision

    def got(self, digest: Digest) -> None:
        self.held.add(digest)
        for one in self.desire.wanted.values():
            if one.target == digest:
                one.fetching = False

    def means(self, key: Key = KEY) -> Digest | None:
        known = self.meanings.get(key)
        return None if known is None else known.digest

    def report(self, now: float) -> Report:
        self.at += 1
        desire = self.desire
        marks = desire.marks(now, self.means)
        full = frozenset(place for place, mark in enumerate(marks) if mark.stage is Stage.FULL)
        return Report(
            self.peer,
            self.at,
            desire.version,
            desire.state,
            tuple(desire.roles),
            None,
            marks,
            desire.faults(),
            full=full,
        )

    def one(self) -> Wanted:
        return next(iter(self.desire.wanted.values()))


def running(*names: str) -> list[Node]:
    """Nodes on which v1 runs."""
    nodes = [Node(name) for name in names]
    for node in nodes:
        node.held.add(V1)
        node.follow(1, images(V1))
        node.step(0.0, [])
        assert node.means() == V1
    return nodes


def others(nodes: list[Node], node: Node) -> list[Node]:
    return [one for one in nodes if one is not node]


# --- fetching ---


def test_the_important_is_fetched_first_and_a_few_at_a_time() -> None:
    node = Node("a")
    digests = [Digest.of(bytes([number])) for number in range(FETCHES + 2)]
    node.follow(1, images(*digests))
    assert [one.target for one in node.step(1.0, []).fetch] == digests[:FETCHES]
    assert not node.step(2.0, []).fetch
    node.got(digests[0])
    assert [one.target for one in node.step(3.0, []).fetch] == [digests[FETCHES]]


def test_what_failed_waits_longer_each_time_and_the_others_go_on() -> None:
    node = Node("a")
    node.follow(1, images(V1, V2))
    now, waits = 0.0, []
    for _ in range(12):
        one = next(one for one in node.step(now, []).fetch if one.key == KEY)
        one.fetching = False
        node.desire.failed(KEY, "no", now)
        assert node.desire.stage(one, now) is Stage.FAILED
        assert not [found for found in node.step(now, []).fetch if found.key == KEY]
        waits.append(one.retry_at - now)
        now = one.retry_at
    assert 0.75 * BACKOFF[0] <= waits[0] <= 1.25 * BACKOFF[0]
    assert max(waits) <= 1.25 * BACKOFF[1]
    assert waits[-1] >= 0.75 * BACKOFF[1]
    assert node.desire.faults() == ((0, "no"),)
    node.got(V1)
    node.step(now, [])
    assert node.desire.faults() == ()


def test_nothing_is_fetched_before_its_time() -> None:
    node = Node("a")
    node.follow(1, [replace_image(images(V1)[0], not_before=UNIX + 50)])
    assert not node.step(49.0, []).fetch
    assert node.step(50.0, []).fetch


def replace_image(image: DesiredImage, **words: Any) -> DesiredImage:
    return image.model_copy(update=words)


def test_who_has_no_room_is_passed_over_and_tries_again_later() -> None:
    a, b = Node("a"), Node("b")
    wanted = images(V1, copies=1)
    for node in (a, b):
        node.follow(1, wanted)
    first, second = (a, b) if a.step(1.0, [b]).fetch else (b, a)
    assert not second.step(1.0, [first]).fetch
    first.one().fetching = False
    first.desire.failed(KEY, "disk full", 1.0, full=True)
    assert first.desire.stage(first.one(), 1.0) is Stage.FULL
    assert second.step(2.0, [first]).fetch
    assert not first.step(2.0, [second]).fetch


def test_a_fetch_is_stopped_where_it_is_not_to_be_held_any_more() -> None:
    a, b = Node("a"), Node("b")
    for node in (a, b):
        node.follow(1, images(V1))
        assert node.step(1.0, []).fetch
    stopped: list[Wanted] = []
    for node in (a, b):
        node.follow(2, images(V1, copies=1))
        stopped += node.step(2.0, others([a, b], node)).stop
    assert len(stopped) == 1


# --- changing ---


def test_the_first_meaning_needs_nothing_and_waits_for_its_time() -> None:
    node = Node("a")
    node.follow(1, [replace_image(images(V1)[0], active_from=UNIX + 50)])
    node.step(1.0, [])
    assert node.means() is None
    node.step(50.0, [])
    assert node.means() == V1


def test_nobody_changes_before_all_that_are_there_are_whole() -> None:
    nodes = running("a", "b", "c")
    for node in nodes:
        node.follow(2, images(V2))
    for node in nodes[:2]:
        node.got(V2)
    for node in nodes:
        node.step(1.0, others(nodes, node))
    assert {node.means() for node in nodes} == {V1}
    nodes[2].got(V2)
    for node in nodes:
        node.step(2.0, others(nodes, node))
    for node in nodes:
        node.step(2.0, others(nodes, node))
    assert {node.means() for node in nodes} == {V2}


def test_as_soon_as_one_has_changed_the_others_do() -> None:
    a, b, c = running("a", "b", "c")
    for node in (a, b):
        node.follow(2, images(V2))
        node.got(V2)
    a.step(1.0, [b, c])
    assert a.means() == V1, "c has not heard of it"
    a.step(1.0 + PATIENCE, [b, c])
    assert a.means() == V2
    b.step(1.1, [a, c])
    assert b.means() == V2


def test_who_is_not_there_is_not_waited_for() -> None:
    a, b, _ = running("a", "b", "c")
    for node in (a, b):
        node.follow(2, images(V2))
        node.got(V2)
    b.step(0.5, [])
    a.step(1.0, [b])
    assert a.means() == V2


def test_at_its_time_who_is_whole_changes_and_who_is_not_keeps_what_runs() -> None:
    a, b = running("a", "b")
    for node in (a, b):
        node.follow(2, [replace_image(images(V2)[0], active_from=UNIX + 50)])
    a.got(V2)
    a.step(49.0, [b])
    assert a.means() == V1
    a.step(50.0, [b])
    b.step(50.0, [a])
    assert (a.means(), b.means()) == (V2, V1)


def test_a_lie_that_it_is_active_moves_no_tag_to_what_is_not_desired() -> None:
    a, b = running("a", "b")
    lie = replace(b.report(1.0), marks=(Mark(Stage.WHOLE, active=True, target=b"evil"),))
    a.step(1.0, [b], {b.peer: lie})
    assert a.means() == V1
    a.follow(2, images(V2))
    lie = replace(lie, state=a.desire.state)
    a.step(1.0, [b], {b.peer: lie})
    assert a.means() == V1


def test_who_does_not_hold_it_changes_with_those_who_do() -> None:
    a, b = running("a", "b")
    for node in (a, b):
        node.follow(2, images(V2, copies=1))
        node.step(1.0, others([a, b], node))
    holder, other = (a, b) if a.one().mine else (b, a)
    holder.got(V2)
    other.step(2.0, [holder])
    assert other.means() == V2 or holder.means() == V1
    holder.step(2.0, [other])
    other.step(3.0, [holder])
    assert (holder.means(), other.means()) == (V2, V2)
    assert other.desire.stage(other.one(), 3.0) is Stage.ELSEWHERE


# --- copies ---


def test_who_went_for_a_moment_keeps_its_copies() -> None:
    nodes = [Node(name) for name in "abcdef"]
    for node in nodes:
        node.follow(1, images(V1, copies=2))
        node.step(1.0, others(nodes, node))
    holders = [node for node in nodes if node.one().mine]
    assert len(holders) == 2
    alive = others(nodes, holders[0])
    for node in alive:
        node.step(1.0 + ABSENT - 1, others(alive, node))
    assert [node for node in alive if node.one().mine] == holders[1:]
    for node in alive:
        node.step(1.0 + ABSENT + 1, others(alive, node))
    assert len([node for node in alive if node.one().mine]) == 2


def test_roles_say_who_holds_it() -> None:
    a, b = Node("a", "cache"), Node("b", "node")
    for node in (a, b):
        node.follow(1, images(V1, roles=["cache"]))
        node.step(1.0, others([a, b], node))
    assert (a.one().mine, b.one().mine) == (True, False)


def test_more_images_than_are_told_of_still_come_and_change() -> None:
    digests = [Digest.of(str(number).encode()) for number in range(IMAGES_TOLD + 1)]
    node = Node("a")
    node.follow(1, images(*digests))
    assert len(node.report(0.0).marks) == IMAGES_TOLD
    node.held.update(digests)
    node.step(1.0, [])
    assert len(node.meanings) == IMAGES_TOLD + 1


# --- laws ---


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("flgsk"), st.integers(0, 4)), max_size=60), st.integers(0, 99))
def test_whatever_happens_what_runs_is_there_and_in_the_end_all_run_the_new(
    steps: list[tuple[str, int]], copies: int
) -> None:
    """f: follow v2, l: lose v2, g: get it, s: step, k: kill or bring back. `Node.step` checks the law."""
    nodes = running("a", "b", "c", "d", "e")
    wanted = images(V2, copies=copies or "all") if copies < 6 else images(V2)
    down: set[int] = set()
    now = 1.0
    for what, number in steps:
        now += 1.0
        node = nodes[number]
        match what:
            case "f":
                node.follow(2, wanted)
            case "l":
                node.held.discard(V2)
            case "g":
                if node.desire.version == 2:
                    node.got(V2)
            case "k":
                down ^= {number}
            case _ if number not in down:
                node.step(now, [one for at, one in enumerate(nodes) if at not in down | {number}])
    for node in nodes:
        node.follow(2, wanted)
    for _ in range(5):
        now += 2 * PATIENCE
        for node in nodes:
            node.step(now, others(nodes, node))
            if node.one().mine:
                node.got(V2)
    assert {node.means() for node in nodes} == {V2}
    holders = [node for node in nodes if node.one().mine]
    assert len(holders) == (copies if 0 < copies < 6 else 5)
