import time
from collections.abc import Callable

import pytest

from meshsat.errors import InvalidInputError
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import (
    BACKDATED,
    DAY,
    ENROLLER,
    ENROLLER_LIFETIME,
    NODE,
    PASS_LIFETIME,
    Issuer,
    PassError,
    PassFault,
    VerifiedPasses,
    issue_enroller,
    issue_pass,
    make_root,
    parse_fleet_name_untrusted,
    parse_node_name_untrusted,
    parse_root_untrusted,
    parse_site_untrusted,
    verify_enroller_untrusted,
    verify_pass_untrusted,
)
from tests.fleet import Fleet
from tests.strangers import KINDS, Stranger

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(now=NOW)


def test_a_pass_tells_who(fleet: Fleet) -> None:
    key = NodeKey.generate()
    member = verify_pass_untrusted(fleet.chain(key, "till-1", site="shop-7"), fleet.root.certificate, NOW)
    assert (member.fleet, member.site, member.name, member.peer) == (
        fleet.id,
        "shop-7",
        "till-1",
        key.peer_id,
    )
    assert member.roles == {NODE}
    assert member.not_before == NOW - BACKDATED
    assert member.not_after == NOW + PASS_LIFETIME
    assert member.chain == (member.chain[0], fleet.enroller.certificate)


def test_the_root_in_the_chain_does_not_count(fleet: Fleet) -> None:
    chain = fleet.chain(NodeKey.generate())
    root = fleet.root.certificate
    assert verify_pass_untrusted((*chain, root), root, NOW) == verify_pass_untrusted(chain, root, NOW)


def test_from_the_root_itself(fleet: Fleet) -> None:
    key = NodeKey.generate()
    chain = issue_pass(fleet.root, fleet.subject(key, "boss", ENROLLER), NOW)
    assert len(chain) == 1
    assert verify_pass_untrusted(chain, fleet.root.certificate, NOW).roles == {NODE, ENROLLER}


def test_two_fleets_of_one_name_are_two() -> None:
    assert Fleet(now=NOW).id != Fleet(now=NOW).id


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_strangers_are_refused_and_told_apart(fleet: Fleet, kind: Callable[[Fleet], Stranger]) -> None:
    _, chain = kind(fleet)
    with pytest.raises(PassError) as caught:
        verify_pass_untrusted(chain, fleet.root.certificate, NOW)
    assert caught.value.reason is KINDS[kind]


def test_the_hours_at_both_ends(fleet: Fleet) -> None:
    chain, root = fleet.chain(NodeKey.generate(), lifetime=DAY), fleet.root.certificate
    for good in (NOW - BACKDATED, NOW, NOW + DAY):
        verify_pass_untrusted(chain, root, good)
    for bad, reason in ((NOW - BACKDATED - 1, PassFault.NOT_YET), (NOW + DAY + 1, PassFault.EXPIRED)):
        with pytest.raises(PassError) as caught:
            verify_pass_untrusted(chain, root, bad)
        assert caught.value.reason is reason
        assert verify_pass_untrusted(chain, root, None).not_after == NOW + DAY


def test_a_pass_ends_with_its_issuer(fleet: Fleet) -> None:
    chain = fleet.chain(NodeKey.generate(), lifetime=2 * ENROLLER_LIFETIME)
    assert verify_pass_untrusted(chain, fleet.root.certificate, NOW).not_after == NOW + ENROLLER_LIFETIME


@pytest.mark.parametrize("size", [0, 2, 4])
def test_chains_of_other_lengths(fleet: Fleet, size: int) -> None:
    chain = fleet.chain(NodeKey.generate())
    wrong = {0: (), 2: (chain[1], chain[0]), 4: chain * 2}[size]
    with pytest.raises(PassError):
        verify_pass_untrusted(wrong, fleet.root.certificate, NOW)


def test_one_changed_byte_is_noticed(fleet: Fleet) -> None:
    leaf, above = fleet.chain(NodeKey.generate())
    for index in range(0, len(leaf), 7):
        changed = bytearray(leaf)
        changed[index] ^= 0x20
        with pytest.raises(PassError):
            verify_pass_untrusted((bytes(changed), above), fleet.root.certificate, NOW)


def test_enrollers(fleet: Fleet) -> None:
    root = fleet.root.certificate
    assert verify_enroller_untrusted(fleet.enroller.certificate, root, NOW) == fleet.enroller.key.peer_id
    assert verify_enroller_untrusted(root, root, NOW) == fleet.root.key.peer_id
    member = fleet.member("node")
    other = Fleet(now=NOW)
    for bad in (member.chain[0], other.enroller.certificate, other.root.certificate, b""):
        with pytest.raises(PassError):
            verify_enroller_untrusted(bad, root, NOW)
    for late in (fleet.enroller.certificate, root):
        with pytest.raises(PassError):
            verify_enroller_untrusted(late, root, NOW + 31 * 366 * DAY)


def test_an_enroller_needs_the_role(fleet: Fleet) -> None:
    """A CA under the root that is no enroller may not issue."""
    key = NodeKey.generate()
    certificate = issue_enroller(fleet.root, fleet.subject(key, "odd"), NOW)
    chain = issue_pass(Issuer(key, certificate), fleet.subject(NodeKey.generate(), "guest"), NOW)
    with pytest.raises(PassError) as caught:
        verify_pass_untrusted(chain, fleet.root.certificate, NOW)
    assert caught.value.reason is PassFault.FORBIDDEN


def test_a_root_is_named_after_its_key(fleet: Fleet) -> None:
    assert parse_root_untrusted(fleet.root.certificate).fleet == fleet.id
    for bad in (fleet.enroller.certificate, fleet.chain(NodeKey.generate())[0], b"", b"\x30" * 5000):
        with pytest.raises(PassError):
            parse_root_untrusted(bad)


def test_names() -> None:
    for good in ("a", "acme", "acme-1", "0" * 32):
        assert parse_fleet_name_untrusted(good) == good
    for bad in ("", "-a", "a-", "A", "a.b", "a" * 33, "a\n", "a/b", "é"):
        with pytest.raises(InvalidInputError):
            parse_fleet_name_untrusted(bad)
        with pytest.raises(InvalidInputError):
            make_root(NodeKey.generate(), bad, NOW)
    for parse in (parse_site_untrusted, parse_node_name_untrusted):
        for good in ("a", "Shop-7", "a.b_c", "x" * 63):
            assert parse(good) == good
        for bad in ("", "x" * 64, "a/b", "..", "a b", "a\n", "-a", "ü"):
            with pytest.raises(InvalidInputError):
                parse(bad)


def test_known_passes_cost_no_signatures_and_still_expire(fleet: Fleet) -> None:
    known = VerifiedPasses(limit=2)
    root = fleet.root.certificate
    chains = [fleet.chain(NodeKey.generate(), lifetime=DAY) for _ in range(3)]
    first = known.verify_untrusted(chains[0], root, NOW)
    assert known.verify_untrusted(chains[0], root, NOW) is first
    with pytest.raises(PassError):
        known.verify_untrusted(chains[0], root, NOW + 2 * DAY)
    with pytest.raises(PassError):
        known.verify_untrusted(chains[0], Fleet(now=NOW).root.certificate, NOW)
    for chain in chains[1:]:
        known.verify_untrusted(chain, root, NOW)
    again = known.verify_untrusted(chains[0], root, NOW)
    assert again == first
    assert again is not first


def test_real_clocks_are_in_range() -> None:
    fleet = Fleet()
    verify_pass_untrusted(fleet.chain(NodeKey.generate()), fleet.root.certificate, time.time())
