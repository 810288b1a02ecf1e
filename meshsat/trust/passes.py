"""Passes: who is a member of the fleet, as X.509 certificates (RFC 5280) that TLS can check by itself.

Three kinds, each for an Ed25519 key:
  root      self-signed, a CA; its key's hash is part of the fleet id, so the id names one trust domain
  enroller  a CA under the root that may issue passes and nothing below them (path length 0), for its own
            site, or for all where its site is `*`
  pass      what a node shows; issued by the root or by an enroller

Every certificate has exactly one SAN, a URI shaped like a SPIFFE id: `spiffe://FLEET` for the root,
`spiffe://FLEET/site/SITE/node/PEER` for the others. A node's name is the subject's CN, each of its roles an
OU of the subject (so that `openssl x509 -text` shows them). Only the root makes enrollers: a pass that
claims the role must come from the root itself, or from the enroller whose own it is. All are valid from a day
before they were issued, because clocks at a site are set by hand.

What is not here: making them (`issuing`), revocation (`revocations`), who is let in (`admission`), files.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from meshsat.errors import InvalidInputError
from meshsat.trust.keys import NodeKey, PeerId, parse_peer_id_untrusted, peer_id_of

NODE = "node"
ENROLLER = "enroller"
ROLES_LIMIT = 8
"""Of one pass."""
ROLE_LENGTH = 32
EVERY_SITE = "*"
"""The site of an enroller that may issue for all."""

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
_ROLE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
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
    REVOKED = "revoked"
    ELSEWHERE = "of another site"


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
    """Unix seconds, as `not_after`; the pass's own and its issuer's."""
    not_after: float
    chain: tuple[bytes, ...] = field(repr=False)
    """DER, the node's certificate first, then the enroller's if there is one; without the root."""
    issued_at: float = 0.0
    """Unix seconds, as whoever issued it says."""
    issuer: PeerId | None = None
    """The enroller's. None: the root issued it."""

    def check_time(self, now: float, grace: float = 0.0, latest: float | None = None) -> None:
        """Whether it is good at `now`, or ran out less than `grace` seconds ago. Raises `PassError`.

        `latest`: what the time may be at most, where `now` is only what it is at least.
        """
        _check_span(self.not_before, self.not_after, now, grace, now if latest is None else latest)


@dataclass(frozen=True, slots=True)
class Rights:
    """What the key of an enroller, or of the root, may issue."""

    peer: PeerId
    site: str
    """`EVERY_SITE`: of all."""
    issued_at: float
    """Unix seconds, as `not_after`."""
    not_after: float
    is_root: bool = False

    def covers(self, site: str) -> bool:
        return self.site in (EVERY_SITE, site)


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


def are_roles(roles: Collection[str]) -> bool:
    """One to `ROLES_LIMIT` words of a-z, 0-9 and "-". `node` and `enroller` mean something here; others say
    which nodes of a site hold what is desired (fleet/document.py)."""
    return 0 < len(roles) <= ROLES_LIMIT and all(_ROLE.fullmatch(role) for role in roles)


def parse_role_untrusted(text: str) -> str:
    """A role that an operator gives. Raises `InvalidInputError`."""
    if not _ROLE.fullmatch(text) or text in (NODE, ENROLLER):
        raise InvalidInputError(
            f"{text[:40]!r} is no role: 1 to 32 characters a-z, 0-9, '-', and neither {NODE} nor {ENROLLER}"
        )
    return text


def parse_node_name_untrusted(text: str) -> str:
    """1 to 63 letters, digits, ".", "_", "-". Raises `InvalidInputError`."""
    if not _SITE.fullmatch(text):
        raise InvalidInputError(
            "a node's name is 1 to 63 letters, digits, '.', '_', '-', with none of these at the ends"
        )
    return text


# --- verifying


def parse_root_untrusted(der: bytes) -> Root:
    """A root certificate: self-signed, a CA, its key the one in its fleet id. Raises `PassError`.

    That it is *the* root of a fleet is for the caller to know.
    """
    certificate = _load_untrusted(der)
    with _malformed("the root"):
        fleet = uri_of(certificate).removeprefix("spiffe://")
        certificate.verify_directly_issued_by(certificate)
        _check_authority(certificate, path_length=1)
        if not _FLEET_ID.fullmatch(fleet) or not fleet.endswith(f"-{key_hash(_key(certificate))}"):
            raise PassError(PassFault.MALFORMED, "the root's fleet id is not made from its key")
    return Root(fleet, certificate)


def root_peer(root: bytes) -> PeerId:
    """The key of a root certificate (DER) that was verified, as a peer id."""
    return peer_id_of(_key(x509.load_der_x509_certificate(root)))


def verify_pass_untrusted(chain: Sequence[bytes], root: bytes, now: float | None, grace: float = 0.0) -> Pass:
    """Check a chain of DER certificates, the pass first, against the fleet's `root` at `now` (Unix seconds).

    It may have run out `grace` seconds ago. With `now` None everything but the time is checked: for one's own
    pass, and where `Pass.check_time` follows.

    The root itself may be in the chain (TLS puts it there) and does not count. Raises `PassError`.
    """
    leaf, issuers, anchor = _verify_chain_untrusted(chain, root)
    with _malformed("the pass"):
        _check_leaf(leaf)
        subject = _subject_untrusted(leaf, anchor.fleet)
        parse_site_untrusted(subject.site)
    above = None
    for issuer in issuers:
        with _malformed("the enroller's certificate"):
            above = _check_enroller_untrusted(issuer, anchor.fleet)
        if not above.covers(subject.site):
            raise PassError(PassFault.FORBIDDEN, f"an enroller of site {above.site} gave it for another")
        if ENROLLER in subject.roles and above.peer != subject.peer:
            raise PassError(PassFault.FORBIDDEN, "only the fleet's root makes enrollers")
    certificates = (leaf, *issuers)
    member = Pass(
        fleet=anchor.fleet,
        site=subject.site,
        peer=subject.peer,
        roles=subject.roles,
        name=subject.name,
        serial=leaf.serial_number,
        not_before=max(map(_begins, certificates)),
        not_after=min(map(_ends, certificates)),
        chain=tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates),
        issued_at=_begins(leaf) + BACKDATED,
        issuer=above.peer if above is not None else None,
    )
    if now is not None:
        member.check_time(now, grace)
    return member


def verify_enroller_untrusted(
    certificate: bytes, root: bytes, now: float | None, grace: float = 0.0
) -> Rights:
    """What an enroller's (or the root's own) certificate lets its key issue at `now`; the times as for
    `verify_pass_untrusted`. Raises `PassError`."""
    anchor = _root(root)
    if certificate == root:
        issuer = anchor.certificate
        rights = _rights(issuer, peer_id_of(_key(issuer)), EVERY_SITE, is_root=True)
    else:
        issuer, _, _ = _verify_chain_untrusted((certificate,), root)
        with _malformed("the enroller's certificate"):
            rights = _check_enroller_untrusted(issuer, anchor.fleet)
    if now is not None:
        _check_span(_begins(issuer), rights.not_after, now, grace, now)
    return rights


def _verify_chain_untrusted(
    chain: Sequence[bytes], root: bytes
) -> tuple[x509.Certificate, list[x509.Certificate], Root]:
    """Signatures, from the first certificate up to the root."""
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


def _begins(certificate: x509.Certificate) -> float:
    return certificate.not_valid_before_utc.timestamp()


def _ends(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _check_span(begins: float, ends: float, now: float, grace: float, latest: float) -> None:
    if latest < begins:
        raise PassError(PassFault.NOT_YET, f"from {in_days(begins)} on; are the clocks right?")
    if now > ends + grace:
        raise PassError(PassFault.EXPIRED, f"it ended on {in_days(ends)}")


def in_days(unix: float) -> str:
    """The date, for people."""
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d}"


def _check_enroller_untrusted(certificate: x509.Certificate, fleet: str) -> Rights:
    _check_authority(certificate, path_length=0)
    subject = _subject_untrusted(certificate, fleet)
    if ENROLLER not in subject.roles:
        raise PassError(PassFault.FORBIDDEN, "its issuer is no enroller")
    return _rights(certificate, subject.peer, subject.site)


def _rights(certificate: x509.Certificate, peer: PeerId, site: str, *, is_root: bool = False) -> Rights:
    return Rights(peer, site, _begins(certificate) + BACKDATED, _ends(certificate), is_root)


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
    match = _NODE_URI.fullmatch(uri_of(certificate))
    if match is None:
        raise PassError(PassFault.MALFORMED, "its SAN names no node")
    if match[1] != fleet:
        raise PassError(PassFault.FOREIGN, "it names another fleet")
    if match[3] != peer_id_of(_key(certificate)):
        raise PassError(PassFault.MALFORMED, "its SAN names another key")
    roles = _attributes(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
    names = _attributes(certificate, NameOID.COMMON_NAME)
    if len(names) != 1 or not are_roles(roles):
        raise PassError(PassFault.MALFORMED, "its subject is not a name and roles")
    peer = parse_peer_id_untrusted(match[3])
    site = match[2] if match[2] == EVERY_SITE else parse_site_untrusted(match[2])
    return Subject(peer, site, parse_node_name_untrusted(names[0]), frozenset(roles))


def _attributes(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    values = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(oid)]
    return [value for value in values if isinstance(value, str)]


def uri_of(certificate: x509.Certificate) -> str:
    """Its only SAN. Raises `PassError` where it has another."""
    names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise PassError(PassFault.MALFORMED, "it has not exactly one SAN, a URI")
    return names[0].value


def _key(certificate: x509.Certificate) -> Ed25519PublicKey:
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise PassError(PassFault.MALFORMED, "its key is not an Ed25519 key")
    return key


def key_hash(key: Ed25519PublicKey) -> str:
    """What a fleet id has of its root's key."""
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
