"""Records merge to the same set on every node, in whatever order, however often, over whatever exchanges."""

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
