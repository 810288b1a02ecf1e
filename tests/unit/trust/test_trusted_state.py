"""The rules of the trusted state, each by the attack that it is there for; the names are those of TUF's list."""

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations

import pytest

from meshsat.trust.dsse import ENVELOPE_LIMIT, Signed, encode_signed, parse_signed_untrusted, sign
from meshsat.trust.passes import DAY
from meshsat.trust.state_documents import (
    HEAD_TYPE,
    ROOT_TYPE,
    Refused,
    StateError,
    check_body_untrusted,
    unsigned,
)
from meshsat.trust.trusted_state import HEADS_KEPT, Taken, TrustedState
from tests.authors import BODY, GRACE, NOW, Signers, key_of, role, sealed

S = Signers()


def trusting(*envelopes: bytes) -> TrustedState:
    """One who has taken in root 1 and these."""
    trusted = S.trusted()
    for raw in (S.first(), *envelopes):
        taken, _ = trusted.update_untrusted(raw, NOW)
        assert taken is Taken.NEWS
    return trusted


def refused(trusted: TrustedState, raw: bytes, now: float = NOW) -> Refused:
    """Why it is refused; that changes nothing."""
    before = trusted.log, trusted.floor
    with pytest.raises(StateError) as fault:
        trusted.update_untrusted(raw, now)
    assert (trusted.log, trusted.floor) == before
    return fault.value.reason


def second_root(**changes: object) -> bytes:
    return sealed(S.root_of(2, **changes), "r1", "r2", "r3", "r4")


# --- how it goes when nobody attacks


def test_root_and_head_are_taken_and_known_after() -> None:
    trusted = trusting(S.head(1))
    assert trusted.root == S.root_of()
    assert trusted.head == S.head_of(1)
    assert trusted.update_untrusted(S.head(1), NOW)[0] is Taken.KNOWN
    assert trusted.update_untrusted(S.first(), NOW)[0] is Taken.KNOWN
    assert trusted.update_untrusted(S.head(9), NOW)[0] is Taken.NEWS
    assert trusted.floor == 9


def test_nothing_is_taken_before_the_first_root() -> None:
    assert refused(S.trusted(), S.head()) is Refused.GAP


# --- rollback


def test_rollback_to_an_older_head() -> None:
    trusted = trusting(S.head(5))
    assert refused(trusted, S.head(4)) is Refused.ROLLBACK
    assert trusted.head == S.head_of(5)


def test_rollback_to_an_older_root() -> None:
    trusted = trusting(second_root())
    assert trusted.update_untrusted(S.first(), NOW)[0] is Taken.KNOWN
    assert trusted.root == S.root_of(2)


def test_replay_of_what_was_in_force_before() -> None:
    trusted = trusting(S.head(4), S.head(5))
    assert trusted.update_untrusted(S.head(4), NOW)[0] is Taken.KNOWN
    assert trusted.head == S.head_of(5)


def test_two_documents_of_one_version() -> None:
    """Equivocation: the first stays, and whoever holds it is told."""
    trusted = trusting(S.head(5))
    assert refused(trusted, S.head(5, body=b"{}")) is Refused.CONFLICT
    assert refused(trusted, sealed(S.root_of(issued=NOW + 1), "anchor", "r1", "r2")) is Refused.CONFLICT


# --- fast-forward


def test_fast_forward_is_overcome_by_taking_the_key_back() -> None:
    """A thief of two keys signs the highest version there is; when these are revoked, a lower one counts."""
    stolen = S.head(2**53 - 1, by=("s2", "s3"))
    trusted = trusting(S.head(5, by=("s1", "s2")), stolen)
    assert refused(trusted, S.head(6)) is Refused.ROLLBACK
    trusted.update_root_untrusted(second_root(state=role("s1", "s4", threshold=1)))
    assert trusted.head is not None
    assert not trusted.trusts(trusted.head)
    assert refused(trusted, stolen) is Refused.REVOKED
    assert trusted.update_untrusted(S.head(6, by=("s4",), root=2), NOW)[0] is Taken.NEWS
    assert trusted.head == S.head_of(6, root=2)


def test_what_is_still_trusted_holds_as_the_floor_after_a_theft() -> None:
    """Only what the thief signed is forgotten: an older one than before the theft is refused as ever."""
    trusted = trusting(S.head(5, by=("s1", "s2")), S.head(2**40, by=("s2", "s3")))
    trusted.update_root_untrusted(second_root(state=role("s1", "s2", threshold=2)))
    assert trusted.floor == 5
    assert refused(trusted, S.head(4, by=("s1", "s2"))) is Refused.ROLLBACK


# --- freeze


def test_freeze_with_an_expired_head() -> None:
    trusted = trusting()
    head = S.head(1)
    late = NOW + 90 * DAY + GRACE
    assert refused(trusted, head, late + 1) is Refused.EXPIRED
    assert trusted.update_untrusted(head, late)[0] is Taken.NEWS


def test_what_is_in_force_stays_when_it_expires() -> None:
    trusted = trusting(S.head(1))
    assert trusted.update_untrusted(S.head(1), NOW + 400 * DAY)[0] is Taken.KNOWN
    assert trusted.head == S.head_of(1)


def test_freeze_of_the_root() -> None:
    """Whoever withholds the root that takes a key back can use that key until the last root expires."""
    trusted = trusting()
    late = int(NOW + 365 * DAY + GRACE)
    head = S.head(1, issued=late - 60, expires=late + 60)
    assert refused(trusted, head, late + 1) is Refused.EXPIRED
    trusted.update_root_untrusted(second_root(issued=late, expires=late + 1000))
    assert trusted.update_untrusted(head, late + 1)[0] is Taken.NEWS


def test_roots_that_have_expired_are_passed_on_the_way_to_the_newest() -> None:
    trusted = S.trusted()
    old = S.root_of(issued=NOW - int(600 * DAY), expires=NOW - int(400 * DAY))
    trusted.update_root_untrusted(sealed(old, "anchor", "r1", "r2"))
    assert refused(trusted, S.head()) is Refused.EXPIRED
    trusted.update_root_untrusted(second_root())
    trusted.update_untrusted(S.head(), NOW)


def test_a_clock_in_1970_lets_nothing_forged_or_older_in() -> None:
    trusted = trusting(S.head(5))
    assert refused(trusted, S.head(4), 0) is Refused.ROLLBACK
    assert refused(trusted, S.head(6, by=("x",)), 0) is Refused.FORGED


# --- mix and match


def test_mix_and_match_of_a_head_and_the_body_of_another() -> None:
    with pytest.raises(StateError) as fault:
        check_body_untrusted(S.head_of(2, body=b"{}"), BODY)
    assert fault.value.reason is Refused.MISMATCH


def test_mix_and_match_of_fleets() -> None:
    """Even with the same keys: each document names its fleet."""
    other = Signers(fleet="other-" + "0" * 20)
    assert refused(S.trusted(), other.first()) is Refused.FOREIGN
    assert refused(trusting(), other.head()) is Refused.FOREIGN


def test_mix_and_match_of_roots_of_another_lineage() -> None:
    """The next root of a fleet of the same name, whose first root was signed by other keys."""
    other = Signers(root=role("x1", "x2", threshold=2))
    assert refused(trusting(), sealed(other.root_of(2), "x1", "x2")) is Refused.FORGED


def test_type_confusion_of_root_and_head() -> None:
    trusted = trusting()
    with pytest.raises(StateError, match="in the place of a head"):
        trusted.update_head_untrusted(second_root(), NOW)
    with pytest.raises(StateError, match="in the place of a root"):
        trusted.update_root_untrusted(S.head())
    signed = parse_signed_untrusted(second_root())
    relabelled = encode_signed(Signed(HEAD_TYPE, signed.payload, signed.signatures))
    assert refused(trusted, relabelled) is Refused.MALFORMED


def test_type_confusion_by_a_payload_that_is_read_as_both() -> None:
    """All fields of both, signed by keys of both roles: it is only what it was signed as."""
    same = Signers(state=role("r1", "r2", threshold=2))
    trusted = same.trusted()
    trusted.update_root_untrusted(same.first())
    fields = {**json.loads(same.head_of(2).encode()), **json.loads(same.root_of(2).encode())}
    signed = Signed(HEAD_TYPE, json.dumps(fields).encode())
    for name in ("r1", "r2"):
        signed = sign(signed, key_of(name))
    relabelled = Signed(ROOT_TYPE, signed.payload, signed.signatures)
    assert refused(trusted, encode_signed(relabelled)) is Refused.FORGED
    trusted.update_head_untrusted(encode_signed(signed), NOW)


# --- wrong key, threshold, revocation


def test_wrong_key() -> None:
    trusted = trusting()
    assert refused(trusted, S.head(1, by=("x", "y"))) is Refused.FORGED
    assert refused(trusted, S.head(1, by=("r1", "r2"))) is Refused.FORGED  # of the other role
    assert refused(trusted, sealed(S.root_of(2), "s1", "s2")) is Refused.FORGED
    assert refused(trusted, S.head(1, by=())) is Refused.FORGED


def test_the_first_root_is_the_fleets() -> None:
    """Signed by all the keys that it names itself, and not by the key in the fleet's certificate."""
    assert refused(S.trusted(), sealed(S.root_of(), "r1", "r2")) is Refused.FORGED
    assert refused(S.trusted(), sealed(S.root_of(), "anchor")) is Refused.FORGED
    assert refused(S.trusted(), sealed(S.root_of(), "anchor", "r1")) is Refused.THRESHOLD


def test_the_fleets_key_signs_no_later_root() -> None:
    assert refused(trusting(), sealed(S.root_of(2), "anchor")) is Refused.FORGED


def test_threshold_not_met() -> None:
    assert refused(trusting(), S.head(1, by=("s1",))) is Refused.THRESHOLD
    assert refused(trusting(), S.head(1, by=("s1", "x", "r1"))) is Refused.THRESHOLD


def test_threshold_not_met_by_one_key_twice() -> None:
    signed = sign(unsigned(S.head_of()), key_of("s1"))
    twice = Signed(signed.payload_type, signed.payload, signed.signatures * 2)
    assert refused(trusting(), encode_signed(twice)) is Refused.THRESHOLD


def test_a_new_root_takes_both_the_old_threshold_and_its_own() -> None:
    fresh = S.root_of(2, root=role("r3", "r4", threshold=2))
    trusted = trusting()
    assert refused(trusted, sealed(fresh, "r1", "r3", "r4")) is Refused.THRESHOLD
    assert refused(trusted, sealed(fresh, "r1", "r2", "r3")) is Refused.THRESHOLD
    assert refused(trusted, sealed(fresh, "r3", "r4")) is Refused.FORGED
    trusted.update_root_untrusted(sealed(fresh, "r1", "r2", "r3", "r4"))


def test_roots_come_without_gaps() -> None:
    assert refused(trusting(), sealed(S.root_of(3), "r1", "r2")) is Refused.GAP
    assert refused(trusting(), S.head(1, root=2)) is Refused.GAP


def test_a_revoked_key_signs_no_head() -> None:
    trusted = trusting(second_root(state=role("s3", "s4", threshold=2)))
    assert refused(trusted, S.head(1)) is Refused.REVOKED
    assert refused(trusted, S.head(1, by=("s1", "s2"), root=2)) is Refused.FORGED
    trusted.update_untrusted(S.head(1, by=("s3", "s4"), root=2), NOW)


def test_a_revoked_root_key_signs_no_root() -> None:
    trusted = trusting(second_root(root=role("r3", "r4", threshold=2)))
    assert refused(trusted, sealed(S.root_of(3, root=role("r1")), "r1", "r2")) is Refused.FORGED


def test_a_head_from_before_a_rotation_counts_if_enough_of_its_signers_still_do() -> None:
    trusted = trusting(second_root(state=role("s2", "s3", "s4", threshold=2)))
    trusted.update_untrusted(S.head(1, by=("s2", "s3")), NOW)
    assert refused(trusted, S.head(2, by=("s1", "s2"))) is Refused.REVOKED


def test_a_raised_threshold_counts_for_older_heads_too() -> None:
    trusted = trusting(second_root(state=role("s1", "s2", "s3", threshold=3)))
    assert refused(trusted, S.head(1, by=("s1", "s2"))) is Refused.REVOKED
    trusted.update_untrusted(S.head(1, by=("s1", "s2", "s3")), NOW)


# --- endless data, many forms of one


def test_endless_data() -> None:
    assert refused(trusting(), bytes(ENVELOPE_LIMIT + 1)) is Refused.TOO_LARGE


def test_noise_around_what_is_signed_is_not_passed_on() -> None:
    """Whoever passes an envelope on can't make it look like another: there is one spelling, without others' keys."""
    trusted = trusting()
    plain = S.head(1)
    noisy = sign(parse_signed_untrusted(plain), key_of("x"))
    taken, entry = trusted.update_untrusted(encode_signed(noisy) + b"\n", NOW)
    assert taken is Taken.NEWS
    assert entry.sealed == plain


def test_of_two_fillings_all_keep_the_same() -> None:
    one, two = S.head(1, by=("s1", "s2")), S.head(1, by=("s2", "s3"))
    full = S.head(1, by=("s1", "s2", "s3"))
    assert {_end_of(order) for order in permutations((one, two, full))} == {full}
    assert _end_of((one, two)) == _end_of((two, one))


def _end_of(order: Iterable[bytes]) -> bytes:
    """What is passed on after all that."""
    trusted = trusting()
    for raw in order:
        trusted.update_untrusted(raw, NOW)
    return trusted.sealed(S.head_of(1))


# --- memory


def test_what_was_accepted_is_restored_whatever_happened_between() -> None:
    trusted = trusting(S.head(5, by=("s1", "s2")), S.head(2**40, by=("s2", "s3")))
    trusted.update_root_untrusted(second_root(state=role("s1", "s2", threshold=2)))
    for version in range(6, 6 + 2 * HEADS_KEPT):
        trusted.update_untrusted(S.head(version, root=2), NOW)
    again = S.trusted()
    assert again.restore_untrusted(entry.sealed for entry in trusted.log) == []
    assert again.log == trusted.log
    assert len(again.heads) == HEADS_KEPT
    assert again.floor == trusted.floor == 5 + 2 * HEADS_KEPT


def test_the_head_in_force_is_not_forgotten_for_ever_so_many_that_came_to_nothing() -> None:
    trusted = trusting(S.head(1))
    trusted.spared = S.head_of(1)
    for version in range(2, 4 * HEADS_KEPT):
        trusted.update_untrusted(S.head(version), NOW)
    assert len(trusted.heads) == HEADS_KEPT
    assert trusted.heads[0] == S.head_of(1)
    again = S.trusted()
    assert again.restore_untrusted(entry.sealed for entry in trusted.log) == []
    assert again.log == trusted.log


def test_a_head_in_force_whose_keys_were_revoked_since_is_restored() -> None:
    trusted = trusting(S.head(5, by=("s1", "s2")))
    trusted.update_root_untrusted(second_root(state=role("s3", "s4", threshold=2)))
    again = S.trusted()
    again.restore_untrusted(entry.sealed for entry in trusted.log)
    assert again.head == S.head_of(5)
    assert not again.trusts(S.head_of(5))
    assert again.floor == 0


def test_what_is_damaged_on_the_disk_is_told_and_the_rest_restored() -> None:
    envelopes = [S.first(), S.head(3), S.head(4)]
    envelopes[1] = envelopes[1].replace(b'"sig"', b'"gis"')
    again = S.trusted()
    assert [fault.reason for fault in again.restore_untrusted(envelopes)] == [Refused.MALFORMED]
    assert again.floor == 4


def test_signatures_are_checked_by_whom_it_is_given() -> None:
    """A simulation signs otherwise."""
    trusted = TrustedState(S.fleet, key_of("anchor").peer_id, GRACE, lambda _peer, _sig, _data: False)
    assert refused(trusted, S.first()) is Refused.FORGED


def test_two_roots_do_not_differ_by_their_lives_alone() -> None:
    assert refused(trusting(), sealed(replace(S.root_of(), expires=NOW + 9), "anchor", "r1", "r2")) is (
        Refused.CONFLICT
    )
