import pytest

from meshsat.protocol import lease
from meshsat.protocol.lease import LEAST_PROGRESS, QUIET, WEIGHT_RATIO, Lease
from tests.brain import peer

NODES = [peer(f"node {number}") for number in range(8)]
A, B, C = NODES[:3]
CHUNK = 1 << 20


def test_nobody_leads_where_nobody_can() -> None:
    assert lease.holder("segment x 0", {}) is None


def test_segments_and_references_have_leases_of_their_own() -> None:
    names = {
        lease.segment_lease("sha256:00", 1),
        lease.segment_lease("sha256:00", 11),
        lease.segment_lease("sha256:01", 1),
        lease.reference_lease("a", "b", "c"),
        lease.reference_lease("a", "b", "d"),
    }
    assert len(names) == 5


def test_an_uplink_counts_by_its_rate() -> None:
    assert lease.weights({A: 10.0, B: 30.0}) == {A: 1.0, B: 3.0}


def test_whose_rate_is_not_known_counts_as_the_middle_one() -> None:
    assert lease.weights({A: 0.0, B: 0.0}) == {A: 1.0, B: 1.0}
    assert lease.weights({A: 0.0, B: 20.0, C: 10.0}) == {A: 1.0, B: 2.0, C: 1.0}


@pytest.mark.parametrize(("rate", "counts"), [(1e18, WEIGHT_RATIO), (1.0, 1 / WEIGHT_RATIO)])
def test_who_lies_about_its_rate_gains_little(rate: float, counts: float) -> None:
    assert lease.weights({A: rate, B: 1e6, C: 1e6})[A] == counts


# --- a peer's lease ---


def test_a_lease_lives_as_long_as_bytes_or_chunks_come() -> None:
    held = Lease(0, 64, 0, 100.0)
    assert held.alive(100 + QUIET - 0.1)
    held.told(0, 64, LEAST_PROGRESS, 103.0, CHUNK)
    assert held.alive(106.0)
    held.had(106.0)
    assert held.alive(109.0)
    assert not held.alive(106 + QUIET)


def test_words_without_bytes_keep_no_lease() -> None:
    held = Lease(0, 64, 0, 100.0)
    for second in range(5):
        held.told(0, 64, second * 1000, 100.0 + second, CHUNK)
    assert not held.alive(104.0)


def test_bytes_that_never_become_chunks_keep_it_for_a_while_only() -> None:
    held = Lease(0, 64, 0, 0.0)
    lasted = 0
    while held.alive(lasted):
        lasted += 1
        held.told(0, 64, lasted * LEAST_PROGRESS, lasted, 8 * LEAST_PROGRESS)
    assert lasted == 8 + QUIET


def test_a_lease_that_was_begun_anew_counts_its_bytes_anew() -> None:
    held = Lease(0, 64, 10 * CHUNK, 100.0)
    held.told(32, 64, 0, 101.0, CHUNK)
    held.told(32, 64, LEAST_PROGRESS, 103.0, CHUNK)
    assert held.alive(106.0)


# --- sharing what is left ---


def test_of_two_alike_each_takes_half() -> None:
    assert lease.split(range(20, 40), CHUNK, 1e6, 1e6) == range(30, 40)


def test_the_faster_takes_more() -> None:
    assert lease.split(range(40), CHUNK, 1e6, 3e6) == range(10, 40)
    assert lease.split(range(40), CHUNK, 3e6, 1e6) == range(30, 40)


def test_unknown_rates_count_as_equal() -> None:
    assert lease.split(range(40), CHUNK, 0, 3e6) == range(20, 40)


def test_several_idle_ones_share_alike() -> None:
    parts = [lease.split(range(40), CHUNK, 1e6, 1e6, (number, 3)) for number in range(3)]
    assert parts == [range(10, 20), range(20, 30), range(30, 40)]


@pytest.mark.parametrize(("theirs", "kept"), [(1e3, 1), (9e6, 3), (0, 2)])
def test_the_holder_keeps_what_it_has_begun_with(theirs: float, kept: int) -> None:
    assert lease.split(range(12), CHUNK, theirs, 1e12)[0] == max(kept, 1 if theirs else 6)


def test_what_ends_soon_or_is_small_is_not_shared() -> None:
    assert not lease.split(range(20), CHUNK, 100e6, 1e6)
    assert not lease.split(range(7), 256 * 1024, 0, 0)
    assert not lease.split(range(1), 4 * CHUNK, 1e3, 1e3)
    assert not lease.split(range(3), 4 * CHUNK, 1e3, 1e3, (0, 3))
