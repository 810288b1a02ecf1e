import hashlib

import cbor2
import pytest

from meshsat.chunking.cut import FIXED_1, MIN_CHUNK, Cut
from meshsat.chunking.recipe import Recipe, decode_recipe_untrusted, self_evident
from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from tests.images import random_bytes

DATA = random_bytes(2 * MIN_CHUNK + 5)


def test_of_a_blob() -> None:
    recipe = Recipe.of(DATA)
    assert recipe.blob == Digest.of(DATA)
    assert recipe.chunks[2] == hashlib.sha256(DATA[2 * MIN_CHUNK :]).digest()
    assert Recipe.unpack(recipe.blob, len(DATA), b"".join(recipe.chunks)) == recipe


def test_encoding_comes_back() -> None:
    for recipe in (Recipe.of(DATA), Recipe.of(DATA, "sha512"), Recipe.of(b""), Recipe.of(b"x")):
        assert decode_recipe_untrusted(recipe.encode()) == recipe


def test_self_evident_recipes() -> None:
    assert self_evident(Digest.of(b""), 0) == () == Recipe.of(b"").chunks
    assert self_evident(Digest.of(b"x"), 1) == Recipe.of(b"x").chunks
    assert self_evident(Digest.of(b"x", "sha512"), 1) is None
    assert self_evident(Digest.of(DATA), len(DATA)) is None


def test_a_recipe_has_a_digest_for_every_chunk() -> None:
    with pytest.raises(ValueError, match="1 chunk digests for 3"):
        Recipe(Digest.of(DATA), Cut(FIXED_1, len(DATA)), (b"\0" * 32,))


GOOD = ["fixed/1", str(Digest.of(DATA)), len(DATA), b"\1" * 96]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"\x84",
        b"\x9f" + cbor2.dumps("fixed/1"),
        cbor2.dumps(GOOD) + b"\0",
        cbor2.dumps(GOOD[:3]),
        cbor2.dumps([*GOOD, 1]),
        cbor2.dumps({"cut": GOOD}),
        cbor2.dumps(cbor2.CBORTag(4711, GOOD)),
        cbor2.dumps(["fixed/2", *GOOD[1:]]),
        cbor2.dumps([GOOD[0], "sha256:x", *GOOD[2:]]),
        cbor2.dumps([*GOOD[:2], -1, GOOD[3]]),
        cbor2.dumps([*GOOD[:2], True, GOOD[3]]),
        cbor2.dumps([*GOOD[:2], float(len(DATA)), GOOD[3]]),
        cbor2.dumps([*GOOD[:2], 2**70, GOOD[3]]),
        cbor2.dumps([*GOOD[:3], b"\1" * 95]),
        cbor2.dumps([*GOOD[:3], b"\1" * 64]),
        cbor2.dumps(["fixed/1", str(Digest.of(b"x")), 1, b"\1" * 32]),  # against its own blob digest
        cbor2.dumps(GOOD).replace(b"\x1a", b"\x1b\0\0\0\0", 1),  # a length spelt longer than need be
        b"\x81" * 500,
        b"\x5b" + b"\x7f" * 8,
        bytes(9 * 1024 * 1024),
    ],
)
def test_anything_else_is_refused(raw: bytes) -> None:
    assert decode_recipe_untrusted(cbor2.dumps(GOOD)).chunks == (b"\1" * 32,) * 3
    with pytest.raises(InvalidInputError):
        decode_recipe_untrusted(raw)
