"""What is pushed to one node, as the others see it: real stores and a mesh in memory, on a fake clock."""

from contextlib import aclosing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from meshsat import site_content
from meshsat.errors import InvalidInputError, NotFoundError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.oci.media_types import OCI_MANIFEST
from meshsat.oci.reference import SITE, Reference
from meshsat.protocol import events
from meshsat.protocol.gossip import ImageRecord, seal
from meshsat.registry.content import MissingContentError, Name
from tests.brain import key
from tests.images import Image, build_artifact, build_image, descriptor, random_bytes
from tests.mesh.full_node import POS, FullNode, full_site, hold, unix

APP = Name(None, "team/app")
IMAGE = build_image([random_bytes(700_000, 3), b"small"])
OTHER = build_image([random_bytes(300_000, 4)])
MULTI = build_image([b"layer"], ["linux/amd64", "linux/arm64"])
SOON = 1.0
"""Seconds in which news reaches all."""


def digest(text: str) -> Digest:
    return Digest.parse_untrusted(text)


async def push_blobs(node: FullNode, image: Image, name: Name = APP) -> None:
    for text, data in image.blobs.items():
        upload = await node.site_content.begin_upload(name, "sha256")
        async with upload.turn():
            await upload.write(data)
        await node.site_content.finish_upload(name, upload, digest(text))


async def push(node: FullNode, image: Image, *tags: str, name: Name = APP) -> None:
    await push_blobs(node, image, name)
    for text, raw in image.manifests.items():
        manifest = parse_manifest_untrusted(raw, image.media_types[text])
        told = tags if text == image.root else ()
        await node.site_content.put_manifest(name, manifest, told, sparse=False)


async def pulled(node: FullNode, image: Image, tag: str, name: Name = APP) -> bool:
    """What a client does; False when there is no such tag."""
    served = await node.fetcher.manifest(name, tag)
    if served is None or served.raw != image.raw:
        return False
    for text, raw in image.manifests.items():
        found = await node.fetcher.manifest(name, digest(text))
        assert found is not None
        assert found.raw == raw
    for text, data in image.blobs.items():
        reader = await node.fetcher.open_blob(name, digest(text))
        assert reader is not None
        async with reader, aclosing(reader.stream(0, reader.size)) as stream:
            assert b"".join([part async for part in stream]) == data
    return True


@pytest.mark.parametrize("names", [("a", "b"), ("up-a", "up-b")], ids=["dark", "with uplinks"])
@pytest.mark.parametrize("image", [IMAGE, MULTI], ids=["image", "index"])
async def test_what_is_pushed_to_one_is_pulled_from_every_node(
    autojump_clock: MockClock, names: tuple[str, str], image: Image
) -> None:
    async with full_site(*names) as (a, b):
        await push(a, image, "1", "latest")
        await trio.sleep(SOON)
        for node in (a, b):
            for tag in ("1", "latest"):
                assert await pulled(node, image, tag)
            assert sorted(await node.fetcher.tags(APP) or []) == ["1", "latest"]
            assert await node.fetcher.repositories() == ["team/app"]
        assert a.site.upstream.requests == []


async def test_a_later_push_of_the_tag_wins_wherever_it_was_made(autojump_clock: MockClock) -> None:
    async with full_site("a", "b", "c") as nodes:
        await push(nodes[0], IMAGE, "1")
        await trio.sleep(SOON)
        await push(nodes[1], OTHER, "1")
        await trio.sleep(SOON)
        for node in nodes:
            assert await pulled(node, OTHER, "1")
            assert await node.fetcher.manifest(APP, digest(IMAGE.root)) is not None


async def test_a_deleted_tag_is_gone_everywhere_and_may_come_back(autojump_clock: MockClock) -> None:
    async with full_site("a", "b") as (a, b):
        await push(a, IMAGE, "1", "2")
        await trio.sleep(SOON)
        assert await b.site_content.delete_manifest(APP, "1")
        assert not await b.site_content.delete_manifest(APP, "1")
        await trio.sleep(SOON)
        for node in (a, b):
            assert await node.fetcher.manifest(APP, "1") is None
            assert await node.fetcher.tags(APP) == ["2"]
            assert await pulled(node, IMAGE, "2")
        await push(a, IMAGE, "1")
        await trio.sleep(SOON)
        for node in (a, b):
            assert await pulled(node, IMAGE, "1")


async def test_a_deleted_manifest_takes_its_tags_with_it_everywhere(autojump_clock: MockClock) -> None:
    async with full_site("a", "b") as (a, b):
        await push(a, IMAGE, "1", "2")
        await push(a, OTHER, "3")
        await trio.sleep(SOON)
        assert a.store.pins().keys() == {digest(IMAGE.root), digest(OTHER.root)}
        assert await a.site_content.delete_manifest(APP, digest(IMAGE.root))
        assert not await a.site_content.delete_manifest(APP, digest(IMAGE.root))
        await trio.sleep(SOON)
        for node in (a, b):
            assert await node.fetcher.tags(APP) == ["3"]
            assert await node.fetcher.manifest(APP, digest(IMAGE.root)) is None
            assert await pulled(node, OTHER, "3")
        assert a.store.pins().keys() == {digest(OTHER.root)}
        assert [image.tag for image in a.store.images()] == ["3"]


async def test_a_node_that_was_away_hears_of_pushes_and_deletions(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with full_site("a", "b", directory=tmp_path) as (a, b):
        await push(a, IMAGE, "1", "2")
        await trio.sleep(SOON)
        assert await pulled(b, IMAGE, "1")
    async with full_site("a", directory=tmp_path) as (a,):
        await a.site_content.delete_manifest(APP, "1")
        await push(a, OTHER, "3")
    async with full_site("a", "b", directory=tmp_path) as (a, b):
        await trio.sleep(15)
        for node in (a, b):
            assert sorted(await node.fetcher.tags(APP) or []) == ["2", "3"]
        assert await pulled(b, IMAGE, "2")
        assert await pulled(b, OTHER, "3")


async def test_manifests_are_everywhere_before_anybody_asks(autojump_clock: MockClock) -> None:
    signed = build_artifact(b"signature", "application/vnd.example.sig", descriptor_of(IMAGE))
    async with full_site("a", "b") as (a, b):
        await push(a, IMAGE, "1")
        await push(a, signed)  # without a tag
        await trio.sleep(SOON)
        a.site.kill(a.node)
        await trio.sleep(60)
        served = await b.fetcher.manifest(APP, digest(signed.root))
        assert served is None, "its blob was on the other node alone"
        (found,) = await b.fetcher.referrers(APP, digest(IMAGE.root))
        assert (found.digest, found.artifact_type) == (digest(signed.root), "application/vnd.example.sig")


def descriptor_of(image: Image) -> dict[str, object]:
    return descriptor(image.media_types[image.root], image.raw)


async def test_what_the_fallback_tag_lists_is_among_the_referrers(autojump_clock: MockClock) -> None:
    """Of another registry's content; of the site's own, each referrer has a subject, and is listed by it."""
    subject = digest(IMAGE.root)
    listed = build_image([b"x"], ["linux/amd64"], index=True)
    signed = build_artifact(b"signature", "application/vnd.example.sig", descriptor_of(IMAGE))
    elsewhere = Name("reg.example.test", "team/app")
    async with full_site("a") as (a,):
        for name in (elsewhere, APP):
            await push(a, listed, f"sha256-{subject.hex}", name=name)
            await push(a, signed, name=name)
        found = await a.fetcher.referrers(elsewhere, subject)
        assert {str(one.digest) for one in found} == {*listed.manifests, signed.root} - {listed.root}
        assert [str(one.digest) for one in await a.fetcher.referrers(APP, subject)] == [signed.root]


async def test_a_blob_is_no_manifest(autojump_clock: MockClock) -> None:
    """Not even a config, which is JSON; and what is deleted as a manifest must be one."""
    async with full_site("a") as (a,):
        await push(a, IMAGE, "1")
        for text in IMAGE.blobs:
            assert await a.fetcher.manifest(APP, digest(text)) is None
            assert not await a.site_content.delete_manifest(APP, digest(text))
        assert await pulled(a, IMAGE, "1")


async def test_a_manifest_waits_for_what_it_refers_to(autojump_clock: MockClock) -> None:
    manifest = parse_manifest_untrusted(IMAGE.raw, IMAGE.media_type)
    async with full_site("a", "b") as (a, b):
        with pytest.raises(MissingContentError, match="push that first"):
            await a.site_content.put_manifest(APP, manifest, ["1"], sparse=False)
        await push_blobs(a, IMAGE, Name(None, "another"))
        with pytest.raises(MissingContentError):
            await a.site_content.put_manifest(APP, manifest, ["1"], sparse=False)
        for child in manifest.children:
            assert await a.site_content.mount(APP, child.digest, Name(None, "another"))
        await a.site_content.put_manifest(APP, manifest, ["1"], sparse=False)
        await trio.sleep(SOON)
        assert await pulled(b, IMAGE, "1")


async def test_an_index_may_be_sparse_for_the_operator_alone(autojump_clock: MockClock) -> None:
    raw, media_type = MULTI.raw, MULTI.media_type
    index = parse_manifest_untrusted(raw, media_type)
    async with full_site("a") as (a,):
        with pytest.raises(MissingContentError):
            await a.site_content.put_manifest(APP, index, ["1"], sparse=False)
        await a.site_content.put_manifest(APP, index, ["1"], sparse=True)


async def test_a_size_that_is_not_the_blobs_is_refused(autojump_clock: MockClock) -> None:
    wrong = IMAGE.raw.replace(b'"size":5', b'"size":6').replace(b'"size": 5', b'"size": 6')
    assert wrong != IMAGE.raw
    async with full_site("a") as (a,):
        await push_blobs(a, IMAGE)
        manifest = parse_manifest_untrusted(wrong, IMAGE.media_type)
        with pytest.raises(InvalidInputError, match="has 5 bytes, not 6"):
            await a.site_content.put_manifest(APP, manifest, [], sparse=False)


async def test_a_blob_is_mounted_only_where_it_is(autojump_clock: MockClock) -> None:
    blob = digest(max(IMAGE.blobs))
    async with full_site("a") as (a,):
        for source in (None, Name(None, "nowhere"), POS):
            assert not await a.site_content.mount(APP, blob, source)
        await push_blobs(a, IMAGE, Name(None, "one"))
        assert not await a.site_content.mount(APP, blob, Name(None, "two"))
        assert await a.fetcher.open_blob(APP, blob) is None
        assert await a.site_content.mount(APP, blob, None)
        assert await a.fetcher.open_blob(APP, blob) is not None
        assert await a.site_content.delete_blob(APP, blob)
        assert not await a.site_content.delete_blob(APP, blob)
        assert await a.fetcher.open_blob(APP, blob) is None
        assert await a.fetcher.open_blob(Name(None, "one"), blob) is not None


async def test_site_content_and_the_upstreams_share_a_name_and_not_their_tags(
    autojump_clock: MockClock,
) -> None:
    bare = Name(None, POS.repository)
    async with full_site("up", "b", upstream="up.example") as (up, b):
        hold(up.site.upstream, IMAGE, "42")
        await push(b, OTHER, "43", name=bare)
        await trio.sleep(SOON)
        for node in (up, b):
            assert await pulled(node, IMAGE, "42", bare)
            assert await pulled(node, OTHER, "43", bare)
            assert sorted(await node.fetcher.tags(bare) or []) == ["42", "43"]
            assert await node.fetcher.manifest(POS, "43") is None


async def test_an_operator_pulls_site_content_too(autojump_clock: MockClock) -> None:
    async with full_site("up", "b") as (up, b):
        await push(up, IMAGE, "1")
        await trio.sleep(SOON)
        await b.pull("site.internal/team/app:1")
        up.site.kill(up.node)
        assert await pulled(b, IMAGE, "1")
        with pytest.raises(NotFoundError, match="nobody pushed"):
            await b.pull("site.internal/team/app:2")


# --- members that tell too much ---


def tell(node: FullNode, blob: Digest, author: str, size: int = 400) -> ImageRecord:
    """A record by another member of the site, as gossip brings it."""
    record = seal(
        key(author),
        registry=SITE,
        repository="team/app",
        reference=str(blob),
        media_type=OCI_MANIFEST,
        digest=blob,
        size=size,
        resolved_at=unix(),
    )
    node.site_content.heard(record)
    return record


def asked(node: FullNode) -> int:
    """Manifests that are looked for."""
    return len(node.site_content.due)


async def test_what_nobody_has_is_not_looked_for_for_ever(autojump_clock: MockClock) -> None:
    async with full_site("a") as (a,):
        tell(a, Digest.of(b"nowhere"), "liar")
        await trio.sleep(site_content.GIVE_UP - 1)
        assert asked(a) == 1
        await trio.sleep(site_content.RETRY_EVERY + 1)
        assert asked(a) == 0


async def test_one_member_is_owed_so_much_and_no_more(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_content, "DUE_LIMIT", 5)
    async with full_site("a") as (a,):
        for number in range(20):
            tell(a, Digest.of(b"%d" % number), "liar")
        tell(a, Digest.of(b"honest"), "other")
        assert asked(a) == 6
        await trio.sleep(SOON)
        assert asked(a) == 6


async def test_a_member_that_fills_disks_is_followed_up_to_a_bound(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_content, "BROUGHT_LIMIT", len(IMAGE.raw) + 10)
    async with full_site("a", "b") as (a, b):
        await push(b, IMAGE, "1")
        await trio.sleep(SOON)
        assert a.store.blob_size(digest(IMAGE.root)) is not None
        await push(b, OTHER, "2")
        await trio.sleep(SOON)
        assert a.store.blob_size(digest(OTHER.root)) is None
        assert asked(a) == 0
        assert await pulled(a, OTHER, "2"), "whoever asks gets it all the same"


async def test_who_announces_what_he_does_not_give_delays_nobody_else(autojump_clock: MockClock) -> None:
    async with full_site("a", "b") as (a, b):
        lies = [Digest.of(b"lie %d" % number) for number in range(50)]
        for one in lies:
            b.node.driver.feed(events.BlobPublished(one, 400))
        await trio.sleep(SOON)
        for one in lies:
            tell(a, one, "liar")
        await push(b, IMAGE, "1")
        await trio.sleep(site_content.BRING_LIMIT + SOON)
        assert a.store.blob_size(digest(IMAGE.root)) is not None


# --- tags that come with bundles ---


async def test_a_bundles_tag_is_as_old_as_it_says(autojump_clock: MockClock) -> None:
    ours = Name("harbor.example", "pos/app")
    reference = Reference.parse_untrusted("harbor.example/pos/app:1")
    async with full_site("a", "b") as (a, b):
        with pytest.raises(NotFoundError, match="push it"):
            await a.site_content.tag(reference, digest(IMAGE.root), None)
        await push(a, IMAGE, name=ours)
        old, young = unix() - 500, unix() - 100
        told = await a.site_content.tag(reference, digest(IMAGE.root), young)
        assert (told.taken, told.resolved_at) == (True, young)
        await push(a, OTHER, name=ours)
        told = await a.site_content.tag(reference, digest(OTHER.root), old)
        assert (told.taken, told.resolved_at) == (False, young)
        with pytest.raises(InvalidInputError, match="future"):
            await a.site_content.tag(reference, digest(OTHER.root), unix() + 1e6)
        await trio.sleep(SOON)
        served = await b.fetcher.manifest(ours, "1")
        assert served is not None
        assert (served.raw, served.resolved_at, served.fresh) == (IMAGE.raw, young, False)
        assert await pulled(b, IMAGE, "1", ours)
        told = await a.site_content.tag(reference, digest(OTHER.root), None)
        assert told.taken
        await trio.sleep(SOON)
        assert await pulled(b, OTHER, "1", ours)
