"""The protocol below: messages and connections (RFC 9110, RFC 9112), as far as clients of a registry lean on it."""

import re
from contextlib import suppress

import pytest

from tests.conformance.registry import OCTETS, Registry, located, with_query
from tests.conformance.wire import BrokenOffError
from tests.images import OCI_MANIFEST, build_image, digest_of, random_bytes

pytestmark = pytest.mark.slow

IMAGE = build_image([random_bytes(500, seed=70)])
DATA = random_bytes(100_000, seed=71)
DIGEST = digest_of(DATA)


@pytest.fixture
def blob(registry: Registry, repository: str) -> str:
    """The path of a blob of 100,000 bytes, in a repository that also holds `v1`."""
    registry.push(repository, IMAGE, "v1")
    return f"/v2/{repository}/blobs/{registry.push_blob(repository, DATA)}"


def test_many_requests_on_one_connection(registry: Registry, repository: str, blob: str) -> None:
    """RFC 9112 9.3: connections persist; each answer ends where it says, with a body or without one."""
    manifest = f"/v2/{repository}/manifests"
    asked = [
        ("GET", blob, 200, DATA),
        ("HEAD", blob, 200, b""),
        ("GET", "/v2/", 200, None),
        ("HEAD", f"{manifest}/nothing", 404, b""),
        ("GET", f"{manifest}/nothing", 404, None),
        ("HEAD", f"{manifest}/v1", 200, b""),
        ("GET", f"{manifest}/v1", 200, IMAGE.raw),
        ("DELETE", f"{manifest}/nothing", 404, None),
        ("GET", blob, 200, DATA),
    ]
    with registry.connect() as connection:
        for method, target, status, body in asked * 3:
            answer = connection.ask(method, target, [("Accept", "*/*")])
            assert answer.status == status
            assert body is None or answer.body == body
            assert not answer.closes
            assert connection.early == b""


def test_a_push_on_one_connection(registry: Registry, repository: str) -> None:
    """RFC 9112 9.3, for answers without content: 202, 204, 201, 416."""
    with registry.connect() as connection:
        answer = connection.ask("POST", f"/v2/{repository}/blobs/uploads/", body=b"")
        place = located(answer)
        answer = connection.ask("PATCH", place, [OCTETS, ("Content-Range", "7-8")], b"ab")
        assert answer.status == 416
        answer = connection.ask("GET", place)
        assert (answer.status, answer.body) == (204, b"")
        answer = connection.ask("PATCH", located(answer), [OCTETS], [DATA[:10], DATA[10:]])
        assert answer.status == 202
        answer = connection.ask("PUT", with_query(located(answer), digest=DIGEST), body=b"")
        assert answer.status == 201
        assert connection.ask("GET", located(answer)).body == DATA


def test_requests_that_were_sent_ahead(registry: Registry, repository: str, blob: str) -> None:
    """RFC 9112 9.3.2: answered in order."""
    with registry.connect() as connection:
        heads = [connection.head(method, blob) for method in ("GET", "HEAD", "GET")]
        connection.send(heads[0] + heads[1] + heads[2] + connection.head("GET", "/v2/"))
        assert connection.read("GET").body == DATA
        assert connection.read("HEAD")["content-length"] == str(len(DATA))
        assert connection.read("GET").body == DATA
        assert connection.read("GET").status == 200


def test_a_connection_is_closed_when_the_client_says_so(registry: Registry, blob: str) -> None:
    """RFC 9112 9.6: podman and skopeo do for each request."""
    with registry.connect() as connection:
        answer = connection.ask("GET", blob, [("Connection", "close")])
        assert answer.body == DATA
        assert answer.closes
        assert connection.rest() == b""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("host", ["", "Host: x\r\n"])
def test_a_client_of_the_protocols_first_version(
    registry: Registry, repository: str, blob: str, method: str, host: str
) -> None:
    """RFC 9112 9.3, 6.1: to HTTP/1.0 no chunked coding, and the end of the answer ends the connection."""
    for target, body in ((blob, DATA), (f"/v2/{repository}/manifests/v1", IMAGE.raw), ("/v2/", None)):
        with registry.connect() as connection:
            connection.send(f"{method} {target} HTTP/1.0\r\nAccept: {OCI_MANIFEST}\r\n{host}\r\n".encode())
            answer = connection.read(method)
            assert answer.status == 200
            assert answer.get("transfer-encoding") is None
            assert body is None or answer.body == (body if method == "GET" else b"")
            assert connection.rest() == b""


def test_a_request_without_a_body_may_expect(registry: Registry, blob: str) -> None:
    """RFC 9110 10.1.1: a server ignores the expectation of a request that has no body."""
    with registry.connect() as connection:
        for _ in range(20):
            answer = connection.ask("GET", blob, [("Expect", "100-continue")])
            assert (answer.status, answer.body) == (200, DATA)


def test_every_answer_is_dated(registry: Registry, blob: str) -> None:
    """RFC 9110 6.6.1: with a clock, MUST be."""
    for method, target in (("GET", blob), ("HEAD", blob), ("GET", "/v2/"), ("GET", "/v2/a/tags/list")):
        told = registry.ask(method, target)["date"]
        assert re.fullmatch(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT", told)


def test_every_answer_says_which_api_it_is(registry: Registry, blob: str) -> None:
    """ "Legacy Docker support HTTP headers": older clients look for it."""
    for target in (blob, "/v2/", "/v2/a/tags/list"):
        assert registry.ask("GET", target)["docker-distribution-api-version"] == "registry/2.0"


def test_the_whole_url_may_be_the_target(registry: Registry, blob: str) -> None:
    """RFC 9112 3.2.2: a server MUST accept the absolute form, as proxies send it."""
    assert registry.ask("GET", f"http://{registry.address}{blob}").body == DATA


def test_a_character_may_be_escaped(registry: Registry, repository: str, blob: str) -> None:
    """RFC 3986 6.2.2.2: an escaped character means itself."""
    assert registry.ask("GET", blob.replace(":", "%3A")).body == DATA
    assert registry.ask("GET", blob.replace(":", "%3a")).body == DATA
    assert registry.ask("GET", f"/v2/{repository}/manifests/%761", [("Accept", "*/*")]).body == IMAGE.raw


@pytest.mark.parametrize(
    "escape", ["%2e%2e", "..", ".", "%2F", "%00", "%", "%zz", "%C0%AE", "..%2f..", "\\..\\"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_no_path_leads_out(registry: Registry, repository: str, escape: str, method: str) -> None:
    """ "Pulling manifests": such a name does not match; RFC 9110 17.3."""
    body = IMAGE.raw if method in {"PUT", "POST"} else None
    for target in (
        f"/v2/{escape}/manifests/v1",
        f"/v2/{repository}/{escape}/manifests/v1",
        f"/v2/{repository}/{escape}/blobs/uploads/",
        f"/v2/{repository}/manifests/{escape}",
        f"/v2/{repository}/blobs/{escape}",
        f"/v2/{repository}/blobs/uploads/{escape}",
    ):
        assert registry.ask(method, target, [("Content-Type", OCI_MANIFEST)], body).status in {400, 404, 405}


# --- broken messages ------------------------------------------------------------------------------------------

BROKEN = {
    "no host": b"GET /v2/ HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "nonsense": b"nonsense\r\n\r\n",
    "NUL": b"GET /v2/\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "space before colon": b"GET /v2/ HTTP/1.1\r\nHost : a\r\n\r\n",
    "length not a number": b"PUT /v2/a/manifests/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    "negative length": b"PUT /v2/a/manifests/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"PUT /v2/a/manifests/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and coding": b"PUT /v2/a/manifests/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown coding": b"PUT /v2/a/manifests/v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    "bad chunk": b"PUT /v2/a/manifests/v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_message_is_refused(registry: Registry, fault: str) -> None:
    """RFC 9112 2.2, 3.2, 5.1, 6.3, 7.1: 400 (501 for a coding that is not known), or the connection is closed;
    what comes behind it is never taken for a request."""
    with registry.connect() as connection:
        connection.send(BROKEN[fault])
        try:
            answer = connection.read()
        except BrokenOffError:
            return
        assert answer.status in {400, 404, 411, 501}
        assert b"HTTP/1.1 200" not in connection.rest()


def test_a_header_without_end_is_refused(registry: Registry) -> None:
    """RFC 6585 5; RFC 9112 3: 431, 414 or 400, or the connection is closed."""
    with registry.connect() as connection, suppress(BrokenOffError, BrokenPipeError, ConnectionResetError):
        connection.send(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n" + b"X-Filler: " + b"x" * 2_000_000 + b"\r\n\r\n")
        assert connection.read().status in {400, 414, 431}


@pytest.mark.parametrize("length", [3000, 9000, 30_000])
def test_a_target_without_end_is_refused(registry: Registry, length: int) -> None:
    """RFC 9110 15.5.15: 414, or the like."""
    answer = registry.ask("GET", f"/v2/{'a/' * (length // 2)}manifests/v1")
    assert answer.status in {400, 404, 414, 431}


def test_a_body_that_nobody_wants_does_not_become_a_request(registry: Registry, repository: str) -> None:
    """RFC 9112 9.3: a server reads the whole of a message, or closes the connection after its answer."""
    smuggled = b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n" * 3
    with registry.connect() as connection:
        answer = connection.ask("PATCH", f"/v2/{repository}/blobs/uploads/nothing", [OCTETS], smuggled)
        assert answer.status == 404
        if not answer.closes:
            assert connection.ask("GET", f"/v2/{repository}/tags/list").status == 404
        else:
            assert connection.rest() == b""


def test_the_answer_to_a_large_refused_body_arrives(registry: Registry, repository: str) -> None:
    """RFC 9112 9.6: a server that stops reading must let its answer through before it resets."""
    body = random_bytes(2_000_000, seed=72)
    answer = registry.ask("PATCH", f"/v2/{repository}/blobs/uploads/nothing", [OCTETS], body)
    assert answer.status == 404
    assert answer.codes == {"BLOB_UPLOAD_UNKNOWN"}
