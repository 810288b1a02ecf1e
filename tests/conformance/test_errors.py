"""What a refusal looks like (distribution-spec, "Error Codes"; RFC 9110 15)."""

import re

import pytest

from tests.conformance.registry import OCTETS, Registry, with_query
from tests.conformance.wire import Answer
from tests.images import OCI_MANIFEST, digest_of

pytestmark = pytest.mark.slow

CODES = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
}
MISSING = digest_of(b"never pushed")
REFUSED = [
    ("GET", "NAME/manifests/nothing", b""),
    ("GET", "NAME/manifests/sha256:abc", b""),
    ("GET", f"NAME/manifests/{MISSING}", b""),
    ("GET", "NAME/manifests/-bad-tag", b""),
    ("PUT", "NAME/manifests/v1", b"no JSON"),
    ("PUT", f"NAME/manifests/{MISSING}", b"{}"),
    ("DELETE", "NAME/manifests/nothing", b""),
    ("GET", f"NAME/blobs/{MISSING}", b""),
    ("GET", "NAME/blobs/nonsense", b""),
    ("DELETE", f"NAME/blobs/{MISSING}", b""),
    ("GET", "NAME/blobs/uploads/nothing", b""),
    ("PATCH", "NAME/blobs/uploads/nothing", b"data"),
    ("PUT", f"NAME/blobs/uploads/nothing?digest={MISSING}", b"data"),
    ("DELETE", "NAME/blobs/uploads/nothing", b""),
    ("POST", "NAME/blobs/uploads/?digest=nonsense", b"data"),
    ("POST", "NAME/blobs/uploads/?digest-algorithm=md5", b""),
    ("GET", "NAME/tags/list", b""),
    ("GET", "NAME/tags/list?n=-1", b""),
    ("GET", "NAME/referrers/nonsense", b""),
    ("GET", "Bad/Name/tags/list", b""),
    ("POST", "Bad/Name/blobs/uploads/", b""),
    ("GET", "NAME/nothing/of/that", b""),
    ("POST", "NAME/manifests/v1", b"{}"),
    ("PUT", "NAME/tags/list", b"{}"),
    ("DELETE", "NAME/tags/list", b""),
    ("PATCH", f"NAME/blobs/{MISSING}", b"data"),
]


def refused(registry: Registry, repository: str, method: str, path: str, body: bytes) -> Answer:
    target = f"/v2/{path.replace('NAME', repository)}"
    headers = [("Content-Type", OCI_MANIFEST)] if "manifests" in path else [OCTETS]
    sends = method in {"POST", "PUT", "PATCH"}
    return registry.ask(method, target, headers if sends else [], body if sends else None)


@pytest.mark.parametrize(("method", "path", "body"), REFUSED)
def test_a_refusal_has_the_form_that_is_written(
    registry: Registry, repository: str, method: str, path: str, body: bytes
) -> None:
    """ "Error Codes": JSON MUST be `{"errors": [{"code", "message", "detail"}]}`, `code` MUST be one of those
    listed, in capitals and underscores; `message` SHOULD be for people."""
    answer = refused(registry, repository, method, path, body)
    assert 400 <= answer.status < 500
    assert answer["content-type"].split(";")[0] == "application/json"
    assert answer["content-length"] == str(len(answer.body))
    assert answer.json["errors"]
    for error in answer.json["errors"]:
        assert set(error) <= {"code", "message", "detail"}
        assert error["code"] in CODES
        assert re.fullmatch(r"[A-Z_]+", error["code"])
        assert isinstance(error.get("message", ""), str)


@pytest.mark.parametrize("path", [one[1] for one in REFUSED if one[0] == "GET" and "uploads" not in one[1]])
def test_the_refusal_of_a_head_has_no_body(registry: Registry, repository: str, path: str) -> None:
    """RFC 9110 9.3.2: the same status as for GET, and nothing else."""
    got = refused(registry, repository, "GET", path, b"")
    with registry.connect() as connection:
        answer = connection.ask("HEAD", f"/v2/{path.replace('NAME', repository)}")
        assert (answer.status, connection.early) == (got.status, b"")
        assert connection.ask("GET", "/v2/").status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/"),
        ("DELETE", "/v2/"),
        ("POST", "NAME/manifests/v1"),
        ("PATCH", "NAME/manifests/v1"),
        ("PUT", "NAME/tags/list"),
        ("DELETE", "NAME/tags/list"),
        ("POST", f"NAME/referrers/{MISSING}"),
        ("PUT", f"NAME/blobs/{MISSING}"),
        ("PUT", "/v2/_catalog"),
    ],
)
def test_a_method_that_is_not_there(registry: Registry, repository: str, method: str, path: str) -> None:
    """RFC 9110 15.5.6: 405, and Allow MUST be told."""
    target = path.replace("NAME", f"/v2/{repository}")
    answer = registry.ask(method, target, body=None if method == "DELETE" else b"")
    assert answer.status == 405
    allowed = {one.strip() for one in answer["allow"].split(",")}
    assert method not in allowed
    assert "GET" in allowed


@pytest.mark.parametrize(
    "target", ["/", "/v1/", "/v3/", "/v2/..", "/v2/a", "/v2//", "/v2/a/b", "/favicon.ico"]
)
def test_what_is_no_endpoint_is_404(registry: Registry, target: str) -> None:
    """RFC 9110 15.5.5."""
    assert registry.ask("GET", target).status in {400, 404}


@pytest.mark.parametrize("name", ["a", "n" * 229])
def test_what_a_client_said_is_not_given_back_as_more_than_text(registry: Registry, name: str) -> None:
    """RFC 9110 17: a refusal that quotes the request quotes it inside JSON."""
    target = with_query(f"/v2/{name}/tags/list", n='"><script>', last="\r\nX-Own: 1")
    answer = registry.ask("GET", target)
    assert answer.get("x-own") is None
    assert answer["content-type"].split(";")[0] == "application/json"
    assert answer.codes
