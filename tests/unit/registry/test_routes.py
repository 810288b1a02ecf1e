import pytest

from meshsat.oci.digest import Digest
from meshsat.registry.content import Name
from meshsat.registry.errors import Code, RefusedError
from meshsat.registry.routes import (
    BlobRoute,
    CatalogRoute,
    ManifestRoute,
    PingRoute,
    ReferrersRoute,
    Route,
    TagsRoute,
    Target,
    UploadRoute,
    UploadsRoute,
    parse_route_untrusted,
)

HEX = "ab" * 32
DIGEST = Digest("sha256", HEX)


def parse(path: str, query: str = "") -> Route:
    return parse_route_untrusted(path.encode(), query.encode())


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_ping_is_known_with_and_without_its_slash(path: str) -> None:
    assert parse(path) == PingRoute()


def test_a_manifest_is_asked_for_by_tag_or_digest() -> None:
    by_tag = parse("/v2/library/pos/manifests/42")
    assert isinstance(by_tag, ManifestRoute)
    assert by_tag.reference == "42"
    assert by_tag.target.name == Name(None, "library/pos")
    by_digest = parse(f"/v2/library/pos/manifests/sha256:{HEX}")
    assert isinstance(by_digest, ManifestRoute)
    assert by_digest.reference == DIGEST


def test_a_blob_is_asked_for_by_digest_of_either_algorithm() -> None:
    for digest in (DIGEST, Digest("sha512", "cd" * 64)):
        route = parse(f"/v2/pos/blobs/{digest}")
        assert isinstance(route, BlobRoute)
        assert route.digest == digest


def test_tags_come_with_n_and_last() -> None:
    assert parse("/v2/a/tags/list") == parse("/v2/a/tags/list", "unknown=1")
    route = parse("/v2/a/tags/list", "n=10&last=v1.2")
    assert isinstance(route, TagsRoute)
    assert (route.n, route.last) == (10, "v1.2")


@pytest.mark.parametrize("n", ["-1", "a", "", "1.5", "\uff11", "9999999999"])
def test_a_number_of_tags_that_is_none_is_refused(n: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse("/v2/a/tags/list", f"n={n}")
    assert (refused.value.status, refused.value.code) == (400, Code.UNSUPPORTED)


@pytest.mark.parametrize(
    "name",
    [
        "blobs",
        "manifests",
        "tags",
        "uploads",
        "a/blobs/uploads",
        "blobs/uploads/b",
        "a/tags/list",
        "manifests/manifests",
        "tags/list",
        "blobs/blobs/blobs",
        "v2",
        "v2/v2",
    ],
)
def test_a_name_may_hold_the_elements_of_the_api(name: str) -> None:
    manifest = parse(f"/v2/{name}/manifests/latest")
    assert isinstance(manifest, ManifestRoute)
    assert manifest.target.name == Name(None, name)
    blob = parse(f"/v2/{name}/blobs/{DIGEST}")
    assert isinstance(blob, BlobRoute)
    assert blob.target.name == Name(None, name)
    tags = parse(f"/v2/{name}/tags/list")
    assert isinstance(tags, TagsRoute)
    assert tags.target.name == Name(None, name)


@pytest.mark.parametrize("path", ["/v2/a/blobs/uploads", "/v2/a/blobs/uploads/"])
def test_an_upload_begins_with_what_the_query_says(path: str) -> None:
    target = Target("a", Name(None, "a"), None)
    other = f"sha512:{'b' * 128}"
    assert parse(path) == UploadsRoute(target, None, None, None, "sha256")
    assert parse(path, "digest-algorithm=sha512") == UploadsRoute(target, None, None, None, "sha512")
    whole = parse(path, f"digest={DIGEST}")
    assert whole == UploadsRoute(target, DIGEST, None, None, "sha256")
    mount = Digest.parse_untrusted(other)
    assert parse(path, f"mount={other}") == UploadsRoute(target, None, mount, None, "sha256")
    of = parse(path, f"mount={other}&from=b/c&origin=somewhere")
    assert of == UploadsRoute(target, None, mount, Name(None, "b/c"), "sha256")
    for query in ("digest=x", "mount=x", "digest-algorithm=md5", f"mount={other}&from=..", "ns=no_host"):
        with pytest.raises(RefusedError) as refused:
            parse(path, query)
        assert refused.value.status == 400


def test_an_upload_goes_on_under_its_id() -> None:
    target = Target("a/b", Name(None, "a/b"), None)
    assert parse("/v2/a/b/blobs/uploads/id") == UploadRoute(target, "id", None)
    closing = parse("/v2/a/b/blobs/uploads/id", f"digest={DIGEST}")
    assert closing == UploadRoute(target, "id", DIGEST)


def test_a_manifest_may_get_many_tags_at_once() -> None:
    route = parse(f"/v2/a/manifests/{DIGEST}", "tag=1&tag=two&tag=3.0")
    assert isinstance(route, ManifestRoute)
    assert route.tags == ("1", "two", "3.0")
    with pytest.raises(RefusedError, match="tag"):
        parse(f"/v2/a/manifests/{DIGEST}", "tag=1&tag=..")


def test_referrers_and_the_catalog() -> None:
    target, subject = Target("a", Name(None, "a"), None), DIGEST
    plain = parse(f"/v2/a/referrers/{DIGEST}")
    assert plain == ReferrersRoute(target, subject, None, None, None)
    query = "artifactType=application/x%2By&n=2&last=sha256:a"
    assert parse(f"/v2/a/referrers/{DIGEST}", query) == ReferrersRoute(
        target, subject, "application/x+y", 2, "sha256:a"
    )
    bare = parse(f"/v2/a/referrers/{DIGEST}", "artifactType=application/x+y")
    assert isinstance(bare, ReferrersRoute)
    assert bare.artifact_type == "application/x+y"
    assert parse("/v2/_catalog", "n=3&last=b") == CatalogRoute(3, "b")
    with pytest.raises(RefusedError, match="digest"):
        parse("/v2/a/referrers/latest")


def test_the_ns_parameter_names_the_registry() -> None:
    route = parse("/v2/library/pos/manifests/42", "ns=Reg.example.test:5000")
    assert isinstance(route, ManifestRoute)
    assert route.target.name == Name("reg.example.test:5000", "library/pos")
    assert route.target.namespace == "reg.example.test:5000"


def test_a_first_element_like_a_host_names_the_registry_where_ns_does_not() -> None:
    route = parse("/v2/reg.example.test/library/pos/manifests/42")
    assert isinstance(route, ManifestRoute)
    assert route.target.name == Name("reg.example.test", "library/pos")
    assert route.target.namespace is None
    assert route.target.path == "reg.example.test/library/pos"
    alone = parse("/v2/reg.example.test/manifests/42")
    assert isinstance(alone, ManifestRoute)
    assert alone.target.name == Name(None, "reg.example.test")
    told = parse("/v2/reg.example.test/pos/manifests/42", "ns=docker.io")
    assert isinstance(told, ManifestRoute)
    assert told.target.name == Name("docker.io", "reg.example.test/pos")


def test_a_port_in_the_first_element_may_be_escaped() -> None:
    for path in ("127.0.0.1:5000", "127.0.0.1%3A5000"):
        route = parse(f"/v2/{path}/pos/manifests/42")
        assert isinstance(route, ManifestRoute)
        assert route.target.name == Name("127.0.0.1:5000", "pos")


def test_a_colon_cannot_stand_in_a_path_so_an_underscore_does() -> None:
    for path, name in (
        ("lab.lan_5000/pos/app", Name("lab.lan:5000", "pos/app")),
        ("a_5000/app", Name(None, "a_5000/app")),
    ):
        route = parse(f"/v2/{path}/manifests/42")
        assert isinstance(route, ManifestRoute)
        assert route.target.name == name


@pytest.mark.parametrize(("path", "query"), [("docker.io/busybox", ""), ("busybox", "ns=docker.io")])
def test_short_names_of_docker_hub_are_completed(path: str, query: str) -> None:
    route = parse(f"/v2/{path}/manifests/latest", query)
    assert isinstance(route, ManifestRoute)
    assert route.target.name == Name("docker.io", "library/busybox")


def test_an_escaped_colon_is_a_colon() -> None:
    route = parse(f"/v2/a/blobs/sha256%3a{HEX}")
    assert isinstance(route, BlobRoute)
    assert route.digest == DIGEST


@pytest.mark.parametrize(
    "path",
    [
        "/v2/a%2fb/manifests/x",
        "/v2/a%2Fb/manifests/x",
        "/v2/../etc/manifests/x",
        "/v2/%2e%2e/manifests/x",
        "/v2/a/%2e%2e/manifests/x",
        "/v2/a/manifests/..%2f..%2fetc",
        "/v2/a%00/manifests/x",
        "/v2/a/manifests/x%00",
        "/v2/a/manifests/x%0d%0aSet-Cookie:1",
        "/v2/A/manifests/x",
        "/v2/a//b/manifests/x",
        "/v2//manifests/x",
        "/v2/manifests/x",
        "/v2/tags/list",
        "/v2/blobs/uploads/",
        "/v2/%c3%a9/manifests/x",
        "/v2/%e2%84%aa/manifests/x",
        f"/v2/{'a' * 256}/manifests/x",
        f"/v2/{'a/' * 2000}manifests/x",
    ],
)
def test_a_name_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse(path)
    assert (refused.value.status, refused.value.code) == (400, Code.NAME_INVALID)


@pytest.mark.parametrize("tag", ["..", "", "-x", "x" * 129])
def test_what_no_tag_can_be_called_is_found_nowhere(tag: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse(f"/v2/a/manifests/{tag}")
    assert (refused.value.status, refused.value.code) == (404, Code.MANIFEST_UNKNOWN)


@pytest.mark.parametrize(
    "ns", ["", "a/b", "..", "a b", "host:99999", "host:", "[::1", "%E2%84%AA.io", "h%00"]
)
def test_a_namespace_that_is_no_host_is_refused(ns: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse("/v2/a/manifests/x", f"ns={ns}")
    assert (refused.value.status, refused.value.code) == (400, Code.NAME_INVALID)


@pytest.mark.parametrize(
    "digest",
    ["sha256:", "sha256:abc", f"sha256:{HEX.upper()}", f"md5:{HEX}", "latest", f"sha256:{HEX}0", HEX],
)
def test_a_digest_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse(f"/v2/a/blobs/{digest}")
    assert (refused.value.status, refused.value.code) == (400, Code.DIGEST_INVALID)


@pytest.mark.parametrize(
    "path",
    ["", "/", "/v1/", "v2/", "/v2x", "/v2/a", "/v2/_catalog/x", "/v2/a/referrers", "/v2/a/tags"],
)
def test_what_is_no_endpoint_is_not_found(path: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse(path)
    assert (refused.value.status, refused.value.code) == (404, Code.UNSUPPORTED)
