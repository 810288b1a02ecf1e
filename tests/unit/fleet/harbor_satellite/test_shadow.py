import json

import pytest

from meshsat.errors import InvalidInputError
from meshsat.fleet.harbor_satellite.shadow import (
    DAYS_LIMIT,
    FILE_LIMIT,
    Ledger,
    Weight,
    encode_ledger,
    parse_ledger_untrusted,
    weigh,
)
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from tests.images import Image, build_image

A, B, C = (Digest.of(one) for one in (b"a", b"b", b"c"))
DAY = 86400.0
POS, APP = "h.example/pos:42", "h.example/app:1"


def weight(root: Digest, parts: dict[Digest, int]) -> Weight:
    return Weight(root, parts, frozenset(parts))


def manifests(image: Image) -> tuple[Manifest, dict[Digest, Manifest]]:
    parsed = {
        Digest.parse_untrusted(digest): parse_manifest_untrusted(raw, image.media_types[digest])
        for digest, raw in image.manifests.items()
    }
    root = parsed.pop(Digest.parse_untrusted(image.root))
    return root, parsed


def test_each_satellite_fetches_what_the_site_fetches_once() -> None:
    ledger = Ledger()
    ledger.update({POS: weight(A, {A: 10, B: 100}), APP: weight(C, {C: 5, B: 100})}, 0.0, 4, 7)
    report = ledger.report(None, live=4)
    assert (report.once, report.each, report.saved, report.own) == (115, 460, 345, 7)
    assert report.since == "1970-01-01"
    assert {image.reference: (image.size, image.once) for image in report.images} == {
        APP: (105, 105),
        POS: (110, 10),
    }
    assert ledger.report(10, live=4).each == 1150
    assert ledger.report(1, live=4).saved == 0


def test_what_is_held_already_counts_no_more_until_it_was_gone() -> None:
    ledger = Ledger()
    ledger.update({POS: weight(A, {A: 10, B: 100})}, 0.0, 2, 0)
    ledger.update({POS: weight(A, {A: 10, B: 100})}, 1.0, 2, 0)
    assert ledger.report(None, 2).once == 110
    ledger.update({POS: weight(C, {C: 20, B: 100})}, DAY, 3, 0)  # its tag moved
    assert ledger.report(None, 2).once == 130
    ledger.update({}, DAY, 3, 0)
    ledger.update({POS: weight(C, {C: 20, B: 100})}, 2 * DAY, 3, 0)
    report = ledger.report(None, 2)
    assert [(day.day, day.once, day.each, day.nodes) for day in report.days] == [
        ("1970-01-01", 110, 220, 2),
        ("1970-01-02", 20, 60, 3),
        ("1970-01-03", 120, 360, 3),
    ]


def test_an_image_for_one_platform_weighs_all_of_it() -> None:
    image = build_image([b"layer"])
    weighed = weigh(*manifests(image))
    assert weighed.size == image.size
    assert weighed.single == set(weighed.parts)


def test_of_an_index_all_platforms_weigh_and_linux_amd64_stands_beside() -> None:
    image = build_image([b"layer", b"more"], ["linux/amd64", "linux/arm64"])
    weighed = weigh(*manifests(image))
    assert {str(digest): size for digest, size in weighed.parts.items()} == {
        digest: len(data) for digest, data in image.contents.items()
    }
    amd64 = json.loads(image.raw)["manifests"][0]["digest"]
    assert Digest.parse_untrusted(amd64) in weighed.single
    assert Digest.parse_untrusted(image.root) not in weighed.single
    assert len(weighed.single) == 4
    ledger = Ledger()
    ledger.update({APP: weighed}, 0.0, 3, 0)
    single = sum(weighed.parts[digest] for digest in weighed.single)
    assert ledger.report(None, 3).single == 3 * single
    assert single < weighed.size


def test_it_is_read_again_and_counts_nothing_twice() -> None:
    ledger = Ledger()
    ledger.update({POS: weight(A, {A: 10, B: 100})}, 0.0, 4, 7)
    again = parse_ledger_untrusted(encode_ledger(ledger))
    assert again == ledger
    again.update({POS: weight(A, {A: 10, B: 100})}, 5.0, 4, 0)
    assert again.report(None, 4) == ledger.report(None, 4)


def test_days_are_bounded() -> None:
    ledger = Ledger()
    for day in range(DAYS_LIMIT + 3):
        ledger.update({}, day * DAY, 1, 1)
    assert len(ledger.days) == DAYS_LIMIT
    assert "1970-01-01" not in ledger.days


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'{"format": 1}',
        b'{"format": 1, "images": [7], "days": {}}',
        b'{"format": 1, "images": [{"parts": {"x": 1}}], "days": {}}',
        b'{"format": 1, "images": [], "days": {"x": [1,2,3,4,5]}}',
        b'{"format": 1, "images": [], "days": {"1970-01-01": [1,2,3,4]}}',
        b'{"format": 1, "images": [], "days": {"1970-01-01": [1,2,3,4,-5]}}',
        b'{"format": 1, "images": [], "days": {"1970-01-01": [1,2,3,4,1e5]}}',
        b" " * (FILE_LIMIT + 1),
    ],
)
def test_what_is_no_ledger_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_ledger_untrusted(raw)
