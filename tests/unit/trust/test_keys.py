import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from meshsat.errors import InvalidInputError
from meshsat.trust.keys import (
    NodeKey,
    PeerId,
    is_encrypted,
    parse_peer_id_untrusted,
    peer_id_of,
    public_key_of,
    verify,
)


def test_the_peer_id_is_libp2ps() -> None:
    parse_peer_id_untrusted(
        "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
    )  # the specification's example
    from libp2p.crypto.ed25519 import Ed25519PublicKey
    from libp2p.peer.id import ID

    for _ in range(5):
        key = NodeKey.generate()
        theirs = Ed25519PublicKey.from_bytes(key.public.public_bytes_raw())
        assert str(ID.from_pubkey(theirs)) == key.peer_id


def test_the_key_is_in_the_peer_id() -> None:
    key = NodeKey.generate()
    assert peer_id_of(public_key_of(key.peer_id)) == key.peer_id


def test_signatures() -> None:
    key, other = NodeKey.generate(), NodeKey.generate()
    signature = key.sign(b"data")
    assert len(signature) == 64
    assert verify(key.peer_id, signature, b"data")
    assert not verify(key.peer_id, signature, b"Data")
    assert not verify(other.peer_id, signature, b"data")
    assert not verify(key.peer_id, signature[:-1], b"data")
    assert not verify(PeerId("nobody"), signature, b"data")


def test_pem_round_trip() -> None:
    key = NodeKey.generate()
    assert NodeKey.from_pem(key.to_pem()) == key
    assert NodeKey.generate() != key


def test_a_key_is_not_shown() -> None:
    key = NodeKey.generate()
    assert repr(key) == f"NodeKey(peer_id='{key.peer_id}')"


def test_other_pems_are_refused() -> None:
    elliptic = ec.generate_private_key(ec.SECP256R1())
    locked = NodeKey.generate().private.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    for bad in (
        b"",
        b"-----BEGIN PRIVATE KEY-----\n",
        elliptic.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        locked,
        b"x" * 10_000,
    ):
        with pytest.raises(InvalidInputError):
            NodeKey.from_pem(bad)


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        7,
        b"12D3KooW",
        "12D3KooW",
        "1" * 52,
        "z" * 52,
        "0" * 52,
        "12D3KooWPAeHtUKtJgXvSpQmptVY5sN9sPoCjnoHXq1bWne1cpa\n",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "12D3KooWPAeHtUKtJgXvSpQmptVY5sN9sPoCjnoHXq1bWne1cpa€",
    ],
)
def test_what_is_no_peer_id(text: object) -> None:
    with pytest.raises(InvalidInputError):
        parse_peer_id_untrusted(text)


def test_a_key_under_a_passphrase() -> None:
    key = NodeKey.generate()
    pem = key.to_pem(b"open sesame")
    assert is_encrypted(pem)
    assert not is_encrypted(key.to_pem())
    assert NodeKey.from_pem(pem, b"open sesame") == key
    for passphrase in (None, b"close sesame"):
        with pytest.raises(InvalidInputError) as refused:
            NodeKey.from_pem(pem, passphrase)
        assert "sesame" not in str(refused.value)
    with pytest.raises(InvalidInputError):
        NodeKey.from_pem(key.to_pem(), b"open sesame")
