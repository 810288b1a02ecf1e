"""Drafts are signed by whoever may, in any order, until nothing is missing; then every node takes them."""

import itertools
from dataclasses import replace

import pytest

from meshsat.errors import InvalidInputError
from meshsat.fleet.document import DesiredState, state_of
from meshsat.fleet.drafts import check_complete, draft, first_root, newest_root, next_root, signed, standings
from meshsat.fleet.state_file import StateFile
from meshsat.trust.passes import DAY
from meshsat.trust.state_documents import Head
from tests.authors import NOW, Signers, key_of, role

FLEET = Signers().fleet
ANCHOR = key_of("anchor").peer_id
STATE = state_of({"images": [{"reference": "r.example/a:1"}]})
ROOTS, STATES = role("r1", "r2", threshold=2), role("s1", "s2", threshold=2)


def by(file: StateFile, *names: str) -> StateFile:
    for name in names:
        file, _ = signed(file, key_of(name), ANCHOR)
    return file


def rooted() -> StateFile:
    return by(first_root(FLEET, ROOTS, STATES, NOW, 365 * DAY), "anchor", "r1", "r2")


def drafted(file: StateFile, version: int = 1, state: DesiredState = STATE) -> StateFile:
    return draft(file, state, version, NOW, 90 * DAY)


@pytest.mark.parametrize("order", list(itertools.permutations(["anchor", "r1", "r2", "s1", "s2"])))
def test_signed_in_any_order_every_node_takes_it(order: tuple[str, ...]) -> None:
    file = drafted(first_root(FLEET, ROOTS, STATES, NOW, 365 * DAY))
    for count, name in enumerate(order):
        with pytest.raises(InvalidInputError, match="is not signed by enough"):
            check_complete(file, FLEET, ANCHOR)
        file = by(file, *order[count : count + 1])
        assert signed(file, key_of(name), ANCHOR) == (file, [])
    check_complete(file, FLEET, ANCHOR)
    assert all(standing.complete for standing in standings(file, ANCHOR))


def test_what_is_missing_is_told() -> None:
    file = by(drafted(rooted()), "s1")
    *_, standing = standings(file, ANCHOR)
    assert (standing.name, standing.complete) == ("revision 1", False)
    assert standing.missing() == f"1 more of root 1's state keys: {key_of('s2').peer_id}"


def test_a_key_signs_only_what_it_may() -> None:
    file = drafted(rooted())
    assert signed(file, key_of("x"), ANCHOR) == (file, [])
    assert signed(file, key_of("r1"), ANCHOR) == (file, [])
    assert signed(file, key_of("s1"), ANCHOR)[1] == ["revision 1"]


def test_the_next_root_is_signed_by_both() -> None:
    file = next_root(rooted(), role("r3"), role("s3"), NOW, 365 * DAY)
    assert newest_root(file).version == 2
    with pytest.raises(InvalidInputError, match="root 1's root keys"):
        check_complete(by(file, "r3"), FLEET, ANCHOR)
    with pytest.raises(InvalidInputError, match="root 2's own root keys"):
        check_complete(by(file, "r1", "r2"), FLEET, ANCHOR)
    check_complete(by(file, "r1", "r2", "r3"), FLEET, ANCHOR)


def test_a_root_that_holds_already_gets_no_more_signatures() -> None:
    file = next_root(rooted(), role("r1", "r2", "r3"), role("s3"), NOW, 365 * DAY)
    done, names = signed(by(file, "r1", "r2"), key_of("r3"), ANCHOR)
    assert names == ["root 2"]
    assert done.roots[0] == rooted().roots[0]


def test_a_head_from_before_a_rotation_needs_those_who_still_count() -> None:
    file = by(drafted(rooted()), "s1", "s2")
    later = by(next_root(file, ROOTS, role("s2", "s3", threshold=2), NOW, 365 * DAY), "r1", "r2")
    mixed = replace(later, head=file.head, body=file.body)
    *_, standing = standings(mixed, ANCHOR)
    assert [asked.met for asked in standing.asked] == [True, False]
    with pytest.raises(InvalidInputError, match="root 2's state keys"):
        check_complete(mixed, FLEET, ANCHOR)


def test_without_the_fleets_certificate_its_signature_is_not_asked_for() -> None:
    file = by(first_root(FLEET, ROOTS, STATES, NOW, 365 * DAY), "r1", "r2")
    assert standings(file, None)[0].complete
    assert not standings(file, ANCHOR)[0].complete


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="732 days"):
        first_root(FLEET, ROOTS, STATES, NOW, 800 * DAY)
    with pytest.raises(InvalidInputError, match="there is no root"):
        drafted(StateFile())
    with pytest.raises(InvalidInputError, match="threshold"):
        first_root(FLEET, role("r1", threshold=2), STATES, NOW, DAY)
    head = drafted(rooted()).head or b""
    with pytest.raises(InvalidInputError, match="among its roots"):
        standings(StateFile((head,)), ANCHOR)
    with pytest.raises(InvalidInputError, match="not in it"):
        standings(StateFile((), head), ANCHOR)
    with pytest.raises(InvalidInputError, match="belongs"):
        standings(StateFile((rooted().roots[0],) * 2), ANCHOR)
    with pytest.raises(InvalidInputError, match="not in it"):
        standings(StateFile(rooted().roots, rooted().roots[0]), ANCHOR)


def test_of_another_fleet_it_is_not_complete() -> None:
    file = by(drafted(rooted()), "s1", "s2")
    with pytest.raises(InvalidInputError, match="of the fleet"):
        check_complete(file, "other-" + "0" * 20, ANCHOR)
    assert isinstance(standings(file, ANCHOR)[-1].document, Head)
