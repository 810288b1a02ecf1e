"""Against a server that says what a test tells it to; against real nodes: tests/clients/test_bundles.py."""

import http.server
import io
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshsat.bundle.place import Repository, read_whole
from meshsat.cli.node_place import NodePlace
from meshsat.errors import (
    DeniedError,
    DigestMismatchError,
    InvalidInputError,
    MeshsatError,
    NotFoundError,
    StorageFullError,
    UnavailableError,
)
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.reference import Reference
from tests.images import build_image

HOME = Repository("reg.test", "pos/app")
SITE = Repository("site.internal", "pos/app")
IMAGE = build_image([b"layer"])
ROOT = Digest.parse_untrusted(IMAGE.root)
BLOB = Descriptor("a/b", Digest.of(b"layer"), 5)
UPLOADS = "/v2/pos/app/blobs/uploads/?ns=reg.test"
Answer = tuple[int, dict[str, str], bytes]


class Scripted:
    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Answer] = {}
        self.asked: list[tuple[str, str, bytes]] = []
        self.hang_up: set[str] = set()
        """Methods at which the connection is closed without a word."""
        self.early: set[str] = set()
        """Methods that are answered before their body is read."""

    def say(self, method: str, path: str, status: int = 200, body: Any = b"", **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[method, path] = (status, {k.replace("_", "-"): v for k, v in headers.items()}, raw)


@pytest.fixture
def script(short_dir: Path) -> Iterator[Scripted]:
    scripted = Scripted()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            return

        def answer(self) -> None:
            if self.command in scripted.hang_up:
                scripted.hang_up.discard(self.command)
                self.close_connection = True
                return
            early = self.command in scripted.early
            body = b"" if early else self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.close_connection = self.close_connection or early
            scripted.asked.append((self.command, self.path, body))
            status, headers, raw = scripted.answers.get((self.command, self.path), (404, {}, b""))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    server = Server(str(short_dir / "api.sock"), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield scripted
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def place(script: Scripted, short_dir: Path) -> NodePlace:
    return NodePlace(short_dir)


def say_image(script: Scripted, word: str, **headers: str) -> None:
    kind, digest = IMAGE.media_type, IMAGE.root
    path = f"/v2/pos/app/manifests/{word}?ns=reg.test"
    script.say("GET", path, 200, IMAGE.raw, Content_Type=kind, Docker_Content_Digest=digest, **headers)


def test_a_tag_comes_with_the_moment_that_the_nodes_list_has(script: Scripted, place: NodePlace) -> None:
    say_image(script, "1", Age="100")
    listed = {"reference": "reg.test/pos/app:1", "digest": IMAGE.root, "resolved_at": 1000.125}
    script.say("GET", "/api/v1/images", 200, {"images": [listed]})
    found = place.manifest(HOME, "1")
    assert found is not None
    assert (found.manifest.digest, found.manifest.raw, found.resolved_at) == (ROOT, IMAGE.raw, 1000.125)
    say_image(script, str(ROOT))
    by_digest = place.manifest(HOME, ROOT)
    assert by_digest is not None
    assert by_digest.resolved_at is None
    assert place.manifest(HOME, "2") is None


def test_else_with_its_age(script: Scripted, place: NodePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 5000.0)
    script.say("GET", "/api/v1/images", 200, {"images": []})
    say_image(script, "1", Age="100")
    found = place.manifest(HOME, "1")
    assert found is not None
    assert found.resolved_at == 4900.0


def test_a_manifest_of_another_digest_is_refused(script: Scripted, place: NodePlace) -> None:
    say_image(script, str(BLOB.digest))
    with pytest.raises(DigestMismatchError):
        place.manifest(HOME, BLOB.digest)


def test_lists_are_read_page_by_page(script: Scripted, place: NodePlace) -> None:
    first = "/v2/pos/app/tags/list?ns=reg.test"
    script.say("GET", first, 200, {"tags": ["a"]}, Link='</v2/pos/app/tags/list?last=a>; rel="next"')
    script.say("GET", "/v2/pos/app/tags/list?last=a", 200, {"tags": ["b"]})
    assert place.tags(HOME) == ["a", "b"]
    assert place.tags(SITE) == []
    entry = {"mediaType": IMAGE.media_type, "digest": IMAGE.root, "size": 1}
    script.say("GET", f"/v2/pos/app/referrers/{ROOT}?ns=reg.test", 200, {"manifests": [entry]})
    assert [one.digest for one in place.referrers(HOME, ROOT)] == [ROOT]
    script.say("GET", first, 200, {"tags": ["a"]}, Link=f'<{first}>; rel="next"')
    assert len(place.tags(HOME)) == 1000  # a node that goes round in circles ends


def test_a_blob_is_read_as_it_comes(script: Scripted, place: NodePlace) -> None:
    path = f"/v2/pos/app/blobs/{BLOB.digest}?ns=reg.test"
    with pytest.raises(NotFoundError, match=str(BLOB.digest)), place.open_blob(HOME, BLOB):
        pass
    script.say("GET", path, 200, b"layer")
    for wanted in (5, 2, 5):  # also after one that was left half-read
        with place.open_blob(HOME, BLOB) as stream:
            assert read_whole(stream, wanted) == b"layer"[:wanted]
    script.answers["GET", path] = (200, {"Content-Length": "9"}, b"layer")


def test_what_is_lacking_is_what_the_node_has_not(script: Scripted, place: NodePlace) -> None:
    script.say("POST", "/api/v1/held", 200, {"held": [str(BLOB.digest)]})
    asked = [Digest.of(bytes([n % 256, n // 256])) for n in range(600)] + [BLOB.digest]
    assert place.lacking(HOME, asked) == set(asked[:-1])
    assert [len(json.loads(body)["digests"]) for _, _, body in script.asked] == [500, 101]


def test_site_content_has_to_come_to_its_repository(script: Scripted, place: NodePlace) -> None:
    other = Digest.of(b"other")
    script.say("POST", "/api/v1/held", 200, {"held": [str(BLOB.digest), str(other)]})
    path = "/v2/pos/app/blobs/uploads/?ns=site.internal&mount=sha256%3A"
    script.say("POST", path + BLOB.digest.hex, 201)
    script.say("POST", path + other.hex, 202, Location="/v2/pos/app/blobs/uploads/7")
    assert place.lacking(SITE, [BLOB.digest, other]) == {other}
    assert ("DELETE", "/v2/pos/app/blobs/uploads/7", b"") in script.asked


def put(place: NodePlace, data: bytes = b"layer") -> list[int]:
    counts: list[int] = []
    place.put_blob(HOME, Descriptor("a/b", BLOB.digest, len(data)), io.BytesIO(data), counts.append)
    return counts


def test_a_blob_is_put_in_one_piece(script: Scripted, place: NodePlace) -> None:
    script.say("POST", UPLOADS, 202, Location="/v2/pos/app/blobs/uploads/7?ns=reg.test")
    to = f"/v2/pos/app/blobs/uploads/7?ns=reg.test&digest={BLOB.digest}"
    script.say("PUT", to, 201)
    assert put(place) == [5]
    assert script.asked[-1] == ("PUT", to, b"layer")
    error = {"errors": [{"code": "DIGEST_INVALID", "message": "not that"}]}
    script.say("PUT", to, 400, error)
    with pytest.raises(DigestMismatchError, match="not that"):
        put(place)


def test_a_node_that_has_seen_enough_is_heard(script: Scripted, place: NodePlace) -> None:
    script.say("POST", UPLOADS, 202, Location="/v2/x")
    script.say(
        "PUT", f"/v2/x?digest={BLOB.digest}", 507, {"errors": [{"code": "X", "message": "disk is full"}]}
    )
    script.early.add("PUT")
    with pytest.raises(StorageFullError, match=r"disk is full.*make room"):
        put(place, bytes(30_000_000))
    script.early.clear()
    script.say("PUT", f"/v2/x?digest={BLOB.digest}", 201)
    put(place)  # over a new connection


def test_an_archive_that_breaks_breaks_the_upload(script: Scripted, place: NodePlace) -> None:
    class Broken:
        def readinto(self, buffer: memoryview, /) -> int:
            raise InvalidInputError("cut short")

    script.say("POST", UPLOADS, 202, Location="/v2/x")
    with pytest.raises(InvalidInputError, match="cut short"):
        place.put_blob(HOME, BLOB, Broken(), lambda _: None)
    script.say("PUT", f"/v2/x?digest={BLOB.digest}", 201)
    put(place)


def test_a_manifest_and_its_tag(script: Scripted, place: NodePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    say_image(script, str(ROOT))
    found = place.manifest(HOME, ROOT)
    assert found is not None
    script.say("PUT", f"/v2/pos/app/manifests/{ROOT}?ns=reg.test", 201)
    place.put_manifest(HOME, found.manifest)
    assert script.asked[-1][2] == IMAGE.raw
    script.say("POST", "/api/v1/tag", 200, {"taken": False, "resolved_at": 1})
    monkeypatch.setattr("time.time", lambda: 5000.0)
    reference = Reference.parse_untrusted(f"reg.test/pos/app:1@{ROOT}")
    assert not place.tag(reference, ROOT, 6000.0)  # of a clock that is ahead of this one
    body = {"reference": "reg.test/pos/app:1", "digest": str(ROOT), "resolved_at": 5000.0}
    assert json.loads(script.asked[-1][2]) == body


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInputError),
        (401, DeniedError),
        (403, DeniedError),
        (413, InvalidInputError),
        (429, MeshsatError),
        (500, MeshsatError),
        (503, UnavailableError),
        (507, StorageFullError),
    ],
)
def test_the_nodes_own_words_are_passed_on(
    script: Scripted, place: NodePlace, status: int, kind: type[MeshsatError]
) -> None:
    for body in ({"errors": [{"message": "so it is"}]}, {"error": {"message": "so it is"}}, b"so it is"):
        script.say("GET", "/v2/pos/app/manifests/1?ns=reg.test", status, body)
        with pytest.raises(kind, match="the node says: so it is") as told:
            place.manifest(HOME, "1")
        assert type(told.value) is kind


def test_an_answer_that_is_none_is_told(script: Scripted, place: NodePlace) -> None:
    script.say("POST", "/api/v1/held", 200, b"[]")
    with pytest.raises(MeshsatError, match="not a JSON object"):
        place.lacking(HOME, [ROOT])


def test_a_connection_that_was_closed_meanwhile_is_made_anew(script: Scripted, place: NodePlace) -> None:
    assert place.manifest(HOME, "1") is None
    script.hang_up.add("GET")
    assert place.manifest(HOME, "1") is None
    place = NodePlace(place._data_dir)
    script.hang_up.add("GET")
    with pytest.raises(UnavailableError, match="what was done stays done"):
        place.manifest(HOME, "1")


def test_no_node_says_so(short_dir: Path) -> None:
    with pytest.raises(UnavailableError, match="no node runs"):
        NodePlace(short_dir).tags(HOME)
