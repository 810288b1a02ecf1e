import time
from collections.abc import Callable

import pytest

from meshsat.errors import InvalidInputError
from meshsat.trust.issuing import issue_enroller, issue_pass, make_root
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import (
    BACKDATED,
    DAY,
    ENROLLER,
    ENROLLER_LIFETIME,
    EVERY_SITE,
    NODE,
    PASS_LIFETIME,
    Issuer,
    PassError,
    PassFault,
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
    boss = verify_enroller_untrusted(fleet.enroller.certificate, root, NOW)
    assert (boss.peer, boss.site, boss.is_root) == (fleet.enroller.key.peer_id, EVERY_SITE, False)
    top = verify_enroller_untrusted(root, root, NOW)
    assert (top.peer, top.is_root, top.covers("anywhere")) == (fleet.root.key.peer_id, True, True)
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


def test_real_clocks_are_in_range() -> None:
    fleet = Fleet()
    verify_pass_untrusted(fleet.chain(NodeKey.generate()), fleet.root.certificate, time.time())


def test_an_enroller_of_one_site_gives_no_pass_for_another(fleet: Fleet) -> None:
    boss = fleet.member("boss", enroller=True, right="hq")
    assert boss.issuer is not None
    root = fleet.root.certificate
    own = issue_pass(boss.issuer, fleet.subject(NodeKey.generate(), "till", site="hq"), NOW)
    assert verify_pass_untrusted(own, root, NOW).issuer == boss.key.peer_id
    other = issue_pass(boss.issuer, fleet.subject(NodeKey.generate(), "till", site="berlin"), NOW)
    with pytest.raises(PassError, match="another") as caught:
        verify_pass_untrusted(other, root, NOW)
    assert caught.value.reason is PassFault.FORBIDDEN


def test_an_enroller_gives_itself_its_next_pass_and_nobody_elses(fleet: Fleet) -> None:
    boss = fleet.member("boss", enroller=True)
    assert boss.issuer is not None
    root, subject = fleet.root.certificate, fleet.subject(boss.key, "boss", ENROLLER)
    later = NOW + 300 * DAY
    member = verify_pass_untrusted(issue_pass(boss.issuer, subject, later), root, later)
    assert member.roles == {NODE, ENROLLER}
    assert (member.issuer, member.issued_at) == (boss.key.peer_id, later)
    friend = fleet.subject(NodeKey.generate(), "friend", ENROLLER)
    with pytest.raises(PassError) as caught:
        verify_pass_untrusted(issue_pass(boss.issuer, friend, later), root, later)
    assert caught.value.reason is PassFault.FORBIDDEN


def test_no_pass_is_for_every_site(fleet: Fleet) -> None:
    chain = issue_pass(fleet.root, fleet.subject(NodeKey.generate(), "till", site=EVERY_SITE), NOW)
    with pytest.raises(PassError) as caught:
        verify_pass_untrusted(chain, fleet.root.certificate, NOW)
    assert caught.value.reason is PassFault.MALFORMED


def test_the_grace_and_a_time_that_is_only_known_to_have_passed(fleet: Fleet) -> None:
    chain = fleet.chain(NodeKey.generate(), lifetime=DAY)
    member = verify_pass_untrusted(chain, fleet.root.certificate, NOW + 3 * DAY, grace=2 * DAY)
    with pytest.raises(PassError) as caught:
        member.check_time(NOW + 3 * DAY + 1, grace=2 * DAY)
    assert caught.value.reason is PassFault.EXPIRED
    with pytest.raises(PassError) as caught:
        member.check_time(0.0)
    assert caught.value.reason is PassFault.NOT_YET
    member.check_time(0.0, latest=float("inf"))
