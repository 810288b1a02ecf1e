"""What registries, peers and disks hold, as hypothesis makes it: a value or `InvalidInputError`, nothing else."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.chunking.recipe import Recipe, decode_recipe_untrusted
from meshsat.errors import InvalidInputError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.fields import MAX_BLOB_SIZE, parse_object_untrusted
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.oci.media_types import DOCKER_SCHEMA1, MANIFEST_TYPES, NONDISTRIBUTABLE_TYPES
from meshsat.oci.pattern import Pattern
from meshsat.oci.platform import Platform
from meshsat.oci.reference import (
    Reference,
    parse_registry_untrusted,
    parse_repository_untrusted,
    parse_tag_untrusted,
)
from meshsat.store.images import decode_index_untrusted

settings.register_profile("fuzz", derandomize=True, database=None, deadline=None)
FUZZ = settings(settings.get_profile("fuzz"), max_examples=60)

DIGEST = st.one_of(
    st.binary(max_size=3).map(Digest.of).map(str),
    st.binary(max_size=3).map(lambda data: str(Digest.of(data, "sha512"))),
    st.sampled_from(["sha256:", "md5:" + "0" * 32, "SHA256:" + "0" * 64, "sha256:" + "G" * 64]),
)
NUMBER = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.sampled_from([0, -1, 2**40, 2**63, 2**64, 10**30])
)
TYPE = st.sampled_from(sorted(MANIFEST_TYPES | DOCKER_SCHEMA1 | NONDISTRIBUTABLE_TYPES | {"", "a/b", "text"}))
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), NUMBER, st.text(max_size=8), DIGEST, TYPE),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=6,
)


def mostly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(strategy, strategy, strategy, ANYTHING)


PLATFORM = st.fixed_dictionaries(
    {}, optional={key: mostly(st.text(max_size=8)) for key in ("os", "architecture", "variant", "os.version")}
)
DESCRIPTOR = st.fixed_dictionaries(
    {"mediaType": mostly(TYPE), "digest": mostly(DIGEST), "size": mostly(NUMBER)},
    optional={
        "platform": mostly(PLATFORM),
        "annotations": mostly(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)),
        "urls": mostly(st.lists(st.text(max_size=8), max_size=2)),
        "artifactType": mostly(TYPE),
        "data": ANYTHING,
    },
)
MANIFEST = st.fixed_dictionaries(
    {"schemaVersion": mostly(st.just(2))},
    optional={
        "mediaType": mostly(TYPE),
        "config": mostly(DESCRIPTOR),
        "layers": mostly(st.lists(DESCRIPTOR, max_size=3)),
        "manifests": mostly(st.lists(DESCRIPTOR, max_size=3)),
        "blobs": mostly(st.lists(DESCRIPTOR, max_size=3)),
        "subject": mostly(DESCRIPTOR),
        "artifactType": mostly(TYPE),
        "annotations": ANYTHING,
        "fsLayers": ANYTHING,
    },
)
NAME = st.one_of(
    st.text(max_size=60),
    st.text("aA0.:/@-_[]% \n", max_size=40),
    st.text("a.:/*", max_size=40),
    st.tuples(st.text("ab./:", max_size=12), st.sampled_from(["", ":v1", "@"]), DIGEST).map("".join),
)


@FUZZ
@given(st.one_of(NAME, DIGEST, ANYTHING))
@pytest.mark.parametrize(
    "parse",
    [
        Digest.parse_untrusted,
        Reference.parse_untrusted,
        Pattern.parse_untrusted,
        Platform.parse_untrusted,
        Descriptor.parse_untrusted,
        parse_registry_untrusted,
        parse_repository_untrusted,
        parse_tag_untrusted,
    ],
)
def test_values(parse: Callable[[object], object], value: object) -> None:
    with suppress(InvalidInputError):
        parse(value)


@FUZZ
@given(
    st.one_of(MANIFEST, ANYTHING).map(json.dumps).map(str.encode),
    st.one_of(st.none(), TYPE, st.text(max_size=9)),
)
def test_manifests(raw: bytes, media_type: str | None) -> None:
    with suppress(InvalidInputError):
        manifest = parse_manifest_untrusted(raw, media_type)
        assert manifest.raw == raw
        assert manifest.digest == Digest.of(raw)
        assert manifest.media_type in MANIFEST_TYPES or not manifest.children
        for child in manifest.children:
            assert 0 <= child.size <= MAX_BLOB_SIZE
            assert Digest.parse_untrusted(str(child.digest)) == child.digest


@FUZZ
@given(st.one_of(st.binary(max_size=60), st.text('{}[]",:0123ntf\\u', max_size=60).map(str.encode)))
def test_json(raw: bytes) -> None:
    with suppress(InvalidInputError):
        parse_object_untrusted(raw, "thing")
    with suppress(InvalidInputError):
        parse_manifest_untrusted(raw)
    with suppress(InvalidInputError):
        decode_index_untrusted(raw)


@FUZZ
@given(DESCRIPTOR)
def test_index_json(entry: dict[str, Any]) -> None:
    with suppress(InvalidInputError):
        decode_index_untrusted(json.dumps({"manifests": [entry]}).encode())


@FUZZ
@given(
    st.one_of(
        st.binary(max_size=80),
        st.tuples(
            mostly(st.just("fixed/1")),
            mostly(DIGEST),
            mostly(st.integers(0, 3 * 2**18)),
            st.binary(max_size=96),
        )
        .map(list)
        .map(cbor2.dumps),
    )
)
def test_recipes(raw: bytes) -> None:
    with suppress(InvalidInputError):
        assert decode_recipe_untrusted(raw).encode() == raw


@FUZZ
@given(st.data())
def test_a_recipe_with_a_byte_changed(data: st.DataObject) -> None:
    raw = bytearray(Recipe.of(bytes(2**18 + 1)).encode())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    with suppress(InvalidInputError):
        assert decode_recipe_untrusted(bytes(raw)).encode() == bytes(raw)
