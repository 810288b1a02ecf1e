"""What a host's configuration files hold, as hypothesis makes it: a value or `InvalidInputError`, nothing else."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.oci.reference import registry_as_component, registry_of_component_untrusted
from meshsat.runtime.catalog import PLANNERS, runtime_untrusted
from meshsat.runtime.detect import parse_version_untrusted
from meshsat.runtime.formats import (
    parse_json_untrusted,
    parse_toml_untrusted,
    parse_yaml_untrusted,
    text_untrusted,
)
from meshsat.runtime.plans import parse_node_url_untrusted
from meshsat.runtime.record import decode_record_untrusted
from tests.unit.runtime.trees import CASES, MIRROR, NODE, OTHER, DictView, place_of, view_of

settings.register_profile("fuzz", derandomize=True, database=None, deadline=None)
FUZZ = settings(settings.get_profile("fuzz"), max_examples=150)
SNIPPET = st.sampled_from(
    [b"[", b"]", b"{", b"}", b'"', b"'", b":", b"- ", b"\n", b"\r\n", b"&a ", b"*a", b"!!int ", b"? ", b"<<: ", b"|\n",
     b"=", b".", b"#", b",", b"  ", b"\t", b"\xff", b"\0", b"mirrors", b"endpoint", b"registry", b"null", b"1e9", b"%"]
)  # fmt: skip
BYTES = st.lists(SNIPPET | st.binary(max_size=3), max_size=24).map(b"".join)
TARGETS: list[Callable[[bytes], Any]] = [
    lambda data: parse_toml_untrusted("/f", data),
    lambda data: parse_yaml_untrusted("/f", data),
    lambda data: parse_json_untrusted("/f", data),
    lambda data: text_untrusted("/f", data),
    lambda data: parse_node_url_untrusted(data.decode("latin-1")),
    lambda data: runtime_untrusted(data.decode("latin-1")),
    lambda data: registry_of_component_untrusted(data.decode("latin-1")),
    decode_record_untrusted,
    parse_version_untrusted,
]
DATA_FILES = {case: sorted(path for path, data in view_of(case).files.items() if data) for case in CASES}


@pytest.mark.parametrize("target", TARGETS)
@FUZZ
@given(BYTES)
@example(b"a: !!timestamp 9999-99-99\n")
@example(b"a: 0x\n")
@example(b"%YAML 9.9\n---\na: 1\n")
@example(b"? [a]\n: 1\n")
@example(b"a: &a\n  b: *a\n")
@example(b"&a {*a : 1}")
@example(b"a: !!binary x\n")
@example(b"<<: 1\n")
def test_anything_is_a_value_or_refused(target: Callable[[bytes], Any], data: bytes) -> None:
    with suppress(InvalidInputError):
        target(data)


@FUZZ
@given(st.recursive(st.none() | st.integers() | st.text(max_size=4), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["format", "phase", "runtimes", "mirror", "entries", "directories", "waking", "since", "path"]), inner,
), max_leaves=10))  # fmt: skip
def test_any_json_is_a_record_or_refused(value: Any) -> None:
    with suppress(InvalidInputError):
        decode_record_untrusted(json.dumps(value).encode())


@pytest.mark.parametrize("place", sorted(PLANNERS))
@FUZZ
@given(st.data())
def test_a_plan_of_a_broken_configuration_is_refused_or_goes_round(place: str, data: st.DataObject) -> None:
    """A case with one of its files damaged: refused, or a plan that, carried out, plans no more."""
    case = data.draw(st.sampled_from([case for case in CASES if place_of(case) == place]))
    files = dict(view_of(case).files)
    path = data.draw(st.sampled_from(DATA_FILES[case]))
    at = data.draw(st.integers(0, len(files[path])))
    files[path] = files[path][:at] + data.draw(BYTES) + files[path][at + data.draw(st.integers(0, 3)) :]
    for mirror in (MIRROR, OTHER):
        with suppress(InvalidInputError):
            made = PLANNERS[place](DictView(files), mirror)
            for name, content in made.files.items():
                assert re.match(r"/(etc|a|b)/|/", name)
                if content != files.get(name):
                    assert (NODE if mirror is MIRROR else OTHER.url).partition("//")[
                        2
                    ].encode() in content or (b"config_path" in content)


@given(st.from_regex(r"[a-z0-9.-]{1,12}(:[0-9]{1,5})?", fullmatch=True))
def test_a_registry_in_a_path_is_read_back(registry: str) -> None:
    component = registry_as_component(registry)
    if component is not None:
        with suppress(InvalidInputError):
            assert registry_of_component_untrusted(component) == registry
