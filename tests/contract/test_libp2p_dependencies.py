"""py-libp2p pins a fastecdsa that needs a compiler; the locked list overrides the pin with one that has wheels.

What the library imports of it must be there; what we use, Ed25519 and X25519 keys, does not go through it.
"""

import hashlib
from importlib.metadata import files, version

import pytest
from fastecdsa import curve as curves
from fastecdsa import ecdsa, keys
from libp2p.crypto import ecc, key_exchange


def test_the_versions_are_the_ones_that_were_looked_at() -> None:
    assert version("libp2p") == "0.8.1"
    assert version("fastecdsa") != "2.3.2", "the release that libp2p pins is source only"


def test_fastecdsa_came_as_a_wheel() -> None:
    installed = files("fastecdsa") or []
    assert any(path.name == "WHEEL" for path in installed)
    assert any(path.suffix == ".so" for path in installed)


def test_what_the_library_imports_of_it_is_there() -> None:
    """`crypto/ecc.py` and `crypto/key_exchange.py` import it, and everything in the library imports them."""
    assert ecc.keys is keys
    assert ecc.curve_types.P256 is curves.P256
    assert callable(ecc.SEC1Encoder.encode_public_key)
    assert key_exchange.int_bytelen(256) == 2


def test_its_keys_are_made() -> None:
    pair = ecc.create_new_key_pair("P-256")
    assert pair.public_key.impl == keys.get_public_key(pair.private_key.impl, curves.P256)


def test_what_does_not_work_is_secios_alone() -> None:
    """Since fastecdsa 3 keys are written in another way than the library calls for.

    Only SECIO writes P-256 keys. Nobody is offered it here (`test_libp2p_defects.py`), and Noise needs none.
    """
    pair = ecc.create_new_key_pair("P-256")
    with pytest.raises(TypeError):
        pair.public_key.to_bytes()
    with pytest.raises(AttributeError):
        pair.private_key.to_bytes()


def test_its_signatures_verify() -> None:
    private, public = keys.gen_keypair(curves.P256)
    signature = ecdsa.sign(b"message", private, curve=curves.P256, hashfunc=hashlib.sha256)
    assert ecdsa.verify(signature, b"message", public, curve=curves.P256, hashfunc=hashlib.sha256)
    assert not ecdsa.verify(signature, b"another", public, curve=curves.P256, hashfunc=hashlib.sha256)
