"""What is made is what was asked for; what a verifier thinks of it is in `test_passes.py`."""

import pytest
from cryptography import x509

from meshsat.errors import InvalidInputError
from meshsat.trust.issuing import issue_enroller, issue_pass, make_root
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import (
    BACKDATED,
    DAY,
    ENROLLER,
    EVERY_SITE,
    ROLES_LIMIT,
    Issuer,
    Subject,
    parse_root_untrusted,
    verify_enroller_untrusted,
    verify_pass_untrusted,
)
from tests.fleet import Fleet

NOW = 1_800_000_000.0


def test_a_root_makes_enrollers_and_those_make_passes() -> None:
    key, boss, node = NodeKey.generate(), NodeKey.generate(), NodeKey.generate()
    root = Issuer(key, make_root(key, "acme", NOW))
    fleet = parse_root_untrusted(root.certificate).fleet
    assert fleet.startswith("acme-")
    own = Subject(boss.peer_id, "hq", "boss", frozenset({"node", ENROLLER}))
    enroller = Issuer(boss, issue_enroller(root, own, NOW))
    assert verify_enroller_untrusted(enroller.certificate, root.certificate, NOW).site == "hq"
    leaf, above = issue_pass(enroller, Subject(node.peer_id, "hq", "till"), NOW, DAY)
    assert above == enroller.certificate
    certificate = x509.load_der_x509_certificate(leaf)
    assert certificate.not_valid_before_utc.timestamp() == NOW - BACKDATED
    assert certificate.not_valid_after_utc.timestamp() == NOW + DAY
    uri = f"spiffe://{fleet}/site/hq/node/{node.peer_id}"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [uri]


def test_serials_differ() -> None:
    fleet = Fleet(now=NOW)
    key = NodeKey.generate()
    first, second = (x509.load_der_x509_certificate(fleet.chain(key)[0]) for _ in range(2))
    assert first.serial_number != second.serial_number


def test_an_enroller_for_every_site() -> None:
    fleet = Fleet(now=NOW)
    key = NodeKey.generate()
    certificate = issue_enroller(fleet.root, fleet.subject(key, "boss", ENROLLER, site=EVERY_SITE), NOW)
    assert verify_enroller_untrusted(certificate, fleet.root.certificate, NOW).covers("anywhere")


def test_names_and_roles_that_there_are_not() -> None:
    fleet = Fleet(now=NOW)
    peer = NodeKey.generate().peer_id
    for bad in (
        Subject(peer, "a b", "till"),
        Subject(peer, "hq", "a b"),
        Subject(peer, "hq", "till", frozenset()),
        Subject(peer, "hq", "till", frozenset({"King"})),
        Subject(peer, "hq", "till", frozenset(map(str, range(ROLES_LIMIT + 1)))),
    ):
        with pytest.raises(InvalidInputError):
            issue_pass(fleet.enroller, bad, NOW)


def test_roles_of_the_operators_own_are_in_the_pass() -> None:
    fleet = Fleet(now=NOW)
    subject = Subject(NodeKey.generate().peer_id, "hq", "till", frozenset({"node", "cache", "front-2"}))
    chain = issue_pass(fleet.enroller, subject, NOW)
    member = verify_pass_untrusted(chain, fleet.root.certificate, NOW)
    assert member.roles == {"node", "cache", "front-2"}
