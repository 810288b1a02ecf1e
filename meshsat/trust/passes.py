"""Passes: who is a member of the fleet, as X.509 certificates (RFC 5280) that TLS can check by itself.

Three kinds, each for an Ed25519 key:
  root      self-signed, a CA; its key's hash is part of the fleet id, so the id names one trust domain
  enroller  a CA under the root that may issue passes and nothing below them (path length 0)
  pass      what a node shows; issued by the root or by an enroller

Every certificate has exactly one SAN, a URI shaped like a SPIFFE id: `spiffe://FLEET` for the root,
`spiffe://FLEET/site/SITE/node/PEER` for the others. A node's name is the subject's CN, each of its roles an
OU of the subject (so that `openssl x509 -text` shows them). Only the root makes enrollers: a pass that
claims the role must come from the root itself. All are valid from a day before they were issued, because
clocks at a site are set by hand.

What is not here: TLS, files, revocation.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, SignatureAlgorithmOID

from meshsat.errors import InvalidInputError
from meshsat.trust.keys import NodeKey, PeerId, parse_peer_id_untrusted, peer_id_of, public_key_of

NODE = "node"
ENROLLER = "enroller"
ROLES = frozenset({NODE, ENROLLER})

DAY = 86400.0
ROOT_LIFETIME = 30 * 365.25 * DAY
ENROLLER_LIFETIME = 5 * 365.25 * DAY
PASS_LIFETIME = 365.25 * DAY
BACKDATED = DAY
"""Seconds by which a certificate's validity begins before it was issued."""

CERTIFICATE_LIMIT = 4096
"""Bytes of one certificate; ours have about 500."""
CHAIN_LIMIT = 3
"""Certificates: pass, enroller, root."""

_FLEET_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_FLEET_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?-[0-9a-f]{20}")
_SITE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_NODE_URI = re.compile(r"spiffe://([^/]+)/site/([^/]+)/node/([^/]+)")

# What `cryptography` raises on certificates that are not as they should be; its parsing is lazy.
_PARSER_ERRORS = (
    ValueError,
    TypeError,
    OverflowError,
    InvalidInputError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)


class PassFault(Enum):
    """Why a pass is refused."""

    MALFORMED = "malformed"
    """Not certificates, or not such as a fleet issues."""
    FOREIGN = "foreign"
    """Does not lead to this fleet's root."""
    EXPIRED = "expired"
    NOT_YET = "not valid yet"
    FORBIDDEN = "forbidden"
    """Claims what its issuer may not give."""


class PassError(InvalidInputError):
    """A pass that is not accepted."""

    def __init__(self, reason: PassFault, text: str) -> None:
        super().__init__(f"pass {reason.value}: {text}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Pass:
    """A verified pass."""

    fleet: str
    site: str
    peer: PeerId
    roles: frozenset[str]
    name: str
    serial: int
    not_before: float
    """Unix seconds, as `not_after`."""
    not_after: float
    chain: tuple[bytes, ...] = field(repr=False)
    """DER, the node's certificate first, then the enroller's if there is one; without the root."""


@dataclass(frozen=True, slots=True)
class Subject:
    """For whom a certificate is made."""

    peer: PeerId
    site: str
    name: str
    roles: frozenset[str] = frozenset({NODE})


@dataclass(frozen=True, slots=True)
class Issuer:
    """A key that may issue, with its certificate (DER): the root's or an enroller's."""

    key: NodeKey
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Root:
    """A fleet's trust anchor, read."""

    fleet: str
    certificate: x509.Certificate


def parse_fleet_name_untrusted(text: str) -> str:
    """1 to 32 of a-z, 0-9 and "-". Raises `InvalidInputError`."""
    if not _FLEET_NAME.fullmatch(text):
        raise InvalidInputError("a fleet's name is 1 to 32 characters a-z, 0-9, '-', not '-' at either end")
    return text


def parse_site_untrusted(text: str) -> str:
    """1 to 63 letters, digits, ".", "_", "-". Raises `InvalidInputError`."""
    if not _SITE.fullmatch(text):
        raise InvalidInputError(
            "a site's name is 1 to 63 letters, digits, '.', '_', '-', with none of these at the ends"
        )
    return text


def parse_node_name_untrusted(text: str) -> str:
    """1 to 63 letters, digits, ".", "_", "-". Raises `InvalidInputError`."""
    if not _SITE.fullmatch(text):
        raise InvalidInputError(
            "a node's name is 1 to 63 letters, digits, '.', '_', '-', with none of these at the ends"
        )
    return text


# --- issuing


def make_root(key: NodeKey, fleet_name: str, now: float, lifetime: float = ROOT_LIFETIME) -> bytes:
    """The root certificate (DER) of a new fleet. `now` in Unix seconds, `lifetime` in seconds."""
    fleet = f"{parse_fleet_name_untrusted(fleet_name)}-{_key_hash(key.public)}"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, fleet)])
    builder = begin_certificate(name, name, key.public, now, now + lifetime)
    builder = _as_authority(builder, path_length=1)
    builder = builder.add_extension(_san(f"spiffe://{fleet}"), critical=False)
    return _sign(builder, key)


def issue_enroller(root: Issuer, subject: Subject, now: float, lifetime: float = ENROLLER_LIFETIME) -> bytes:
    """A CA certificate (DER) with which `subject` may issue passes."""
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
    fleet = _uri(above).removeprefix("spiffe://").split("/")[0]
    if not subject.roles or not subject.roles <= ROLES:
        raise InvalidInputError(f"roles are among {', '.join(sorted(ROLES))}")
    name = x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role) for role in sorted(subject.roles)),
            x509.NameAttribute(NameOID.COMMON_NAME, parse_node_name_untrusted(subject.name)),
        ]
    )
    uri = f"spiffe://{fleet}/site/{parse_site_untrusted(subject.site)}/node/{subject.peer}"
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


# --- verifying


def parse_root_untrusted(der: bytes) -> Root:
    """A root certificate: self-signed, a CA, its key the one in its fleet id. Raises `PassError`.

    That it is *the* root of a fleet is for the caller to know.
    """
    certificate = _load_untrusted(der)
    with _malformed("the root"):
        fleet = _uri(certificate).removeprefix("spiffe://")
        certificate.verify_directly_issued_by(certificate)
        _check_authority(certificate, path_length=1)
        if not _FLEET_ID.fullmatch(fleet) or not fleet.endswith(f"-{_key_hash(_key(certificate))}"):
            raise PassError(PassFault.MALFORMED, "the root's fleet id is not made from its key")
    return Root(fleet, certificate)


def verify_pass_untrusted(chain: Sequence[bytes], root: bytes, now: float | None) -> Pass:
    """Check a chain of DER certificates, the pass first, against the fleet's `root` at `now` (Unix seconds).

    With `now` None everything but the time is checked: for reading one's own pass, never a peer's.

    The root itself may be in the chain (TLS puts it there) and does not count. Raises `PassError`.
    """
    leaf, issuers, anchor = _verify_chain_untrusted(chain, root, now)
    with _malformed("the pass"):
        _check_leaf(leaf)
        subject = _subject_untrusted(leaf, anchor.fleet)
    if ENROLLER in subject.roles and issuers:
        raise PassError(PassFault.FORBIDDEN, "only the fleet's root makes enrollers")
    return Pass(
        fleet=anchor.fleet,
        site=subject.site,
        peer=subject.peer,
        roles=subject.roles,
        name=subject.name,
        serial=leaf.serial_number,
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        chain=tuple(certificate.public_bytes(Encoding.DER) for certificate in (leaf, *issuers)),
    )


class VerifiedPasses:
    """Chains found good, so that those seen again cost no signature checks, only one look at the time."""

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._known: dict[tuple[tuple[bytes, ...], bytes], Pass] = {}

    def verify_untrusted(self, chain: Sequence[bytes], root: bytes, now: float) -> Pass:
        """As `verify_pass_untrusted`. Raises `PassError`."""
        key = (tuple(chain), root)
        known = self._known.get(key)
        if known is not None and known.not_before <= now <= known.not_after:
            return known
        # An issuer's certificate that ends before the pass does is caught here only on the first look;
        # passes are issued so that they end first, and one that was not is refused by TLS.
        member = verify_pass_untrusted(chain, root, now)
        if len(self._known) >= self._limit:
            self._known.pop(next(iter(self._known)))
        self._known[key] = member
        return member


def verify_enroller_untrusted(certificate: bytes, root: bytes, now: float | None) -> PeerId:
    """Check that an enroller's (or the root's own) certificate may issue passes of this fleet at `now`.

    Returns the peer id of its key. Raises `PassError`.
    """
    anchor = _root(root)
    if certificate == root:
        _check_time(anchor.certificate, now)
        return peer_id_of(_key(anchor.certificate))
    issuer, _, _ = _verify_chain_untrusted((certificate,), root, now)
    with _malformed("the enroller's certificate"):
        return _check_enroller_untrusted(issuer, anchor.fleet)


def _verify_chain_untrusted(
    chain: Sequence[bytes], root: bytes, now: float | None
) -> tuple[x509.Certificate, list[x509.Certificate], Root]:
    """Signatures, times and the right to issue, from the first certificate up to the root."""
    anchor = _root(root)
    if not 1 <= len(chain) <= CHAIN_LIMIT:
        raise PassError(PassFault.MALFORMED, f"a chain has 1 to {CHAIN_LIMIT} certificates")
    certificates = [_load_untrusted(der) for der in chain if der != root]
    if not certificates:
        raise PassError(PassFault.MALFORMED, "the root's certificate is nobody's pass")
    leaf, *issuers = certificates
    if len(issuers) > 1:
        raise PassError(PassFault.FORBIDDEN, "an enroller's certificate issues passes only")
    for certificate, above in zip(certificates, [*issuers, anchor.certificate], strict=True):
        _check_issued(certificate, above)
    for certificate in (*certificates, anchor.certificate):
        _check_time(certificate, now)
    for issuer in issuers:
        with _malformed("the enroller's certificate"):
            _check_enroller_untrusted(issuer, anchor.fleet)
    return leaf, issuers, anchor


@lru_cache(maxsize=8)
def _root(der: bytes) -> Root:
    return parse_root_untrusted(der)


def _load_untrusted(der: bytes) -> x509.Certificate:
    if not isinstance(der, bytes) or len(der) > CERTIFICATE_LIMIT:
        raise PassError(PassFault.MALFORMED, f"a certificate is at most {CERTIFICATE_LIMIT} bytes of DER")
    with _malformed("a certificate"):
        certificate = x509.load_der_x509_certificate(der)
        _key(certificate)
        if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
            raise PassError(PassFault.MALFORMED, "only Ed25519 signs here")
        # Reads all of them now, and refuses what occurs twice or is critical and unknown to us.
        for extension in certificate.extensions:
            if extension.critical and not isinstance(extension.value, x509.BasicConstraints | x509.KeyUsage):
                raise PassError(PassFault.MALFORMED, "a critical extension that passes do not have")
        return certificate


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature:
        raise PassError(PassFault.FOREIGN, "it was not signed by this fleet") from None
    except (ValueError, TypeError):  # another issuer's name
        raise PassError(PassFault.FOREIGN, "it was issued by somebody else") from None


def _check_time(certificate: x509.Certificate, now: float | None) -> None:
    if now is None:
        return
    if now < certificate.not_valid_before_utc.timestamp():
        begin = certificate.not_valid_before_utc
        raise PassError(PassFault.NOT_YET, f"from {begin:%Y-%m-%d} on; are the clocks right?")
    if now > certificate.not_valid_after_utc.timestamp():
        raise PassError(PassFault.EXPIRED, f"it ended on {certificate.not_valid_after_utc:%Y-%m-%d}")


def _check_enroller_untrusted(certificate: x509.Certificate, fleet: str) -> PeerId:
    _check_authority(certificate, path_length=0)
    subject = _subject_untrusted(certificate, fleet)
    if ENROLLER not in subject.roles:
        raise PassError(PassFault.FORBIDDEN, "its issuer is no enroller")
    return subject.peer


def _check_authority(certificate: x509.Certificate, path_length: int) -> None:
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    if not constraints.ca or constraints.path_length != path_length or not usage.key_cert_sign:
        raise PassError(PassFault.FORBIDDEN, "it was issued with a certificate that may not issue")


def _check_leaf(certificate: x509.Certificate) -> None:
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    if constraints.ca or usage.key_cert_sign or not usage.digital_signature:
        raise PassError(PassFault.FORBIDDEN, "an issuer's certificate is no pass")


def _subject_untrusted(certificate: x509.Certificate, fleet: str) -> Subject:
    match = _NODE_URI.fullmatch(_uri(certificate))
    if match is None:
        raise PassError(PassFault.MALFORMED, "its SAN names no node")
    if match[1] != fleet:
        raise PassError(PassFault.FOREIGN, "it names another fleet")
    if match[3] != peer_id_of(_key(certificate)):
        raise PassError(PassFault.MALFORMED, "its SAN names another key")
    roles = _attributes(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
    names = _attributes(certificate, NameOID.COMMON_NAME)
    if len(names) != 1 or not roles or not ROLES.issuperset(roles):
        raise PassError(PassFault.MALFORMED, "its subject is not a name and roles")
    peer = parse_peer_id_untrusted(match[3])
    return Subject(
        peer, parse_site_untrusted(match[2]), parse_node_name_untrusted(names[0]), frozenset(roles)
    )


def _attributes(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    values = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(oid)]
    return [value for value in values if isinstance(value, str)]


def _uri(certificate: x509.Certificate) -> str:
    names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise PassError(PassFault.MALFORMED, "it has not exactly one SAN, a URI")
    return names[0].value


def _key(certificate: x509.Certificate) -> Ed25519PublicKey:
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise PassError(PassFault.MALFORMED, "its key is not an Ed25519 key")
    return key


def _key_hash(key: Ed25519PublicKey) -> str:
    digest = Hash(SHA256())
    digest.update(key.public_bytes_raw())
    return digest.finalize()[:10].hex()


@contextmanager
def _malformed(what: str) -> Iterator[None]:
    """Whatever the parser stumbles over is one fault. `PassError` passes through as it is."""
    try:
        yield
    except PassError:
        raise
    except _PARSER_ERRORS as fault:
        raise PassError(PassFault.MALFORMED, f"{what} cannot be read ({type(fault).__name__})") from None
