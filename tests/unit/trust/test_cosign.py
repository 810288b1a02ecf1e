"""What counts as a signature of a manifest, and all that does not."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.trust.cosign import (
    BUNDLE_LIMIT,
    PAYLOAD_LIMIT,
    VerificationKey,
    check_bundle_untrusted,
    check_simple_signing_untrusted,
    signature_tag,
)
from tests import signing
from tests.signing import Private, bundle_of, make_key, payload_for, public_pem, sign, statement_for

SUBJECT = Digest.of(b"an image's manifest")
OTHER = Digest.of(b"another")
KEY = make_key()
RSA = rsa.generate_private_key(65537, 2048)


def trusted(key: Private, name: str = "ci") -> VerificationKey:
    return VerificationKey.parse_untrusted(public_pem(key), name)


def text(signature: bytes) -> str:
    return base64.b64encode(signature).decode()


def check(payload: bytes, signature: str, *keys: Private, subject: Digest = SUBJECT) -> set[str]:
    statement = check_simple_signing_untrusted(payload, signature, subject, map(trusted, keys))
    return {key.fingerprint for key in statement.signers}


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        Ed25519PrivateKey.generate(),
        RSA,
    ],
    ids=["p256", "p384", "p521", "ed25519", "rsa"],
)
def test_every_kind_of_key_signs_payloads_and_bundles(key: Private) -> None:
    payload = payload_for(str(SUBJECT))
    assert check(payload, text(sign(key, payload)), key) == {trusted(key).fingerprint}
    assert check_bundle_untrusted(
        bundle_of(statement_for(str(SUBJECT)), key), SUBJECT, [trusted(key)]
    ).signers == {trusted(key)}
    for changed in (payload.replace(b"null", b"true"), payload + b" "):
        with pytest.raises(InvalidInputError, match="signed by no key"):
            check(changed, text(sign(key, payload)), key)


def test_pss_and_the_curves_own_digests_count_too() -> None:
    payload = payload_for(str(SUBJECT))
    sha256 = hashes.SHA256()
    pss = padding.PSS(padding.MGF1(sha256), padding.PSS.MAX_LENGTH)
    assert check(payload, text(RSA.sign(payload, pss, sha256)), RSA)
    p384 = ec.generate_private_key(ec.SECP384R1())
    assert check(payload, text(sign(p384, payload, hashes.SHA384())), p384)
    with pytest.raises(InvalidInputError, match="signed by no key"):
        check(payload, text(sign(KEY, payload, hashes.SHA384())), KEY)
    with pytest.raises(InvalidInputError, match="signed by no key"):
        check(payload, text(RSA.sign(payload, padding.PKCS1v15(), hashes.SHA1())), RSA)


def test_the_identity_is_told_as_it_was_written() -> None:
    payload = payload_for(str(SUBJECT), "index.docker.io/library/pos")
    signature = text(sign(KEY, payload))
    assert (
        check_simple_signing_untrusted(payload, signature, SUBJECT, [trusted(KEY)]).identity
        == "index.docker.io/library/pos"
    )
    assert (
        check_bundle_untrusted(bundle_of(statement_for(str(SUBJECT)), KEY), SUBJECT, [trusted(KEY)]).identity
        is None
    )


def test_who_of_several_signed() -> None:
    others = [make_key() for _ in range(3)]
    payload = payload_for(str(SUBJECT))
    assert check(payload, text(sign(KEY, payload)), *others, KEY) == {trusted(KEY).fingerprint}
    with pytest.raises(InvalidInputError, match="signed by no key of the rule"):
        check(payload, text(sign(KEY, payload)), *others)
    bundle = bundle_of(statement_for(str(SUBJECT)), KEY, others[0], make_key())
    keys = [trusted(key) for key in (*others, KEY)]
    assert check_bundle_untrusted(bundle, SUBJECT, keys).signers == {trusted(KEY), trusted(others[0])}


def test_a_signature_by_another_curve_is_none() -> None:
    payload = payload_for(str(SUBJECT))
    with pytest.raises(InvalidInputError, match="signed by no key"):
        check(payload, text(sign(ec.generate_private_key(ec.SECP384R1()), payload)), KEY)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (payload_for(str(OTHER)), f"another manifest, {OTHER}"),
        (payload_for(str(SUBJECT).upper()), "another manifest"),
        (payload_for(f"{SUBJECT} "), "another manifest"),
        (payload_for(SUBJECT.hex), "another manifest"),
        (payload_for(str(SUBJECT), type="atomic container signature"), "not of type"),
        (payload_for(str(SUBJECT), type=None), "not of type"),
        (payload_for(str(SUBJECT), image=None), "image: not an object"),
        (payload_for(str(SUBJECT), image=[]), "image: not an object"),
        (payload_for(str(SUBJECT), identity="x"), "identity: not an object"),
        (payload_for(str(SUBJECT), image={"Docker-manifest-digest": str(SUBJECT)}), "another manifest"),
        (payload_for(str(SUBJECT), image={"docker-manifest-digest": 5}), "not a text"),
        (payload_for(str(SUBJECT)).replace(b'"critical":{', b'"critical":{"type":"x",'), "given twice"),
        (
            payload_for(str(OTHER)).replace(
                b'"docker-manifest-digest"',
                b'"docker-manifest-digest":"%s","docker-manifest-digest"' % str(SUBJECT).encode(),
            ),
            "given twice",
        ),
        (payload_for(str(SUBJECT))[:-1], "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "critical: not an object"),
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 5000, "not JSON|nested|too deep"),
        (payload_for(str(SUBJECT), pad="x" * PAYLOAD_LIMIT), "more than"),
    ],
)
def test_a_signed_payload_that_says_something_else(payload: bytes, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        check(payload, text(sign(KEY, payload)), KEY)


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64!", "\u00e9", "====", "MEUC IQ=="])
def test_a_signature_that_is_none(signature: str) -> None:
    with pytest.raises(InvalidInputError):
        check(payload_for(str(SUBJECT)), signature, KEY)


def test_a_signature_is_bound_to_a_digest_of_its_algorithm() -> None:
    subject = Digest.of(b"x", "sha512")
    payload = payload_for(str(subject))
    assert check(payload, text(sign(KEY, payload)), KEY, subject=subject)
    bundle = bundle_of(statement_for(str(subject)), KEY)
    assert check_bundle_untrusted(bundle, subject, [trusted(KEY)])
    with pytest.raises(InvalidInputError, match="another manifest"):
        check_bundle_untrusted(bundle, SUBJECT, [trusted(KEY)])
    assert signature_tag(SUBJECT) == f"sha256-{SUBJECT.hex}.sig"
    assert signature_tag(subject) is None


@pytest.mark.parametrize(
    ("statement", "more", "reason"),
    [
        (statement_for(str(OTHER)), {}, "another manifest"),
        (statement_for(str(SUBJECT), subject=[]), {}, "another manifest"),
        (statement_for(str(SUBJECT), subject=[1, {"digest": SUBJECT.hex}]), {}, "another manifest"),
        (statement_for(str(SUBJECT), subject={}), {}, "not a list"),
        (statement_for(str(SUBJECT), "https://slsa.dev/provenance/v1"), {}, "attestation"),
        (statement_for(str(SUBJECT), _type="https://in-toto.io/Statement/v9"), {}, "no in-toto statement"),
        (b"[]", {}, "not a JSON object"),
        (statement_for(str(SUBJECT)), {"payload_type": "text/plain"}, "not of type"),
        (statement_for(str(SUBJECT)), {"dsseEnvelope": None}, "dsseEnvelope: not an object"),
        (statement_for(str(SUBJECT)), {"pad": "x" * BUNDLE_LIMIT}, "more than"),
    ],
)
def test_a_signed_bundle_that_says_something_else(
    statement: bytes, more: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        check_bundle_untrusted(bundle_of(statement, KEY, **more), SUBJECT, [trusted(KEY)])


def test_a_bundles_signature_is_over_type_and_payload() -> None:
    document = json.loads(bundle_of(statement_for(str(OTHER)), KEY))
    document["dsseEnvelope"]["payload"] = base64.b64encode(statement_for(str(SUBJECT))).decode()
    with pytest.raises(InvalidInputError, match="signed by no key"):
        check_bundle_untrusted(json.dumps(document).encode(), SUBJECT, [trusted(KEY)])
    document = json.loads(bundle_of(statement_for(str(SUBJECT)), KEY, payload_type="text/plain"))
    document["dsseEnvelope"]["payloadType"] = signing.IN_TOTO
    with pytest.raises(InvalidInputError, match="signed by no key"):
        check_bundle_untrusted(json.dumps(document).encode(), SUBJECT, [trusted(KEY)])


def test_a_keyless_bundle_is_told_from_one_by_another_key() -> None:
    statement = statement_for(str(SUBJECT))
    keyless = bundle_of(statement, make_key(), verificationMaterial={"certificate": {"rawBytes": ""}})
    with pytest.raises(InvalidInputError, match=r"certificate \(keyless\)"):
        check_bundle_untrusted(keyless, SUBJECT, [trusted(KEY)])
    with pytest.raises(InvalidInputError, match=r"no key of the rule$"):
        check_bundle_untrusted(bundle_of(statement, make_key()), SUBJECT, [trusted(KEY)])


def test_a_bundle_with_signatures_without_end() -> None:
    document = json.loads(bundle_of(statement_for(str(SUBJECT)), KEY))
    document["dsseEnvelope"]["signatures"] = [
        *({"sig": "AAAA"} for _ in range(1000)),
        *document["dsseEnvelope"]["signatures"],
    ]
    with pytest.raises(InvalidInputError, match="signed by no key"):
        check_bundle_untrusted(json.dumps(document).encode(), SUBJECT, [trusted(KEY)])


# --- keys ---


def test_a_key_is_the_same_whatever_it_is_called() -> None:
    assert trusted(KEY, "a") == trusted(KEY, "b") != trusted(make_key(), "a")
    assert len({trusted(KEY, "a"), trusted(KEY, "b")}) == 1


def spki(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (b"", "no public key in PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key in PEM"),
        (spki(ec.generate_private_key(ec.SECP256K1())), "P-256"),
        (spki(Ed448PrivateKey.generate()), "needs ECDSA"),
        (spki(rsa.generate_private_key(65537, 1024)), "2048 to"),
        (
            make_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            r"a private key; give the public one \(cosign.pub\)",
        ),
        (public_pem(KEY) + b"x" * 20_000, "more than"),
    ],
)
def test_a_key_that_is_none(pem: bytes, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason) as refused:
        VerificationKey.parse_untrusted(pem, "ci.pub")
    assert "ci.pub" in str(refused.value)
    secret = pem.splitlines()[1].decode() if pem.count(b"\n") > 1 else "?"
    assert secret not in str(refused.value)
