"""Desired states, reports and files of the fleet part: they are read, or refused with a reason, whatever the bytes."""

import json
from contextlib import suppress

import cbor2
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.fleet.document import encode_state, parse_state_untrusted, state_of
from meshsat.fleet.meanings import Meaning, Meanings, decode_meanings_untrusted
from meshsat.fleet.report import Mark, Report, Stage, open_report_untrusted, seal_report
from meshsat.oci.digest import Digest
from meshsat.trust import envelope
from tests.brain import key, peer
from tests.fuzz.test_oci_edge import ANYTHING, mostly
from tests.fuzz.test_trust import damaged

TEXT = st.sampled_from(["r.example/a:1", "2026-12-01T02:00:00Z", "9999-12-31T23:59:59-23:59", "eu", "*", ""])
IMAGE = st.fixed_dictionaries(
    {"reference": mostly(TEXT)},
    optional={
        name: mostly(TEXT)
        for name in ("not_before", "active_from", "deadline", "copies", "platforms", "priority", "sites")
    },
)
STATE = st.fixed_dictionaries(
    {},
    optional={
        "images": mostly(st.lists(mostly(IMAGE), max_size=3)),
        "groups": mostly(st.dictionaries(TEXT, mostly(st.just({"sites": ["a*"]})), max_size=2)),
        "limits": mostly(st.lists(mostly(st.just({"rate": 1})), max_size=2)),
        "signatures": mostly(st.lists(ANYTHING, max_size=2)),
        "pull_through": ANYTHING,
    },
)


@given(st.one_of(st.binary(max_size=64), STATE.map(lambda value: json.dumps(value).encode())))
def test_a_state_is_read_or_refused(raw: bytes) -> None:
    with suppress(InvalidInputError):
        state = parse_state_untrusted(raw)
        assert parse_state_untrusted(encode_state(state)) == state
        state.images_for("a")
        state.limits_for("a")


@given(STATE)
def test_what_is_authored_is_read_or_refused(value: dict[str, object]) -> None:
    with suppress(InvalidInputError):
        state_of(value)


REPORT = seal_report(
    key("a"), Report(peer("a"), 1, 2, b"8 bytes!", marks=(Mark(Stage.WHOLE),), faults=((0, "x"),))
)
MEANINGS = Meanings(
    {("r.example", "pos", "1"): Meaning(Digest.of(b""), 1.0, before=(Digest.of(b"x"),))}
).encode()
WORDS = st.recursive(
    st.one_of(st.integers(-2, 1 << 63), st.binary(max_size=9), st.text(max_size=9), st.none()),
    lambda inner: st.lists(inner, max_size=9),
    max_leaves=12,
)


@given(
    st.one_of(
        st.binary(max_size=64),
        damaged(REPORT),
        WORDS.map(lambda words: envelope.seal(key("a"), "meshsat/report/1", cbor2.dumps(words))),
    )
)
def test_a_report_is_read_or_refused(raw: bytes) -> None:
    with suppress(InvalidInputError):
        report = open_report_untrusted(raw)
        assert open_report_untrusted(seal_report(key("a"), report)).says(report)


@given(
    st.one_of(
        st.binary(max_size=64), damaged(MEANINGS), ANYTHING.map(lambda value: json.dumps(value).encode())
    )
)
def test_meanings_are_read_or_refused(raw: bytes) -> None:
    with suppress(InvalidInputError):
        meanings = decode_meanings_untrusted(raw)
        assert decode_meanings_untrusted(meanings.encode()) == meanings
