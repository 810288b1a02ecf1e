"""Records merge to the same set on every node, in whatever order, however often, over whatever exchanges."""

import random
from dataclasses import replace
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.oci.digest import Digest
from meshsat.protocol.gossip import ImageRecord, RecordSet, seal
from tests.brain import key


@cache
def record(tag: int, at: int, meaning: int, author: int) -> ImageRecord:
    return seal(
        key(f"author {author}"),
        registry="up.example",
        repository="library/pos",
        reference=f"v{tag}",
        media_type="application/json",
        digest=Digest.of(bytes([meaning])),
        size=7,
        resolved_at=float(at),
    )


RECORD = st.builds(record, st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 1))
RECORDS = st.lists(RECORD, max_size=12)


def merged(*lists: list[ImageRecord], limit: int = 65536) -> set[ImageRecord]:
    records = RecordSet(limit)
    for one in lists:
        for each in one:
            records.merge(each)
    return set(records)


@settings(max_examples=50)
@given(RECORDS, RECORDS, RECORDS)
def test_merging_is_commutative_associative_and_idempotent(
    one: list[ImageRecord], two: list[ImageRecord], three: list[ImageRecord]
) -> None:
    assert merged(one, two, three) == merged(three, one, two) == merged(one, one, two, three, two)
    assert merged(list(merged(one, two)), three) == merged(one, list(merged(two, three)))


@given(RECORDS, RECORD)
def test_merge_tells_news_from_what_is_known(known: list[ImageRecord], more: ImageRecord) -> None:
    records = RecordSet()
    for each in known:
        records.merge(each)
    before = set(records)
    assert records.merge(more) == (set(records) != before)
    assert not records.merge(more)


@given(RECORDS, st.integers(1, 3))
def test_the_limit_holds_and_keeps_the_youngest(known: list[ImageRecord], limit: int) -> None:
    kept = merged(known, limit=limit)
    assert len(kept) == min(limit, len(merged(known)))
    oldest = min((each.resolved_at for each in kept), default=0.0)
    forgotten = {each for each in merged(known) if each.key not in {one.key for one in kept}}
    assert all(each.resolved_at <= oldest for each in forgotten)


@settings(max_examples=50)
@given(st.lists(RECORDS, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_gossip_converges(nodes: list[list[ImageRecord]], rng: random.Random) -> None:
    """Pairs at random, three messages each as anti-entropy has them, until everybody has met everybody."""
    # Two records of one tag and one instant are told apart by what they say, and not by a summary: no two here.
    serial = iter(range(1000))
    sets = []
    for records in nodes:
        sets.append(RecordSet())
        for each in records:
            sets[-1].merge(replace(each, resolved_at=each.resolved_at + next(serial) / 1000))
    everything = merged([each for one in sets for each in one])
    pairs = [(one, other) for one in range(len(sets)) for other in range(one)]
    for _ in range(len(sets)):
        rng.shuffle(pairs)
        for one, other in pairs:
            for each in list(sets[other].news_for(sets[one].summary())):
                assert sets[one].merge(each)
            for each in list(sets[one].news_for(sets[other].summary())):
                assert sets[other].merge(each)
    assert all(set(one) == everything for one in sets)
