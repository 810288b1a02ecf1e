import json
from typing import Any

import pytest

from meshsat.bundle.layout import (
    CONTAINERD_NAME,
    REF_NAME,
    RESOLVED_AT,
    Entry,
    Index,
    blob_name,
    decode_index_untrusted,
    digest_of_name,
    encode_index,
)
from meshsat.errors import InvalidInputError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.media_types import OCI_MANIFEST
from meshsat.oci.reference import Reference

ROOT = Descriptor(OCI_MANIFEST, Digest.of(b"root"), 4)


def entry(**notes: str) -> Entry:
    item = {"mediaType": OCI_MANIFEST, "digest": str(ROOT.digest), "size": 4, "annotations": notes}
    (one,) = decode_index_untrusted(json.dumps({"manifests": [item]}).encode()).entries
    return one


def test_what_is_written_is_read_again() -> None:
    index = Index(
        entries=[
            Entry(ROOT, Reference.parse_untrusted("reg.test/app:1"), None, 1_700_000_000.125),
            Entry(ROOT, Reference.parse_untrusted(f"reg.test/app@{ROOT.digest}")),
        ],
        left_out=frozenset({Digest.of(b"x"), Digest.of(b"y", "sha512")}),
        since=("reg.test/app:0",),
        referrers=Digest.of(b"z"),
    )
    again = decode_index_untrusted(encode_index(index))
    assert [(one.reference, one.resolved_at, one.root.digest) for one in again.entries] == [
        (one.reference, one.resolved_at, one.root.digest) for one in index.entries
    ]
    assert (again.left_out, again.since, again.referrers) == (index.left_out, index.since, index.referrers)
    assert again.ours
    assert encode_index(index) == encode_index(index)


def test_what_other_tools_write_is_read() -> None:
    assert not decode_index_untrusted(b'{"manifests": []}').ours
    assert str(entry(**{REF_NAME: "reg.test/app:1"}).reference) == "reg.test/app:1"
    assert str(entry(**{REF_NAME: "app:1"}).reference) == "docker.io/library/app:1"
    docker = entry(**{REF_NAME: "latest", CONTAINERD_NAME: "docker.io/library/app:latest"})
    assert (str(docker.reference), docker.tag) == ("docker.io/library/app:latest", None)


def test_a_word_alone_is_a_tag_and_no_image_of_docker_hubs() -> None:
    skopeo = entry(**{REF_NAME: "latest"})
    assert (skopeo.reference, skopeo.tag) == (None, "latest")
    assert (entry().reference, entry().tag) == (None, None)


@pytest.mark.parametrize(
    "notes",
    [
        {REF_NAME: "reg.test/APP"},
        {REF_NAME: "-"},
        {REF_NAME: f"reg.test/app@{Digest.of(b'another')}"},
        {RESOLVED_AT: "nan"},
        {RESOLVED_AT: "-1"},
        {RESOLVED_AT: "1e99"},
        {RESOLVED_AT: "soon"},
        {RESOLVED_AT: "1" * 33},
    ],
)
def test_what_makes_no_sense_is_refused(notes: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match=r"index\.json"):
        entry(**notes)


@pytest.mark.parametrize(
    "body",
    [
        {"annotations": {"io.meshsat.left-out": "sha256:0"}},
        {"annotations": {"io.meshsat.since": "A"}},
        {"annotations": {"io.meshsat.referrers": "../x"}},
        {"manifests": [{"mediaType": OCI_MANIFEST, "digest": str(ROOT.digest), "size": 2**30}]},
    ],
)
def test_so_is_what_meshsat_would_not_write(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        decode_index_untrusted(json.dumps(body).encode())


def test_names_of_blobs() -> None:
    for algorithm in ("sha256", "sha512"):
        digest = Digest.of(b"x", algorithm)
        assert digest_of_name(blob_name(digest)) == digest
    for name in (
        "blobs/sha256/../../etc/passwd",
        f"/{blob_name(ROOT.digest)}",
        f"{blob_name(ROOT.digest)}/x",
        blob_name(ROOT.digest).upper(),
        "index.json",
    ):
        assert digest_of_name(name) is None
