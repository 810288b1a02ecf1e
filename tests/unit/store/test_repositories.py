import json
from pathlib import Path

import pytest

from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.oci.media_types import OCI_EMPTY, OCI_MANIFEST
from meshsat.oci.reference import SITE
from meshsat.store import repositories
from meshsat.store.records import TagRecord
from meshsat.store.store import Store
from tests.images import build_image

IMAGE = build_image([b"layer"])
ROOT = parse_manifest_untrusted(IMAGE.raw, IMAGE.media_type)
BLOB = Digest.of(b"layer")


def about(subject: Manifest, note: str) -> Manifest:
    """A manifest that refers to `subject`."""
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.note",
        "config": {"mediaType": OCI_EMPTY, "digest": str(Digest.of(b"{}")), "size": 2},
        "subject": subject.descriptor.as_json(),
        "annotations": {"note": note},
    }
    return parse_manifest_untrusted(json.dumps(body).encode())


async def test_what_a_manifest_of_the_site_refers_to_belongs_to_its_repository(tmp_path: Path) -> None:
    async with await Store.open(tmp_path, threads=0) as store:
        await store.learn(ROOT, SITE, "team/app")
        await store.learn(ROOT, "up.example", "team/other")
    async with await Store.open(tmp_path, threads=0) as store:
        for digest in (ROOT.digest, *(child.digest for child in ROOT.children)):
            assert store.repositories.holds("team/app", digest)
            assert not store.repositories.holds("team/other", digest)
            assert store.repositories.holding(digest) == "team/app"
            facts = store.facts(digest)
            assert facts is not None
            assert facts.sources == (("up.example", "team/other"),)
        assert list(store.repositories.names()) == ["team/app"]


async def test_what_is_dropped_is_gone_from_one_repository(tmp_path: Path) -> None:
    async with await Store.open(tmp_path, threads=0) as store:
        await store.repositories.add("a", [BLOB])
        await store.repositories.add("b", [BLOB])
        assert await store.repositories.drop("a", BLOB)
        assert not await store.repositories.drop("a", BLOB)
        assert not store.repositories.holds("a", BLOB)
        assert store.repositories.holding(BLOB) == "b"
    async with await Store.open(tmp_path, threads=0) as store:
        assert list(store.repositories.names()) == ["b"]


async def test_a_deleted_blob_comes_back_by_a_push_only(tmp_path: Path) -> None:
    layer = ROOT.blobs[-1].digest
    async with await Store.open(tmp_path, threads=0) as store:
        await store.learn(ROOT, SITE, "a")
        assert await store.repositories.drop("a", layer)
        await store.learn(ROOT, SITE, "a")  # as each GET of the manifest does
        assert not store.repositories.holds("a", layer)
    async with await Store.open(tmp_path, threads=0) as store:
        await store.learn(ROOT, SITE, "a")
        assert not store.repositories.holds("a", layer)
        await store.learn(ROOT, SITE, "b")
        assert store.repositories.holds("b", layer)
        await store.repositories.add("a", [layer])
        assert store.repositories.holds("a", layer)
    async with await Store.open(tmp_path, threads=0) as store:
        assert store.repositories.holds("a", layer)


async def test_a_deleted_manifest_does_not_come_back_because_an_index_lists_it(tmp_path: Path) -> None:
    index = build_image([b"x"], ["linux/amd64", "linux/arm64"])
    root = parse_manifest_untrusted(index.raw, index.media_type)
    child = root.manifests[0]
    gone = Descriptor(child.media_type, child.digest, 0)
    async with await Store.open(tmp_path, threads=0) as store:
        await store.put_tag(TagRecord(SITE, "a", str(child.digest), gone, 1.0, "me"))
        await store.learn(root, SITE, "a")
        assert not store.repositories.holds("a", child.digest)
        assert store.repositories.holds("a", root.manifests[1].digest)


async def test_referrers_are_known_by_subject_in_the_order_they_came(tmp_path: Path) -> None:
    first, second = about(ROOT, "first"), about(ROOT, "second")
    async with await Store.open(tmp_path, threads=0) as store:
        for registry in (SITE, "up.example"):
            for manifest in (first, second, first):
                await store.learn(manifest, registry, "a")
    async with await Store.open(tmp_path, threads=0) as store:
        for registry in (SITE, "up.example"):
            found = store.repositories.referrers(registry, "a", ROOT.digest)
            assert found == [first.referrer, second.referrer]
            assert found[0].annotations == {"note": "first"}
        assert store.repositories.referrers(SITE, "b", ROOT.digest) == []
        assert store.repositories.referrers(SITE, "a", first.digest) == []
        await store.repositories.drop("a", first.digest)
        assert store.repositories.referrers(SITE, "a", ROOT.digest) == [second.referrer]
        assert len(store.repositories.referrers("up.example", "a", ROOT.digest)) == 2
    async with await Store.open(tmp_path, threads=0) as store:
        assert store.repositories.referrers(SITE, "a", ROOT.digest) == [second.referrer]


async def test_the_referrers_of_one_subject_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories, "REFERRERS_LIMIT", 2)
    async with await Store.open(tmp_path, threads=0) as store:
        for note in "abc":
            await store.learn(about(ROOT, note), SITE, "a")
        assert len(store.repositories.referrers(SITE, "a", ROOT.digest)) == 2
