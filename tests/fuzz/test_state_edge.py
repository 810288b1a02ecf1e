"""Roots, heads and their envelopes from outside: taken in, or refused with a reason, whatever the bytes."""

import base64
import json
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.fleet.artifact import LIMITS, artifact_of, file_of_untrusted, layers_untrusted
from meshsat.fleet.authoring import parse_authored_untrusted
from meshsat.fleet.document import encode_state
from meshsat.fleet.drafts import standings
from meshsat.fleet.keeping import encode_kept, parse_kept_untrusted
from meshsat.fleet.state_file import StateFile, encode_state_file, parse_state_file_untrusted
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.trust.dsse import Signed, encode_signed, parse_signed_untrusted
from meshsat.trust.state_documents import HEAD_TYPE, ROOT_TYPE, StateError, document_untrusted
from tests.authors import NOW, Signers, key_of, resigned
from tests.fuzz.test_oci_edge import ANYTHING, mostly

S = Signers()
ROOT, HEAD = S.first(), S.head()
TYPES = st.sampled_from([ROOT_TYPE, HEAD_TYPE, "application/vnd.meshsat.root.v2+json", ""])
FIELDS = {
    name: mostly(st.just(value))
    for fields in (json.loads(S.root_of().encode()), json.loads(S.head_of().encode()))
    for name, value in fields.items()
}
PAYLOAD = st.one_of(
    st.binary(max_size=64),
    st.fixed_dictionaries({}, optional=FIELDS).map(lambda fields: json.dumps(fields).encode()),
)
ENVELOPE = st.fixed_dictionaries(
    {},
    optional={
        "payloadType": mostly(TYPES),
        "payload": mostly(PAYLOAD.map(lambda data: base64.b64encode(data).decode())),
        "signatures": mostly(
            st.lists(mostly(st.just(json.loads(HEAD)["signatures"][0])), max_size=3),
        ),
    },
)


@given(st.one_of(st.binary(max_size=64), ENVELOPE.map(lambda fields: json.dumps(fields).encode())))
def test_an_envelope_is_read_or_refused(raw: bytes) -> None:
    with suppress(InvalidInputError):
        read = parse_signed_untrusted(raw)
        assert parse_signed_untrusted(encode_signed(read)).payload == read.payload


@given(TYPES, PAYLOAD)
def test_a_document_is_read_or_refused(kind: str, payload: bytes) -> None:
    with suppress(StateError):
        document = document_untrusted(Signed(kind, payload))
        assert document_untrusted(Signed(kind, document.encode())) == document


@given(TYPES, PAYLOAD, st.integers(0, 40), st.binary(max_size=4))
def test_what_is_taken_in_was_signed(kind: str, payload: bytes, at: int, patch: bytes) -> None:
    """Even well signed nonsense leaves the set as it was, or is a document."""
    trusted = S.trusted()
    damaged = ROOT[: at * 20] + patch + ROOT[at * 20 + len(patch) :]
    for raw in (damaged, ROOT, resigned(Signed(kind, payload), "s1", "s2", "r1", "r2", "anchor"), HEAD):
        with suppress(StateError):
            trusted.update_untrusted(raw, NOW)
    assert trusted.root is not None


@given(st.lists(st.one_of(ANYTHING.map(lambda value: json.dumps(value).encode()), st.just(ROOT))))
def test_whatever_is_on_the_disk_it_starts(envelopes: list[bytes]) -> None:
    S.trusted().restore_untrusted(envelopes)


FILE = st.fixed_dictionaries(
    {},
    optional={
        "roots": mostly(st.lists(mostly(st.just(json.loads(ROOT))), max_size=3)),
        "head": mostly(st.just(json.loads(HEAD))),
        "body": mostly(st.text(max_size=20)),
        "accepted": mostly(st.lists(mostly(st.just(json.loads(HEAD))), max_size=3)),
        "serial": mostly(st.integers(0, 9)),
        "in_force": mostly(st.integers(0, 3)),
    },
).map(lambda fields: json.dumps(fields).encode())


@given(st.one_of(st.binary(max_size=64), FILE))
def test_a_file_is_read_or_refused(raw: bytes) -> None:
    with suppress(InvalidInputError):
        file = parse_state_file_untrusted(raw)
        assert parse_state_file_untrusted(encode_state_file(file)) == file
    with suppress(InvalidInputError):
        kept = parse_kept_untrusted(raw)
        assert parse_kept_untrusted(encode_kept(kept)) == kept


AUTHORED = st.one_of(
    st.binary(max_size=64),
    st.text(alphabet="images:[]{}&*a-\n \"'=<1.r/!", max_size=60).map(str.encode),
    ANYTHING.map(lambda value: json.dumps(value).encode()),
)


@given(st.sampled_from(["x.toml", "x.yaml"]), AUTHORED)
def test_what_is_authored_is_read_or_refused(name: str, raw: bytes) -> None:
    with suppress(InvalidInputError):
        encode_state(parse_authored_untrusted(name, raw).state)


@given(FILE)
def test_a_draft_is_looked_at_or_refused(raw: bytes) -> None:
    with suppress(InvalidInputError):
        file = parse_state_file_untrusted(raw)
        for standing in standings(file, key_of("anchor").peer_id):
            standing.missing()


@given(st.binary(max_size=64), st.sampled_from([*LIMITS, "text/plain"]), st.integers(-1, 2**50))
def test_an_artifact_is_read_or_refused(raw: bytes, kind: str, size: int) -> None:
    with suppress(InvalidInputError):
        file_of_untrusted({kind: raw})
    layer = {"mediaType": kind, "digest": str(Digest.of(raw)), "size": size}
    fields = {**json.loads(artifact_of(StateFile()).manifest.raw), "layers": [layer]}
    with suppress(InvalidInputError):
        found = layers_untrusted(parse_manifest_untrusted(json.dumps(fields).encode()))
        assert all(one.size <= LIMITS[name] for name, one in found.items())
