"""A sigstore of our own: Fulcio's CA, a certificate transparency log and Rekor, as keys; what they would write.

Made after sigstore's client specification and the formats that it names (RFC 6962 for SCTs and leaves, C2SP
signed notes for checkpoints), with `cryptography` alone. One entry a log, so that a proof has no hashes.
"""

import base64
import datetime as dt
import hashlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.signing import IN_TOTO, make_key

IDENTITY = "https://ci.test/team/app/release.yml@refs/heads/main"
ISSUER = "https://login.test"
SIGNED_AT = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
"""The certificates are good for ten minutes from then."""
_SCTS = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ISSUER = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def log_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(spki(key)).digest()


def signed(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


@dataclass
class Sigstore:
    fulcio: ec.EllipticCurvePrivateKey = field(default_factory=make_key)
    ct_log: ec.EllipticCurvePrivateKey = field(default_factory=make_key)
    rekor: ec.EllipticCurvePrivateKey = field(default_factory=make_key)

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fulcio.test")])
        self._name = name
        self.ca = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.fulcio.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(SIGNED_AT - dt.timedelta(days=365))
            .not_valid_after(SIGNED_AT + dt.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(cert_sign=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.fulcio.public_key()), critical=False
            )
            .sign(self.fulcio, hashes.SHA256())
        )

    def trusted_root(self, path: Path) -> Path:
        """The file that an operator pins."""
        start = {"start": "2020-01-01T00:00:00Z"}

        def log(key: ec.EllipticCurvePrivateKey, url: str) -> dict[str, Any]:
            return {
                "baseUrl": url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": b64(spki(key)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": start,
                },
                "logId": {"keyId": b64(log_id(key))},
            }

        document = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.rekor, "https://rekor.test")],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "test", "commonName": "fulcio.test"},
                    "uri": "https://fulcio.test",
                    "certChain": {"certificates": [{"rawBytes": b64(self.ca.public_bytes(Encoding.DER))}]},
                    "validFor": start,
                }
            ],
            "ctlogs": [log(self.ct_log, "https://ct.test")],
            "timestampAuthorities": [],
        }
        path.write_text(json.dumps(document))
        return path

    def certificate(
        self, key: ec.EllipticCurvePrivateKey, identity: str = IDENTITY, issuer: str = ISSUER
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(SIGNED_AT)
            .not_valid_after(SIGNED_AT + dt.timedelta(minutes=10))
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.fulcio.public_key()), critical=False
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True
            )
            .add_extension(x509.UnrecognizedExtension(_ISSUER, issuer.encode()), critical=False)
        )
        before = builder.sign(self.fulcio, hashes.SHA256()).tbs_certificate_bytes
        at = int(SIGNED_AT.timestamp() * 1000)
        entry = hashlib.sha256(spki(self.fulcio)).digest() + len(before).to_bytes(3, "big") + before
        data = struct.pack("!BBQH", 0, 0, at, 1) + entry + struct.pack("!H", 0)
        signature = signed(self.ct_log, data)
        sct = struct.pack("!B32sQH", 0, log_id(self.ct_log), at, 0)
        sct += struct.pack("!BBH", 4, 3, len(signature)) + signature
        scts = struct.pack("!HH", len(sct) + 2, len(sct)) + sct
        extension = b"\x04" + _der_length(len(scts)) + scts
        return builder.add_extension(x509.UnrecognizedExtension(_SCTS, extension), critical=False).sign(
            self.fulcio, hashes.SHA256()
        )

    def bundle(
        self,
        statement: bytes,
        identity: str = IDENTITY,
        issuer: str = ISSUER,
        at: dt.datetime = SIGNED_AT + dt.timedelta(minutes=1),
    ) -> dict[str, Any]:
        """What `cosign sign` without a key leaves; `at`: when the log took it in."""
        key = make_key()
        certificate = self.certificate(key, identity, issuer)
        kind = IN_TOTO.encode()
        signature = signed(key, b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(statement), statement))
        body = json.dumps(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": {"algorithm": "sha256", "value": "0" * 64},
                    "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(statement).hexdigest()},
                    "signatures": [
                        {
                            "signature": b64(signature),
                            "verifier": b64(certificate.public_bytes(Encoding.PEM)),
                        }
                    ],
                },
            },
            separators=(",", ":"),
        ).encode()
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": b64(certificate.public_bytes(Encoding.DER))},
                "tlogEntries": [self._entry(body, int(at.timestamp()))],
            },
            "dsseEnvelope": {
                "payload": b64(statement),
                "payloadType": IN_TOTO,
                "signatures": [{"sig": b64(signature)}],
            },
        }

    def _entry(self, body: bytes, at: int) -> dict[str, Any]:
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"rekor.test - 1\n1\n{b64(root)}\n"
        by = log_id(self.rekor)[:4] + signed(self.rekor, note.encode())
        promised = {
            "body": b64(body),
            "integratedTime": at,
            "logID": log_id(self.rekor).hex(),
            "logIndex": 0,
        }
        promise = signed(self.rekor, json.dumps(promised, separators=(",", ":"), sort_keys=True).encode())
        return {
            "logIndex": "0",
            "logId": {"keyId": b64(log_id(self.rekor))},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(at),
            "inclusionPromise": {"signedEntryTimestamp": b64(promise)},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n\u2014 rekor.test {b64(by)}\n"},
            },
            "canonicalizedBody": b64(body),
        }


def _usage(*, cert_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _der_length(length: int) -> bytes:
    if length < 128:
        return bytes([length])
    raw = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(raw)]) + raw
