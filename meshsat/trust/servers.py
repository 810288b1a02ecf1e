"""Server certificates: what the registry shows to clients that are no members, made with an enroller's key.

Each enroller has a CA of its own for them, whose ECDSA P-256 key is derived from the enroller's (HKDF, RFC
5869): nothing more is kept, and it comes out the same each time. Clients trust that CA alone, never the
fleet's root. So the two trees have no key and no name in common, and neither is worth anything in the other:
a server certificate has no Ed25519 key and no SPIFFE id, so it is no pass; and a pass, whose bearer chose its
own common name, is signed by nobody whom a client of the registry trusts. P-256, since not every client takes
Ed25519 in certificates.

Laws: pure. A server certificate is for TLS servers only (EKU), names hosts and addresses in its SAN, and
issues nothing; its CA issues such ones and nothing below them.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshsat.errors import InvalidInputError
from meshsat.trust.issuing import begin_certificate
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import DAY, parse_root_untrusted

LIFETIME = 90 * DAY
LIFETIME_LIMIT = 825 * DAY
"""Seconds; Apple's clients take none that lasts longer, whoever issued it."""
NAMES_LIMIT = 64
_CONTEXT = b"meshsat registry CA 1"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256's group (SEC 2, 2.4.2)."""
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Authority:
    """An enroller's CA for server certificates."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @classmethod
    def of_enroller(cls, enroller: NodeKey, root: bytes, now: float) -> Self:
        """`root`: the fleet's (DER), which tells the name and for how long. `now` in Unix seconds.

        Its certificate is made anew each time; clients that trust an earlier one trust this. Raises
        `InvalidInputError`.
        """
        anchor = parse_root_untrusted(root)
        key = _derive(enroller)
        # The peer id as a whole does not fit: a common name has 64 characters (RFC 5280, A.1).
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{anchor.fleet} registries"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"registry CA of {enroller.peer_id}"[:64]),
            ]
        )
        ends = max(anchor.certificate.not_valid_after_utc.timestamp(), now + DAY)
        builder = (
            begin_certificate(name, name, key.public_key(), now, ends)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        )
        return cls(key, builder.sign(key, SHA256()))

    @property
    def pem(self) -> bytes:
        """The CA's certificate, for clients to trust."""
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(self, names: Sequence[str], now: float, lifetime: float = LIFETIME) -> tuple[bytes, bytes]:
        """A new certificate and its key (PEM, PKCS #8) for a server that goes by `names`.

        Raises `InvalidInputError`.
        """
        if not 1 <= len(names) <= NAMES_LIMIT:
            raise InvalidInputError(f"a certificate is for 1 to {NAMES_LIMIT} names")
        if not DAY <= lifetime <= LIFETIME_LIMIT:
            raise InvalidInputError(f"a certificate lasts 1 to {LIFETIME_LIMIT / DAY:.0f} days")
        parsed = [parse_server_name_untrusted(name) for name in dict.fromkeys(names)]
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(parsed[0].value)[:64])])
        ends = min(now + lifetime, self.certificate.not_valid_after_utc.timestamp())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            begin_certificate(subject, self.certificate.subject, key.public_key(), now, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(parsed), critical=False)
            .add_extension(issuer, critical=False)
        )
        certificate = builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM)
        return certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def parse_server_name_untrusted(text: str) -> x509.DNSName | x509.IPAddress:
    """A host's name or an address, without port and wildcard. Raises `InvalidInputError`."""
    try:
        return x509.IPAddress(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        host = text.lower().rstrip(".")
    # The last label of a host's name is no number: else it would be an address gone wrong (RFC 1123, 2.1).
    if not _HOST.fullmatch(host) or len(host) > 253 or host.rpartition(".")[2].isdigit():
        raise InvalidInputError(
            f"{text[:253]!r} is neither a host's name nor an address; write e.g. node-1.lan or 192.0.2.7"
        )
    return x509.DNSName(host)


def _derive(enroller: NodeKey) -> ec.EllipticCurvePrivateKey:
    """FIPS 186-5, A.2.1: 16 bytes more than the order has, so that the remainder is as good as even."""
    bits = HKDF(SHA256(), 48, salt=None, info=_CONTEXT).derive(enroller.private.private_bytes_raw())
    return ec.derive_private_key(int.from_bytes(bits, "big") % (_ORDER - 1) + 1, ec.SECP256R1())


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
