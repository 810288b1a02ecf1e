"""Every reason to keep something is found, and where one can't be known, nothing is let go."""

import pytest
import trio
from trio.abc import Clock

from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.oci.reference import SITE
from meshsat.oci.referrers import subject_of_tag
from meshsat.store.records import TagRecord
from meshsat.upkeep.manifests import RefusedError
from meshsat.upkeep.marking import mark
from meshsat.upkeep.stock import LOST_PATIENCE, Stocktaking
from tests.images import Image, build_artifact, build_image, descriptor, random_bytes
from tests.unit.upkeep.conftest import REGISTRY, Disk, unix

GRACE = 3600.0
IMAGE = build_image([random_bytes(500, 1)])
OTHER = build_image([random_bytes(500, 2)])
INDEX = build_image([random_bytes(500, 3)], ("linux/amd64", "linux/arm64"))
ROOT = Digest.parse_untrusted(IMAGE.root)


def digests(image: Image) -> set[Digest]:
    return {Digest.parse_untrusted(text) for text in image.contents}


def taking(disk: Disk) -> Stocktaking:
    return Stocktaking(disk.store, lambda: disk.desired, lambda: disk.wanted, GRACE)


async def marked(disk: Disk) -> set[Digest]:
    return mark(await taking(disk).take()) & disk.store.blobs().keys()


async def test_an_image_is_kept_with_all_of_it_and_what_nothing_refers_to_is_not(
    autojump_clock: Clock, disk: Disk
) -> None:
    await disk.hold(INDEX, "pos")
    await disk.store.put(b"forsaken", Digest.of(b"forsaken"))
    assert await marked(disk) == digests(INDEX) | {Digest.of(b"forsaken")}, "as long as it is young"
    await trio.sleep(GRACE + 1)
    assert await marked(disk) == digests(INDEX)


@pytest.mark.parametrize("reason", ["tag", "pin", "desired", "on its way"])
async def test_each_reason_alone_keeps_all_of_an_image(
    autojump_clock: Clock, disk: Disk, reason: str
) -> None:
    await disk.hold(IMAGE, "pos", "1" if reason == "tag" else None, whole=False)
    await trio.sleep(GRACE + 1)
    if reason == "pin":
        await disk.store.pin(ROOT, "asked for")
    elif reason == "desired":
        disk.desired = (ROOT,)
    elif reason == "on its way":
        missing = Digest.of(b"a layer that is still to come")
        coming = build_image([b"a layer that is still to come", *map(IMAGE.blobs.get, list(IMAGE.blobs)[1:])])  # type: ignore[list-item]
        await disk.hold(coming, "pos", None, whole=False)
        await disk.store.removal.drop(missing, lambda: True)
        await trio.sleep(GRACE + 1)
        disk.wanted = {missing}
        assert await marked(disk) == digests(coming) - {missing}
        return
    assert await marked(disk) == digests(IMAGE)


async def test_a_tag_that_moved_leaves_what_it_meant(autojump_clock: Clock, disk: Disk) -> None:
    await disk.hold(IMAGE, "pos")
    await disk.hold(OTHER, "pos")
    await trio.sleep(GRACE + 1)
    assert await marked(disk) == digests(OTHER)


async def test_what_is_asked_for_again_counts_as_new(autojump_clock: Clock, disk: Disk) -> None:
    await disk.hold(IMAGE, "pos", None, whole=False)
    await trio.sleep(GRACE + 1)
    assert await marked(disk) == set()
    disk.store.ages.claim(ROOT)
    assert await marked(disk) == digests(IMAGE), "a manifest with what its reader comes for next"


async def test_signatures_live_and_die_with_what_they_are_about(autojump_clock: Clock, disk: Disk) -> None:
    subject = descriptor(IMAGE.media_type, IMAGE.raw)
    sbom = build_artifact(b"sbom", "application/x.sbom", subject)
    cosign = build_artifact(b"signature", "application/x.signature")
    await disk.hold(IMAGE, "pos")
    await disk.hold(sbom, "pos", None, whole=False)
    await disk.hold(cosign, "pos", f"sha256-{ROOT.hex}.sig")
    await trio.sleep(GRACE + 1)
    everything = digests(IMAGE) | digests(sbom) | digests(cosign)
    assert await marked(disk) == everything
    await disk.hold(OTHER, "pos")  # the tag moves on
    await trio.sleep(GRACE + 1)
    assert await marked(disk) == digests(OTHER)


def test_what_a_tag_says_that_its_manifest_is_about() -> None:
    for end in ("", ".sig", ".att"):
        assert subject_of_tag(f"sha256-{ROOT.hex}{end}") == ROOT
    for tag in (None, "1", f"sha256-{ROOT.hex[1:]}", f"sha512-{ROOT.hex}.sig", f"v1-sha256-{ROOT.hex}"):
        assert subject_of_tag(tag) is None


# Site content


async def say(disk: Disk, image: Image, tag: str | None, *, gone: bool = False) -> None:
    target = parse_manifest_untrusted(image.raw).descriptor
    if gone:
        target = type(target)(target.media_type, target.digest, 0)
    await disk.store.put_tag(TagRecord(SITE, "app", tag or image.root, target, unix(), "author"))


async def test_site_content_is_kept_until_it_is_deleted(autojump_clock: Clock, disk: Disk) -> None:
    await disk.hold(IMAGE, "app", None, registry=SITE, whole=False)
    await say(disk, IMAGE, None)
    await trio.sleep(GRACE + 1)
    assert await marked(disk) == digests(IMAGE)
    await say(disk, IMAGE, None, gone=True)
    await disk.store.repositories.drop("app", ROOT)
    stock = await taking(disk).take()
    assert mark(stock) & stock.sizes.keys() == set()
    assert stock.stale == {"app": digests(IMAGE) - {ROOT}}


async def test_blobs_of_a_push_that_is_not_done_stay(autojump_clock: Clock, disk: Disk) -> None:
    layer = Digest.of(b"layer")
    await disk.store.put(b"layer", layer)
    await disk.store.repositories.add("app", [layer])
    await trio.sleep(GRACE - 1)
    assert layer in await marked(disk)
    await trio.sleep(2)
    assert layer not in await marked(disk)
    disk.store.ages.claim(layer)  # somebody pushes on: it asks whether the layer is there
    assert layer in await marked(disk)


async def test_blobs_whose_manifest_is_at_another_node_stay(autojump_clock: Clock, disk: Disk) -> None:
    """The client pushed the blobs here, and the manifest, of which only the record came, to a neighbour."""
    layer = Digest.of(b"layer")
    await disk.store.put(b"layer", layer)
    await disk.store.repositories.add("app", [layer])
    await say(disk, OTHER, None)
    await trio.sleep(GRACE + 1)
    stock = await taking(disk).take()
    assert layer in mark(stock)
    assert stock.stale == {}


# When it can't be known


async def test_nothing_goes_before_the_desired_state_is_known(autojump_clock: Clock, disk: Disk) -> None:
    disk.desired = None
    with pytest.raises(RefusedError, match="desired state"):
        await taking(disk).take()


@pytest.mark.parametrize("fault", ["gone", "short", "flipped"])
async def test_nothing_goes_while_a_manifest_cannot_be_read(
    autojump_clock: Clock, disk: Disk, fault: str
) -> None:
    await disk.hold(IMAGE, "pos")
    path = disk.store.blob_path(ROOT)
    path.chmod(0o600)
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(IMAGE.raw[:-1] if fault == "short" else IMAGE.raw[:-2] + b" }")
    suspects: list[Digest] = []
    disk.store.on_suspect = suspects.append
    with pytest.raises(RefusedError, match=r"can't be read|rotten"):
        await taking(disk).take()
    assert suspects == [ROOT]


async def test_a_pin_on_what_is_no_manifest_refuses_and_a_tag_that_says_so_does_not(
    autojump_clock: Clock, disk: Disk
) -> None:
    """A pin is this node's own word; what a tag means, any member can say."""
    junk = Digest.of(b"no manifest")
    await disk.store.put(b"no manifest", junk)
    target = parse_manifest_untrusted(IMAGE.raw).descriptor
    await disk.store.put_tag(
        TagRecord(REGISTRY, "pos", "1", type(target)(target.media_type, junk, 11), unix(), "author")
    )
    assert junk in await marked(disk)
    await disk.store.pin(junk, "by mistake")
    with pytest.raises(RefusedError, match="can't be understood"):
        await taking(disk).take()


async def test_nothing_goes_while_a_lost_manifest_is_not_back(autojump_clock: Clock, disk: Disk) -> None:
    """Of an index, one manifest rots: its layers look forsaken, and are not."""
    await disk.hold(INDEX, "pos")
    await trio.sleep(GRACE + 1)
    child = next(Digest.parse_untrusted(text) for text in INDEX.manifests if text != INDEX.root)
    await disk.store.removal.quarantine(child)
    with pytest.raises(RefusedError, match="was lost"):
        await taking(disk).take()
    later = taking(disk)
    with pytest.raises(RefusedError):
        await later.take()
    await trio.sleep(LOST_PATIENCE + 1)
    await later.take()
    await disk.store.put(INDEX.manifests[str(child)], child)
    assert await marked(disk) == digests(INDEX)


async def test_of_a_lost_manifest_that_was_read_before_it_is_known_what_it_refers_to(
    autojump_clock: Clock, disk: Disk
) -> None:
    await disk.hold(INDEX, "pos")
    await trio.sleep(GRACE + 1)
    one = taking(disk)
    await one.take()
    child = next(Digest.parse_untrusted(text) for text in INDEX.manifests if text != INDEX.root)
    await disk.store.removal.quarantine(child)
    stock = await one.take()
    assert mark(stock) & stock.sizes.keys() == digests(INDEX) - {child}


async def test_which_images_a_blob_is_part_of(autojump_clock: Clock, disk: Disk) -> None:
    await disk.hold(IMAGE, "pos")
    await disk.hold(OTHER, "till", "2")
    layer = Digest.of(random_bytes(500, 1))
    (image,) = await taking(disk).images_with(layer)
    assert image.name == "reg.test/pos:1"
