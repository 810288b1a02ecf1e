"""What Harbor Satellite's side and the disk hold: a value or `InvalidInputError`, whatever the bytes."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.fleet.harbor_satellite import adoption, keeping, shadow, shapes
from meshsat.fleet.harbor_satellite.merge import merge
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.satellite import document_untrusted, sole_layer_untrusted
from meshsat.web.arguments import parse_nodes_untrusted
from tests.fuzz.test_oci_edge import ANYTHING, DIGEST, FUZZ, mostly
from tests.harbor_satellite import layer_of

ADDRESS = st.sampled_from(
    [
        "https://h.example/a/b:latest",
        "http://h/a:1",
        "h.example/a",
        "https://[::1]:5000/a:b",
        "//",
        "https://é/a",
        "http://h:99999/a",
    ]
)
TEXT = st.one_of(ADDRESS, st.text(max_size=12), st.sampled_from(["@every 00h00m30s", "v1", "a/b", "latest"]))
ARTIFACT = st.fixed_dictionaries(
    {"repository": mostly(TEXT)},
    optional={
        "tag": mostly(st.lists(mostly(TEXT), max_size=3)),
        "digest": mostly(DIGEST),
        "deleted": mostly(st.booleans()),
        "labels": ANYTHING,
    },
)
AUTH = st.fixed_dictionaries({}, optional={name: mostly(TEXT) for name in ("url", "username", "password")})
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        name: mostly(TEXT)
        for name in (
            "state_replication_interval",
            "heartbeat_interval",
            "harbor_registry_url",
            "ground_control_url",
        )
    },
)
STATE_CONFIG = st.fixed_dictionaries({}, optional={"auth": mostly(AUTH), "state": mostly(TEXT)})
GROUP = st.fixed_dictionaries(
    {},
    optional={
        "group": mostly(TEXT),
        "registry": mostly(TEXT),
        "artifacts": mostly(st.lists(mostly(ARTIFACT), max_size=4)),
    },
)
ROOT = st.fixed_dictionaries(
    {}, optional={"states": mostly(st.lists(mostly(TEXT), max_size=4)), "config": mostly(TEXT)}
)
CONFIG = st.fixed_dictionaries(
    {},
    optional={"app_config": mostly(SETTINGS), "state_config": mostly(STATE_CONFIG), "zot_config": ANYTHING},
)
KEPT = st.fixed_dictionaries(
    {"format": st.just(1), "revision": mostly(st.integers(0, 9))},
    optional={
        "place": mostly(ADDRESS),
        "version": mostly(TEXT),
        "groups": mostly(
            st.lists(
                mostly(
                    st.fixed_dictionaries(
                        {
                            "place": mostly(ADDRESS),
                            "digest": mostly(DIGEST),
                            "document": mostly(st.sampled_from(['{"group": "a"}', "{}"])),
                            "fetched_at": ANYTHING,
                        }
                    )
                ),
                max_size=2,
            )
        ),
        "root": ANYTHING,
        "config": ANYTHING,
        "enlisted": ANYTHING,
    },
)
LEDGER = st.fixed_dictionaries(
    {
        "format": st.just(1),
        "images": mostly(
            st.lists(
                mostly(
                    st.fixed_dictionaries(
                        {
                            "reference": mostly(TEXT),
                            "digest": mostly(DIGEST),
                            "parts": mostly(st.dictionaries(DIGEST, mostly(st.integers(0, 99)), max_size=2)),
                            "single": mostly(st.lists(DIGEST, max_size=2)),
                            "fresh": mostly(st.integers(0, 99)),
                        }
                    )
                ),
                max_size=2,
            )
        ),
        "days": mostly(
            st.dictionaries(
                st.sampled_from(["2026-12-01", "2026-13-01", "x"]),
                mostly(st.lists(mostly(st.integers(0, 9)), min_size=5, max_size=5)),
                max_size=2,
            )
        ),
    }
)

TARGETS: list[tuple[Callable[[bytes], Any], st.SearchStrategy[Any]]] = [
    (shapes.parse_satellite_state_untrusted, ROOT),
    (shapes.parse_group_state_untrusted, GROUP),
    (shapes.parse_config_untrusted, CONFIG),
    (shapes.parse_registration_untrusted, STATE_CONFIG),
    (shapes.parse_refresh_untrusted, st.fixed_dictionaries({"secret": mostly(TEXT)})),
    (
        shapes.parse_report_answer_untrusted,
        st.fixed_dictionaries({"events": mostly(st.lists(ANYTHING, max_size=3))}),
    ),
    (shapes.parse_token_untrusted, st.text(max_size=20)),
    (keeping.parse_kept_untrusted, KEPT),
    (shadow.parse_ledger_untrusted, LEDGER),
    (lambda raw: adoption.parse_adoption_untrusted(raw, raw), CONFIG),
    (lambda raw: adoption.parse_adoption_untrusted(raw, None), CONFIG),
]


@pytest.mark.parametrize(("parse", "strategy"), TARGETS)
def test_a_document_is_read_or_refused(
    parse: Callable[[bytes], Any], strategy: st.SearchStrategy[Any]
) -> None:
    @FUZZ
    @given(st.one_of(st.binary(max_size=64), strategy.map(lambda value: json.dumps(value).encode())))
    def check(raw: bytes) -> None:
        with suppress(InvalidInputError):
            parse(raw)

    check()


@FUZZ
@given(GROUP)
def test_whatever_a_group_says_merges(value: Any) -> None:
    with suppress(InvalidInputError):
        group = shapes.parse_group_state_untrusted(json.dumps(value).encode())
        merge("h.example", {shapes.Place("h.example", "a"): group})


@FUZZ
@given(KEPT)
def test_what_is_kept_is_written_as_it_was_read(value: Any) -> None:
    with suppress(InvalidInputError):
        kept = keeping.parse_kept_untrusted(json.dumps(value).encode())
        assert keeping.parse_kept_untrusted(keeping.encode_kept(kept)) == kept


@FUZZ
@given(mostly(TEXT))
def test_an_address_is_read_or_refused(text: Any) -> None:
    with suppress(InvalidInputError):
        place = shapes.parse_place_untrusted(text)
        assert shapes.parse_place_untrusted(str(place)) == place
    with suppress(InvalidInputError):
        shapes.parse_registry_address_untrusted(text)
    with suppress(InvalidInputError):
        parse_nodes_untrusted(text if isinstance(text, str) else None)


LAYER = layer_of(b'{"group": "a"}')


@FUZZ
@given(st.one_of(st.binary(max_size=600), st.tuples(st.integers(0, len(LAYER) - 1), st.integers(1, 255))))
def test_a_layer_is_read_or_refused(change: Any) -> None:
    raw = bytearray(LAYER)
    if isinstance(change, bytes):
        raw = bytearray(change)
    else:
        raw[change[0]] ^= change[1]
    with suppress(InvalidInputError):
        document_untrusted(bytes(raw))


@FUZZ
@given(ANYTHING)
def test_a_manifest_is_a_state_artifacts_or_refused(value: Any) -> None:
    with suppress(InvalidInputError):
        sole_layer_untrusted(parse_manifest_untrusted(json.dumps(value).encode()))
