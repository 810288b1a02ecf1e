"""What a node's own settings change: limits, rights, time, and what is left of an upload after a restart."""

import time
from contextlib import suppress

import pytest

from tests.conformance.conftest import alone, lone_node, serving
from tests.conformance.registry import OCTETS, Registry, located, with_query
from tests.conformance.wire import Answer, BrokenOffError
from tests.images import OCI_INDEX, OCI_MANIFEST, build_image, digest_of, random_bytes
from tests.processes import Place, until

pytestmark = pytest.mark.slow

IMAGE = build_image([random_bytes(900, seed=90)])
DATA = random_bytes(3_000_000, seed=91)
DIGEST = digest_of(DATA)
LIMITS = {
    "push": True,
    "delete": True,
    "manifest_limit": 100_000,
    "blob_limit": 1_000_000,
    "uploads": 3,
    "upload_timeout": 1.0,
}


def manifest_of(size: int) -> bytes:
    raw = b'{"schemaVersion": 2, "manifests": [], "annotations": {"filler": ""}}'
    return raw.replace(b'""', b'"' + b"A" * (size - len(raw)) + b'"')


def sent_ahead(registry: Registry, method: str, target: str, length: int, sent: bytes) -> Answer:
    """The answer to a request that announces more than it sends."""
    with registry.connect() as connection:
        connection.send(connection.head(method, target, [OCTETS, ("Content-Length", str(length))]) + sent)
        return connection.read(method, target)


def test_limits(place: Place) -> None:
    """ "Pushing Manifests": over the limit SHOULD be 413; "Cancel a blob upload": the server SHOULD time out."""
    registry = serving(lone_node(place, LIMITS))
    # Manifests.
    assert registry.put("app", "1", manifest_of(100_000), OCI_INDEX).status == 201
    for size in (100_001, 5_000_000):
        answer = registry.put("app", "2", manifest_of(size), OCI_INDEX)
        assert (answer.status, answer.codes) == (413, {"SIZE_INVALID"})
    assert sent_ahead(registry, "PUT", "/v2/app/manifests/2", 10**15, b"{").status == 413
    assert registry.tags("app") == ["1"]
    # Blobs: told beforehand, and found out on the way.
    digest = registry.push_blob("app", DATA[:1_000_000])
    assert registry.blob("app", digest).status == 200
    place_of = located(registry.start("app"))
    target = with_query(place_of, digest=DIGEST)
    assert sent_ahead(registry, "PUT", target, len(DATA), b"").status == 413
    assert sent_ahead(registry, "PATCH", place_of, 10**15, b"").status == 413
    with suppress(BrokenOffError, BrokenPipeError, ConnectionResetError):  # it may stop reading
        assert registry.ask("PATCH", place_of, [OCTETS], [DATA[:900_000], DATA[:900_000]]).status == 413
    registry.ask("DELETE", place_of)
    # Uploads at once, and those that nobody goes on with.
    until("all uploads ran out", lambda: registry.ask("GET", place_of).status == 404)
    began = time.monotonic()
    opened = [registry.start("app") for _ in range(3)]
    refused = registry.ask("POST", "/v2/app/blobs/uploads/", body=b"")
    if time.monotonic() - began < 1.0:
        assert (refused.status, refused.codes) == (429, {"TOOMANYREQUESTS"})
        assert int(refused["retry-after"]) >= 0
    until("they run out", lambda: all(registry.ask("GET", located(one)).status == 404 for one in opened), 15)
    assert registry.push_blob("app", b"as before")


def test_a_node_that_only_reads(place: Place) -> None:
    """ "Content Management": a registry MAY disable deletion: MUST be 400 or 405; and so are pushes here. What
    was pushed before is served."""
    node = lone_node(place, {"push": True, "delete": True})
    registry = serving(node)
    registry.push("app", IMAGE, "1")
    assert node.process is not None
    assert node.process.terminate()[0] == 0
    node.configure(alone({"push": False, "delete": False}))
    registry = serving(node)
    assert registry.manifest("app", "1").body == IMAGE.raw
    (blob, *_) = IMAGE.blobs
    for method, target, body in (
        ("POST", "/v2/app/blobs/uploads/", b""),
        ("POST", with_query("/v2/app/blobs/uploads/", digest=DIGEST), b"data"),
        ("PUT", "/v2/app/manifests/2", IMAGE.raw),
        ("DELETE", "/v2/app/manifests/1", None),
        ("DELETE", f"/v2/app/manifests/{IMAGE.root}", None),
        ("DELETE", f"/v2/app/blobs/{blob}", None),
    ):
        answer = registry.ask(method, target, [("Content-Type", OCI_MANIFEST)], body)
        assert answer.status in {400, 403, 405}, (method, target)
        assert answer.codes <= {"UNSUPPORTED", "DENIED"}
        assert len(answer.json["errors"][0]["message"]) > 10
    assert registry.manifest("app", "1").body == IMAGE.raw
    assert registry.tags("app") == ["1"]


def test_a_node_that_takes_and_never_deletes(place: Place) -> None:
    """ "Content Management": deletion is off unless it is configured."""
    registry = serving(lone_node(place, {"push": True}))
    registry.push("app", IMAGE, "1")
    (blob, *_) = IMAGE.blobs
    for target in ("manifests/1", f"manifests/{IMAGE.root}", f"blobs/{blob}"):
        answer = registry.ask("DELETE", f"/v2/app/{target}")
        assert (answer.status, answer.codes) == (405, {"UNSUPPORTED"})
    place_of = located(registry.start("app"))
    assert registry.ask("DELETE", place_of).status == 204, "an upload may always be cancelled"
    assert registry.manifest("app", "1").body == IMAGE.raw


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_an_upload_after_a_restart(place: Place, how: str) -> None:
    """end-13: it goes on from what the node tells, or it is gone (404) and begins anew; what was pushed stays."""
    node = lone_node(place, {"push": True})
    registry = serving(node)
    registry.push("app", IMAGE, "1")
    place_of = located(registry.patch(located(registry.start("app")), DATA[:2_000_000], 0))
    assert node.process is not None
    if how == "killed":
        node.process.kill()
    else:
        assert node.process.terminate()[0] == 0
    registry = serving(node)
    answer = registry.ask("GET", place_of)
    assert answer.status in {204, 404}
    if answer.status == 204:
        offset = int(answer["range"].removeprefix("0-")) + 1
        assert offset <= 2_000_000
        answer = registry.close(located(answer), DIGEST, DATA[offset:], offset)
        assert answer.status == 201
    else:
        registry.push_blob("app", DATA)
    assert registry.blob("app", DIGEST).body == DATA
    assert registry.manifest("app", "1").body == IMAGE.raw
