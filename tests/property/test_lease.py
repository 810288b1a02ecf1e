"""Weighted rendezvous hashing: shares in proportion, and leases move only from who loses to who gains."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.protocol import lease
from meshsat.trust.keys import PeerId
from tests.brain import peer

PEERS = [peer(f"node {number}") for number in range(10)]
SOME = st.dictionaries(st.sampled_from(PEERS), st.floats(0.25, 4.0), min_size=1)
NAME = st.builds(lease.segment_lease, st.just("sha256:00"), st.integers(0, 10_000))


@given(NAME, SOME, st.data())
def test_when_one_leaves_only_its_own_leases_move(
    name: str, weights: dict[PeerId, float], data: st.DataObject
) -> None:
    left = data.draw(st.sampled_from(sorted(weights)))
    before = lease.holder(name, weights)
    after = lease.holder(name, {one: weight for one, weight in weights.items() if one != left})
    assert before in (after, left)


@given(NAME, SOME, st.sampled_from(PEERS), st.floats(0.25, 4.0))
def test_when_one_comes_or_is_faster_leases_move_only_to_it(
    name: str, weights: dict[PeerId, float], comer: PeerId, weight: float
) -> None:
    before = lease.holder(name, weights)
    after = lease.holder(name, {**weights, comer: max(weight, weights.get(comer, 0.0))})
    assert after in (before, comer)


@given(NAME, SOME)
def test_somebody_holds_it_and_the_order_does_not_matter(name: str, weights: dict[PeerId, float]) -> None:
    other = sorted(weights)
    assert lease.holder(name, weights) == lease.holder(name, {one: weights[one] for one in other})
    assert lease.holder(name, weights) in weights


@given(NAME, SOME, st.floats(0.01, 100))
def test_only_the_proportions_count(name: str, weights: dict[PeerId, float], factor: float) -> None:
    scaled = {one: weight * factor for one, weight in weights.items()}
    assert lease.holder(name, scaled) == lease.holder(name, weights)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 4.0), (1.0, 2.0, 3.0)])
def test_shares_are_in_proportion(weights: tuple[float, ...]) -> None:
    candidates = dict(zip(PEERS, weights, strict=False))
    names = [lease.segment_lease("sha256:00", number) for number in range(4000)]
    shares = Counter(lease.holder(name, candidates) for name in names)
    for one, weight in candidates.items():
        assert shares[one] / len(names) == pytest.approx(weight / sum(weights), abs=0.03)


@given(SOME)
def test_rates_are_bounded(rates: dict[PeerId, float]) -> None:
    found = lease.weights({one: rate**20 for one, rate in rates.items()})
    assert max(found.values()) <= lease.WEIGHT_RATIO**2 * min(found.values())
