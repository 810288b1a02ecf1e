import math

import pytest
import trio
from trio.testing import MockClock

from meshsat.config import RegistrySection
from meshsat.errors import DeniedError, NotFoundError, StorageError, StorageFullError, UnavailableError
from meshsat.http.asgi import App
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.reading import RefusedBlob
from meshsat.registry.app import create_registry
from meshsat.registry.content import Name
from tests.asgi_client import Answer, call
from tests.images import build_image, random_bytes
from tests.memory_content import MemoryContent

NOW = 1_800_000_000.0
POS = Name(None, "library/pos")
IMAGE = build_image([b"layer one", b"layer two"], ["linux/amd64", "linux/arm64"])
MISSING = "sha256:" + "0" * 64
BLOB = random_bytes(300_000)


class World:
    def __init__(self) -> None:
        self.content = MemoryContent()
        self.content.add(POS, "42", IMAGE)
        self.blob = self.content.add_blob(BLOB)
        self.metrics = Metrics()
        self.app: App = create_registry(self.content, self.metrics, RegistrySection(), now=lambda: NOW)

    async def get(self, target: str, *headers: tuple[str, str]) -> Answer:
        return await call(self.app, "GET", target, headers)

    async def head(self, target: str, *headers: tuple[str, str]) -> Answer:
        return await call(self.app, "HEAD", target, headers)

    async def get_blob(self, *headers: tuple[str, str]) -> Answer:
        return await self.get(f"/v2/library/pos/blobs/{self.blob}", *headers)

    def counted(self, kind: str, status: str) -> float:
        labels = {"kind": kind, "status": status}
        return self.metrics.registry.get_sample_value("meshsat_registry_requests_total", labels) or 0


@pytest.fixture
def world() -> World:
    return World()


# --- ping -----------------------------------------------------------------------------------------------------


async def test_ping(world: World) -> None:
    for path in ("/v2/", "/v2"):
        answer = await world.get(path)
        assert answer.status == 200
        assert answer["docker-distribution-api-version"] == "registry/2.0"
        assert answer.json == {}
    assert world.content.asked == []
    assert world.counted("ping", "200") == 2


# --- manifests ------------------------------------------------------------------------------------------------


async def test_a_manifest_by_tag_is_the_bytes_under_the_type_that_it_has(world: World) -> None:
    answer = await world.get("/v2/library/pos/manifests/42")
    assert answer.status == 200
    assert answer.body == IMAGE.raw
    assert answer["content-type"] == IMAGE.media_type
    assert answer["content-length"] == str(len(IMAGE.raw))
    assert answer["docker-content-digest"] == IMAGE.root
    assert answer["etag"] == f'"{IMAGE.root}"'
    assert answer["cache-control"] == "no-cache"
    assert "oci-namespace" not in answer


async def test_a_manifest_by_digest_is_good_for_ever(world: World) -> None:
    for digest, raw in IMAGE.manifests.items():
        answer = await world.get(f"/v2/library/pos/manifests/{digest}")
        assert answer.body == raw
        assert answer["docker-content-digest"] == digest
        assert "immutable" in answer["cache-control"]


async def test_docker_types_are_served_as_they_are(world: World) -> None:
    docker = build_image([b"x"], docker=True)
    world.content.add(POS, "docker", docker)
    answer = await world.get("/v2/library/pos/manifests/docker")
    assert answer["content-type"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert answer.body == docker.raw


@pytest.mark.parametrize(
    "accept",
    [
        [],
        ["*/*"],
        ["application/vnd.oci.image.manifest.v1+json"],
        ["application/json"],
        ["application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.index.v1+json"],
    ],
)
async def test_whatever_is_accepted_the_stored_type_is_served(world: World, accept: list[str]) -> None:
    answer = await world.get("/v2/library/pos/manifests/42", *(("Accept", value) for value in accept))
    assert (answer.status, answer["content-type"], answer.body) == (200, IMAGE.media_type, IMAGE.raw)


async def test_head_of_a_manifest_says_what_get_does(world: World) -> None:
    got = await world.get("/v2/library/pos/manifests/42")
    head = await world.head("/v2/library/pos/manifests/42")
    assert head.headers == got.headers
    assert head.body == b""


async def test_a_manifest_that_the_client_has_is_not_sent_again(world: World) -> None:
    answer = await world.get("/v2/library/pos/manifests/42", ("If-None-Match", f'W/"x", "{IMAGE.root}"'))
    assert (answer.status, answer.body) == (304, b"")
    assert answer["docker-content-digest"] == IMAGE.root
    changed = await world.get("/v2/library/pos/manifests/42", ("If-None-Match", '"sha256:other"'))
    assert changed.status == 200


async def test_a_tag_tells_its_age(world: World) -> None:
    world.content.resolved_at = NOW - 3600.5
    fresh = await world.get("/v2/library/pos/manifests/42")
    assert fresh["age"] == "3600"
    assert "warning" not in fresh
    world.content.fresh = False
    stale = await world.get("/v2/library/pos/manifests/42")
    assert stale["age"] == "3600"
    assert stale["warning"].startswith('299 - "')
    by_digest = await world.get(f"/v2/library/pos/manifests/{IMAGE.root}")
    assert "age" not in by_digest
    assert "warning" not in by_digest


async def test_an_age_is_never_negative(world: World) -> None:
    world.content.resolved_at = NOW + 500
    assert (await world.get("/v2/library/pos/manifests/42"))["age"] == "0"


async def test_the_namespace_is_used_and_answered(world: World) -> None:
    world.content.add(Name("reg.example.test", "pos"), "1", IMAGE)
    answer = await world.get("/v2/pos/manifests/1?ns=reg.example.test")
    assert (answer.status, answer["oci-namespace"]) == (200, "reg.example.test")
    assert (await world.get("/v2/pos/manifests/1")).status == 404
    assert (await world.get("/v2/reg.example.test/pos/manifests/1")).status == 200


@pytest.mark.parametrize("reference", ["43", MISSING])
async def test_an_unknown_manifest_is_a_404(world: World, reference: str) -> None:
    answer = await world.get(f"/v2/library/pos/manifests/{reference}")
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")
    assert world.counted("manifest", "404") == 1


# --- what goes wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"/v2/a/blobs/{MISSING}", "BLOB_UNKNOWN"),
        ("/v2/a/manifests/x", "MANIFEST_UNKNOWN"),
        ("/v2/a/tags/list", "NAME_UNKNOWN"),
    ],
)
async def test_a_content_that_hangs_is_a_404_in_time(
    world: World, path: str, code: str, autojump_clock: MockClock
) -> None:
    world.content.hang = True
    start = trio.current_time()
    for method in ("GET", "HEAD"):
        answer = await call(world.app, method, path)
        assert answer.status == 404
    answer = await world.get(path)
    assert answer.code == code
    assert trio.current_time() - start <= 3 * (RegistrySection().resolve_timeout + 1.0)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (NotFoundError("nobody has it"), 404, "MANIFEST_UNKNOWN"),
        (UnavailableError("the uplink is down"), 503, "UNAVAILABLE"),
        (DeniedError("credentials refused"), 403, "DENIED"),
        (StorageError("cannot read"), 500, "UNAVAILABLE"),
        (StorageFullError("disk full"), 507, "UNAVAILABLE"),
    ],
)
async def test_what_the_content_raises_is_told(
    world: World, fault: Exception, status: int, code: str
) -> None:
    world.content.fault = fault
    answer = await world.get("/v2/library/pos/manifests/42")
    assert (answer.status, answer.code) == (status, code)
    assert ("retry-after" in answer) == (status == 503)


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/a/manifests/x", f"/v2/a/blobs/{MISSING}", "/v2/a/blobs/uploads/", "/v2/a/tags/list"]
)
async def test_it_is_read_only(world: World, method: str, path: str) -> None:
    answer = await call(world.app, method, path, body=b"data")
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert answer["allow"] == "GET, HEAD"
    assert world.content.asked == []


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/%2e%2e%2f%2e%2e/manifests/x", 400, "NAME_INVALID"),
        ("/v2/../../etc/passwd/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a%00b/tags/list", 400, "NAME_INVALID"),
        ("/v2/a/blobs/sha256:..", 400, "DIGEST_INVALID"),
        (f"/v2/{'a' * 300}/blobs/{MISSING}", 400, "NAME_INVALID"),
        ("/v2/_catalog/x", 404, "UNSUPPORTED"),
        ("/v2/_catalog?n=x", 400, "UNSUPPORTED"),
        ("/v2/a/referrers/latest", 400, "DIGEST_INVALID"),
        ("/", 404, "UNSUPPORTED"),
    ],
)
async def test_what_is_not_well_formed_touches_nothing(
    world: World, path: str, status: int, code: str
) -> None:
    answer = await world.get(path)
    assert (answer.status, answer.code) == (status, code)
    assert answer["content-type"] == "application/json"
    assert world.content.asked == []


# --- blobs ----------------------------------------------------------------------------------------------------


async def test_a_blob(world: World) -> None:
    answer = await world.get_blob()
    assert answer.status == 200
    assert answer.complete
    assert answer.body == BLOB
    assert answer["content-length"] == str(len(BLOB))
    assert answer["content-type"] == "application/octet-stream"
    assert answer["docker-content-digest"] == str(world.blob)
    assert answer["etag"] == f'"{world.blob}"'
    assert answer["accept-ranges"] == "bytes"
    assert "immutable" in answer["cache-control"]
    assert world.content.readers[0].left
    assert world.metrics.registry_out._value.get() == len(BLOB)


async def test_an_empty_blob(world: World) -> None:
    empty = world.content.add_blob(b"")
    answer = await world.get(f"/v2/a/blobs/{empty}")
    assert (answer.status, answer.body, answer["content-length"]) == (200, b"", "0")
    assert answer.complete
    ranged = await world.get(f"/v2/a/blobs/{empty}", ("Range", "bytes=0-"))
    assert (ranged.status, ranged["content-range"]) == (416, "bytes */0")


async def test_head_of_a_blob_starts_no_transfer(world: World) -> None:
    head = await world.head(f"/v2/library/pos/blobs/{world.blob}", ("Range", "bytes=0-9"))
    assert (head.status, head["content-length"], head.body) == (200, str(len(BLOB)), b"")
    (reader,) = world.content.readers
    assert not reader.entered
    assert reader.gave == 0


async def test_a_blob_that_the_client_has_is_not_transferred(world: World) -> None:
    answer = await world.get_blob(("If-None-Match", f'"{world.blob}"'), ("Range", "bytes=0-1"))
    assert (answer.status, answer.body) == (304, b"")
    assert not world.content.readers[0].entered


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199999", 100, 200_000),
        ("bytes=299999-", 299_999, 300_000),
        ("bytes=-500", 299_500, 300_000),
        ("bytes=200000-5000000", 200_000, 300_000),
    ],
)
async def test_a_range_of_a_blob(world: World, value: str, start: int, stop: int) -> None:
    answer = await world.get_blob(("Range", value))
    assert answer.status == 206
    assert answer.body == BLOB[start:stop]
    assert answer["content-range"] == f"bytes {start}-{stop - 1}/{len(BLOB)}"
    assert answer["content-length"] == str(stop - start)
    assert world.content.readers[0].gave == stop - start


@pytest.mark.parametrize("value", ["bytes=300000-", "bytes=500-0", "bytes=-0"])
async def test_a_range_beyond_the_blob(world: World, value: str) -> None:
    answer = await world.get_blob(("Range", value))
    assert (answer.status, answer.code) == (416, "UNSUPPORTED")
    assert answer["content-range"] == f"bytes */{len(BLOB)}"
    assert not world.content.readers[0].entered


async def test_several_ranges_and_a_stale_if_range_get_the_whole(world: World) -> None:
    for headers in (
        [("Range", "bytes=0-9,20-29")],
        [("Range", "bytes=0-9"), ("If-Range", '"sha256:other"')],
        [("Range", "lines=1-2")],
    ):
        answer = await world.get_blob(*headers)
        assert (answer.status, answer.body) == (200, BLOB)


async def test_a_matching_if_range_gets_the_range(world: World) -> None:
    answer = await world.get_blob(("Range", "bytes=0-9"), ("If-Range", f'"{world.blob}"'))
    assert (answer.status, answer.body) == (206, BLOB[:10])


async def test_a_blob_still_arriving_streams_from_its_first_byte(
    world: World, autojump_clock: MockClock
) -> None:
    gates: dict[int, trio.Event] = {}
    world.content.arrived = lambda offset: gates.setdefault(offset, trio.Event())
    seen: list[int] = []

    async def on_piece(answer: Answer) -> None:
        seen.append(len(answer.body))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: call(world.app, "GET", f"/v2/a/blobs/{world.blob}", on_piece=on_piece))
        for count, offset in enumerate(range(0, len(BLOB), world.content.piece)):
            await trio.testing.wait_all_tasks_blocked()
            assert len(seen) == count
            gates[offset].set()
    assert seen[-1] == len(BLOB)


async def test_the_next_piece_is_not_made_before_the_client_took_the_last(
    world: World, autojump_clock: MockClock
) -> None:
    async def on_piece(_: Answer) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(1000):
        await call(world.app, "GET", f"/v2/a/blobs/{world.blob}", on_piece=on_piece)
    assert world.content.readers[0].gave == world.content.piece
    assert world.content.readers[0].left


@pytest.mark.parametrize("taken", [0, 1])
async def test_a_client_that_goes_away_withdraws_its_interest(
    world: World, autojump_clock: MockClock, taken: int
) -> None:
    """`taken`: pieces that come before the client goes; the source gives no more."""
    ready = trio.Event()
    ready.set()
    world.content.arrived = lambda offset: ready if offset < taken * world.content.piece else trio.Event()
    gone = trio.Event()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: call(world.app, "GET", f"/v2/a/blobs/{world.blob}", gone=gone))
        await trio.testing.wait_all_tasks_blocked()
        (reader,) = world.content.readers
        assert not reader.left
        gone.set()
        await reader.gone.wait()
    assert trio.current_time() == start
    assert world.metrics.registry_out._value.get() == taken * world.content.piece


async def test_a_source_that_fails_in_the_middle_leaves_the_response_unfinished(world: World) -> None:
    world.content.cut_at = world.content.piece
    answer = await world.get_blob()
    assert answer.status == 200
    assert not answer.complete
    assert answer.body == BLOB[: world.content.piece]
    assert world.content.readers[0].left
    assert world.counted("blob", "cut") == 1


async def test_a_source_that_fails_before_the_first_byte_is_an_error(world: World) -> None:
    world.content.cut_at = 0
    answer = await world.get_blob()
    assert (answer.status, answer.code) == (503, "UNAVAILABLE")
    assert answer.complete


async def test_a_source_that_stalls_is_cut(world: World, autojump_clock: MockClock) -> None:
    never = trio.Event()
    at_once = trio.Event()
    at_once.set()
    world.content.arrived = lambda offset: at_once if offset == 0 else never
    start = trio.current_time()
    answer = await world.get_blob()
    assert (answer.status, answer.complete) == (200, False)
    assert math.isclose(trio.current_time() - start, RegistrySection().stall_timeout)
    world.content.arrived = lambda _: never
    answer = await world.get_blob()
    assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")


async def test_a_slow_client_is_not_taken_for_a_stalled_source(
    world: World, autojump_clock: MockClock
) -> None:
    async def on_piece(_: Answer) -> None:
        await trio.sleep(10 * RegistrySection().stall_timeout)

    answer = await call(world.app, "GET", f"/v2/a/blobs/{world.blob}", on_piece=on_piece)
    assert answer.complete


async def test_a_blob_that_is_refused_is_there_for_who_pushes_and_not_given_to_who_reads(
    world: World,
) -> None:
    world.content.refused = RefusedBlob(len(BLOB), "it is of an image that nobody signed")
    head = await world.head(f"/v2/library/pos/blobs/{world.blob}")
    assert (head.status, head["content-length"]) == (200, str(len(BLOB)))
    for headers in ((), (("Range", "bytes=5-9"),)):
        answer = await world.get_blob(*headers)
        assert answer.status == 403
        assert answer.json["errors"] == [
            {"code": "DENIED", "message": "it is of an image that nobody signed"}
        ]


async def test_an_unknown_blob_is_a_404(world: World) -> None:
    for answer in (await world.get(f"/v2/a/blobs/{MISSING}"), await world.head(f"/v2/a/blobs/{MISSING}")):
        assert answer.status == 404
    answer = await world.get(f"/v2/a/blobs/{MISSING}")
    assert answer.code == "BLOB_UNKNOWN"


async def test_sha512_is_served(world: World) -> None:
    digest = Digest.of(b"data", "sha512")
    world.content.blobs[str(digest)] = b"data"
    answer = await world.get(f"/v2/a/blobs/{digest}")
    assert (answer.status, answer.body) == (200, b"data")


# --- tags -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tagged(world: World) -> World:
    for tag in ("b", "a", "C", "1.10", "1.9"):
        world.content.add(POS, tag, IMAGE)
    return world


ALL = ["1.10", "1.9", "42", "C", "a", "b"]


async def test_tags_are_sorted(tagged: World) -> None:
    answer = await tagged.get("/v2/library/pos/tags/list")
    assert answer.status == 200
    assert answer.json == {"name": "library/pos", "tags": ALL}
    assert "link" not in answer


async def test_tags_come_in_pages_that_link_to_the_next(tagged: World) -> None:
    target, pages = "/v2/library/pos/tags/list?n=2", []
    while target:
        answer = await tagged.get(target)
        pages.append(answer.json["tags"])
        target = ""
        if "link" in answer:
            url, relation = answer["link"].split("; ")
            assert relation == 'rel="next"'
            target = url.strip("<>")
    assert pages == [ALL[0:2], ALL[2:4], ALL[4:6]]


async def test_the_link_keeps_the_namespace(world: World) -> None:
    name = Name("[::1]:5000", "pos")
    for tag in ("a", "b"):
        world.content.add(name, tag, IMAGE)
    first = await world.get("/v2/pos/tags/list?n=1&ns=[::1]:5000")
    second = await world.get(first["link"].partition(">")[0].lstrip("<"))
    assert second.json["tags"] == ["b"]


@pytest.mark.parametrize(
    ("query", "tags"),
    [
        ("n=0", []),
        ("n=100", ALL),
        ("last=C", ["a", "b"]),
        ("last=B", ["C", "a", "b"]),
        ("last=z", []),
        ("n=1&last=a", ["b"]),
    ],
)
async def test_n_and_last(tagged: World, query: str, tags: list[str]) -> None:
    answer = await tagged.get(f"/v2/library/pos/tags/list?{query}")
    assert answer.json["tags"] == tags
    assert "link" not in answer


async def test_tags_of_an_unknown_repository(world: World) -> None:
    answer = await world.get("/v2/nobody/tags/list")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    assert (await world.get("/v2/library/pos/tags/list?n=x")).code == "UNSUPPORTED"
