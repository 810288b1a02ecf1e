"""What cosign 3.1.3 wrote for `cosign sign --key` (both forms, no transparency log), byte for byte: the
payload under the signature's tag, and the bundle of a referrer."""

import pytest

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.signature_policy import needs_no_signature
from meshsat.trust.cosign import (
    SIGNATURE_ANNOTATION,
    SIMPLE_SIGNING,
    VerificationKey,
    check_bundle_untrusted,
    check_simple_signing_untrusted,
)

KEY = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEUA5cpcHI7xyprHhawQ6lWDdmiWm5
9yXV141FIH82vEQUe4E1r/0aiQqO7Wx0RkMnxphfPczplHBhX3hHfdLlwA==
-----END PUBLIC KEY-----
"""
SIGNED = Digest.parse_untrusted("sha256:65fd9888b891ba2af408ed9044cf78f26a1ba1f98af325800e9d9f26a7a5eaac")
MANIFEST = (
    '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"m'
    'ediaType":"application/vnd.oci.image.config.v1+json","size":233,"digest":"sha256:a0a1b5f'
    'cf088f2b5ad24d37b3e5c9dce329e0537d3931d1b36240d15906c8b12"},"layers":[{"mediaType":"appl'
    'ication/vnd.dev.cosign.simplesigning.v1+json","size":242,"digest":"sha256:e8792b3ec695a0'
    '5ff0d54b716225233c70602cae4036c65ddc2c9547de034955","annotations":{"dev.cosignproject.co'
    'sign/signature":"MEYCIQCuMgbxzLdpn04RYGhM9+KinVLCwS9nmqOXzOGxbA0PVAIhAOY3Vv/5/ukgLI0k/uk'
    'ghkLAZQ55kfXj+osEuDwtccxW"}}]}'
)
PAYLOAD = (
    '{"critical":{"identity":{"docker-reference":"127.0.0.1:5977/library/pos"},"image":{"dock'
    'er-manifest-digest":"sha256:65fd9888b891ba2af408ed9044cf78f26a1ba1f98af325800e9d9f26a7a5'
    'eaac"},"type":"cosign container image signature"},"optional":null}'
)
BUNDLED = Digest.parse_untrusted("sha256:d5cfb20b1004303db8bdb434ccf86b32ea2abb769e686138964fa7b1a4c2638c")
BUNDLE = (
    '{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"pu'
    'blicKey":{"hint":"UWQ1ZXVgP1TqfvzvD447zyEqN80jNwD2elAXoP5LVWs="}},"dsseEnvelope":{"paylo'
    'ad":"eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJzdWJqZWN0IjpbeyJkaWdlc3Q'
    "iOnsic2hhMjU2IjoiZDVjZmIyMGIxMDA0MzAzZGI4YmRiNDM0Y2NmODZiMzJlYTJhYmI3NjllNjg2MTM4OTY0ZmE"
    "3YjFhNGMyNjM4YyJ9LCJhbm5vdGF0aW9ucyI6e319XSwicHJlZGljYXRlVHlwZSI6Imh0dHBzOi8vc2lnc3RvcmU"
    'uZGV2L2Nvc2lnbi9zaWduL3YxIiwicHJlZGljYXRlIjp7fX0=","payloadType":"application/vnd.in-tot'
    'o+json","signatures":[{"sig":"MEUCID2X1wLjm3h3ZEEEzVx1mJvHG7nJqLztO3373AAE58a4AiEAkgB2Lf'
    '4Yng57NRLZiMJU8sjkpRLDTqFy8nXjMgJqFJo="}]}}'
)


def key() -> VerificationKey:
    return VerificationKey.parse_untrusted(KEY.encode(), "cosign.pub")


def test_a_simple_signing_payload() -> None:
    manifest = parse_manifest_untrusted(MANIFEST.encode())
    _, layer = manifest.blobs
    assert layer.media_type == SIMPLE_SIGNING
    assert layer.digest.matches(PAYLOAD.encode())
    signature = layer.annotations[SIGNATURE_ANNOTATION]
    found = check_simple_signing_untrusted(PAYLOAD.encode(), signature, SIGNED, [key()])
    assert found.signers == {key()}
    assert found.identity == "127.0.0.1:5977/library/pos"
    assert needs_no_signature(manifest, ())
    with pytest.raises(InvalidInputError, match="another manifest"):
        check_simple_signing_untrusted(PAYLOAD.encode(), signature, BUNDLED, [key()])


def test_a_bundle() -> None:
    assert check_bundle_untrusted(BUNDLE.encode(), BUNDLED, [key()]).signers == {key()}
    with pytest.raises(InvalidInputError, match="another manifest"):
        check_bundle_untrusted(BUNDLE.encode(), SIGNED, [key()])
