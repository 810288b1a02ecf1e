"""Signs images as cosign does, with `cryptography` alone: its SIGNATURE_SPEC.md ("simple signing" under the tag
`sha256-HEX.sig`, or as a referrer) and BUNDLE_SPEC.md (a sigstore bundle as a referrer); what cosign 3.1 itself
writes is in tests/golden/test_cosign.py. Nothing of meshsat is used.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.images import EMPTY, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Image, descriptor, digest_of

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
IN_TOTO = "application/vnd.in-toto+json"
SIGN = "https://sigstore.dev/cosign/sign/v1"

Private = ec.EllipticCurvePrivateKey | Ed25519PrivateKey | RSAPrivateKey


def make_key() -> ec.EllipticCurvePrivateKey:
    """As `cosign generate-key-pair` makes one."""
    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key: Private) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def sign(key: Private, data: bytes, digest: hashes.HashAlgorithm | None = None) -> bytes:
    match key:
        case Ed25519PrivateKey():
            return key.sign(data)
        case ec.EllipticCurvePrivateKey():
            return key.sign(data, ec.ECDSA(digest or hashes.SHA256()))
        case _:
            return key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def payload_for(digest: str, name: str = "up.example/library/pos", **critical: Any) -> bytes:
    """What is signed, about the manifest of this digest."""
    document = {
        "critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
            **critical,
        },
        "optional": None,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def signature_tag(digest: str) -> str:
    return f"{digest.replace(':', '-')}.sig"


def referrers_tag(digest: str) -> str:
    return digest.replace(":", "-")


def simple_signatures(
    payloads: Sequence[tuple[bytes, bytes | None]], subject: dict[str, Any] | None = None
) -> Image:
    """A manifest with these payloads and the signatures of them (None: stripped). `subject`: a referrer."""
    config = b'{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]},"config":{}}'
    blobs = {digest_of(data): data for data in (config, *(payload for payload, _ in payloads))}
    layers = []
    for payload, signature in payloads:
        told = {} if signature is None else {ANNOTATION: base64.b64encode(signature).decode()}
        layers.append(descriptor(SIMPLE_SIGNING, payload, annotations=told))
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config),
        "layers": layers,
    }
    if subject is not None:
        manifest |= {"artifactType": ARTIFACT, "subject": subject}
    return _image(manifest, blobs)


def signed_by(*keys: Private, digest: str, name: str = "up.example/library/pos") -> Image:
    """What `cosign sign --key` leaves under the signature's tag."""
    payload = payload_for(digest, name)
    return simple_signatures([(payload, sign(key, payload)) for key in keys])


def statement_for(digest: str, predicate: str = SIGN, **more: Any) -> bytes:
    algorithm, _, digits = digest.partition(":")
    document = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {algorithm: digits}, "annotations": {}}],
        "predicateType": predicate,
        "predicate": {},
        **more,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def bundle_of(statement: bytes, *keys: Private, payload_type: str = IN_TOTO, **more: Any) -> bytes:
    """A sigstore bundle: a DSSE envelope signed by keys."""
    kind = payload_type.encode()
    data = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(statement), statement)
    document = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": "c29tZSBrZXk="}},
        "dsseEnvelope": {
            "payload": base64.b64encode(statement).decode(),
            "payloadType": payload_type,
            "signatures": [{"sig": base64.b64encode(sign(key, data)).decode()} for key in keys],
        },
        **more,
    }
    return json.dumps(document).encode()


def bundle_referrer(bundle: bytes, subject: Image) -> Image:
    """The referrer that holds it."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": BUNDLE,
        "config": {**descriptor(EMPTY, b"{}"), "artifactType": BUNDLE},
        "layers": [descriptor(BUNDLE, bundle)],
        "annotations": {"dev.sigstore.bundle.content": "dsse-envelope"},
        "subject": descriptor(subject.media_type, subject.raw),
    }
    return _image(manifest, {digest_of(data): data for data in (b"{}", bundle)})


def referrers_index(*referrers: Image) -> Image:
    """What the tag of the referrers lists, with everything that it lists."""
    entries = []
    for one in referrers:
        kind = json.loads(one.raw).get("artifactType")
        entries.append(descriptor(one.media_type, one.raw, artifactType=kind))
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    manifests = {digest: data for one in referrers for digest, data in one.manifests.items()}
    blobs = {digest: data for one in referrers for digest, data in one.blobs.items()}
    types = {digest: kind for one in referrers for digest, kind in one.media_types.items()}
    root = digest_of(raw)
    return Image(root, {**manifests, root: raw}, blobs, {**types, root: OCI_INDEX})


def _image(manifest: dict[str, Any], blobs: dict[str, bytes]) -> Image:
    raw = json.dumps(manifest).encode()
    types = {digest_of(raw): OCI_MANIFEST, **dict.fromkeys(blobs, SIMPLE_SIGNING)}
    return Image(digest_of(raw), {digest_of(raw): raw}, blobs, types)
