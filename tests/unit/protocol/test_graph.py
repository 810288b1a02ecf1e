import pytest

from meshsat.protocol.graph import FULL_MESH, GOSSIP_RINGS, HUBS, RINGS, hubs, ring_neighbours
from meshsat.trust.keys import PeerId


def members(count: int, seed: int = 0) -> list[PeerId]:
    return [PeerId(f"{seed}/{number}") for number in range(count)]


def edges(names: list[PeerId], rings: int = RINGS) -> dict[PeerId, set[PeerId]]:
    return {name: set(ring_neighbours(name, names, rings)) for name in names}


def reached(graph: dict[PeerId, set[PeerId]], start: PeerId) -> dict[PeerId, int]:
    """Whoever can be reached from there, and over how many hops."""
    found = {start: 0}
    queue = [start]
    for one in queue:
        for other in graph[one]:
            if other in graph and other not in found:
                found[other] = found[one] + 1
                queue.append(other)
    return found


@pytest.mark.parametrize("count", [33, 64, 200, 300])
def test_the_graph_is_nearly_regular_symmetric_and_few_hops_wide(count: int) -> None:
    graph = edges(members(count))
    assert all(one in graph[other] for one, others in graph.items() for other in others)
    degrees = [len(others) for others in graph.values()]
    assert max(degrees) == 2 * RINGS
    assert min(degrees) >= 8
    assert sum(degrees) / count > 2 * RINGS * (1 - 6 / count)
    assert max(reached(graph, members(count)[0]).values()) <= 4


@pytest.mark.parametrize("rings", [GOSSIP_RINGS, RINGS])
@pytest.mark.parametrize("count", [2, 3, 8, 33, 200])
def test_everybody_is_reached(count: int, rings: int) -> None:
    names = members(count)
    assert len(reached(edges(names, rings), names[0])) == count


def test_one_member_more_changes_the_places_next_to_its_own_only() -> None:
    names = members(100)
    before, after = edges(names[:-1]), edges(names)
    changed = [name for name in before if before[name] != after[name]]
    assert set(changed) <= after[names[-1]]


def test_nobody_is_its_own_neighbour() -> None:
    (alone,) = members(1)
    assert ring_neighbours(alone, [alone]) == []
    assert ring_neighbours(alone, []) == []
    two = members(2)
    assert ring_neighbours(two[0], two) == [two[1]]
    assert ring_neighbours(two[0], two[1:]) == [two[1]]  # whether we are among them or not


def test_hubs_are_the_same_for_all_and_those_with_an_uplink_before_others() -> None:
    names = members(60)
    dark = hubs(names, ())
    assert len(dark) == HUBS
    assert hubs(reversed(names), ()) == dark
    up = {names[7], names[50]}
    assert set(hubs(names, up)[:2]) == up
    many = set(names[: FULL_MESH // 2])
    assert set(hubs(names, many)) <= many
