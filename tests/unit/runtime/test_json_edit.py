import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.runtime.json_edit import put_first

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "k": ["v"]\n}\n'),
        ("{}", '{\n  "k": ["v"]\n}'),
        ('{"a":1}', '{"a":1,"k": ["v"]}'),
        ('{\r\n\t"a": {"k": []}\r\n}\r\n', '{\r\n\t"a": {"k": []},\r\n\t"k": ["v"]\r\n}\r\n'),
        ('{"k": null, "a": 1}', '{"k": ["v"], "a": 1}'),
        ('{"k": [ ]}', '{"k": ["v"]}'),
        ('{"k": ["x"]}', '{"k": ["v", "x"]}'),
        ('{"k": [\n   "x"\n]}', '{"k": [\n   "v",\n   "x"\n]}'),
        ('{"k\\u0062": 1, "\\u006b": ["x"]}', '{"k\\u0062": 1, "\\u006b": ["v", "x"]}'),
    ],
)
def test_only_what_must_be_is_changed(before: str, after: str) -> None:
    assert put_first("f", before.encode(), "k", "v").decode() == after


@given(
    st.dictionaries(st.text(max_size=4).filter(lambda key: key != "k"), JSON, max_size=4),
    st.none() | st.lists(st.text(max_size=4), max_size=3),
    st.sampled_from([None, 0, 3, "\t"]),
    st.integers(0, 4),
)
def test_any_object_keeps_all_else(others: dict[str, Any], listed: Any, indent: Any, at: int) -> None:
    items = list(others.items())
    found = dict([*items[:at], *([("k", listed)] if listed is not None else []), *items[at:]])
    changed = json.loads(put_first("f", json.dumps(found, indent=indent).encode(), "k", "v"))
    assert changed == {**found, "k": ["v", *(listed or [])]}


def test_a_list_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="k must be a list of texts"):
        put_first("f", b'{"k": "x"}', "k", "v")


def test_hand_made_files_lose_no_byte() -> None:
    for path in sorted((Path(__file__).parent / "hosts").glob("docker-*/etc/docker/daemon.json")):
        data = path.read_bytes()
        changed = put_first("f", data, "registry-mirrors", "http://n")
        rest = iter(changed)
        if b"[ ]" not in data:
            assert all(byte in rest for byte in data), path
