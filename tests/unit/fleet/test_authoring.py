"""What people write is read in TOML and YAML alike, and what is wrong is told with its place."""

import pytest

from meshsat.errors import InvalidInputError
from meshsat.fleet.authoring import NODES_LIMIT, is_authored, parse_authored_untrusted, pinned
from meshsat.fleet.document import DOCUMENT_LIMIT
from meshsat.oci.reference import Reference

TOML = """
expires = "30d"
[groups.eu]
sites = ["berlin-*"]
[[images]]
reference = "r.example/a:1"
groups = ["eu"]
active_from = 2026-12-01T02:00:00Z
[[limits]]
rate = 1000
"""
YAML = """
expires: 30d
groups:
  eu: {sites: ["berlin-*"]}
images:
- reference: r.example/a:1
  groups: [eu]
  active_from: "2026-12-01T02:00:00Z"
limits:
- rate: 1000
"""
DIGEST = "sha256:" + "a" * 64


def test_both_say_the_same() -> None:
    one = parse_authored_untrusted("x.toml", TOML.encode())
    assert one == parse_authored_untrusted("x.yaml", YAML.encode())
    assert one == parse_authored_untrusted("x.yml", YAML.encode())
    assert one.expires == "30d"
    assert one.state.images[0].name == "r.example/a:1"


def test_what_is_authored_is_known_by_its_name() -> None:
    assert [name for name in ("a.toml", "a.yaml", "a.yml", "a.state", "toml") if is_authored(name)] == [
        "a.toml",
        "a.yaml",
        "a.yml",
    ]


def test_aliases_save_words() -> None:
    text = "images:\n- &one {reference: 'r.example/a:1', priority: 7}\n- {<<: *one, reference: 'r.example/b:1'}\n"
    images = parse_authored_untrusted("x.yaml", text.encode()).state.images
    assert [image.priority for image in images] == [7, 7]


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("x.toml", "images = [", "x.toml is not valid TOML"),
        (
            "x.toml",
            "[[images]]\nreference = 'r.example/a:1'\nprio = 1",
            "x.toml: desired state: images.0.prio",
        ),
        ("x.toml", "[[images]]\nreference = 'r.example/a:1'\nnot_before = 2026-12-01T02:00:00", "not_before"),
        ("x.toml", "expires = 30", "x.toml: expires"),
        ("x.toml", "a = " + "[" * 5000, "x.toml"),
        ("x.yaml", "images: [\n", "line 2"),
        ("x.yaml", "- a\n- b\n", "x.yaml: a desired state is a table"),
        ("x.yaml", "1: a\n", "a desired state is a table"),
        ("x.yaml", "", "a desired state is a table"),
        ("x.yaml", "images: !!python/object:os.system {}", "x.yaml"),
        ("x.yaml", BOMB, "stand for too much"),
        ("x.yaml", "a: &a [*a]\n", "stand for too much"),
        ("x.yaml", "a: &a 1\n" + "b: [" + "*a," * 1001 + "]", "more than 1000 aliases"),
        ("x.yaml", "a: 1\na: 2\n", "x.yaml"),
    ],
)
def test_faults_are_told_with_their_place(name: str, text: str, told: str) -> None:
    with pytest.raises(InvalidInputError) as fault:
        parse_authored_untrusted(name, text.encode())
    assert told in str(fault.value)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(InvalidInputError, match=r"x\.toml: line 2 is not UTF-8"):
        parse_authored_untrusted("x.toml", b"a = 1\n\xff")
    with pytest.raises(InvalidInputError, match="at most"):
        parse_authored_untrusted("x.toml", bytes(DOCUMENT_LIMIT + 1))
    assert NODES_LIMIT > 100 * 1000


def test_tags_without_a_digest_are_pinned_and_no_others() -> None:
    text = f"images:\n- reference: r.example/a:1\n- reference: r.example/b:1@{DIGEST}\n"
    asked: list[str] = []

    def resolve(reference: Reference) -> str:
        asked.append(str(reference))
        return "sha256:" + "b" * 64

    state = pinned(parse_authored_untrusted("x.yaml", text.encode()).state, resolve)
    assert asked == ["r.example/a:1"]
    assert [image.reference for image in state.images] == [
        "r.example/a:1@sha256:" + "b" * 64,
        f"r.example/b:1@{DIGEST}",
    ]
