"""Making certificates: the fleet's root, enrollers, passes. What they are is told in `passes`.

Whoever issues is asked nothing here but names and roles that exist: whether it may is the verifier's to see.
"""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshsat.errors import InvalidInputError
from meshsat.trust.keys import NodeKey, public_key_of
from meshsat.trust.passes import (
    BACKDATED,
    ENROLLER_LIFETIME,
    EVERY_SITE,
    PASS_LIFETIME,
    ROLES_LIMIT,
    ROOT_LIFETIME,
    Issuer,
    Subject,
    are_roles,
    key_hash,
    parse_fleet_name_untrusted,
    parse_node_name_untrusted,
    parse_site_untrusted,
    uri_of,
)


def make_root(key: NodeKey, fleet_name: str, now: float, lifetime: float = ROOT_LIFETIME) -> bytes:
    """The root certificate (DER) of a new fleet. `now` in Unix seconds, `lifetime` in seconds."""
    fleet = f"{parse_fleet_name_untrusted(fleet_name)}-{key_hash(key.public)}"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, fleet)])
    builder = begin_certificate(name, name, key.public, now, now + lifetime)
    builder = _as_authority(builder, path_length=1)
    builder = builder.add_extension(_san(f"spiffe://{fleet}"), critical=False)
    return _sign(builder, key)


def issue_enroller(root: Issuer, subject: Subject, now: float, lifetime: float = ENROLLER_LIFETIME) -> bytes:
    """A CA certificate (DER) with which `subject` may issue passes for its site; with `EVERY_SITE` as its
    site, for all."""
    builder = _node_builder(root, subject, now, lifetime)
    return _sign(_as_authority(builder, path_length=0), root.key)


def issue_pass(
    issuer: Issuer, subject: Subject, now: float, lifetime: float = PASS_LIFETIME
) -> tuple[bytes, ...]:
    """A pass's chain, as `Pass.chain`. It ends no later than its issuer's certificate."""
    builder = _node_builder(issuer, subject, now, lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(sign=True), critical=True)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
        critical=False,
    )
    leaf = _sign(builder, issuer.key)
    certificate = x509.load_der_x509_certificate(issuer.certificate)
    return (leaf,) if certificate.issuer == certificate.subject else (leaf, issuer.certificate)


def _node_builder(issuer: Issuer, subject: Subject, now: float, lifetime: float) -> x509.CertificateBuilder:
    above = x509.load_der_x509_certificate(issuer.certificate)
    fleet = uri_of(above).removeprefix("spiffe://").split("/")[0]
    if not are_roles(subject.roles):
        raise InvalidInputError(f"roles are 1 to {ROLES_LIMIT} words of a-z, 0-9 and '-'")
    name = x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role) for role in sorted(subject.roles)),
            x509.NameAttribute(NameOID.COMMON_NAME, parse_node_name_untrusted(subject.name)),
        ]
    )
    site = subject.site if subject.site == EVERY_SITE else parse_site_untrusted(subject.site)
    uri = f"spiffe://{fleet}/site/{site}/node/{subject.peer}"
    ends = min(now + lifetime, above.not_valid_after_utc.timestamp())
    builder = begin_certificate(name, above.subject, public_key_of(subject.peer), now, ends)
    builder = builder.add_extension(_san(uri), critical=False)
    # RFC 5280 4.2.1.1: needed, with the subject key identifiers, under OpenSSL's X509_STRICT.
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public)
    return builder.add_extension(authority, critical=False)


def begin_certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: Ed25519PublicKey | EllipticCurvePublicKey,
    now: float,
    ends: float,
) -> x509.CertificateBuilder:
    """What all our certificates have. `now` and `ends`: Unix seconds."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(int(now - BACKDATED), UTC))
        .not_valid_after(datetime.fromtimestamp(int(ends), UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _as_authority(builder: x509.CertificateBuilder, path_length: int) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    return builder.add_extension(_key_usage(sign=False), critical=True)


def _key_usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not sign,
        crl_sign=not sign,
        encipher_only=False,
        decipher_only=False,
    )


def _san(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _sign(builder: x509.CertificateBuilder, key: NodeKey) -> bytes:
    return builder.sign(key.private, None).public_bytes(Encoding.DER)
