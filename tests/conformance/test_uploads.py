"""Pushing blobs: at once, in chunks, mounted, resumed, cancelled (distribution-spec, "Push"; end-4 to 6, 11, 13, 14)."""

import time

import pytest

from tests.conformance.registry import OCTETS, Registry, located, sha512, with_query
from tests.conformance.wire import Answer, BrokenOffError
from tests.images import digest_of, random_bytes

pytestmark = pytest.mark.slow

DATA = random_bytes(5000, seed=20)
DIGEST = digest_of(DATA)
CHUNKS = [(0, 2000), (2000, 4000), (4000, 5000)]


def assert_created(registry: Registry, answer: Answer, data: bytes, digest: str) -> None:
    """201, and its Location MUST be a pullable blob URL."""
    assert answer.status == 201, answer
    if (told := answer.get("docker-content-digest")) is not None:
        assert told == digest
    pulled = registry.ask("GET", located(answer))
    assert (pulled.status, pulled.body) == (200, data)


def assert_not_there(registry: Registry, repository: str, digest: str) -> None:
    assert registry.blob(repository, digest, method="HEAD").status == 404


def offset_of(registry: Registry, place: str) -> tuple[int, str]:
    """GET: how many bytes are kept, and where to go on."""
    answer = registry.ask("GET", place)
    assert answer.status == 204, answer
    start, _, end = answer["range"].partition("-")
    assert start == "0"
    return int(end) + 1, located(answer)


# --- at once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("data", [DATA, b"", b"{}"], ids=["some", "empty", "json"])
def test_post_then_put(registry: Registry, repository: str, data: bytes, algorithm: str) -> None:
    """end-4a, end-6, "POST then PUT": MUST be 202 with a Location, then 201 with a pullable one."""
    place = located(registry.start(repository))
    digest = digest_of(data, algorithm)
    assert_created(registry, registry.close(place, digest, data), data, digest)


def test_every_upload_has_its_own_location(registry: Registry, repository: str) -> None:
    """end-4a: the Location MUST hold a unique session id."""
    places = {located(registry.start(repository)) for _ in range(5)}
    assert len(places) == 5


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("data", [DATA, b""], ids=["some", "empty"])
def test_a_single_post(registry: Registry, repository: str, data: bytes, algorithm: str) -> None:
    """end-4b, "Single POST": MAY be supported; it is: 201 and a pullable Location."""
    digest = digest_of(data, algorithm)
    target = with_query(f"/v2/{repository}/blobs/uploads/", digest=digest)
    assert_created(registry, registry.ask("POST", target, [OCTETS], data), data, digest)


def test_a_single_post_may_be_chunked_by_http(registry: Registry, repository: str) -> None:
    """RFC 9112 7.1: a body's length may be told by its coding."""
    target = with_query(f"/v2/{repository}/blobs/uploads/", digest=DIGEST)
    answer = registry.ask("POST", target, [OCTETS], [DATA[:777], DATA[777:]])
    assert_created(registry, answer, DATA, DIGEST)


def test_a_put_may_be_chunked_by_http(registry: Registry, repository: str) -> None:
    """RFC 9112 7.1."""
    place = located(registry.start(repository))
    answer = registry.ask("PUT", with_query(place, digest=DIGEST), [OCTETS], [DATA[:1], DATA[1:]])
    assert_created(registry, answer, DATA, DIGEST)


@pytest.mark.parametrize("how", ["post", "put", "patch"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_bytes_of_another_digest_are_refused(
    registry: Registry, repository: str, how: str, algorithm: str
) -> None:
    """ "Pushing blobs": an invalid digest SHOULD be 400; code-4; and nothing of it is ever served."""
    promised, sent = digest_of(b"what was promised", algorithm), b"what was sent"
    if how == "post":
        target = with_query(f"/v2/{repository}/blobs/uploads/", digest=promised)
        answer = registry.ask("POST", target, [OCTETS], sent)
    else:
        place = located(registry.start(repository))
        if how == "patch":
            place = located(registry.patch(place, sent))
            answer = registry.close(place, promised)
        else:
            answer = registry.close(place, promised, sent)
    assert answer.status == 400
    assert answer.codes == {"DIGEST_INVALID"}
    for digest in (promised, digest_of(sent, algorithm)):
        assert_not_there(registry, repository, digest)


@pytest.mark.parametrize(
    "digest",
    ["md5:" + "a" * 32, "sha256:abc", "nonsense", "", "sha256:" + "A" * 64, "sha3-256:" + "a" * 64],
)
@pytest.mark.parametrize("how", ["post", "put"])
def test_an_unsupported_or_malformed_digest_is_refused(
    registry: Registry, repository: str, digest: str, how: str
) -> None:
    """ "Pushing blobs": "if the client provided digest is invalid or uses an unsupported algorithm, the registry
    SHOULD respond with 400"."""
    if how == "post":
        target = with_query(f"/v2/{repository}/blobs/uploads/", digest=digest)
        answer = registry.ask("POST", target, [OCTETS], DATA)
    else:
        answer = registry.close(located(registry.start(repository)), digest, DATA)
    assert answer.status == 400
    assert answer.codes <= {"DIGEST_INVALID", "UNSUPPORTED"}


def test_a_put_without_a_digest_is_refused(registry: Registry, repository: str) -> None:
    """end-6: the closing PUT MUST include the digest."""
    place = located(registry.start(repository))
    answer = registry.ask("PUT", place, [OCTETS], DATA)
    assert answer.status == 400


def test_the_digests_algorithm_may_be_announced(registry: Registry, repository: str) -> None:
    """end-4c: `?digest-algorithm=sha512`: 202, and the upload goes on as any other."""
    digest = sha512(DATA)
    place = located(registry.start(repository, "?digest-algorithm=sha512"))
    place = located(registry.patch(place, DATA[:2000], 0))
    assert_created(registry, registry.close(place, digest, DATA[2000:], 2000), DATA, digest)


def test_an_unknown_algorithm_is_refused(registry: Registry, repository: str) -> None:
    """end-4c: fails with 400 or 404."""
    target = f"/v2/{repository}/blobs/uploads/?digest-algorithm=md5"
    assert registry.ask("POST", target, body=b"").status in {400, 404}


def test_a_client_may_wait_for_the_word_to_go_on(registry: Registry, repository: str) -> None:
    """RFC 9110 10.1.1: `Expect: 100-continue` gets 100, or a final answer (curl waits a second otherwise)."""
    place = located(registry.start(repository))
    with registry.connect() as connection:
        headers = [OCTETS, ("Content-Length", str(len(DATA))), ("Expect", "100-continue")]
        connection.send(connection.head("PUT", with_query(place, digest=DIGEST), headers))
        assert connection.read_one("PUT", place).status == 100
        connection.send(DATA)
        assert_created(registry, connection.read("PUT", place), DATA, DIGEST)


def test_a_blob_that_is_there_may_be_pushed_again(registry: Registry, repository: str) -> None:
    """ "Layer Upload De-duplication"."""
    registry.push_blob(repository, DATA)
    assert registry.push_blob(repository, DATA) == DIGEST
    assert registry.blob(repository, DIGEST).body == DATA


# --- in chunks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("last_by", ["PATCH", "PUT"])
def test_in_chunks(registry: Registry, repository: str, last_by: str, algorithm: str) -> None:
    """end-5, end-6, "Pushing a blob in chunks": each MUST be 202 with Location and `Range: 0-END`; the last one
    MAY come with the PUT."""
    digest = digest_of(DATA, algorithm)
    answer = registry.start(repository)
    if (minimum := answer.get("oci-chunk-min-length")) is not None:
        assert int(minimum) <= 2000, "these chunks are too small for this registry"
    place = located(answer)
    chunks = CHUNKS if last_by == "PATCH" else CHUNKS[:-1]
    for start, stop in chunks:
        answer = registry.patch(place, DATA[start:stop], start)
        assert answer.status == 202
        assert answer["range"] == f"0-{stop - 1}"
        place = located(answer)
    last = (DATA[4000:], 4000) if last_by == "PUT" else (b"", None)
    assert_created(registry, registry.close(place, digest, *last), DATA, digest)


def test_as_one_stream(registry: Registry, repository: str) -> None:
    """end-5 as Docker's, podman's and skopeo's clients send it: one PATCH without a Content-Range, chunked by HTTP."""
    place = located(registry.start(repository))
    answer = registry.ask("PATCH", place, [OCTETS], [DATA[:100], DATA[100:4999], DATA[4999:]])
    assert (answer.status, answer["range"]) == (202, "0-4999")
    assert_created(registry, registry.close(located(answer), DIGEST), DATA, DIGEST)


def test_as_several_streams(registry: Registry, repository: str) -> None:
    """end-5: a PATCH without a Content-Range goes on at the end of what is there."""
    place = located(registry.start(repository))
    for start, stop in CHUNKS:
        answer = registry.patch(place, DATA[start:stop])
        assert (answer.status, answer["range"]) == (202, f"0-{stop - 1}")
        place = located(answer)
    assert_created(registry, registry.close(place, DIGEST), DATA, DIGEST)


@pytest.mark.parametrize("order", ["a gap", "again", "overlapping", "not from 0"])
def test_a_chunk_out_of_order_is_416_and_the_upload_goes_on(
    registry: Registry, repository: str, order: str
) -> None:
    """end-5, end-13: MUST be 416; a GET MUST then be 204 with Location and `Range: 0-END`."""
    place = located(registry.start(repository))
    if order == "not from 0":
        assert registry.patch(place, DATA[2000:4000], 2000).status == 416
        answer = registry.ask("GET", place)
        assert answer.status == 204
        assert answer["range"].startswith("0-")
        place = located(answer)
    place = located(registry.patch(place, DATA[:2000], 0))
    if order != "not from 0":
        start = {"a gap": 2001, "again": 0, "overlapping": 1999}[order]
        assert registry.patch(place, DATA[start:4000], start).status == 416
        offset, place = offset_of(registry, place)
        assert offset == 2000
    place = located(registry.patch(place, DATA[2000:], 2000))
    assert_created(registry, registry.close(place, DIGEST), DATA, DIGEST)


def test_a_last_chunk_out_of_order_is_416_and_the_upload_goes_on(registry: Registry, repository: str) -> None:
    """end-6: "if the final chunk is uploaded out of order, the registry MUST respond with a 416"."""
    place = located(registry.patch(located(registry.start(repository)), DATA[:2000], 0))
    assert registry.close(place, DIGEST, DATA[4000:], 4000).status == 416
    offset, place = offset_of(registry, place)
    assert offset == 2000
    assert_created(registry, registry.close(place, DIGEST, DATA[2000:], 2000), DATA, DIGEST)


@pytest.mark.parametrize(
    "told", ["0", "0-", "-1999", "a-b", "1999-0", "0-1999,5-6", "0--1999", "", "9" * 30 + "-" + "9" * 31]
)
def test_a_content_range_of_another_form_is_refused(registry: Registry, repository: str, told: str) -> None:
    """end-5: it MUST match `^[0-9]+-[0-9]+$`; else nothing is taken, the upload goes on."""
    place = located(registry.start(repository))
    answer = registry.ask("PATCH", place, [OCTETS, ("Content-Range", told)], DATA[:2000])
    assert answer.status in {400, 416}
    answer = registry.patch(place, DATA, 0)
    assert (answer.status, answer["range"]) == (202, "0-4999")


@pytest.mark.parametrize("end", [998, 1000, 4999])
def test_a_chunk_of_another_length_than_told_is_refused(
    registry: Registry, repository: str, end: int
) -> None:
    """end-5: the range is that of the chunk, both ends inclusive; code-10 SIZE_INVALID."""
    place = located(registry.start(repository))
    answer = registry.ask("PATCH", place, [OCTETS, ("Content-Range", f"0-{end}")], DATA[:1000])
    assert answer.status in {400, 416}
    answer = registry.patch(place, DATA, 0)
    assert (answer.status, answer["range"]) == (202, "0-4999")


def test_any_earlier_location_tells_where_the_upload_stands(registry: Registry, repository: str) -> None:
    """end-13: `<blob-push-location>` "refers to the URL obtained from any preceding POST or PATCH request"."""
    first = located(registry.start(repository))
    second = located(registry.patch(first, DATA[:2000], 0))
    third = located(registry.patch(second, DATA[2000:4000], 2000))
    for place in (first, second, third):
        offset, newest = offset_of(registry, place)
        assert offset == 4000
    assert registry.patch(first, DATA[:2000], 0).status == 416
    assert_created(registry, registry.close(newest, DIGEST, DATA[4000:], 4000), DATA, DIGEST)


def test_a_new_upload_tells_its_location(registry: Registry, repository: str) -> None:
    """end-13: an active upload MUST be 204 with Location and Range, also before its first byte."""
    answer = registry.ask("GET", located(registry.start(repository)))
    assert answer.status == 204
    assert answer["range"].startswith("0-")
    assert_created(registry, registry.close(located(answer), DIGEST, DATA), DATA, DIGEST)


def test_the_least_length_of_a_chunk_is_a_number(registry: Registry, repository: str) -> None:
    """ "Pushing a blob in chunks": OCI-Chunk-Min-Length, if the registry has a minimum."""
    told = registry.start(repository).get("oci-chunk-min-length")
    assert told is None or int(told) > 0


def test_two_uploads_go_on_side_by_side(registry: Registry, repository: str) -> None:
    """end-5: a session is one upload, whatever others there are; also of the same blob."""
    other = random_bytes(5000, seed=21)
    contents = [DATA, other, DATA]
    places = [located(registry.start(repository)) for _ in contents]
    for start, stop in CHUNKS:
        for number, data in enumerate(contents):
            answer = registry.patch(places[number], data[start:stop], start)
            assert (answer.status, answer["range"]) == (202, f"0-{stop - 1}")
            places[number] = located(answer)
    for place, data in zip(places, contents, strict=True):
        assert_created(registry, registry.close(place, digest_of(data)), data, digest_of(data))


# --- unknown, cancelled ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
@pytest.mark.parametrize("name", ["cdb8eb0a-4d1b-4b54-9e5a-b9f6a2e3ed47", "..", "%2e%2e", "a" * 200, "%00"])
def test_an_upload_that_is_not_there_is_404(
    registry: Registry, repository: str, method: str, name: str
) -> None:
    """end-5, end-6, end-13, end-14: 404 (400 for an id that none can have); code-3."""
    place = with_query(f"/v2/{repository}/blobs/uploads/{name}", digest=DIGEST)
    body = DATA if method in {"PATCH", "PUT"} else None
    answer = registry.ask(method, place, [OCTETS] if body else [], body)
    assert answer.status in {400, 404}
    assert answer.codes <= {"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID", "NAME_INVALID", "UNSUPPORTED"}


@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
def test_an_upload_belongs_to_its_repository(registry: Registry, repository: str, method: str) -> None:
    """end-4a: `<name>` is the repository of the session; under another it is not found."""
    place = located(registry.start(f"{repository}/one"))
    elsewhere = with_query(place.replace(f"{repository}/one", f"{repository}/two"), digest=DIGEST)
    body = DATA if method in {"PATCH", "PUT"} else None
    assert registry.ask(method, elsewhere, [OCTETS] if body else [], body).status in {400, 403, 404}
    assert_created(registry, registry.close(place, DIGEST, DATA), DATA, DIGEST)


@pytest.mark.parametrize("sent", [0, 2000])
def test_an_upload_is_cancelled(registry: Registry, repository: str, sent: int) -> None:
    """end-14, "Cancel a blob upload": SHOULD be 204; the session is gone."""
    place = located(registry.start(repository))
    if sent:
        place = located(registry.patch(place, DATA[:sent], 0))
    answer = registry.ask("DELETE", place, [("Content-Length", "0")])
    assert answer.status == 204
    for again in (
        registry.ask("GET", place),
        registry.patch(place, DATA[sent:], sent),
        registry.close(place, DIGEST),
        registry.ask("DELETE", place, [("Content-Length", "0")]),
    ):
        assert again.status == 404
        assert again.codes == {"BLOB_UPLOAD_UNKNOWN"}
    assert_not_there(registry, repository, DIGEST)


def test_an_upload_ends_with_its_put(registry: Registry, repository: str) -> None:
    """end-6: the session is closed by it."""
    place = located(registry.start(repository))
    assert_created(registry, registry.close(place, DIGEST, DATA), DATA, DIGEST)
    assert registry.ask("GET", place).status == 404


# --- mounting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_is_mounted_from_another_repository(
    registry: Registry, repository: str, algorithm: str
) -> None:
    """end-11, "Mounting a blob from another repository": MUST be 201 with a Location to pull it from."""
    digest = registry.push_blob(f"{repository}/from", DATA, algorithm)
    options = {"mount": digest, "from": f"{repository}/from", "origin": "registry.example"}  # as crane does
    target = with_query(f"/v2/{repository}/to/blobs/uploads/", **options)
    answer = registry.ask("POST", target, body=b"")
    assert_created(registry, answer, DATA, digest)
    assert located(answer) == f"/v2/{repository}/to/blobs/{digest}"


def test_a_blob_is_mounted_without_saying_from_where(registry: Registry, repository: str) -> None:
    """end-11: `from` MAY be optional; it is."""
    digest = registry.push_blob(f"{repository}/from", DATA)
    answer = registry.ask("POST", with_query(f"/v2/{repository}/to/blobs/uploads/", mount=digest), body=b"")
    assert_created(registry, answer, DATA, digest)


@pytest.mark.parametrize("source", ["with", "nowhere", None])
def test_a_blob_that_cannot_be_mounted_is_uploaded(
    registry: Registry, repository: str, source: str | None
) -> None:
    """end-11: "unable to mount the requested blob, it SHOULD return a 202", and the upload MAY go on."""
    data = f"of {repository} alone".encode()
    registry.push_blob(f"{repository}/with", random_bytes(700, seed=23))
    options = {"mount": digest_of(data)} | ({"from": f"{repository}/{source}"} if source else {})
    target = with_query(f"/v2/{repository}/to/blobs/uploads/", **options)
    answer = registry.ask("POST", target, body=b"")
    assert answer.status == 202
    assert_created(registry, registry.close(located(answer), digest_of(data), data), data, digest_of(data))


def test_a_mount_of_no_digest_is_refused_or_an_upload(registry: Registry, repository: str) -> None:
    """end-11: never a 201 for what is no digest."""
    target = f"/v2/{repository}/blobs/uploads/?mount=nonsense&from={repository}"
    assert registry.ask("POST", target, body=b"").status in {202, 400}


# --- broken connections ---------------------------------------------------------------------------------------

BIG = random_bytes(3_000_000, seed=24)


def break_off(registry: Registry, place: str, framing: str, start: int = 0) -> None:
    """A PATCH whose connection ends in its middle."""
    with registry.connect() as connection:
        told = ("Content-Length", str(len(BIG) - start))
        if framing == "chunked":
            told = ("Transfer-Encoding", "chunked")
        headers = [OCTETS, ("Content-Range", f"{start}-{len(BIG) - 1}"), told]
        connection.send(connection.head("PATCH", place, headers[:1] + headers[2:] if start == 0 else headers))
        half = BIG[start : start + 700_000]
        connection.send(b"%x\r\n%s\r\n" % (len(half), half) if framing == "chunked" else half)


def go_on(registry: Registry, place: str, data: bytes) -> str:
    """Send what is missing, from where the registry says it is; that may move until it has seen the break."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        offset, place = offset_of(registry, place)
        if offset > 1:  # `0-0` may be nothing, too
            answer = registry.patch(place, data[offset:], offset)
            if answer.status == 202:
                assert answer["range"] == f"0-{len(data) - 1}"
                return located(answer)
            assert answer.status in {409, 416, 429}, answer
        time.sleep(0.1)
    raise AssertionError("what came before the break is not kept, or nobody may go on with it")


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upload_that_broke_off_is_resumed(registry: Registry, repository: str, framing: str) -> None:
    """ "Resumable Push", end-13: the registry tells what it has, the client sends only what remains."""
    place = located(registry.start(repository))
    break_off(registry, place, framing)
    place = go_on(registry, place, BIG)
    digest = digest_of(BIG)
    assert_created(registry, registry.close(place, digest), BIG, digest)


def test_an_upload_that_broke_off_twice_is_resumed(registry: Registry, repository: str) -> None:
    """end-13."""
    place = located(registry.start(repository))
    break_off(registry, place, "length")
    place = go_on(registry, place, BIG[:2_000_000])
    break_off(registry, place, "length", 2_000_000)
    place = go_on(registry, place, BIG)
    digest = digest_of(BIG)
    assert_created(registry, registry.close(place, digest), BIG, digest)


def test_a_put_that_broke_off_leaves_no_blob(registry: Registry, repository: str) -> None:
    """end-6: what did not come whole is not there; the upload is, or is gone."""
    place = located(registry.start(repository))
    digest = digest_of(BIG)
    with registry.connect() as connection:
        headers = [OCTETS, ("Content-Length", str(len(BIG)))]
        connection.send(connection.head("PUT", with_query(place, digest=digest), headers) + BIG[:1_000_000])
    assert_not_there(registry, repository, digest)
    answer = registry.ask("GET", place)
    assert answer.status in {204, 404}
    assert registry.push_blob(repository, BIG) == digest


def test_two_writers_of_one_upload_do_not_mix(registry: Registry, repository: str) -> None:
    """end-5: chunks MUST be in order: while one comes, another is refused, or waits; the bytes stay whole."""
    place = located(registry.start(repository))
    with registry.connect() as slow:
        slow.send(
            slow.head("PATCH", place, [OCTETS, ("Content-Length", "2000"), ("Content-Range", "0-1999")])
        )
        slow.send(DATA[:1000])
        with registry.connect() as fast:
            fast.send(
                fast.head("PATCH", place, [OCTETS, ("Content-Length", "5000"), ("Content-Range", "0-4999")])
            )
            fast.send(DATA)
            slow.send(DATA[1000:2000])
            outcomes = set()
            for connection in (slow, fast):
                try:
                    outcomes.add(connection.read("PATCH", place).status)
                except BrokenOffError:
                    outcomes.add(0)
    assert 202 in outcomes
    assert outcomes <= {202, 400, 404, 409, 416, 423, 429, 0}
    offset, place = offset_of(registry, place)
    rest = DATA[offset:]
    assert_created(registry, registry.close(place, DIGEST, rest, offset if rest else None), DATA, DIGEST)
