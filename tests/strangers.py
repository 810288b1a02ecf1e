"""Passes that must be refused, one function a kind: each gives a key and a chain for it (DER, the pass first)."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshsat.trust.issuing import issue_enroller, issue_pass, make_root
from meshsat.trust.keys import NodeKey, PeerId
from meshsat.trust.passes import DAY, ENROLLER, Issuer, PassFault
from meshsat.trust.servers import Authority
from tests.fleet import Fleet

PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
Stranger = tuple[PrivateKey, tuple[bytes, ...]]


def certificate(
    fleet: Fleet,
    key: PrivateKey,
    issuer: Issuer,
    *,
    uris: tuple[str, ...] | None = None,
    authority: bool = False,
    signer: PrivateKey | None = None,
) -> bytes:
    """A certificate made by hand: what `issue_pass` would never issue."""
    above = x509.load_der_x509_certificate(issuer.certificate)
    public = key.public_key()
    roles = [ENROLLER, "node"] if authority else ["node"]
    if uris is None:
        uris = (
            (node_uri(fleet, NodeKey.from_private(key).peer_id),)
            if isinstance(key, Ed25519PrivateKey)
            else ()
        )
    now = datetime.fromtimestamp(fleet.now, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(
            x509.Name(
                [
                    *(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role) for role in roles),
                    x509.NameAttribute(NameOID.COMMON_NAME, "mallory"),
                ]
            )
        )
        .issuer_name(above.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public), critical=False)
        .add_extension(
            x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=authority,
                crl_sign=authority,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not authority:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    signer = signer or issuer.key.private
    algorithm = None if isinstance(signer, Ed25519PrivateKey) else SHA256()
    return builder.sign(signer, algorithm).public_bytes(Encoding.DER)


def node_uri(fleet: Fleet, peer: PeerId, site: str = "hq") -> str:
    return f"spiffe://{fleet.id}/site/{site}/node/{peer}"


def _plain(fleet: Fleet, issuer: Issuer, lifetime: float = DAY, now: float | None = None) -> Stranger:
    key = NodeKey.generate()
    subject = fleet.subject(key, "mallory")
    return key.private, issue_pass(issuer, subject, fleet.now if now is None else now, lifetime)


def foreign(fleet: Fleet) -> Stranger:
    return _plain(fleet, Fleet(now=fleet.now).enroller)


def impersonated_fleet(fleet: Fleet) -> Stranger:
    """Another key behind a root certificate that is the fleet's in every name."""
    mallory, key = NodeKey.generate(), NodeKey.generate()
    chain = certificate(fleet, key.private, fleet.root, signer=mallory.private)
    return key.private, (chain,)


def self_signed(fleet: Fleet) -> Stranger:
    """A pass of the right fleet by its own word."""
    key = NodeKey.generate()
    return key.private, (certificate(fleet, key.private, Issuer(key, fleet.root.certificate)),)


def own_root(fleet: Fleet) -> Stranger:
    """Brings along the root that would make it valid."""
    key = NodeKey.generate()
    root = Issuer(key, make_root(key, "acme", fleet.now))
    private, chain = _plain(fleet, root)
    return private, (*chain, root.certificate)


def expired(fleet: Fleet) -> Stranger:
    return _plain(fleet, fleet.enroller, lifetime=-3600)


def not_yet(fleet: Fleet) -> Stranger:
    return _plain(fleet, fleet.enroller, now=fleet.now + 2 * DAY)


def expired_enroller(fleet: Fleet) -> Stranger:
    boss = NodeKey.generate()
    short = issue_enroller(fleet.root, fleet.subject(boss, "boss", ENROLLER), fleet.now, lifetime=-3600)
    key = NodeKey.generate()
    return key.private, (certificate(fleet, key.private, Issuer(boss, short)), short)


def anothers_name(fleet: Fleet) -> Stranger:
    """The SAN names a member, the key is another."""
    key, member = NodeKey.generate(), NodeKey.generate()
    uris = (node_uri(fleet, member.peer_id),)
    return key.private, (
        certificate(fleet, key.private, fleet.enroller, uris=uris),
        fleet.enroller.certificate,
    )


def another_fleets_name(fleet: Fleet) -> Stranger:
    key = NodeKey.generate()
    uris = (node_uri(Fleet(now=fleet.now), key.peer_id),)
    return key.private, (certificate(fleet, key.private, fleet.root, uris=uris),)


def two_names(fleet: Fleet) -> Stranger:
    key = NodeKey.generate()
    uris = (node_uri(fleet, key.peer_id), node_uri(fleet, key.peer_id, "elsewhere"))
    return key.private, (certificate(fleet, key.private, fleet.root, uris=uris),)


def no_name(fleet: Fleet) -> Stranger:
    key = NodeKey.generate()
    return key.private, (certificate(fleet, key.private, fleet.root, uris=()),)


def leaf_as_authority(fleet: Fleet) -> Stranger:
    """A member lets others in with its pass."""
    member = fleet.member("member")
    key = NodeKey.generate()
    issuer = Issuer(member.key, member.chain[0])
    return key.private, (certificate(fleet, key.private, issuer), *member.chain)


def authority_without_the_flag(fleet: Fleet) -> Stranger:
    """As above, the member's certificate coming from the root itself, so that the length of the chain is right."""
    member, key = NodeKey.generate(), NodeKey.generate()
    between = certificate(fleet, member.private, fleet.root)
    return key.private, (certificate(fleet, key.private, Issuer(member, between)), between)


def enroller_below_an_enroller(fleet: Fleet) -> Stranger:
    second, key = NodeKey.generate(), NodeKey.generate()
    between = certificate(fleet, second.private, fleet.enroller, authority=True)
    leaf = certificate(fleet, key.private, Issuer(second, between))
    return key.private, (leaf, between, fleet.enroller.certificate)


def enrollers_role_from_an_enroller(fleet: Fleet) -> Stranger:
    key = NodeKey.generate()
    return key.private, issue_pass(fleet.enroller, fleet.subject(key, "mallory", ENROLLER), fleet.now)


def authority_as_a_pass(fleet: Fleet) -> Stranger:
    return fleet.enroller.key.private, (fleet.enroller.certificate,)


def root_as_a_pass(fleet: Fleet) -> Stranger:
    return fleet.root.key.private, (fleet.root.certificate,)


def another_kind_of_key(fleet: Fleet) -> Stranger:
    key = ec.generate_private_key(ec.SECP256R1())
    uris = (node_uri(fleet, NodeKey.generate().peer_id),)
    return key, (certificate(fleet, key, fleet.root, uris=uris),)


def registrys_certificate(fleet: Fleet) -> Stranger:
    """What an enroller gave to a registry, to show to clients that are no members."""
    authority = Authority.of_enroller(fleet.enroller.key, fleet.root.certificate, fleet.now)
    pem, key_pem = authority.issue(["node.lan"], fleet.now)
    key = load_pem_private_key(key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issued = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    return key, (issued, authority.certificate.public_bytes(Encoding.DER))


def pass_from_the_registrys_ca(fleet: Fleet) -> Stranger:
    """A pass in every name, from the CA that is for registries."""
    authority = Authority.of_enroller(fleet.enroller.key, fleet.root.certificate, fleet.now)
    key = NodeKey.generate()
    above = authority.certificate.public_bytes(Encoding.DER)
    leaf = certificate(fleet, key.private, Issuer(fleet.enroller.key, above), signer=authority.key)
    return key.private, (leaf, above)


KINDS: dict[Callable[[Fleet], Stranger], PassFault] = {
    foreign: PassFault.FOREIGN,
    impersonated_fleet: PassFault.FOREIGN,
    self_signed: PassFault.FOREIGN,
    own_root: PassFault.FOREIGN,
    expired: PassFault.EXPIRED,
    not_yet: PassFault.NOT_YET,
    expired_enroller: PassFault.EXPIRED,
    anothers_name: PassFault.MALFORMED,
    another_fleets_name: PassFault.FOREIGN,
    two_names: PassFault.MALFORMED,
    no_name: PassFault.MALFORMED,
    leaf_as_authority: PassFault.FORBIDDEN,
    authority_without_the_flag: PassFault.FORBIDDEN,
    enroller_below_an_enroller: PassFault.FORBIDDEN,
    enrollers_role_from_an_enroller: PassFault.FORBIDDEN,
    authority_as_a_pass: PassFault.FORBIDDEN,
    root_as_a_pass: PassFault.MALFORMED,
    another_kind_of_key: PassFault.MALFORMED,
    registrys_certificate: PassFault.MALFORMED,
    pass_from_the_registrys_ca: PassFault.MALFORMED,
}
"""Each with the reason for which it is refused."""
