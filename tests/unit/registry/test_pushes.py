"""Pushes and deletions over a node's own content, on a fake clock; the specification's whole text is tested
over real sockets in tests/conformance."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshsat.config import RegistrySection
from meshsat.errors import StorageFullError
from meshsat.http.asgi import App
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.registry import pulls
from meshsat.registry.app import OPERATOR, Rights, create_registry
from meshsat.registry.content import Name
from meshsat.store import disk
from tests.asgi_client import Answer, call
from tests.images import build_artifact, build_image, descriptor, random_bytes
from tests.mesh.full_node import FullNode, full_site
from tests.recorded import Recorded

ALL = Rights(push=True, delete=True)
UPLOADS = "/v2/team/app/blobs/uploads/"
DATA = random_bytes(70_000, 1)
DIGEST = Digest.of(DATA)
IMAGE = build_image([b"layer"])


@asynccontextmanager
async def registry(rights: Rights = ALL, **section: Any) -> AsyncIterator[tuple[App, FullNode]]:
    async with full_site("a") as (node,):
        settings = RegistrySection(**section)
        intake = node.site_content
        yield create_registry(node.fetcher, Metrics(), settings, intake=intake, rights=rights), node


async def begin(app: App, query: str = "") -> str:
    answer = await call(app, "POST", UPLOADS + query)
    assert answer.status == 202
    assert answer["range"] == "0-0"
    return answer["location"]


async def push_blob(app: App, data: bytes, name: str = "team/app") -> Answer:
    return await call(app, "POST", f"/v2/{name}/blobs/uploads/?digest={Digest.of(data)}", body=data)


async def push_image(app: App, tag: str = "1") -> Answer:
    for data in IMAGE.blobs.values():
        assert (await push_blob(app, data)).status == 201
    kind = [("content-type", IMAGE.media_type)]
    return await call(app, "PUT", f"/v2/team/app/manifests/{tag}", kind, IMAGE.raw)


async def test_a_blob_in_parts_that_are_counted(autojump_clock: MockClock) -> None:
    async with registry() as (app, _):
        place = await begin(app)
        first = [("content-range", "0-49999"), ("content-length", "50000")]
        answer = await call(app, "PATCH", place, first, DATA[:50_000])
        assert (answer.status, answer["range"]) == (202, "0-49999")
        for wrong in ("0-19999", "50001-70000", "60000-69999"):
            answer = await call(app, "PATCH", place, [("content-range", wrong)], b"x" * 20_000)
            assert (answer.status, answer["range"]) == (416, "0-49999")
            assert answer["location"] == place
        answer = await call(app, "GET", place)
        assert (answer.status, answer["range"], answer.body) == (204, "0-49999", b"")
        last = [("content-range", "50000-69999")]
        answer = await call(app, "PUT", f"{place}?digest={DIGEST}", last, DATA[50_000:])
        assert (answer.status, answer["docker-content-digest"]) == (201, str(DIGEST))
        assert (await call(app, "GET", answer["location"])).body == DATA
        assert (await call(app, "GET", place)).status == 404


@pytest.mark.parametrize(
    ("field", "status"),
    [("nonsense", 400), ("5-3", 416), ("0-9", 400), ("-5", 400), ("0-5,7-9", 400)],
)
async def test_a_content_range_that_makes_no_sense(
    autojump_clock: MockClock, field: str, status: int
) -> None:
    async with registry() as (app, _):
        place = await begin(app)
        headers = [("content-range", field), ("content-length", "4")]
        assert (await call(app, "PATCH", place, headers, b"data")).status == status
        answer = await call(app, "PATCH", place, [("content-range", "0-3")], b"data")
        assert answer.status == 202


async def test_a_client_that_leaves_in_the_middle_goes_on_where_it_was(autojump_clock: MockClock) -> None:
    async with registry() as (app, node):
        place = await begin(app)

        async def receive() -> dict[str, Any]:
            return parts.pop(0)

        async def send(_message: Any) -> None:
            pytest.fail("nobody is there to answer")

        parts: list[dict[str, Any]] = [
            {"type": "http.request", "body": DATA[:40_000], "more_body": True},
            {"type": "http.disconnect"},
        ]
        scope = {"method": "PATCH", "raw_path": place.encode(), "query_string": b"", "headers": []}
        await app(scope, receive, send)
        answer = await call(app, "GET", place)
        assert answer["range"] == "0-39999"
        answer = await call(app, "PATCH", place, [("content-range", "40000-69999")], DATA[40_000:])
        assert answer.status == 202
        assert (await call(app, "PUT", f"{place}?digest={DIGEST}")).status == 201
        assert node.store.blob_size(DIGEST) == len(DATA)


async def test_a_wrong_digest_ends_the_upload(autojump_clock: MockClock) -> None:
    async with registry() as (app, _):
        place = await begin(app)
        assert (await call(app, "PUT", place, body=DATA)).code == "DIGEST_INVALID"
        answer = await call(app, "PUT", f"{place}?digest={Digest.of(b'x')}", body=DATA)
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
        assert (await call(app, "GET", place)).status == 404
        answer = await push_blob(app, DATA)
        assert answer.status == 201
        wrong = await call(app, "POST", f"{UPLOADS}?digest={Digest.of(b'x')}", body=DATA)
        assert (wrong.status, wrong.code) == (400, "DIGEST_INVALID")


async def test_a_cancelled_upload_is_gone(autojump_clock: MockClock) -> None:
    async with registry() as (app, node):
        place = await begin(app)
        assert (await call(app, "DELETE", place)).status == 204
        for method in ("GET", "PATCH", "PUT", "DELETE"):
            assert (await call(app, method, place)).status == 404
        assert len(node.store.uploads) == 0


async def test_the_limits_are_told(autojump_clock: MockClock) -> None:
    async with registry(manifest_limit=1024) as (app, node):
        kind = [("content-type", IMAGE.media_type)]
        answer = await call(app, "PUT", "/v2/team/app/manifests/1", kind, b" " * 1025)
        assert (answer.status, answer.code) == (413, "SIZE_INVALID")
        told = [*kind, ("content-length", "1025")]
        answer = await call(app, "PUT", "/v2/team/app/manifests/1", told, b"")
        assert (answer.status, answer.code) == (413, "SIZE_INVALID"), "before a byte of it comes"
        place = await begin(app)
        told = [("content-length", str(node.store.uploads._limits.size + 1))]
        answer = await call(app, "PATCH", place, told, b"")
        assert (answer.status, answer.code) == (413, "SIZE_INVALID"), "before a byte of it comes"
        assert (await call(app, "DELETE", place)).status == 204
        for _ in range(node.store.uploads._limits.open):
            await begin(app)
        answer = await call(app, "POST", UPLOADS)
        assert (answer.status, answer.code, answer["retry-after"]) == (429, "TOOMANYREQUESTS", "5")


async def test_a_full_disk_is_told_and_reads_go_on(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with registry() as (app, _):
        assert (await push_image(app)).status == 201

        def full(*_: object) -> None:
            raise StorageFullError("no space left on that disk; free some")

        monkeypatch.setattr(disk, "write_span", full)
        answer = await push_blob(app, DATA)
        assert (answer.status, answer.code) == (507, "UNAVAILABLE")
        assert (await call(app, "GET", "/v2/team/app/manifests/1")).status == 200
        monkeypatch.undo()
        assert (await push_blob(app, DATA)).status == 201


async def test_a_manifest_with_many_tags_and_a_subject(autojump_clock: MockClock) -> None:
    subject = descriptor(IMAGE.media_type, IMAGE.raw)
    note = build_artifact(b"note", "application/vnd.example.note", subject)
    async with registry() as (app, _):
        assert (await push_image(app)).status == 201
        for data in note.blobs.values():
            await push_blob(app, data)
        tags = "&".join(f"tag=t{number}" for number in range(12))
        kind = [("content-type", note.media_type)]
        answer = await call(app, "PUT", f"/v2/team/app/manifests/{note.root}?{tags}", kind, note.raw)
        assert (answer.status, answer["oci-subject"]) == (201, IMAGE.root)
        assert answer["oci-tag"].split(", ") == [f"t{number}" for number in range(12)]
        answer = await call(app, "GET", f"/v2/team/app/referrers/{IMAGE.root}")
        assert [one["digest"] for one in answer.json["manifests"]] == [note.root]
        answer = await call(app, "GET", f"/v2/team/app/referrers/{IMAGE.root}?artifactType=a/b")
        assert (answer.json["manifests"], answer["oci-filters-applied"]) == ([], "artifactType")
        answer = await call(app, "GET", f"/v2/never/pushed/referrers/{IMAGE.root}")
        assert (answer.status, answer.json["manifests"]) == (200, [])


async def test_referrers_come_in_pages(autojump_clock: MockClock) -> None:
    subject = descriptor(IMAGE.media_type, IMAGE.raw)
    notes = [build_artifact(b"note", f"application/vnd.example.{n}", subject) for n in range(5)]
    async with registry() as (app, _):
        await push_blob(app, b"note")
        await push_blob(app, b"{}")
        for note in notes:
            kind = [("content-type", note.media_type)]
            answer = await call(app, "PUT", f"/v2/team/app/manifests/{note.root}", kind, note.raw)
            assert answer.status == 201
        found: list[str] = []
        page = f"/v2/team/app/referrers/{IMAGE.root}?n=2"
        while page:
            answer = await call(app, "GET", page)
            found += [one["digest"] for one in answer.json["manifests"]]
            page = answer["link"].partition(">")[0].lstrip("<") if "link" in answer else ""
        assert sorted(found) == sorted(note.root for note in notes)


async def test_referrers_are_no_longer_than_clients_take(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "REFERRERS_BYTES", 500)
    subject = descriptor(IMAGE.media_type, IMAGE.raw)
    notes = [build_artifact(b"note", f"application/vnd.example.{n:0100}", subject) for n in range(5)]
    async with registry() as (app, _):
        await push_blob(app, b"note")
        await push_blob(app, b"{}")
        for note in notes:
            kind = [("content-type", note.media_type)]
            answer = await call(app, "PUT", f"/v2/team/app/manifests/{note.root}", kind, note.raw)
            assert answer.status == 201
        found: list[str] = []
        page = f"/v2/team/app/referrers/{IMAGE.root}"
        while page:
            answer = await call(app, "GET", page)
            assert len(answer.json["manifests"]) == 1
            found += [one["digest"] for one in answer.json["manifests"]]
            page = answer["link"].partition(">")[0].lstrip("<") if "link" in answer else ""
        assert sorted(found) == sorted(note.root for note in notes)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"not json", "MANIFEST_INVALID"),
        (b'{"schemaVersion": 1}', "MANIFEST_INVALID"),
        (IMAGE.raw, "MANIFEST_BLOB_UNKNOWN"),
    ],
)
async def test_a_manifest_that_cannot_be_taken(autojump_clock: MockClock, body: bytes, code: str) -> None:
    async with registry() as (app, _):
        kind = [("content-type", IMAGE.media_type)]
        answer = await call(app, "PUT", "/v2/team/app/manifests/1", kind, body)
        assert (answer.status, answer.code) == (400, code)
        other = Digest.of(b"other")
        answer = await call(app, "PUT", f"/v2/team/app/manifests/{other}", kind, IMAGE.raw)
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


async def test_deletions(autojump_clock: MockClock) -> None:
    async with registry() as (app, _):
        await push_image(app, "1")
        await push_image(app, "2")
        manifest, blob = f"/v2/team/app/manifests/{IMAGE.root}", f"/v2/team/app/blobs/{max(IMAGE.blobs)}"
        for path in ("/v2/team/app/manifests/1", blob, manifest):
            assert (await call(app, "DELETE", path)).status == 202
            assert (await call(app, "HEAD", path)).status == 404
            assert (await call(app, "DELETE", path)).status == 404
        answer = await call(app, "GET", "/v2/team/app/tags/list")
        assert (answer.status, answer.json["tags"]) == (200, [])


async def test_the_catalog_names_what_is_here(autojump_clock: MockClock) -> None:
    async with registry() as (app, _):
        for name in ("b", "a/b", "c"):
            await push_blob(app, DATA, name)
        answer = await call(app, "GET", "/v2/_catalog?n=2")
        assert answer.json == {"repositories": ["a/b", "b"]}
        assert answer["link"] == '</v2/_catalog?n=2&last=b>; rel="next"'
        answer = await call(app, "GET", "/v2/_catalog?n=2&last=b")
        assert answer.json == {"repositories": ["c"]}
        assert "link" not in answer


@pytest.mark.parametrize("rights", [Rights(), Rights(push=True), Rights(delete=True)])
async def test_only_what_is_allowed(autojump_clock: MockClock, rights: Rights) -> None:
    async with registry(rights) as (app, _):
        pushed = await push_blob(app, DATA)
        assert pushed.status == (201 if rights.push else 405)
        deleted = await call(app, "DELETE", f"/v2/team/app/blobs/{DIGEST}")
        assert deleted.status == (405 if not rights.delete else 202 if rights.push else 404)
        for answer in (pushed, deleted):
            if answer.status == 405:
                assert (answer.code, "POST" in answer["allow"]) == ("UNSUPPORTED", False)


async def test_names_of_other_registries_are_the_operators(autojump_clock: MockClock) -> None:
    foreign = Name("harbor.example", "pos/app")
    for rights, status in ((ALL, 403), (OPERATOR, 201)):
        async with registry(rights) as (app, node):
            for place in (
                "/v2/pos/app/blobs/uploads/?ns=harbor.example&",
                "/v2/harbor.example/pos/app/blobs/uploads/?",
            ):
                answer = await call(app, "POST", f"{place}digest={DIGEST}", body=DATA)
                assert answer.status == status
            assert await node.fetcher.open_blob(foreign, DIGEST) is None, "no manifest of it refers to that"
    async with registry(OPERATOR) as (app, _):
        answer = await call(app, "DELETE", "/v2/pos/app/manifests/1?ns=harbor.example")
        assert (answer.status, answer.code) == (403, "DENIED")


async def test_what_another_node_pushed_is_told_under_the_clients_name(autojump_clock: MockClock) -> None:
    async with registry() as (app, _):
        await push_image(app)
        answer = await call(app, "GET", "/v2/app/manifests/1?ns=site.internal")
        assert answer.status == 404
        answer = await call(app, "GET", "/v2/team/app/manifests/1?ns=site.internal")
        assert (answer.status, answer["oci-namespace"]) == (200, "site.internal")
        assert "age" not in answer
        await trio.sleep(1)
        assert json.loads(answer.body) == json.loads(IMAGE.raw)


async def test_what_is_pushed_and_deleted_is_recorded(autojump_clock: MockClock) -> None:
    audit = Recorded()
    async with full_site("a") as (node,):
        app = create_registry(
            node.fetcher,
            Metrics(),
            RegistrySection(),
            intake=node.site_content,
            rights=ALL,
            audit=audit,
        )
        assert (await push_image(app)).status == 201
        kind = [("content-type", IMAGE.media_type)]
        for _ in range(3):
            assert (await call(app, "PUT", "/v2/team/app/manifests/2", kind, b"{")).status == 400
        digest = Digest.of(IMAGE.raw)
        assert (await call(app, "DELETE", "/v2/team/app/manifests/1")).status == 202
        assert (await call(app, "DELETE", f"/v2/team/app/manifests/{digest}")).status == 202
        assert (await call(app, "DELETE", "/v2/team/app/manifests/1")).status == 404
    assert [(entry.event, entry.object, entry.outcome) for entry in audit.entries] == [
        ("manifest.create", "team/app:1", "success"),
        ("manifest.create", "team/app:2", "failure"),
        ("tag.delete", "team/app:1", "success"),
        ("manifest.delete", f"team/app@{digest}", "success"),
        ("tag.delete", "team/app:1", "failure"),
    ]
    assert audit.entries[0].reason == str(digest)
    assert {entry.actor.kind for entry in audit.entries} == {"client"}
