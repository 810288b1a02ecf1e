from collections import Counter

from meshsat.protocol import lease
from tests.brain import peer

NODES = [peer(f"node {number}") for number in range(8)]


def test_nobody_leads_where_nobody_can() -> None:
    assert lease.holder("segment x 0", []) is None


def test_the_order_of_the_candidates_does_not_matter() -> None:
    names = [lease.segment_lease("sha256:00", number) for number in range(50)]
    assert [lease.holder(name, NODES) for name in names] == [
        lease.holder(name, NODES[::-1]) for name in names
    ]


def test_segments_are_shared_out_evenly() -> None:
    shares = Counter(lease.holder(lease.segment_lease("sha256:00", number), NODES) for number in range(800))
    assert set(shares) == set(NODES)
    assert max(shares.values()) < 150  # 100 each, three standard deviations are 28


def test_segments_and_references_have_leases_of_their_own() -> None:
    names = {
        lease.segment_lease("sha256:00", 1),
        lease.segment_lease("sha256:00", 11),
        lease.segment_lease("sha256:01", 1),
        lease.reference_lease("a", "b", "c"),
        lease.reference_lease("a", "b", "d"),
    }
    assert len(names) == 5
