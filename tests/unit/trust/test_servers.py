"""Server certificates: what clients make of them, and that the fleet's passes and they are never taken for one another."""

import ssl
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshsat.errors import InvalidInputError
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import DAY, PassError, verify_enroller_untrusted, verify_pass_untrusted
from meshsat.trust.servers import LIFETIME, NAMES_LIMIT, Authority, parse_server_name_untrusted
from tests.fleet import Fleet
from tests.handshake import client_context, server_context, shake_hands

NAMES = ["Node-1.lan", "node-1", "192.0.2.7", "fd00::7"]


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture(scope="module")
def authority(fleet: Fleet) -> Authority:
    return of(fleet)


def of(fleet: Fleet) -> Authority:
    return Authority.of_enroller(fleet.enroller.key, fleet.root.certificate, fleet.now)


def pem(*ders: bytes) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)


def test_clients_take_it_under_all_its_names_and_no_other(fleet: Fleet, authority: Authority) -> None:
    server = server_context(*authority.issue(NAMES, fleet.now))
    client = client_context(authority.pem)
    for name in NAMES:
        shake_hands(server, client, name)
    for name in ("node-2.lan", "lan", "192.0.2.8", "fd00::8", "x.node-1.lan"):
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            shake_hands(server, client, name)


def test_it_is_for_servers_alone_and_issues_nothing(fleet: Fleet, authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.issue(NAMES, fleet.now)[0])
    extensions = certificate.extensions
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["node-1.lan", "node-1", "192.0.2.7", "fd00::7"]
    assert certificate.not_valid_after_utc == datetime.fromtimestamp(int(fleet.now + LIFETIME), UTC)


def test_the_ca_issues_server_certificates_and_nothing_below_them(authority: Authority) -> None:
    extensions = authority.certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_the_ca_comes_out_the_same_each_time(fleet: Fleet, authority: Authority) -> None:
    """A client that trusts the one made first takes what the one made last issues."""
    later = Authority.of_enroller(fleet.enroller.key, fleet.root.certificate, fleet.now + DAY)
    assert later.key.private_numbers() == authority.key.private_numbers()
    server = server_context(*later.issue(NAMES, fleet.now))
    shake_hands(server, client_context(authority.pem), "node-1")


def test_another_enrollers_ca_is_another(fleet: Fleet, authority: Authority) -> None:
    other = Authority.of_enroller(NodeKey.generate(), fleet.root.certificate, fleet.now)
    assert other.certificate.subject != authority.certificate.subject
    server = server_context(*other.issue(NAMES, fleet.now))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client_context(authority.pem), "node-1")


def test_a_server_certificate_is_no_pass(fleet: Fleet, authority: Authority) -> None:
    """`tests/strangers.py` has the kinds that are tried on the mesh as well."""
    issued = x509.load_pem_x509_certificate(authority.issue(NAMES, fleet.now)[0]).public_bytes(Encoding.DER)
    above = authority.certificate.public_bytes(Encoding.DER)
    root = fleet.root.certificate
    for chain in ((issued,), (issued, above), (issued, fleet.enroller.certificate), (above,)):
        with pytest.raises(PassError):
            verify_pass_untrusted(chain, root, None)
    with pytest.raises(PassError):
        verify_enroller_untrusted(above, root, None)
    with pytest.raises(PassError):
        verify_pass_untrusted(fleet.chain(NodeKey.generate()), above, None)


def test_a_pass_is_no_server_certificate(fleet: Fleet, authority: Authority) -> None:
    """Whoever joins chooses its common name, and OpenSSL looks there for a host's name where the SAN has none:
    under the fleet's root as a CA any member would be `node-1.lan`. Under the registry's it is not."""
    key = NodeKey.generate()
    chain = fleet.chain(key, "node-1.lan")
    mallory = server_context(pem(*chain), key.to_pem())
    shake_hands(mallory, client_context(pem(fleet.root.certificate)), "node-1.lan")
    with pytest.raises(ssl.SSLCertVerificationError, match="issuer"):
        shake_hands(mallory, client_context(authority.pem), "node-1.lan")
    boss = server_context(pem(fleet.enroller.certificate), fleet.enroller.key.to_pem())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(boss, client_context(authority.pem), "boss")


def test_it_ends_with_its_ca(fleet: Fleet) -> None:
    late = x509.load_der_x509_certificate(fleet.root.certificate).not_valid_after_utc.timestamp() - 10 * DAY
    authority = Authority.of_enroller(fleet.enroller.key, fleet.root.certificate, late)
    certificate = x509.load_pem_x509_certificate(authority.issue(NAMES, late)[0])
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "a b",
            "a_b",
            "-a",
            "a-",
            "*.lan",
            "a..b",
            "1.2.3",
            "1.2.3.4.5",
            "a" * 64,
            "a." * 127 + "ab",
        ),
        *("node:5000", "http://node", "n\u00f6de", "a\n"),
    ],
)
def test_what_is_no_name_is_told(fleet: Fleet, authority: Authority, name: str) -> None:
    with pytest.raises(InvalidInputError, match="neither a host's name nor an address"):
        parse_server_name_untrusted(name)
    with pytest.raises(InvalidInputError):
        authority.issue([name], fleet.now)


@pytest.mark.parametrize(
    ("names", "lifetime"),
    [([], LIFETIME), (["a"] * (NAMES_LIMIT + 1), LIFETIME), (["a"], 3600.0), (["a"], 826 * DAY)],
)
def test_numbers_are_bounded(fleet: Fleet, authority: Authority, names: list[str], lifetime: float) -> None:
    with pytest.raises(InvalidInputError):
        authority.issue(names, fleet.now, lifetime)


def test_names_as_people_write_them() -> None:
    assert parse_server_name_untrusted("Node.LAN.") == x509.DNSName("node.lan")
    assert str(parse_server_name_untrusted("[fd00::1]").value) == "fd00::1"


def test_no_key_is_shown(authority: Authority) -> None:
    assert "key" not in repr(authority)
