import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.runtime.toml_edit import comment_out, dotted, headers, insert_before_tables, quoted, set_text

KEYS = ("plugins", "io.containerd.grpc.v1.cri", "registry", "config_path")
HOSTS = Path(__file__).parent / "hosts"
CONFIGS = sorted(HOSTS.glob("containerd-*/etc/containerd/config.toml"))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_quoted_is_read_back(text: str) -> None:
    assert tomllib.loads(f"a = {quoted(text)}") == {"a": text}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_dotted_is_read_back(keys: list[str]) -> None:
    found = tomllib.loads(f"[{dotted(keys)}]")
    for key in keys:
        found = found[key]
    assert found == {}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.parts[-4])
def test_one_line_is_changed_or_a_table_added(config: Path) -> None:
    data = config.read_bytes()
    changed = set_text("f", data, KEYS, "/some/where")
    assert tomllib.loads(changed.decode())["plugins"][KEYS[1]]["registry"]["config_path"] == "/some/where"
    gone = set(data.splitlines()) - set(changed.splitlines())
    assert len(gone) <= 1
    assert all(b"config_path" in line for line in gone)
    assert set_text("f", changed, KEYS, "/some/where") == changed


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '[a.b]\n  k = "v"\n'),
        ("x = 1", 'x = 1\n\n[a.b]\n  k = "v"\n'),
        ("[a.b]\n\tz = 1\n", '[a.b]\n\tk = "v"\n\tz = 1\n'),
        ("[a.b]\r\nk = 'old' # why\r\n", '[a.b]\r\nk = "v" # why\r\n'),
        ("  [ a . b ]\n[c]\n", '  [ a . b ]\n    k = "v"\n[c]\n'),
        ("[a]\nb.z = 1\n", '[a]\nb.z = 1\nb.k = "v"\n'),
        ("a = {b = {k = ''}}\n", 'a = {b = {k = "v"}}\n'),
        ('t = """\n[a.b]\n"""\n', 't = """\n[a.b]\n"""\n\n[a.b]\nk = "v"\n'),
    ],
)
def test_a_text_is_set_where_it_belongs(before: str, after: str) -> None:
    assert set_text("f", before.encode(), ("a", "b", "k"), "v").decode() == after


def test_what_is_no_table_holds_no_key() -> None:
    with pytest.raises(InvalidInputError, match="a must be a table"):
        set_text("f", b"a = 1\n", ("a", "k"), "v")


def test_tables_become_comments_with_all_that_is_below_them() -> None:
    text = '[a]\nx = 1\n  [a.b]\n  y = 2\n\n  [a.b."c.d"]\n  z = [\n    3,\n  ]\n[e]\n'
    changed = comment_out("f", text.encode(), [("a", "b")], "moved").decode()
    assert changed == (
        '[a]\nx = 1\n  # moved\n  # [a.b]\n  # y = 2\n\n  # [a.b."c.d"]\n  # z = [\n    # 3,\n  # ]\n[e]\n'
    )
    with pytest.raises(InvalidInputError, match="by hand"):
        comment_out("f", b"a = {b = {c = 1}}\n", [("a", "b")], "moved")


def test_lines_go_before_the_first_table_and_its_comment() -> None:
    new = ["[n]", "k = 1"]
    for before, after in (
        ("", "[n]\nk = 1\n"),
        ("s = 1", "s = 1\n\n[n]\nk = 1\n"),
        ("s = 1\n# of t\n[t]\n", "s = 1\n\n[n]\nk = 1\n\n# of t\n[t]\n"),
        ("[t]\n", "[n]\nk = 1\n\n[t]\n"),
    ):
        assert insert_before_tables("f", before.encode(), new).decode() == after


def test_headers_know_brackets_in_names_and_arrays_of_tables() -> None:
    text = 'a = 1\n[host."http://[::1]:5000"] # c\nb = 1\n[[t]]\nc = 1\n'
    assert headers(text) == [None, *[("host", "http://[::1]:5000")] * 2, ("t",), ("t",)]
