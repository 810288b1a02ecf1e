"""Parts of blobs, and conditions: RFC 9110 13 and 14, which "Pulling blobs" points to."""

import re

import pytest

from tests.conformance.registry import Registry
from tests.conformance.wire import Answer
from tests.images import build_image, random_bytes

pytestmark = pytest.mark.slow

DATA = random_bytes(2048, seed=10)
IMAGE = build_image([random_bytes(500, seed=11)])
PARTS = [
    ("bytes=500-1499", 500, 1500),
    ("bytes=0-0", 0, 1),
    ("bytes=0-", 0, 2048),
    ("bytes=500-", 500, 2048),
    ("bytes=2047-", 2047, 2048),
    ("bytes=-500", 1548, 2048),
    ("bytes=-1", 2047, 2048),
    ("bytes=-99999", 0, 2048),
    ("bytes=2000-5000", 2000, 2048),
    ("bytes=0-99999999999999999999", 0, 2048),
    ("BYTES=10-19", 10, 20),
]


@pytest.mark.parametrize(("asked", "start", "stop"), PARTS)
def test_a_part_of_a_blob(registry: Registry, repository: str, asked: str, start: int, stop: int) -> None:
    """ "Pulling blobs": Range SHOULD be supported; RFC 9110 14.1.2, 14.4, 15.3.7: 206, clipped to the blob."""
    digest = registry.push_blob(repository, DATA)
    answer = registry.blob(repository, digest, [("Range", asked)])
    assert answer.status == 206
    assert answer.body == DATA[start:stop]
    assert answer["content-length"] == str(stop - start)
    assert answer["content-range"] == f"bytes {start}-{stop - 1}/2048"
    assert answer["docker-content-digest"] == digest


@pytest.mark.parametrize("asked", ["bytes=2048-", "bytes=5000-10000", "bytes=500-0", "bytes=-0"])
def test_a_part_that_is_not_in_the_blob_is_416(registry: Registry, repository: str, asked: str) -> None:
    """RFC 9110 14.1.1, 15.5.17: 416, and the length in Content-Range; `500-0` as the public suite wants it."""
    digest = registry.push_blob(repository, DATA)
    answer = registry.blob(repository, digest, [("Range", asked)])
    assert answer.status == 416
    assert answer["content-range"] == "bytes */2048"


@pytest.mark.parametrize("asked", ["lines=0-9", "bytes 0-9", "bytes=a-b", "bytes=", "0-9", "bytes=1-2-3"])
def test_a_range_that_is_none_is_passed_over(registry: Registry, repository: str, asked: str) -> None:
    """RFC 9110 14.2: a server MUST ignore a unit that it does not know, and MAY ignore what is malformed."""
    digest = registry.push_blob(repository, DATA)
    answer = registry.blob(repository, digest, [("Range", asked)])
    assert (answer.status, answer.body) == (200, DATA)


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-9,20-29",
        "bytes=0-0,-1",
        "bytes=0-1023,1024-2047",
        "bytes=100-199,150-300",
        "bytes=0-9,9000-9999",
    ],
)
def test_several_parts_at_once(registry: Registry, repository: str, asked: str) -> None:
    """RFC 9110 14.2, 14.6, 15.3.7.2: the whole, or one part, or multipart/byteranges; never other bytes."""
    digest = registry.push_blob(repository, DATA)
    answer = registry.blob(repository, digest, [("Range", asked)])
    if answer.status == 200:
        assert answer.body == DATA
        return
    assert answer.status == 206
    wanted = [span for one in asked.removeprefix("bytes=").split(",") if (span := _span(one))]
    given = _parts(answer)
    for start, stop in wanted:
        assert any(first <= start and stop <= last for first, last in given), (given, wanted)


def _span(one: str) -> tuple[int, int] | None:
    first, _, last = one.partition("-")
    if not first:
        return len(DATA) - int(last), len(DATA)
    return None if int(first) >= len(DATA) else (int(first), min(int(last) + 1, len(DATA)))


def _parts(answer: Answer) -> list[tuple[int, int]]:
    """What a 206 holds, each part's bytes checked."""
    told = answer["content-type"]
    if not told.startswith("multipart/byteranges"):
        pairs = [(answer["content-range"], answer.body)]
    else:
        assert answer.get("content-range") is None  # RFC 9110 15.3.7.2: MUST NOT
        found = re.search(r'boundary="?([^";]+)"?', told)
        assert found
        pairs = []
        for part in answer.body.split(b"--" + found[1].encode())[1:-1]:
            head, _, data = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            line = re.search(rb"(?im)^content-range: *(.*?)\r?$", head)
            assert line
            pairs.append((line[1].decode(), data.removesuffix(b"\r\n")))
    spans = []
    for told_range, data in pairs:
        numbers = re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/2048", told_range)
        assert numbers, told_range
        start, stop = int(numbers[1]), int(numbers[2]) + 1
        assert data == DATA[start:stop]
        spans.append((start, stop))
    return spans


def test_many_small_parts_cost_no_more_than_the_whole(registry: Registry, repository: str) -> None:
    """RFC 9110 14.2, 17.15: a server ought to ignore or coalesce many small or overlapping ranges."""
    digest = registry.push_blob(repository, DATA)
    many = "bytes=" + ",".join("0-2047" for _ in range(200))
    answer = registry.blob(repository, digest, [("Range", many)])
    assert answer.status in {200, 206, 416}
    assert len(answer.body) < 4 * len(DATA)


def test_a_blob_says_that_it_can_be_asked_for_in_parts(registry: Registry, repository: str) -> None:
    """RFC 9110 14.3."""
    digest = registry.push_blob(repository, DATA)
    assert registry.blob(repository, digest)["accept-ranges"] == "bytes"
    assert registry.blob(repository, digest, method="HEAD")["accept-ranges"] == "bytes"


def test_a_part_of_an_empty_blob(registry: Registry, repository: str) -> None:
    """RFC 9110 14.1.2: no range is satisfiable in it; 416, or the Range is passed over."""
    digest = registry.push_blob(repository, b"")
    answer = registry.blob(repository, digest, [("Range", "bytes=0-")])
    assert answer.status in {200, 416}
    if answer.status == 200:
        assert answer["content-length"] == "0"


def test_a_head_has_no_parts(registry: Registry, repository: str) -> None:
    """RFC 9110 14.2: Range is for GET alone."""
    digest = registry.push_blob(repository, DATA)
    answer = registry.blob(repository, digest, [("Range", "bytes=0-9")], method="HEAD")
    assert (answer.status, answer["content-length"]) == (200, "2048")


def test_a_pull_that_broke_off_is_resumed(registry: Registry, repository: str) -> None:
    """ "Resumable Pull": the rest is asked for, bound to what was there before by If-Range (RFC 9110 13.1.5)."""
    data = random_bytes(400_000, seed=12)
    digest = registry.push_blob(repository, data)
    with registry.connect() as connection:
        connection.send(connection.head("GET", f"/v2/{repository}/blobs/{digest}"))
        head = connection._until(b"\r\n\r\n")
        assert head.split()[1] == b"200"
        got = connection._exactly(123_456)
    etag = registry.blob(repository, digest, method="HEAD")["etag"]
    headers = [("Range", f"bytes={len(got)}-"), ("If-Range", etag)]
    answer = registry.blob(repository, digest, headers)
    assert answer.status == 206
    assert got + answer.body == data
    other = [("Range", "bytes=10-"), ("If-Range", '"something else"')]
    assert registry.blob(repository, digest, other).body == data


# --- conditions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", ["manifest", "blob"])
def test_what_a_client_has_is_not_sent_again(
    registry: Registry, repository: str, kind: str, method: str
) -> None:
    """RFC 9110 8.8.3, 13.1.2, 15.4.5: 304 to If-None-Match with the ETag (weak comparison), `*` or a list."""
    registry.push(repository, IMAGE, "v1")
    digest = next(iter(IMAGE.blobs))
    target = f"/v2/{repository}/manifests/v1" if kind == "manifest" else f"/v2/{repository}/blobs/{digest}"
    accept = [("Accept", IMAGE.media_type)]
    etag = registry.ask(method, target, accept)["etag"]
    assert re.fullmatch(r'(W/)?"[^"]*"', etag)
    with registry.connect() as connection:
        for condition in (etag, f"W/{etag}", "*", f'"a", {etag}, "b"'):
            answer = connection.ask(method, target, [*accept, ("If-None-Match", condition)])
            assert answer.status == 304, condition
            assert answer["etag"] == etag
        answer = connection.ask(method, target, [*accept, ("If-None-Match", '"other"')])
        assert answer.status == 200


def test_a_tag_that_moved_is_sent_again(registry: Registry, repository: str) -> None:
    """RFC 9110 13.1.2, and 9111 5.2.2.4: what a tag means must be asked anew, what a digest names need not."""
    registry.push(repository, IMAGE, "v1")
    before = registry.manifest(repository, "v1")
    other = build_image([random_bytes(500, seed=13)])
    registry.push(repository, other, "v1")
    answer = registry.manifest(repository, "v1", [("If-None-Match", before["etag"])])
    assert (answer.status, answer.body) == (200, other.raw)
    assert "max-age=31536000" not in (answer.get("cache-control") or "")
