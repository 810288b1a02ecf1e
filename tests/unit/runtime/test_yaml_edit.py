from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from meshsat.errors import InvalidInputError
from meshsat.runtime.formats import parse_yaml_untrusted
from meshsat.runtime.yaml_edit import add_config, put_first, quoted, with_first

URL = "http://n:5000"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'mirrors:\n  h:\n    endpoint:\n      - "http://n:5000"\n'),
        ("# c", '# c\nmirrors:\n  h:\n    endpoint:\n      - "http://n:5000"\n'),
        ("mirrors:\n", 'mirrors:\n  h:\n    endpoint:\n      - "http://n:5000"\n'),
        ("mirrors:\n  h:\n", 'mirrors:\n  h:\n    endpoint:\n      - "http://n:5000"\n'),
        (
            "mirrors:\n h:\n  endpoint:\n  - a # c\n",
            'mirrors:\n h:\n  endpoint:\n  - "http://n:5000"\n  - a # c\n',
        ),
        ("mirrors: {h: {endpoint: [a]}}\n", 'mirrors: {h: {endpoint: ["http://n:5000", a]}}\n'),
        (
            "mirrors:\r\n  i:\r\n    endpoint: [ 'a' ]\r\n",
            "mirrors:\r\n  h:\r\n    endpoint:\r\n      - \"http://n:5000\"\r\n  i:\r\n    endpoint: [ 'a' ]\r\n",
        ),
        (
            "mirrors:\n  h:\n    rewrite: {a: b}\n",
            'mirrors:\n  h:\n    endpoint:\n      - "http://n:5000"\n    rewrite: {a: b}\n',
        ),
    ],
)
def test_only_what_must_be_is_changed(before: str, after: str) -> None:
    assert put_first("f", before.encode(), ["h"], URL).decode() == after


@pytest.mark.parametrize("empty", ["{}", "null", "~"])
def test_an_empty_mapping_is_written_anew(empty: str) -> None:
    changed = put_first("f", f"# kept\nmirrors: {empty}  # and this\n".encode(), ["h"], URL)
    assert parse_yaml_untrusted("f", changed) == {"mirrors": {"h": {"endpoint": [URL]}}}
    assert b"# kept" in changed


def test_what_stands_for_two_cannot_be_changed_for_one() -> None:
    text = b"x: &x\n  endpoint: [a]\nmirrors:\n  h: *x\n"
    with pytest.raises(InvalidInputError, match="put http://n:5000 first among the endpoints of h yourself"):
        put_first("f", text, ["h"], URL)


def test_the_authority_of_a_node() -> None:
    text = b"configs:\n    a: {auth: {username: u}}\n"
    changed = add_config("f", text, "n:5000", "/ca.pem")
    assert parse_yaml_untrusted("f", changed)["configs"]["n:5000"] == {"tls": {"ca_file": "/ca.pem"}}
    assert changed.endswith(b"    a: {auth: {username: u}}\n")
    assert add_config("f", changed, "n:5000", "/other.pem") == changed


@given(
    st.text(
        st.characters(codec="utf-8", max_codepoint=0xFFFF, exclude_categories=("Cc", "Cs")),
        min_size=1,
        max_size=12,
    )
)
def test_quoted_is_read_back_as_text(text: str) -> None:
    assert YAML(typ="safe", pure=True).load(f"- {quoted(text)}") == [text]


HOST = st.sampled_from(["docker.io", "*", "quay.io", "a:5000"])


@given(
    st.dictionaries(
        HOST, st.none() | st.fixed_dictionaries({"endpoint": st.lists(st.just("http://o"), max_size=2)})
    ),
    st.lists(HOST, min_size=1, unique=True),
    st.booleans(),
)
def test_any_file_says_what_it_said_and_the_node_first(
    mirrors: dict[str, object], hosts: list[str], flow: bool
) -> None:
    out, yaml = StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style = flow
    found = {"configs": {"x": None}, "mirrors": mirrors}
    yaml.dump(found, out)
    changed = put_first("f", out.getvalue().encode(), hosts, URL)
    assert parse_yaml_untrusted("f", changed) == with_first(found, hosts, URL)
