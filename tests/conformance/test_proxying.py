"""Names of other registries (distribution-spec, "Registry Proxying"). A node of our own is asked: what another
registry would hold is put there by the operator, over the node's own socket."""

from collections.abc import Iterator

import pytest

from tests.clients.runtimes import short_directory
from tests.conformance.conftest import ELSEWHERE, lone_node, serving
from tests.conformance.registry import EVERYTHING, Registry, located, with_query
from tests.images import OCI_MANIFEST, build_image, random_bytes
from tests.processes import Place

pytestmark = pytest.mark.slow

HOST = "registry.example.test"
IMAGE = build_image([random_bytes(700, seed=80)])
ACCEPT = [("Accept", one) for one in EVERYTHING]


@pytest.fixture(scope="module")
def mirror() -> Iterator[Registry]:
    """A node that holds `registry.example.test/library/pos:42`, and `app` of its own."""
    if ELSEWHERE:
        pytest.skip("about a node's own settings, and another registry is asked")
    with short_directory() as directory:
        place = Place(directory)
        try:
            node = lone_node(place)
            registry = serving(node)
            operator = Registry(f"unix:{node.data_dir / 'api.sock'}")
            for digest, data in IMAGE.blobs.items():
                started = operator.ask("POST", f"/v2/library/pos/blobs/uploads/?ns={HOST}", body=b"")
                assert started.status == 202, started
                assert operator.close(located(started), digest, data).status == 201
            target = f"/v2/library/pos/manifests/42?ns={HOST}"
            assert operator.ask("PUT", target, [("Content-Type", OCI_MANIFEST)], IMAGE.raw).status == 201
            registry.push("app", IMAGE, "1")
            yield registry
        finally:
            place.close()


def test_ns_names_the_registry_that_is_meant(mirror: Registry) -> None:
    """ "Registry Proxying": a registry that uses `ns` SHOULD return it as OCI-Namespace."""
    digest = next(iter(IMAGE.blobs))
    for target, body in (
        ("/v2/library/pos/manifests/42", IMAGE.raw),
        (f"/v2/library/pos/manifests/{IMAGE.root}", IMAGE.raw),
        (f"/v2/library/pos/blobs/{digest}", IMAGE.blobs[digest]),
        ("/v2/library/pos/tags/list", None),
    ):
        answer = mirror.ask("GET", f"{target}?ns={HOST}", ACCEPT)
        assert answer.status == 200
        assert answer["oci-namespace"] == HOST
        assert body is None or answer.body == body


def test_a_first_element_that_is_a_host_does_the_same(mirror: Registry) -> None:
    """For clients that cannot send `ns`: podman's and skopeo's mirrors."""
    answer = mirror.ask("GET", f"/v2/{HOST}/library/pos/manifests/42", ACCEPT)
    assert (answer.status, answer.body) == (200, IMAGE.raw)
    assert answer.get("oci-namespace") is None


def test_what_is_the_sites_own_has_no_namespace(mirror: Registry) -> None:
    """ "Registry Proxying": without `ns` nothing is scoped."""
    answer = mirror.ask("GET", "/v2/app/manifests/1", ACCEPT)
    assert (answer.status, answer.body) == (200, IMAGE.raw)
    assert answer.get("oci-namespace") is None


def test_a_registry_that_is_not_held_is_404_at_once(mirror: Registry) -> None:
    """end-3: a client then asks its next source."""
    answer = mirror.ask("GET", "/v2/library/pos/manifests/42?ns=other.example.test", ACCEPT)
    assert answer.status == 404
    answer = mirror.ask("GET", f"/v2/library/pos/referrers/{IMAGE.root}?ns=other.example.test")
    assert (answer.status, answer.json["manifests"]) == (200, [])


@pytest.mark.parametrize("ns", ["", "a/b", "..", "%00", "http://x", "x" * 300, "a%20b", "%E2%84%AA"])
def test_a_namespace_that_is_no_host_is_refused(mirror: Registry, ns: str) -> None:
    """code-8 NAME_INVALID: nothing is looked up."""
    answer = mirror.ask("GET", f"/v2/library/pos/manifests/42?ns={ns}", ACCEPT)
    assert answer.status == 400
    assert answer.codes == {"NAME_INVALID"}


@pytest.mark.parametrize("name", ["library/new?ns=" + HOST, f"{HOST}/library/new"])
def test_nobody_but_the_operator_writes_under_another_registrys_name(mirror: Registry, name: str) -> None:
    """ "Registry Proxying": `ns` is for pulls."""
    path, _, query = name.partition("?")
    start = mirror.ask("POST", f"/v2/{path}/blobs/uploads/?{query}", body=b"")
    assert start.status in {400, 403, 405}
    assert start.codes <= {"DENIED", "UNSUPPORTED", "NAME_INVALID"}
    put = f"/v2/{path}/manifests/1?{query}"
    assert mirror.ask("PUT", put, [("Content-Type", OCI_MANIFEST)], IMAGE.raw).status in {400, 403, 405}
    delete = f"/v2/{path}/manifests/42?{query}"
    assert mirror.ask("DELETE", delete).status in {400, 403, 404, 405}
    held = mirror.ask("GET", with_query("/v2/library/pos/manifests/42", ns=HOST), ACCEPT)
    assert held.body == IMAGE.raw
