"""Keyless signatures against a sigstore of our own, by the library that the extra brings."""

import datetime as dt
import importlib.util
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from meshsat import keyless
from meshsat.config import SignatureRule
from meshsat.errors import ConfigError, DeniedError, InvalidInputError
from meshsat.keyless import CertificateSigner
from meshsat.oci.digest import Digest
from meshsat.signature_policy import rules_of
from tests import signing
from tests.images import build_image
from tests.mesh.full_node import POS, full_site, hold
from tests.signing import make_key, public_pem, referrers_tag, statement_for
from tests.sigstore_world import IDENTITY, ISSUER, SIGNED_AT, Sigstore, b64
from tests.tools import miss

WORLD = Sigstore()
SUBJECT = Digest.of(b"an image's manifest")
IMAGE = build_image([b"layer"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    if importlib.util.find_spec("sigstore") is None:
        miss("needs the sigstore library: pip install 'meshsat[keyless]'")
    return WORLD.trusted_root(tmp_path / "trusted_root.json")


def check(signer: CertificateSigner, bundle: dict[str, Any], subject: Digest = SUBJECT) -> None:
    signer.check_bundle_untrusted(json.dumps(bundle).encode(), subject)


def good(**more: Any) -> dict[str, Any]:
    return WORLD.bundle(statement_for(str(SUBJECT)), **more)


def test_a_bundle_is_checked_with_the_pinned_root_and_no_network(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("it goes out")

    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    signer = CertificateSigner.load(IDENTITY, ISSUER, root)
    check(signer, good())
    assert signer.name == f"{IDENTITY} (by {ISSUER})"
    assert signer == CertificateSigner.load(IDENTITY, ISSUER, root)
    assert signer != CertificateSigner.load(IDENTITY, "https://other.test", root)


def changed(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(bundle: dict[str, Any]) -> None:
        *above, last = path.split(".")
        at: Any = bundle
        for key in above:
            at = at[int(key)] if key.isdecimal() else at[key]
        at[last] = value(at[last]) if callable(value) else value

    return change


ENTRY = "verificationMaterial.tlogEntries.0"


@pytest.mark.parametrize(
    "change",
    [
        changed("dsseEnvelope.payload", b64(statement_for(str(Digest.of(b"x"))))),
        changed("dsseEnvelope.payloadType", "text/plain"),
        changed("dsseEnvelope.signatures", []),
        changed("dsseEnvelope.signatures.0.sig", b64(b"junk")),
        changed(f"{ENTRY}.integratedTime", lambda at: str(int(at) + 60)),
        changed(f"{ENTRY}.inclusionProof.rootHash", b64(bytes(32))),
        changed(f"{ENTRY}.inclusionProof.checkpoint.envelope", lambda note: note.replace("- 1", "- 2")),
        changed(f"{ENTRY}.canonicalizedBody", b64(b"{}")),
        changed(f"{ENTRY}.inclusionPromise.signedEntryTimestamp", b64(b"junk")),
        changed("verificationMaterial.tlogEntries", []),
        changed("verificationMaterial", {"publicKey": {"hint": "x"}}),
        changed("verificationMaterial.certificate.rawBytes", b64(b"junk")),
        changed("verificationMaterial.certificate.rawBytes", 7),
        changed("mediaType", "application/vnd.dev.sigstore.bundle+json;version=9"),
        changed("dsseEnvelope", None),
    ],
)
def test_a_bundle_that_was_changed(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    bundle = good()
    change(bundle)
    with pytest.raises(InvalidInputError):
        check(CertificateSigner.load(IDENTITY, ISSUER, root), bundle)


def test_somebody_else_by_somebody_else_too_late_or_of_another_sigstore(root: Path) -> None:
    signer = CertificateSigner.load(IDENTITY, ISSUER, root)
    for bundle in (
        good(identity="https://ci.test/evil"),
        good(issuer="https://evil.test"),
        good(at=SIGNED_AT + dt.timedelta(hours=1)),
        good(at=SIGNED_AT - dt.timedelta(hours=1)),
        Sigstore().bundle(statement_for(str(SUBJECT))),
        Sigstore(rekor=WORLD.rekor, ct_log=WORLD.ct_log).bundle(statement_for(str(SUBJECT))),
        Sigstore(fulcio=WORLD.fulcio, ct_log=WORLD.ct_log).bundle(statement_for(str(SUBJECT))),
        Sigstore(fulcio=WORLD.fulcio, rekor=WORLD.rekor).bundle(statement_for(str(SUBJECT))),
    ):
        with pytest.raises(InvalidInputError, match=r"it is not signed by https://ci\.test"):
            check(signer, bundle)


def test_a_good_signature_of_something_else(root: Path) -> None:
    signer = CertificateSigner.load(IDENTITY, ISSUER, root)
    for statement, reason in (
        (statement_for(str(Digest.of(b"x"))), "another manifest"),
        (statement_for(str(SUBJECT), "https://slsa.dev/provenance/v1"), "attestation"),
    ):
        with pytest.raises(InvalidInputError, match=reason):
            check(signer, WORLD.bundle(statement))


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"x" * 300_000, b'{"a":1,"a":2}'])
def test_what_is_no_bundle(root: Path, raw: bytes) -> None:
    with pytest.raises(InvalidInputError):
        CertificateSigner.load(IDENTITY, ISSUER, root).check_bundle_untrusted(raw, SUBJECT)


async def test_an_image_is_served_by_certificate_or_key_and_both_where_two_must_sign(
    root: Path, tmp_path: Path, autojump_clock: MockClock
) -> None:
    key = make_key()
    (tmp_path / "ci.pub").write_bytes(public_pem(key))
    told = {"certificate_identity": IDENTITY, "certificate_issuer": ISSUER, "trusted_root": root}
    section = [SignatureRule.model_validate({"pattern": "**", **told})]
    rules = rules_of(section, Path.read_bytes)
    both = rules_of(
        [section[0].model_copy(update={"keys": (tmp_path / "ci.pub",), "threshold": 2})], Path.read_bytes
    )
    keyless_bundle = json.dumps(WORLD.bundle(statement_for(IMAGE.root))).encode()
    key_bundle = signing.bundle_of(statement_for(IMAGE.root), key)
    async with full_site("up", "dark", signatures=rules) as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        by_certificate = signing.bundle_referrer(keyless_bundle, IMAGE)
        hold(up.site.upstream, signing.referrers_index(by_certificate), referrers_tag(IMAGE.root))
        served = await dark.fetcher.manifest(POS, "42")
        assert served is not None
        verdict = dark.verifier.shown("up.example", "library/pos", Digest.parse_untrusted(IMAGE.root))
        assert verdict is not None
        assert verdict.by_keys == (f"{IDENTITY} (by {ISSUER})",)
        dark.signature_policy.replace(both)
        with pytest.raises(DeniedError, match="1 of the 2 keys"):
            await dark.fetcher.manifest(POS, "42")
    async with full_site("up", signatures=both) as (up,):
        hold(up.site.upstream, IMAGE, "42")
        two = signing.referrers_index(by_certificate, signing.bundle_referrer(key_bundle, IMAGE))
        hold(up.site.upstream, two, referrers_tag(IMAGE.root))
        assert await up.fetcher.manifest(POS, "42") is not None


def test_a_root_that_is_none(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        CertificateSigner.load(IDENTITY, ISSUER, tmp_path / "gone")
    for content in (b"", b"{}", b"[" * 10, b'{"tlogs": 5}', b" " * (keyless.ROOT_LIMIT + 1)):
        root.write_bytes(content)
        with pytest.raises(ConfigError, match=r"trusted_root.json can't be used"):
            CertificateSigner.load(IDENTITY, ISSUER, root)


def test_without_the_library_a_rule_that_needs_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.partition(".")[0] == "sigstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sigstore", None)
    told = {"certificate_identity": IDENTITY, "certificate_issuer": ISSUER, "trusted_root": tmp_path}
    rule = SignatureRule.model_validate({"pattern": "**", **told})
    with pytest.raises(ConfigError, match=r"^rule 1 of signatures: .* pip install 'meshsat\[keyless\]'"):
        rules_of([rule], Path.read_bytes)


def test_a_rule_names_all_that_a_certificate_needs() -> None:
    with pytest.raises(ValueError, match="go together"):
        SignatureRule(pattern="**", certificate_identity=IDENTITY)
