from dataclasses import replace

import cbor2
import pytest

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.oci.reference import SITE
from meshsat.protocol import gossip
from meshsat.protocol.gossip import (
    AUTHOR_LIMIT,
    CLOCK_SKEW,
    CONTEXT,
    RECORD_LIMIT,
    RECORDS_LIMIT,
    ImageRecord,
    RecordSet,
    open_record_untrusted,
    seal,
)
from meshsat.store import records as store_records
from meshsat.trust import envelope
from tests.brain import UNIX, key, peer

DIGEST = Digest.of(b"manifest")
FIELDS = ["up.example", "library/pos", "42", "application/json", str(DIGEST), 7, UNIX]


def record(
    *,
    reference: str = "42",
    at: float = UNIX,
    digest: Digest = DIGEST,
    author: str = "a",
    repository: str = "library/pos",
    registry: str = "up.example",
) -> ImageRecord:
    return seal(
        key(author),
        registry=registry,
        repository=repository,
        reference=reference,
        media_type="application/json",
        digest=digest,
        size=7,
        resolved_at=at,
    )


def sealed(*fields: object) -> bytes:
    return envelope.seal(key("a"), CONTEXT, cbor2.dumps(list(fields)))


def test_a_record_survives_its_envelope() -> None:
    for one in (record(), record(reference=str(DIGEST))):
        assert open_record_untrusted(one.sealed, UNIX) == one
        assert one.author == peer("a")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, ""),
        (0, "r" * 256),
        (0, 1),
        (1, "Library/Pos"),
        (2, "not a tag"),
        (2, str(Digest.of(b"another"))),
        (3, "m" * 256),
        (4, "sha256:00"),
        (5, -1),
        (5, 1 << 32),
        (5, True),
        (6, UNIX + CLOCK_SKEW + 1),
        (6, -1.0),
        (6, float("nan")),
        (6, float("inf")),
        (6, int(UNIX)),
    ],
)
def test_a_field_that_is_wrong(place: int, value: object) -> None:
    fields: list[object] = list(FIELDS)
    assert open_record_untrusted(sealed(*fields), UNIX)
    fields[place] = value
    with pytest.raises(InvalidInputError):
        open_record_untrusted(sealed(*fields), UNIX)


@pytest.mark.parametrize(
    "payload", [b"", b"\xff", cbor2.dumps([]), cbor2.dumps({"a": 1}), cbor2.dumps(FIELDS[:6])]
)
def test_a_payload_that_is_no_record(payload: bytes) -> None:
    with pytest.raises(InvalidInputError):
        open_record_untrusted(envelope.seal(key("a"), CONTEXT, payload), UNIX)


def test_what_is_not_sealed_for_this_is_refused() -> None:
    good = record().sealed
    for bad in (
        good[:-1],
        good + b"\0",
        envelope.seal(key("a"), "other", cbor2.dumps(FIELDS)),
        b"\0" * (RECORD_LIMIT + 1),
    ):
        with pytest.raises(InvalidInputError):
            open_record_untrusted(bad, UNIX)


def test_the_youngest_counts() -> None:
    records = RecordSet()
    old, young = record(at=UNIX - 10), record(digest=Digest.of(b"new"))
    assert records.merge(old)
    assert records.merge(young)
    assert not records.merge(old)
    assert not records.merge(young)
    assert list(records) == [young]
    assert records.get(young.key) == young
    assert records.get(("up.example", "library/pos", "43")) is None


def test_of_two_of_one_instant_every_node_keeps_the_same() -> None:
    """Also where only their author differs."""
    one, two = record(author="a"), record(author="b")
    three = record(digest=Digest.of(b"other"))
    kept = []
    for order in ([one, two, three], [three, two, one], [two, three, one], [two, one], [one, two]):
        records = RecordSet()
        for each in order:
            records.merge(each)
        kept.append(list(records))
    assert kept[0] == kept[1] == kept[2]
    assert kept[3] == kept[4]


def test_the_set_is_bounded() -> None:
    records = RecordSet(limit=2)
    old, middle, young = (record(reference=str(n), at=UNIX + n) for n in range(3))
    assert records.merge(middle)
    assert records.merge(young)
    assert not records.merge(old)  # in, and out at once
    assert set(records) == {middle, young}
    assert records.merge(replace(young, reference="3", resolved_at=UNIX + 3))
    assert len(records) == 2
    assert records.get(middle.key) is None


def test_what_is_forgotten_at_the_limit_is_no_part_of_the_sums_any_more() -> None:
    records, other = RecordSet(limit=8), RecordSet()
    for number in range(200):
        one = record(reference=str(number % 40), at=UNIX + number)
        records.merge(one)
        if number >= 192:
            other.merge(one)
    assert set(records) == set(other)
    assert records.sums.sum("") == other.sums.sum("")
    assert records.sums.count("") == 8


def test_a_record_is_found_by_its_leaf() -> None:
    records, one = RecordSet(), record()
    records.merge(one)
    ((key, _version),) = records.sums.leaves("").items()
    assert records.item(key) == one.sealed
    assert records.item(b"\0" * 8) is None


def acquainted(*names: str) -> RecordSet:
    records = RecordSet(limit=40, share=10)
    for name in names:
        records.meet(peer(name))
    return records


def test_made_up_authors_count_as_one_and_displace_nothing_that_a_member_told() -> None:
    records = acquainted("a")
    honest = [record(author="a", reference=f"a{number}", at=UNIX + number) for number in range(10)]
    for one in honest:
        assert records.merge(one)
    for number in range(200):
        records.merge(record(author=f"nobody {number}", reference=f"x{number}", at=UNIX + 1000 + number))
    assert set(honest) <= set(records)
    assert len(records) == 20
    assert records.has_met(peer("a"))
    assert not records.has_met(peer("nobody 1"))


def test_whoever_is_met_is_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "MET_LIMIT", 2)
    records = acquainted("a", "b", "c")
    assert [records.has_met(peer(name)) for name in "abc"] == [False, True, True]


def test_one_author_floods_and_displaces_nobody_elses() -> None:
    records, theirs = acquainted("a", "b", "c"), []
    for number in range(10):
        for author, registry in (("a", "up.example"), ("a", SITE), ("b", "up.example")):
            theirs.append(
                record(author=author, registry=registry, reference=f"{author}{number}", at=UNIX + number)
            )
            assert records.merge(theirs[-1])
    for number in range(100):
        assert records.merge(record(author="c", reference=f"c{number}", at=UNIX + 1000 + number))
    assert not records.merge(record(author="c", reference="older", at=UNIX))
    assert {one for one in records if one.author != peer("c")} == set(theirs)
    assert sorted(one.reference for one in records if one.author == peer("c")) == [
        f"c{number}" for number in range(90, 100)
    ]
    other = acquainted("a", "b", "c")
    for one in reversed(list(records)):
        other.merge(one)
    assert other.sums.sum("") == records.sums.sum("")


def test_as_many_travel_as_are_kept() -> None:
    assert (AUTHOR_LIMIT, RECORDS_LIMIT) == (store_records.AUTHOR_LIMIT, store_records.TAGS_LIMIT)
