"""cosign's signatures by a key: whether bytes say, under a key that we know, that a manifest is good.

Two forms, as cosign writes them (its SIGNATURE_SPEC.md and BUNDLE_SPEC.md; compared with cosign 3.1):
"simple signing", a JSON payload whose signature stands beside it, in an annotation of its layer; and since
cosign 3 a sigstore bundle, a DSSE envelope around an in-toto statement. Neither says how its signature was
made: that follows from the key.

Laws: pure; nothing is believed of a payload before its signature was checked; the digest must be spelled as
the manifest's is, no field may be given twice. Certificates, transparency logs and timestamps are not looked
at here: a key of the policy stands for itself, with or without them (keyless.py is for those).
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import SHA256, Digest
from meshsat.oci.fields import parse_object_untrusted, take_objects, take_text

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
"""Media type of the payload's layer."""
SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"
ARTIFACT_TYPE = "application/vnd.dev.cosign.artifact.sig.v1+json"
"""Of a referrer that holds such layers."""
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""Artifact type of a referrer that holds a bundle, and its layer's media type."""

PAYLOAD_LIMIT = 64 * 1024
"""Bytes of a payload."""
BUNDLE_LIMIT = 256 * 1024
"""Bytes of a bundle: one with proofs of transparency logs has some 10 KiB."""
KEY_LIMIT = 16 * 1024
"""Bytes of a key's PEM."""
RSA_BITS = range(2048, 8193)

_TYPE = "cosign container image signature"
_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
_IN_TOTO = "application/vnd.in-toto+json"
_STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_ENVELOPE_SIGNATURES = 8
_SUBJECTS = 64
_CURVES: Mapping[str, tuple[hashes.HashAlgorithm, ...]] = {
    "secp256r1": (hashes.SHA256(),),
    "secp384r1": (hashes.SHA384(), hashes.SHA256()),
    "secp521r1": (hashes.SHA512(), hashes.SHA256()),
}
"""By curve, what cosign hashes with: the digest of the curve's size in bundles, SHA-256 whatever the curve in
simple signing."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key. Two are equal when they are the same key, whatever they are called."""

    fingerprint: str
    """SHA-256 of the key's SPKI, in hex."""
    name: str = field(compare=False)
    """What the operator calls it."""
    _key: ec.EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey = field(repr=False, compare=False)

    @classmethod
    def parse_untrusted(cls, pem: bytes, name: str) -> Self:
        """A PEM public key as `cosign generate-key-pair` writes it. Raises `InvalidInputError`, which tells
        nothing of what was read: it may be a private key."""
        if len(pem) > KEY_LIMIT:
            raise InvalidInputError(f"key {name}: more than {KEY_LIMIT} bytes")
        if b"PRIVATE KEY" in pem:
            raise InvalidInputError(f"key {name}: a private key; give the public one (cosign.pub)")
        try:
            key = load_pem_public_key(pem)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise InvalidInputError(
                f"key {name}: no public key in PEM (-----BEGIN PUBLIC KEY-----)"
            ) from None
        match key:
            case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
                pass
            case RSAPublicKey() if key.key_size in RSA_BITS:
                pass
            case Ed25519PublicKey():
                pass
            case _:
                raise InvalidInputError(
                    f"key {name}: needs ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of "
                    f"{RSA_BITS.start} to {RSA_BITS.stop - 1} bits"
                )
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(hashlib.sha256(spki).hexdigest(), name, key)

    def has_signed(self, signature: bytes, data: bytes) -> bool:
        """Whether this key made the signature of exactly these bytes."""
        return any(_holds(check, signature, data) for check in self._checks())

    def _checks(self) -> list[Callable[[bytes, bytes], None]]:
        """Each raises `InvalidSignature` where it does not hold."""
        match self._key:
            case Ed25519PublicKey() as ed25519:
                return [ed25519.verify]
            case ec.EllipticCurvePublicKey() as curve:
                return [
                    partial(_verify_ecdsa, curve, ec.ECDSA(digest)) for digest in _CURVES[curve.curve.name]
                ]
            case rsa:
                pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
                return [partial(_verify_rsa, rsa, padded) for padded in (padding.PKCS1v15(), pss)]


def _verify_ecdsa(key: ec.EllipticCurvePublicKey, how: ec.ECDSA, signature: bytes, data: bytes) -> None:
    key.verify(signature, data, how)


def _verify_rsa(key: RSAPublicKey, padded: AsymmetricPadding, signature: bytes, data: bytes) -> None:
    key.verify(signature, data, padded, hashes.SHA256())


def _holds(check: Callable[[bytes, bytes], None], signature: bytes, data: bytes) -> bool:
    try:
        check(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Statement:
    """What somebody signed about a manifest."""

    signers: frozenset[VerificationKey]
    """Those of the keys asked about that did."""
    identity: str | None
    """The name under which the signer knew the image, as it was written; a bundle has none."""


def check_simple_signing_untrusted(
    payload: bytes, signature: str, subject: Digest, keys: Iterable[VerificationKey]
) -> Statement:
    """Who of `keys` signed the payload, if it is about `subject`. `signature`: the annotation's text.

    Raises `InvalidInputError`: nobody of them did, or it says something else; with the reason.
    """
    if len(payload) > PAYLOAD_LIMIT:
        raise InvalidInputError(f"a payload of {len(payload)} bytes, more than {PAYLOAD_LIMIT}")
    signed = _base64(signature, "signature")
    signers = frozenset(key for key in keys if key.has_signed(signed, payload))
    if not signers:
        raise InvalidInputError("it is signed by no key of the rule")
    critical = _object(parse_object_untrusted(payload, "payload"), "critical")
    if take_text(critical, "type") != _TYPE:
        raise InvalidInputError(f"its payload is not of type {_TYPE!r}")
    about = take_text(_object(critical, "image"), "docker-manifest-digest")
    if about != str(subject):
        raise InvalidInputError(f"it is about another manifest, {str(about)[:80]}")
    identity = take_text(_object(critical, "identity"), "docker-reference")
    return Statement(signers, identity or None)


def check_bundle_untrusted(raw: bytes, subject: Digest, keys: Iterable[VerificationKey]) -> Statement:
    """The same for a bundle. Its hint of a key is not needed: all of `keys` are tried.

    Raises `InvalidInputError`: nobody of them signed it, or it says something else; with the reason.
    """
    if len(raw) > BUNDLE_LIMIT:
        raise InvalidInputError(f"a bundle of {len(raw)} bytes, more than {BUNDLE_LIMIT}")
    bundle = parse_object_untrusted(raw, "bundle")
    envelope = _object(bundle, "dsseEnvelope")
    if take_text(envelope, "payloadType") != _IN_TOTO:
        raise InvalidInputError(f"its payload is not of type {_IN_TOTO}")
    payload = _base64(take_text(envelope, "payload", BUNDLE_LIMIT), "payload")
    signatures = take_objects(envelope, "signatures")[:_ENVELOPE_SIGNATURES]
    signed = [_base64(take_text(one, "sig"), "sig") for one in signatures if isinstance(one, dict)]
    data = pre_authentication(_IN_TOTO, payload)
    signers = frozenset(key for key in keys if any(key.has_signed(one, data) for one in signed))
    if not signers:
        material = bundle.get("verificationMaterial")
        keyless = isinstance(material, dict) and (
            "certificate" in material or "x509CertificateChain" in material
        )
        how = ", but with a certificate (keyless)" if keyless else ""
        raise InvalidInputError(f"it is signed by no key of the rule{how}")
    check_statement_untrusted(_IN_TOTO, payload, subject)
    return Statement(signers, None)


def check_statement_untrusted(payload_type: str, payload: bytes, subject: Digest) -> None:
    """That a signed payload is cosign's signature of the image. Raises `InvalidInputError`."""
    if payload_type != _IN_TOTO:
        raise InvalidInputError(f"its payload is not of type {_IN_TOTO}")
    statement = parse_object_untrusted(payload, "statement")
    if take_text(statement, "_type") not in _STATEMENTS:
        raise InvalidInputError("it holds no in-toto statement")
    if take_text(statement, "predicateType") != _PREDICATE:
        raise InvalidInputError("it is an attestation, not a signature of the image")
    subjects = take_objects(statement, "subject")[:_SUBJECTS]
    digests = [one.get("digest") for one in subjects if isinstance(one, dict)]
    if not any(isinstance(one, dict) and one.get(subject.algorithm) == subject.hex for one in digests):
        raise InvalidInputError("it is about another manifest")


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """What a DSSE envelope's signature is over (DSSE 1.0, "PAE")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def signature_tag(subject: Digest) -> str | None:
    """Where cosign's tag scheme keeps the signatures of a manifest, in the same repository. None: a SHA-512
    is too long for a tag."""
    return f"{subject.algorithm}-{subject.hex}.sig" if subject.algorithm == SHA256 else None


def _object(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = fields.get(key)
    if not isinstance(value, dict):
        raise InvalidInputError(f"{key}: not an object")
    return value


def _base64(text: str | None, what: str) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except ValueError:
        raise InvalidInputError(f"{what}: not base64") from None
