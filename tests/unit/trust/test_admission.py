import pytest

from meshsat.trust.admission import Admission, VerifiedPasses
from meshsat.trust.clock import Reading, Source
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import DAY, Pass, PassError, PassFault
from meshsat.trust.revocations import revoke
from tests.fleet import Fleet

NOW = 1_800_000_000.0
GRACE = 2 * DAY


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(now=NOW)


def why(admission: Admission, chain: tuple[bytes, ...]) -> PassFault | None:
    try:
        admission.admit_untrusted(chain)
    except PassError as fault:
        return fault.reason
    return None


def test_a_pass_that_ran_out_is_good_for_the_grace_and_no_longer(fleet: Fleet) -> None:
    now = [NOW]
    admission = Admission(fleet.root.certificate, "hq", lambda: Reading(now[0], Source.MACHINE), grace=GRACE)
    chain = fleet.chain(NodeKey.generate(), lifetime=DAY)
    for at, reason in ((NOW + DAY, None), (NOW + 3 * DAY, None), (NOW + 3 * DAY + 1, PassFault.EXPIRED)):
        now[0] = at
        assert why(admission, chain) is reason


def test_a_time_that_is_only_a_floor_keeps_out_what_has_ended_and_nothing_else(fleet: Fleet) -> None:
    """A clock in 1970 locks nobody out who was enrolled since, and lets nobody in who has run out before."""
    admission = Admission(fleet.root.certificate, "hq", lambda: Reading(NOW, Source.FLOOR))
    later = Fleet(now=NOW + 300 * DAY)
    later.root, later.enroller = fleet.root, fleet.enroller
    assert why(admission, later.chain(NodeKey.generate())) is None
    assert why(admission, fleet.chain(NodeKey.generate(), lifetime=-1)) is PassFault.EXPIRED
    strict = Admission(fleet.root.certificate, "hq", lambda: Reading(NOW, Source.MEMBERS))
    assert why(strict, later.chain(NodeKey.generate())) is PassFault.NOT_YET


def test_members_of_another_site_are_no_peers(fleet: Fleet) -> None:
    admission = Admission(fleet.root.certificate, "hq", lambda: Reading(NOW, Source.MACHINE))
    assert why(admission, fleet.chain(NodeKey.generate(), site="hq")) is None
    assert why(admission, fleet.chain(NodeKey.generate(), site="berlin")) is PassFault.ELSEWHERE


def test_a_revoked_pass_is_refused_though_it_was_verified_before(fleet: Fleet) -> None:
    root = fleet.root.certificate
    admission = Admission(root, "hq", lambda: Reading(NOW, Source.MACHINE))
    key = NodeKey.generate()
    member = admission.admit_untrusted(fleet.chain(key))
    assert not admission.refuses(member)
    admission.revocations.take(
        revoke(fleet.root, root, peer=key.peer_id, site="hq", at=NOW, until=NOW + DAY, reason="stolen")
    )
    assert admission.refuses(member)
    with pytest.raises(PassError, match="stolen") as caught:
        admission.admit_untrusted(member.chain)
    assert caught.value.reason is PassFault.REVOKED


def test_verified_passes_cost_no_signatures_again(fleet: Fleet) -> None:
    known = VerifiedPasses(limit=2)
    root = fleet.root.certificate
    chains = [fleet.chain(NodeKey.generate(), lifetime=DAY) for _ in range(3)]
    first: Pass = known.verify_untrusted(chains[0], root)
    assert known.verify_untrusted(chains[0], root) is first
    with pytest.raises(PassError):
        known.verify_untrusted(chains[0], Fleet(now=NOW).root.certificate)
    for chain in chains[1:]:
        known.verify_untrusted(chain, root)
    again = known.verify_untrusted(chains[0], root)
    assert again == first
    assert again is not first


def test_verified_passes_still_end(fleet: Fleet) -> None:
    now, known = [NOW], VerifiedPasses()
    admission = Admission.at(fleet.root.certificate, lambda: now[0], known)
    chain = fleet.chain(NodeKey.generate(), lifetime=DAY)
    admission.admit_untrusted(chain)
    now[0] += 2 * DAY
    assert why(admission, chain) is PassFault.EXPIRED
