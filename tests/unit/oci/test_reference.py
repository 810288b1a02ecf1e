import pytest

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.oci.reference import (
    Reference,
    looks_like_registry,
    parse_registry_untrusted,
    parse_repository_untrusted,
    parse_tag_untrusted,
    registry_as_component,
    registry_of_component_untrusted,
)

SHA256 = "sha256:" + "ab" * 32
SHA512 = "sha512:" + "ab" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("grafana/loki", "docker.io/grafana/loki:latest"),
        ("a/b/c/d:v1", "docker.io/a/b/c/d:v1"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("reg.example.test/a/b:v1", "reg.example.test/a/b:v1"),
        ("Reg.Example.TEST:443/a", "reg.example.test:443/a:latest"),
        ("192.0.2.1/x", "192.0.2.1/x:latest"),
        ("[2001:DB8::1]:5000/x:y", "[2001:db8::1]:5000/x:y"),
        (f"busybox@{SHA256}", f"docker.io/library/busybox@{SHA256}"),
        (f"busybox:1@{SHA512}", f"docker.io/library/busybox:1@{SHA512}"),
        ("x/b-c__d/e_f.g", "docker.io/x/b-c__d/e_f.g:latest"),
        ("x/a--b", "docker.io/x/a--b:latest"),
        ("x:A_b.c-9", "docker.io/library/x:A_b.c-9"),
    ],
)
def test_names_as_people_write_them(text: str, full: str) -> None:
    reference = Reference.parse_untrusted(text)
    assert str(reference) == full
    assert Reference.parse_untrusted(full) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "Busybox",
        "library/Busybox",
        "UPPER/x",
        "a:",
        "a:-x",
        "a:" + "x" * 129,
        "a@",
        "a@sha256:short",
        f"a@{SHA256.upper()}",
        f"a@{SHA256}@{SHA256}",
        f"@{SHA256}",
        "a_",
        "-a",
        "a..b",
        "a___b",
        "a b",
        "a\n",
        "ä",
        "reg.test:0/x",
        "reg.test:65536/x",
        "reg.test:port/x",
        "-reg.test/x",
        "reg_x.test/x",  # the dot makes it a registry, and _ no host name
        "[::g]/x",
        "[::1/x",
        "[fe80::1%eth0]/x",
        "https://reg.test/x",
        "ab" * 32,
        "a/" * 127 + "bb",
        "a" * 5000,
        None,
        7,
        b"busybox",
    ],
)
def test_anything_else_is_refused(text: object) -> None:
    with pytest.raises(InvalidInputError):
        Reference.parse_untrusted(text)


def test_changes_give_new_values() -> None:
    reference = Reference.parse_untrusted("busybox")
    digest = Digest.of(b"")
    assert str(reference.with_digest(digest)) == f"docker.io/library/busybox:latest@{digest}"
    assert reference.with_tag("1").tag == "1"
    assert reference.name == "docker.io/library/busybox"


def test_length_of_a_repository_is_bounded() -> None:
    assert parse_repository_untrusted("a" * 255) == "a" * 255
    with pytest.raises(InvalidInputError):
        parse_repository_untrusted("a" * 256)
    # `library/` counts
    with pytest.raises(InvalidInputError):
        Reference.parse_untrusted("a" * 248)


def test_routes_take_what_the_specification_allows() -> None:
    assert parse_repository_untrusted("blobs/uploads/manifests/tags") == "blobs/uploads/manifests/tags"
    assert parse_tag_untrusted("_x") == "_x"
    for taker in (parse_repository_untrusted, parse_tag_untrusted, parse_registry_untrusted):
        for wrong in ("", "a b", "../x", None, 7, "a\x00"):
            with pytest.raises(InvalidInputError):
                taker(wrong)


@pytest.mark.parametrize(
    ("registry", "component"),
    [
        ("docker.io", "docker.io"),
        ("lab.lan:5000", "lab.lan_5000"),
        ("127.0.0.1:5000", "127.0.0.1_5000"),
        ("localhost:5000", "localhost_5000"),
        ("cache:5000", None),
        ("cache", None),
        ("[::1]:5000", None),
    ],
)
def test_a_registry_as_a_component_of_a_path(registry: str, component: str | None) -> None:
    assert registry_as_component(registry) == component
    if component is not None:
        assert registry_of_component_untrusted(component) == registry


@pytest.mark.parametrize("component", ["a.b_c", "a.b_123456", "a.b_0", "_5000", "cache_5000"])
def test_what_is_no_registry_in_a_path(component: str) -> None:
    with pytest.raises(InvalidInputError):
        registry_of_component_untrusted(component)


def test_what_looks_like_a_registry() -> None:
    assert all(map(looks_like_registry, ["a.b", "a:1", "localhost", "LocalHost"]))
    assert not looks_like_registry("library")
