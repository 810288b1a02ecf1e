"""What signers, and whoever writes in their place, leave in a registry: a value, or the documented error."""

import base64
import importlib.util
import json
from contextlib import suppress
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.evidence import Signed
from meshsat.keyless import CertificateSigner
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.oci.referrers import is_about_digest, subject_of
from meshsat.signature_policy import Action, Rule, needs_no_signature
from meshsat.signatures import signers_untrusted
from meshsat.trust.cosign import (
    VerificationKey,
    check_bundle_untrusted,
    check_simple_signing_untrusted,
)
from tests import signing
from tests.images import OCI_MANIFEST, descriptor
from tests.sigstore_world import IDENTITY, ISSUER, Sigstore
from tests.tools import miss

KEY = Ed25519PrivateKey.generate()
PEM = signing.public_pem(KEY)
TRUSTED = VerificationKey.parse_untrusted(PEM, "key")
SUBJECT = Digest.of(b"subject")
TEXT = st.text(max_size=40) | st.sampled_from(
    ["critical", "image", "type", "subject", "digest", str(SUBJECT)]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda start, length, middle: good[:start] + middle + good[start + length :],
        st.integers(0, len(good)),
        st.integers(0, 30),
        st.binary(max_size=30),
    )


def changed(good: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """With one of its fields, at any depth, replaced."""
    paths: list[tuple[str, ...]] = []

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                paths.append((*path, key))
                walk(inner, (*path, key))

    walk(good, ())

    def put(path: tuple[str, ...], value: Any) -> dict[str, Any]:
        copy: dict[str, Any] = json.loads(json.dumps(good))
        at = copy
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        return copy

    return st.builds(put, st.sampled_from(paths), JSON)


@given(st.binary(max_size=200) | damaged(PEM))
def test_keys(pem: bytes) -> None:
    with suppress(InvalidInputError):
        key = VerificationKey.parse_untrusted(pem, "key")
        assert key.has_signed(b"", b"") is False


@given(
    st.text(max_size=40),
    st.sampled_from([*get_args(Action), "allow"]),
    st.lists(st.tuples(st.text(max_size=5), st.just(PEM) | st.binary(max_size=50)), max_size=3),
    st.integers(-2, 5),
)
def test_rules(pattern: str, action: Any, keys: list[tuple[str, bytes]], threshold: int) -> None:
    with suppress(InvalidInputError):
        rule = Rule.parse_untrusted("x", pattern=pattern, action=action, keys=keys, threshold=threshold)
        assert rule.action == "accept" or 1 <= rule.threshold <= len(set(rule.keys))


@given(
    st.binary(max_size=300)
    | damaged(signing.payload_for(str(SUBJECT)))
    | changed(json.loads(signing.payload_for(str(SUBJECT)))).map(lambda one: json.dumps(one).encode())
)
def test_payloads_that_are_signed(payload: bytes) -> None:
    signature = base64.b64encode(signing.sign(KEY, payload)).decode()
    try:
        found = check_simple_signing_untrusted(payload, signature, SUBJECT, [TRUSTED])
    except InvalidInputError:
        return
    assert found.signers == {TRUSTED}
    assert json.loads(payload)["critical"]["image"]["docker-manifest-digest"] == str(SUBJECT)


@given(st.text(max_size=100) | st.binary(max_size=100).map(lambda raw: base64.b64encode(raw).decode()))
def test_signatures_that_are_made_up(signature: str) -> None:
    with suppress(InvalidInputError):
        check_simple_signing_untrusted(signing.payload_for(str(SUBJECT)), signature, SUBJECT, [TRUSTED])
        raise AssertionError("nobody signed it")


@given(
    st.binary(max_size=300)
    | damaged(signing.statement_for(str(SUBJECT)))
    | changed(json.loads(signing.statement_for(str(SUBJECT)))).map(lambda one: json.dumps(one).encode())
)
def test_statements_that_are_signed(statement: bytes) -> None:
    try:
        found = check_bundle_untrusted(signing.bundle_of(statement, KEY), SUBJECT, [TRUSTED])
    except InvalidInputError:
        return
    assert found.signers == {TRUSTED}
    assert SUBJECT.hex.encode() in statement


BUNDLE = signing.bundle_of(signing.statement_for(str(SUBJECT)), KEY)


@given(damaged(BUNDLE) | changed(json.loads(BUNDLE)).map(lambda one: json.dumps(one).encode()), st.booleans())
def test_bundles(raw: bytes, match_identity: bool) -> None:
    rule = Rule("x", None, "block", (TRUSTED,), match_identity=match_identity)  # type: ignore[arg-type]
    with suppress(InvalidInputError):
        assert signers_untrusted(Signed(raw, None), ("r.test", "a"), SUBJECT, rule) == {
            TRUSTED.fingerprint: "key"
        }
        assert not match_identity


@pytest.fixture(scope="module")
def somebody(tmp_path_factory: pytest.TempPathFactory) -> CertificateSigner:
    if importlib.util.find_spec("sigstore") is None:
        miss("needs the sigstore library: pip install 'meshsat[keyless]'")
    root = WORLD.trusted_root(tmp_path_factory.mktemp("sigstore") / "trusted_root.json")
    return CertificateSigner.load(IDENTITY, ISSUER, root)


WORLD = Sigstore()
KEYLESS = WORLD.bundle(signing.statement_for(str(SUBJECT)))


@given(damaged(json.dumps(KEYLESS).encode()) | changed(KEYLESS).map(lambda one: json.dumps(one).encode()))
def test_keyless_bundles(somebody: CertificateSigner, raw: bytes) -> None:
    with suppress(InvalidInputError):
        somebody.check_bundle_untrusted(raw, SUBJECT)
        assert json.loads(raw)["dsseEnvelope"]["payload"] == KEYLESS["dsseEnvelope"]["payload"]


@given(st.text(max_size=60))
def test_names_in_signatures(name: str) -> None:
    rule = Rule("x", None, "block", (TRUSTED,), match_identity=True)  # type: ignore[arg-type]
    payload = signing.payload_for(str(SUBJECT), name)
    signed = Signed(payload, base64.b64encode(signing.sign(KEY, payload)).decode())
    with suppress(InvalidInputError):
        signers_untrusted(signed, ("docker.io", "library/a"), SUBJECT, rule)
        assert name.partition(":")[0].partition("@")[0] in (
            "a",
            "library/a",
            "docker.io/a",
            "docker.io/library/a",
        )


@given(
    st.lists(st.text(max_size=10) | st.sampled_from([signing.SIMPLE_SIGNING, "text/spdx"]), max_size=3),
    st.text(max_size=10) | st.sampled_from([f"sha256-{SUBJECT.hex}", f"sha256-{SUBJECT.hex}.sig"]),
)
def test_what_needs_no_signature(types: list[str], tag: str) -> None:
    layers = [descriptor(kind, b"x") for kind in types]
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("a/b", b"{}"),
        "layers": layers,
    }
    with suppress(InvalidInputError):
        manifest = parse_manifest_untrusted(json.dumps(body).encode())
        if needs_no_signature(manifest, (tag,)):
            assert set(types) <= {signing.SIMPLE_SIGNING, "text/spdx"}
    assert is_about_digest(tag) or subject_of(tag) is None
