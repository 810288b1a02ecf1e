import json
from collections.abc import Callable
from typing import Any

import pytest

from meshsat.errors import InvalidInputError
from meshsat.runtime.formats import (
    ALIAS_LIMIT,
    SIZE_LIMIT,
    parse_json_untrusted,
    parse_toml_untrusted,
    parse_yaml_untrusted,
    table,
    texts,
)

Parse = Callable[[str, bytes], dict[str, Any]]
PARSERS: list[Parse] = [parse_toml_untrusted, parse_json_untrusted, parse_yaml_untrusted]


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("data", [b"", b"\n", b" \n\n"])
def test_an_empty_file_says_nothing(parse: Parse, data: bytes) -> None:
    assert parse("/etc/f", data) == {}


@pytest.mark.parametrize(
    ("parse", "data", "said"),
    [
        (parse_toml_untrusted, b"a = 1\nb = = 2\n", "line 2"),
        (parse_json_untrusted, b'{\n"a": 1\n"b": 2}', "line 3"),
        (parse_json_untrusted, b'{"a": 1, "a": 2}', "'a' twice"),
        (parse_json_untrusted, b"[1]", "a list"),
        (parse_yaml_untrusted, b"a: 1\n  b: [\n", "line 2"),
        (parse_yaml_untrusted, b"a: 1\na: 2\n", "line 2"),
        (parse_yaml_untrusted, b"a: 1\n---\nb: 2\n", "another document"),
        (parse_yaml_untrusted, b"- 1\n", "a list"),
        (parse_yaml_untrusted, b"a: !!python/object:os.system x\n", "line 1"),
        (parse_toml_untrusted, b"\xef\xbb\xbfa = 1\n", "byte order mark"),
        (parse_toml_untrusted, b"a = 1\n# \xff\n", "line 2"),
        (parse_toml_untrusted, b"a" * (SIZE_LIMIT + 1), "no configuration"),
        (parse_toml_untrusted, b"a = " + b"[" * 5000, "TOML"),
        (parse_json_untrusted, b"[" * 100_000, "JSON"),
        (parse_json_untrusted, b'{"a":' * 100 + b"1" + b"}" * 100, "nested too deep"),
        (parse_yaml_untrusted, b"a: " + b"[" * 2000 + b"]" * 2000, "YAML"),
        (parse_yaml_untrusted, b"a: &a [1]\nb: [" + b"*a, " * (ALIAS_LIMIT + 1) + b"]\n", "aliases"),
    ],
)
def test_faults_name_the_file_and_the_line(parse: Parse, data: bytes, said: str) -> None:
    with pytest.raises(InvalidInputError) as fault:
        parse("/etc/some/file", data)
    assert "/etc/some/file" in str(fault.value)
    assert said in str(fault.value)


def test_a_key_that_is_there_twice_is_told_without_its_values() -> None:
    with pytest.raises(InvalidInputError) as fault:
        parse_yaml_untrusted("/f", b"password: hunter2\npassword: hunter3\n")
    assert "line 2" in str(fault.value)
    assert "hunter" not in str(fault.value)


def test_tables_and_texts() -> None:
    found = json.loads('{"a": {"b": {"c": ["x"]}}, "n": null, "s": "x"}')
    assert table("f", found, "a", "b") == {"c": ["x"]}
    assert table("f", found, "n", "z") == {}
    assert texts("f", "c", ["x"]) == ["x"]
    assert texts("f", "c", None) == []
    with pytest.raises(InvalidInputError, match="s must be a table"):
        table("f", found, "s")
    for wrong in ("x", [1], {"x": 1}):
        with pytest.raises(InvalidInputError, match="list of texts"):
            texts("f", "c", wrong)
