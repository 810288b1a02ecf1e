import hashlib

import pytest

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest

ABC = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_of_the_standards_example() -> None:
    # FIPS 180-2, appendix B.1
    digest = Digest.of(b"abc")
    assert str(digest) == ABC
    assert digest.raw == hashlib.sha256(b"abc").digest()
    assert Digest.of_sha256(digest.raw) == digest
    assert digest.matches(memoryview(b"abc"))
    assert not digest.matches(b"abd")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_both_algorithms_parse_and_hash(algorithm: str) -> None:
    digest = Digest.of(b"abc", algorithm)
    assert Digest.parse_untrusted(str(digest)) == digest
    hasher = digest.hasher()
    hasher.update(b"ab")
    hasher.update(memoryview(b"c"))
    assert hasher.hexdigest() == digest.hex


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        ABC.upper(),
        ABC[:-1],
        ABC + "0",
        ABC + "\n",
        ABC.replace("sha256", "sha512"),
        "md5:" + "0" * 32,
        "sha256:" + "g" * 64,
        "sha256:" + "٣" * 64,  # digits, but not ours
        "sha256:../" + "0" * 61,
        "sha256+b64:" + "0" * 64,
        " " + ABC,
        None,
        7,
        b"sha256",
        [ABC],
        "sha256:" + "0" * 100_000,
    ],
)
def test_anything_else_is_refused(text: object) -> None:
    with pytest.raises(InvalidInputError):
        Digest.parse_untrusted(text)
