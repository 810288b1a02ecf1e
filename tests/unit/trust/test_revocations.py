"""Who may revoke whom, and that a set of revocations means the same however it came together."""

import itertools
from dataclasses import replace

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.mesh.identity import Identity
from meshsat.trust import revocations as module
from meshsat.trust.envelope import seal
from meshsat.trust.issuing import issue_pass
from meshsat.trust.keys import NodeKey, PeerId
from meshsat.trust.passes import DAY, ENROLLER, Issuer, Pass, verify_pass_untrusted
from meshsat.trust.revocations import (
    AUTHOR_LIMIT,
    CONTEXT,
    KEPT_MOST,
    REASON_LIMIT,
    Revocation,
    Revocations,
    Taken,
    open_revocation_untrusted,
    revoke,
)
from tests.fleet import Fleet

NOW = 1_800_000_000.0
FLEET = Fleet(now=NOW)
ROOT = FLEET.root.certificate
HQ = FLEET.member("hq-boss", enroller=True, right="hq")
BERLIN = FLEET.member("berlin-boss", enroller=True, right="berlin", site="berlin")


def issuer(identity: Identity) -> Issuer:
    assert identity.issuer is not None
    return identity.issuer


def member(name: str = "till", *, site: str = "hq", by: Issuer = FLEET.enroller, at: float = NOW) -> Pass:
    subject = FLEET.subject(NodeKey.generate(), name, site=site)
    return verify_pass_untrusted(issue_pass(by, subject, at), ROOT, None)


def of(
    who: Pass | str,
    by: Issuer = FLEET.root,
    *,
    at: float = NOW,
    issued: bool = False,
    lasts: float = 400 * DAY,
    reason: str = "",
) -> Revocation:
    """Of a pass's key, or of a site."""
    peer, site = (None, who) if isinstance(who, str) else (who.peer, who.site)
    return revoke(by, ROOT, peer=peer, site=site, at=at, until=at + lasts, reason=reason, issued=issued)


def known(*all_of_them: Revocation) -> Revocations:
    found = Revocations(ROOT)
    for one in all_of_them:
        found.take(one)
    return found


def test_a_key_is_revoked_for_good_whenever_its_pass_was_issued() -> None:
    till, other = member(), member()
    found = known(of(till, reason="stolen"))
    assert found.of(till) is not None
    assert found.of(replace(till, issued_at=NOW + 300 * DAY)) is not None
    assert found.of(other) is None
    assert "by the fleet's root: stolen" in of(till, reason="stolen").in_words()


def test_a_site_is_revoked_until_then() -> None:
    found = known(of("hq", at=NOW + DAY))
    assert found.of(member(at=NOW)) is not None
    assert found.of(member(at=NOW + 2 * DAY)) is None
    assert found.of(member(site="berlin")) is None


def test_an_enroller_revokes_nodes_of_its_site_and_nobody_else() -> None:
    mine, theirs = member(), member(site="berlin")
    assert known(of(mine, issuer(HQ))).of(mine) is not None
    with pytest.raises(InvalidInputError, match="at another"):
        of(theirs, issuer(HQ))
    # It says that the node is of its own site, and it is not.
    lie = of(replace(theirs, site="hq"), issuer(HQ))
    assert known(lie).of(theirs) is None
    assert known(of(theirs, FLEET.enroller)).of(theirs) is not None  # that one is for every site


def test_only_the_root_revokes_enrollers() -> None:
    rival = FLEET.member("rival", enroller=True, right="hq").member
    assert known(of(rival, issuer(HQ))).of(rival) is None
    assert known(of("hq", issuer(HQ), at=NOW + DAY)).of(rival) is None
    assert known(of(rival)).of(rival) is not None
    with pytest.raises(InvalidInputError, match="does not carry"):
        of(rival, issuer(HQ), issued=True)


@pytest.mark.parametrize("issued", [False, True])
def test_what_a_revoked_enroller_signed(issued: bool) -> None:
    boss = issuer(HQ)
    before, after = member(by=boss, at=NOW - 1), member(by=boss, at=NOW + 1)
    victim, second = member(), member()
    found = known(of(HQ.member, issued=issued), of(victim, boss, at=NOW - 1), of(second, boss, at=NOW + 1))
    assert (found.of(before) is not None) == issued
    assert found.of(after) is not None
    assert (found.of(victim) is not None) == (not issued)
    assert found.of(second) is None
    assert (found.of_author(boss.key.peer_id, NOW - 1) is not None) == issued
    assert found.of_author(boss.key.peer_id, NOW + 1) is not None


def test_no_date_in_it_makes_a_revocation_count_less() -> None:
    """A clock in 1970, here or where it was signed, lets nobody in who is revoked."""
    till = member()
    for at in (0.0, NOW, NOW + 3000 * DAY):
        assert known(of(till, at=at)).of(till) is not None


def sealed(fields: object, by: NodeKey = FLEET.root.key, certificate: bytes = b"") -> bytes:
    return cbor2.dumps([seal(by, CONTEXT, cbor2.dumps(fields)), certificate])


FIELDS = [FLEET.id, member().peer, "hq", int(NOW), int(NOW + DAY), "stolen", False]


def test_a_forged_one_is_refused() -> None:
    stranger, node = NodeKey.generate(), FLEET.member("node")
    other = Fleet(now=NOW)
    assert open_revocation_untrusted(sealed(FIELDS), ROOT).by_root
    boss = issuer(HQ)
    good = of(member(), boss).sealed
    for bad in (
        sealed(FIELDS, stranger),
        sealed(FIELDS, stranger, boss.certificate),
        sealed(FIELDS, node.key, node.chain[0]),
        sealed(FIELDS, other.root.key, other.root.certificate),
        sealed(FIELDS, other.enroller.key, other.enroller.certificate),
        sealed([other.id, *FIELDS[1:]]),
        good[:-1] + bytes([good[-1] ^ 1]),
        good + b"\0",
        b"",
        bytes(module.RECORD_LIMIT + 1),
    ):
        with pytest.raises(InvalidInputError):
            open_revocation_untrusted(bad, ROOT)


@pytest.mark.parametrize(
    "change",
    [
        (1, "nobody"),
        (2, "a/b"),
        (2, "*"),
        (3, -1),
        (3, 1 << 41),
        (3, True),
        (4, int(NOW) - 1),
        (4, int(NOW + KEPT_MOST) + 1),
        (5, "x" * (REASON_LIMIT + 1)),
        (5, "two\nlines"),
        (6, 1),
    ],
)
def test_fields_are_bounded(change: tuple[int, object]) -> None:
    fields: list[object] = list(FIELDS)
    fields[change[0]] = change[1]
    with pytest.raises(InvalidInputError):
        open_revocation_untrusted(sealed(fields), ROOT)


def test_an_expired_enrollers_key_revokes_nobody_now() -> None:
    with pytest.raises(InvalidInputError, match="does not carry"):
        of(member(), issuer(HQ), at=NOW + 6 * 366 * DAY)


def test_of_two_of_one_author_the_later_is_kept() -> None:
    till, found = member(), Revocations(ROOT)
    first, second = of(till, at=NOW), of(till, at=NOW + 1)
    assert [found.take(one) for one in (first, second, second, first)] == [
        Taken.NEWS,
        Taken.NEWS,
        Taken.KNOWN,
        Taken.OUTDATED,
    ]
    assert list(found) == [second]


def test_one_enroller_cannot_keep_others_words_out() -> None:
    found, boss = Revocations(ROOT), issuer(HQ)
    template = of(member(), boss)
    for number in range(AUTHOR_LIMIT + 5):
        took = found.take(replace(template, peer=PeerId(f"peer{number}"), sealed=b"%d" % number))
    assert took is Taken.NO_ROOM
    assert len(found) == AUTHOR_LIMIT
    assert found.take(of(member(), FLEET.enroller)) is Taken.NEWS


def test_the_root_always_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 3)
    found = known(*(of(member(), issuer(HQ)) for _ in range(3)))
    wanted = [member() for _ in range(3)]
    for one in wanted:
        assert found.take(of(one)) is Taken.NEWS
    assert all(found.of(one) is not None for one in wanted)
    assert found.take(of(member(), issuer(HQ))) is Taken.NO_ROOM
    assert len(found) == 3


def test_what_nobody_could_use_any_more_is_forgotten() -> None:
    till = member()
    found = known(of(till, lasts=DAY), of("hq", lasts=3 * DAY))
    assert found.forget_old(NOW + DAY) == []
    assert found.forget_old(NOW + DAY + 1) == [of(till).name]
    assert len(found) == 1


TILLS = [member(), member(site="berlin")]
POOL = [
    of(TILLS[0], issuer(HQ), at=NOW - 1),
    of(TILLS[0], issuer(HQ), at=NOW + 1),
    of(TILLS[1], issuer(BERLIN)),
    of(HQ.member),
    of(HQ.member, issued=True),
    of("berlin"),
    of(BERLIN.member, at=NOW - 5),
]
WHOEVER = [*TILLS, HQ.member, BERLIN.member, member(by=issuer(HQ), at=NOW - 2)]


@given(chosen=st.sets(st.integers(0, len(POOL) - 1)), order=st.randoms())
@settings(max_examples=60)
def test_the_order_in_which_they_came_means_nothing(chosen: set[int], order: object) -> None:
    picked = [POOL[number] for number in sorted(chosen)]
    shuffled = list(picked)
    order.shuffle(shuffled)  # type: ignore[attr-defined]  # random.Random
    one, other = known(*picked), known(*shuffled)
    assert {each.sealed for each in one} == {each.sealed for each in other}
    assert [one.of(who) is None for who in WHOEVER] == [other.of(who) is None for who in WHOEVER]


def test_every_order_of_a_few() -> None:
    picked = [POOL[0], POOL[3], POOL[4]]
    verdicts = {
        tuple(known(*order).of(who) is None for who in WHOEVER) for order in itertools.permutations(picked)
    }
    assert len(verdicts) == 1


def test_of_a_peer_whose_pass_is_not_at_hand() -> None:
    till = member()
    assert known(of(till, issuer(HQ))).of_peer(till.peer, "hq") is not None
    assert known(of(replace(till, site="hq"), issuer(HQ))).of_peer(till.peer, "berlin") is None
    assert known().of_peer(till.peer, "hq") is None
    assert ENROLLER in HQ.member.roles
