"""What a client and a pull get, and what they wait for: a real store and a mesh in memory, on a fake clock."""

import json
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing

from meshsat import completion, fetch
from meshsat import pulling as module
from meshsat.errors import InvalidInputError, MeshsatError, NotFoundError, UnavailableError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.registry.content import BlobReader, Name, Served
from meshsat.web.view import PullEvent
from tests.images import OCI_INDEX, Image, build_image, descriptor, digest_of, random_bytes
from tests.mesh.full_node import POS, RATE, FullNode, full_site, hold

Clock = trio.testing.MockClock
LAYER = random_bytes(1_200_000, 1)
IMAGE = build_image([LAYER, b"small"])
MULTI = build_image([LAYER], ["linux/amd64", "linux/arm64"])
NAME = "up.example/library/pos:42"


def digest(text: str) -> Digest:
    return Digest.parse_untrusted(text)


def layer_of(image: Image = IMAGE) -> Digest:
    return digest(max(image.blobs, key=lambda one: len(image.blobs[one])))


async def read(reader: BlobReader | None) -> bytes:
    assert reader is not None
    async with reader, aclosing(reader.stream(0, reader.size)) as pieces:
        return b"".join([piece async for piece in pieces])


async def get_all(node: FullNode, image: Image = IMAGE, tag: str = "42") -> None:
    """What a client does: the manifest, then every blob of it."""
    served = await node.fetcher.manifest(POS, tag)
    assert served is not None
    assert served.raw == image.raw
    for manifest in image.manifests:
        assert await node.fetcher.manifest(POS, digest(manifest)) is not None
    for blob, data in image.blobs.items():
        assert await read(await node.fetcher.open_blob(POS, digest(blob))) == data


def cut_uplink(up: FullNode, *, down: bool = True) -> None:
    up.uplink.down = down


async def shown(node: FullNode) -> set[str]:
    await trio.sleep(0.1)
    return {image.name for image in node.store.images()}


# --- manifests ---


async def test_a_dark_node_serves_tag_and_digest_with_the_upstreams_bytes(autojump_clock: Clock) -> None:
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, MULTI, "42")
        served = await dark.fetcher.manifest(POS, "42")
        assert served is not None
        assert served == Served(MULTI.raw, OCI_INDEX, digest(MULTI.root), served.resolved_at, fresh=True)
        assert served.resolved_at is not None
        for child, raw in MULTI.manifests.items():
            by_digest = await dark.fetcher.manifest(POS, digest(child))
            assert by_digest is not None
            assert (by_digest.raw, by_digest.resolved_at) == (raw, None)
        assert up.site.upstream.requests.count("manifest 42") == 1


async def test_a_name_without_a_registry_means_the_upstream_that_is_set_or_the_only_one_known(
    autojump_clock: Clock,
) -> None:
    bare = Name(None, POS.repository)
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        assert await dark.fetcher.manifest(bare, "42") is None
        assert await dark.fetcher.open_blob(bare, layer_of()) is None
        assert await dark.fetcher.tags(bare) is None
        assert await dark.fetcher.manifest(POS, "42") is not None
        await trio.sleep(1)
        assert await dark.fetcher.manifest(bare, "42") is not None
        assert await dark.fetcher.tags(bare) == ["42"]
    async with full_site("up", upstream="up.example") as (up,):
        hold(up.site.upstream, IMAGE, "42")
        assert await up.fetcher.manifest(bare, "42") is not None


async def test_a_blob_of_one_repository_is_not_there_for_who_wants_to_push_it_to_another(
    autojump_clock: Clock,
) -> None:
    """cosign and oras ask first, and leave out what they are told is there: the manifest would be refused."""
    async with full_site("up", upstream="up.example") as (up,):
        hold(up.site.upstream, IMAGE, "42")
        assert await up.fetcher.manifest(POS, "42") is not None
        for _ in range(2):
            assert await up.fetcher.open_blob(Name(None, "team/app"), layer_of()) is None
            assert await up.fetcher.open_blob(Name(None, POS.repository), layer_of()) is not None
            await read(await up.fetcher.open_blob(POS, layer_of()))


@pytest.mark.parametrize("image", [IMAGE, MULTI], ids=["image", "index"])
async def test_what_is_held_is_told_at_once_and_as_it_would_be_told_slowly(
    autojump_clock: Clock, image: Image
) -> None:
    async with full_site("up", "dark", tag_ttl=60.0) as (up, dark):
        hold(up.site.upstream, image, "42")
        assert dark.fetcher.manifest_at_hand(POS, "42") is None
        assert dark.fetcher.manifest_at_hand(POS, digest(image.root)) is None
        assert await dark.fetcher.manifest(POS, "42") is not None
        assert dark.fetcher.manifest_at_hand(POS, "42") is None  # its layers are not held
        await get_all(dark, image)
        await shown(dark)
        references: list[str | Digest] = ["42", *map(digest, image.manifests)]
        for reference in references:
            slowly = await dark.fetcher.manifest(POS, reference)
            assert dark.fetcher.manifest_at_hand(POS, reference) == slowly is not None
        for name in (Name("other.example", POS.repository), Name(POS.registry, "library/other")):
            assert dark.fetcher.manifest_at_hand(name, digest(image.root)) is None
        assert dark.fetcher.manifest_at_hand(POS, "43") is None


async def test_an_old_tag_is_not_told_at_once(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", tag_ttl=60.0) as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        await get_all(dark)
        await shown(dark)
        assert dark.fetcher.manifest_at_hand(POS, "42") is not None
        await trio.sleep(61)
        assert dark.fetcher.manifest_at_hand(POS, "42") is None
        assert dark.fetcher.manifest_at_hand(POS, digest(IMAGE.root)) is not None
        newer = build_image([b"another"])
        hold(up.site.upstream, newer, "42")
        served = await dark.fetcher.manifest(POS, "42")
        assert served is not None
        assert served.raw == newer.raw
        assert dark.fetcher.manifest_at_hand(POS, "42") is None  # the new one's layer is not held


async def test_without_one_of_its_blobs_a_manifest_is_not_at_hand(autojump_clock: Clock) -> None:
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        await get_all(dark)
        await shown(dark)
        assert dark.fetcher.manifest_at_hand(POS, "42") is not None
        del dark.store._contents.blobs[layer_of()]
        assert dark.fetcher.manifest_at_hand(POS, "42") is None
        assert dark.fetcher.manifest_at_hand(POS, digest(IMAGE.root)) is None


@pytest.mark.parametrize("node", ["up", "dark"])
async def test_a_miss_is_a_quick_none(autojump_clock: Clock, node: str) -> None:
    async with full_site("up", "dark") as nodes:
        asked = nodes[0] if node == "up" else nodes[1]
        for reference in ("nope", Digest.of(b"nope")):
            began = trio.current_time()
            assert await asked.fetcher.manifest(POS, reference) is None
            assert trio.current_time() - began < 0.5
        assert await asked.fetcher.open_blob(POS, Digest.of(b"nope")) is None


async def test_with_nobody_to_ask_a_miss_is_just_as_quick(autojump_clock: Clock) -> None:
    async with full_site("dark") as (dark,):
        began = trio.current_time()
        for reference in ("nope", Digest.of(b"nope")):
            assert await dark.fetcher.manifest(POS, reference) is None
        assert trio.current_time() == began


async def test_an_upstream_that_does_not_answer_is_waited_for_no_longer_than_set(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with full_site("up", "dark", resolve_timeout=2.0) as (up, dark):
        monkeypatch.setattr(up.uplink, "manifest", lambda *_: trio.sleep_forever())
        began = trio.current_time()
        assert await dark.fetcher.manifest(POS, "42") is None
        assert trio.current_time() - began <= 2.0


async def test_a_manifest_is_refused_when_its_blobs_cannot_be_delivered(autojump_clock: Clock) -> None:
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        assert await dark.fetcher.manifest(POS, "42") is not None
        cut_uplink(up)
        with pytest.raises(MeshsatError):
            await read(await dark.fetcher.open_blob(POS, layer_of()))
        assert await dark.fetcher.manifest(POS, "42") is None
        assert await dark.fetcher.manifest(POS, digest(IMAGE.root)) is None
        assert await dark.fetcher.open_blob(POS, layer_of()) is None
        cut_uplink(up, down=False)
        await trio.sleep(120)
        await get_all(dark)


async def test_an_index_is_served_while_one_of_its_images_can_be(autojump_clock: Clock) -> None:
    other = random_bytes(1_000_000, 9)
    image = build_image([], ["linux/amd64", "linux/arm64"], own_layers={"linux/arm64": [other]})
    amd64, arm64 = (entry["digest"] for entry in json.loads(image.raw)["manifests"])
    async with full_site("up") as (up,):
        hold(up.site.upstream, image, "42")
        assert await up.fetcher.manifest(POS, "42") is not None
        for child in (amd64, arm64):
            assert await up.fetcher.manifest(POS, digest(child)) is not None
        config = json.loads(image.manifests[amd64])["config"]["digest"]
        await read(await up.fetcher.open_blob(POS, digest(config)))
        cut_uplink(up)
        with pytest.raises(MeshsatError):
            await read(await up.fetcher.open_blob(POS, Digest.of(other)))
        assert await up.fetcher.manifest(POS, "42") is not None
        assert await up.fetcher.manifest(POS, digest(amd64)) is not None
        assert await up.fetcher.manifest(POS, digest(arm64)) is None


async def test_what_is_no_manifest_is_none_also_by_its_digest(autojump_clock: Clock) -> None:
    huge = random_bytes(5_000_000, 4)
    image = build_image([huge, b"short"])
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, image, "42")
        await dark.pull(NAME)
        for data in (b"short", huge):
            assert await dark.fetcher.manifest(POS, Digest.of(data)) is None


async def test_a_manifest_may_be_named_by_a_longer_digest(autojump_clock: Clock) -> None:
    long = Digest.of(IMAGE.raw, "sha512")
    async with full_site("up") as (up,):
        for blob, data in IMAGE.blobs.items():
            await up.store.put(data, digest(blob))
        await up.store.put(IMAGE.raw, long)
        assert await up.fetcher.manifest(POS, long) is None, "nobody said that it is of this repository"
        manifest = parse_manifest_untrusted(IMAGE.raw, IMAGE.media_type, algorithm="sha512")
        await up.store.learn(manifest, "up.example", POS.repository)
        served = await up.fetcher.manifest(POS, long)
        assert served is not None
        assert served.digest == long


# --- tags ---


async def test_a_tag_younger_than_its_time_to_live_is_not_asked_for_again(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", tag_ttl=60.0) as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        for seconds, questions in ((0, 1), (30, 1), (40, 2), (30, 2)):
            await trio.sleep(seconds)
            served = await dark.fetcher.manifest(POS, "42")
            assert served is not None
            assert served.fresh
            assert up.site.upstream.requests.count("manifest 42") == questions


async def test_a_tag_that_moved_is_served_as_it_is_now(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", tag_ttl=60.0) as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        await get_all(dark)
        hold(up.site.upstream, MULTI, "42")
        await trio.sleep(61)
        await get_all(dark, MULTI)


async def test_a_tag_that_is_gone_upstream_is_gone_here(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", tag_ttl=60.0) as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        await get_all(dark)
        up.site.upstream.tags.clear()
        await trio.sleep(61)
        assert await dark.fetcher.manifest(POS, "42") is None


async def test_in_the_dark_an_old_tag_is_served_as_such_and_asked_for_only_now_and_then(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with full_site("up", "dark", tag_ttl=60.0) as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        await get_all(dark)
        first = await dark.fetcher.manifest(POS, "42")
        assert first is not None
        cut_uplink(up)
        await trio.sleep(300)
        questions = 0
        resolve = dark.node.mesh.resolve

        async def counted(*key: str, max_age: float, patience: float) -> object:
            nonlocal questions
            questions += 1
            return await resolve(*key, max_age=max_age, patience=patience)

        monkeypatch.setattr(dark.node.mesh, "resolve", counted)
        for _ in range(100):
            served = await dark.fetcher.manifest(POS, "42")
            assert served is not None
            assert (served.fresh, served.resolved_at) == (False, first.resolved_at)
            await trio.sleep(0.2)
        assert 1 <= questions <= 20 / fetch.UNREACHABLE_MEMORY + 1
        cut_uplink(up, down=False)
        await trio.sleep(120)
        again = await dark.fetcher.manifest(POS, "42")
        assert again is not None
        assert again.fresh


async def test_a_dark_reboot_keeps_tags_and_images(autojump_clock: Clock, tmp_path: Path) -> None:
    async with full_site("up", "dark", directory=tmp_path) as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        await get_all(dark)
        await trio.sleep(1)
    async with full_site("dark", "new", directory=tmp_path) as (dark, new):
        await trio.sleep(120)
        assert await shown(dark) == {NAME}
        await get_all(dark)
        await get_all(new)  # a node that joins in the dark
        served = await new.fetcher.manifest(POS, "42")
        assert served is not None
        assert not served.fresh
        assert await new.fetcher.tags(POS) == ["42"]


# --- blobs ---


async def test_a_reader_gets_bytes_before_the_blob_is_whole(autojump_clock: Clock) -> None:
    big = random_bytes(int(RATE), 5)  # a second's worth
    image = build_image([big])
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, image, "42")
        assert await dark.fetcher.manifest(POS, "42") is not None
        reader = await dark.fetcher.open_blob(POS, Digest.of(big))
        assert reader is not None
        async with reader, aclosing(reader.stream(0, reader.size)) as pieces:
            first = await anext(pieces)
            assert big.startswith(first)
            assert up.site.upstream.bytes < 0.2 * len(big)
            rest = b"".join([piece async for piece in pieces])
        assert first + rest == big
        assert up.site.upstream.bytes <= 1.02 * len(big)


async def test_a_range_in_the_middle_comes_first(autojump_clock: Clock) -> None:
    big = random_bytes(5 * int(RATE), 5)
    image = build_image([big])
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, image, "42")
        assert await dark.fetcher.manifest(POS, "42") is not None
        reader = await dark.fetcher.open_blob(POS, Digest.of(big))
        assert reader is not None
        began = trio.current_time()
        async with reader, aclosing(reader.stream(40_000_000, 40_000_010)) as pieces:
            assert [piece async for piece in pieces] == [big[40_000_000:40_000_010]]
        assert trio.current_time() - began < 1.0


async def test_a_reader_that_leaves_withdraws_its_interest(autojump_clock: Clock) -> None:
    big = random_bytes(3 * int(RATE), 5)
    image = build_image([big])
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, image, "42")
        assert await dark.fetcher.manifest(POS, "42") is not None
        reader = await dark.fetcher.open_blob(POS, Digest.of(big))
        assert reader is not None
        assert up.site.upstream.bytes == 0  # not entered: nothing is transferred
        async with reader, aclosing(reader.stream(0, reader.size)) as pieces:
            await anext(pieces)
        await trio.sleep(1)
        fetched = up.site.upstream.bytes
        assert 0 < fetched < len(big) / 2
        await trio.sleep(30)
        assert up.site.upstream.bytes == fetched
        assert dark.node.machine.transfers == {}


async def test_a_source_that_fails_in_the_middle_raises(autojump_clock: Clock) -> None:
    big = random_bytes(2 * int(RATE), 5)
    image = build_image([big])
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, image, "42")
        assert await dark.fetcher.manifest(POS, "42") is not None
        reader = await dark.fetcher.open_blob(POS, Digest.of(big))
        assert reader is not None
        began = trio.current_time()
        async with reader, aclosing(reader.stream(0, reader.size)) as pieces:
            await anext(pieces)
            up.site.kill(up.node)
            with pytest.raises(UnavailableError, match="no node of this site"):
                _ = [piece async for piece in pieces]
        assert trio.current_time() - began < 30


async def test_wrong_bytes_reach_no_reader(autojump_clock: Clock) -> None:
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        up.site.upstream.blobs[Digest.of(b"small")] = b"wrong"
        assert await dark.fetcher.manifest(POS, "42") is not None
        with pytest.raises(UnavailableError, match="are not that blob"):
            await read(await dark.fetcher.open_blob(POS, Digest.of(b"small")))


# --- pulls ---


async def test_a_pull_brings_the_whole_tree_and_tells_how_far_it_is(autojump_clock: Clock) -> None:
    big = random_bytes(int(RATE), 5)
    image = build_image([big], ["linux/amd64", "linux/arm64"])
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, image, "42")
        events: list[PullEvent] = [event async for event in dark.fetcher.pull(NAME, pin=True)]
        *progress, done = events
        assert {event.event for event in progress} == {"progress"}
        have = [event.have_bytes for event in progress]
        assert have == sorted(have)
        assert len(set(have)) > 2
        assert done == PullEvent("done", NAME, image.size, image.size, image.root)
        assert {str(blob): size for blob, size in dark.store.blobs().items()} == {
            blob: len(data) for blob, data in image.contents.items()
        }
        assert await shown(dark) == {NAME}
        assert dark.store.pins() == {digest(image.root): frozenset({f"pull {NAME}"})}
        assert up.site.upstream.bytes <= 1.02 * image.size


async def test_a_pull_by_digest_needs_no_tag(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", "third") as (up, dark, third):
        hold(up.site.upstream, IMAGE, "42")
        reference = f"up.example/library/pos@{IMAGE.root}"
        assert await dark.pull(reference) == IMAGE.size
        up.site.kill(up.node)
        await trio.sleep(5)
        assert await third.pull(reference) == IMAGE.size
        assert await shown(third) == {reference}


async def test_a_second_pull_is_done_at_once_also_in_the_dark(autojump_clock: Clock) -> None:
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        await dark.pull(NAME)
        up.site.kill(up.node)
        await trio.sleep(60)
        began = trio.current_time()
        assert await dark.pull(NAME) == IMAGE.size
        assert trio.current_time() - began < 1


async def test_a_pull_of_what_does_not_exist_says_so(autojump_clock: Clock) -> None:
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        with pytest.raises(NotFoundError, match="library/pos:nope"):
            await dark.pull("up.example/library/pos:nope")
        with pytest.raises(InvalidInputError):
            await dark.pull("Not A Reference")


async def test_a_pull_with_nobody_there_ends_within_its_limits(autojump_clock: Clock) -> None:
    async with full_site("dark") as (dark,):
        began = trio.current_time()
        with pytest.raises(UnavailableError):
            await dark.pull(NAME)
        assert trio.current_time() - began <= module.PULL_RESOLVE_PATIENCE


async def test_a_pull_that_begins_before_the_peers_are_met_waits_for_them(autojump_clock: Clock) -> None:
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        up.site.network.cut("up", "dark")
        await trio.sleep(60)
        assert not dark.node.machine.sessions
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dark.pull, NAME)
            await trio.sleep(2)
            up.site.network.heal_all()
        assert await shown(dark) == {NAME}


async def test_a_pull_whose_sources_go_away_ends_within_its_limits(autojump_clock: Clock) -> None:
    big = random_bytes(2 * int(RATE), 5)
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, build_image([big]), "42")
        async with aclosing(dark.fetcher.pull(NAME)) as events:
            while (await anext(events)).have_bytes < 1_000_000:
                pass
            up.site.kill(up.node)
            died = trio.current_time()
            with pytest.raises(UnavailableError, match="no node of this site"):
                _ = [event async for event in events]
        assert trio.current_time() - died < 30


async def test_a_pull_that_waits_tells_so_each_second(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever asked takes the node for dead."""
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        manifest = up.uplink.manifest

        async def slowly(registry: str, repository: str, reference: str, *_known: object) -> object:
            await trio.sleep(10)
            return await manifest(registry, repository, reference)

        monkeypatch.setattr(up.uplink, "manifest", slowly)
        told = [trio.current_time(), *[trio.current_time() async for _ in dark.fetcher.pull(NAME)]]
        assert told[-1] - told[0] > 10
        assert max(later - earlier for earlier, later in pairwise(told)) <= 1.1


async def test_a_pull_of_wrong_bytes_fails_and_says_whose_fault_it_is(autojump_clock: Clock) -> None:
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        up.site.upstream.blobs[layer_of()] = random_bytes(len(LAYER), 99)
        with pytest.raises(UnavailableError, match="upstream delivers other bytes"):
            await dark.pull(NAME)
        assert layer_of() not in dark.store.blobs()
        assert await shown(dark) == set()


async def test_a_pull_that_is_left_withdraws_its_interest(autojump_clock: Clock) -> None:
    big = random_bytes(3 * int(RATE), 5)
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, build_image([big]), "42")
        async with aclosing(dark.fetcher.pull(NAME)) as events:
            async for event in events:
                if event.have_bytes > 1_000_000:
                    break
        await trio.sleep(1)
        fetched = up.site.upstream.bytes
        await trio.sleep(30)
        assert up.site.upstream.bytes == fetched < len(big)


async def test_an_index_may_not_call_just_anything_a_manifest(autojump_clock: Clock) -> None:
    huge = random_bytes(5_000_000, 6)
    for data in (b"no manifest", huge):
        entries = [descriptor("application/vnd.oci.image.manifest.v1+json", data)]
        raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        root = digest_of(raw)
        image = Image(root, {root: raw}, {digest_of(data): data}, {root: OCI_INDEX})
        async with full_site("up", "dark") as (up, dark):
            hold(up.site.upstream, image, "42")
            with pytest.raises(MeshsatError):
                await dark.pull(NAME)
            await dark.store.put(data, Digest.of(data))
            assert await dark.fetcher.manifest(POS, "42") is None
            await trio.sleep(1)  # and what shows images goes on
            hold(up.site.upstream, IMAGE, "43")
            await get_all(dark, IMAGE, "43")
            assert await shown(dark) == {"up.example/library/pos:43"}


async def test_an_index_that_refers_to_too_much_is_refused(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TREE_LIMIT", 2)
    async with full_site("up") as (up,):
        hold(up.site.upstream, MULTI, "42")
        with pytest.raises(InvalidInputError, match="more than 2"):
            await up.pull(NAME)


# --- images that become whole ---


async def test_an_image_whose_parts_a_client_pulled_is_shown(autojump_clock: Clock) -> None:
    async with full_site("up", "dark") as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        assert await dark.fetcher.manifest(POS, "42") is not None
        assert await shown(dark) == set()
        await get_all(dark)
        assert await shown(dark) == {NAME}
        hold(up.site.upstream, MULTI, "42")
        await trio.sleep(61)
        await get_all(dark, MULTI)
        assert await shown(dark) == {NAME}
        assert dark.store.images()[0].descriptor.digest == digest(MULTI.root)


async def test_an_image_that_is_asked_for_again_and_again_is_shown_once(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with full_site("up") as (up,):
        hold(up.site.upstream, IMAGE, "42")
        await get_all(up)
        assert await shown(up) == {NAME}
        written: list[object] = []
        publish = up.store.publish_image

        async def counted(*key: object) -> None:
            written.append(key)
            await publish(*key)  # type: ignore[arg-type]

        monkeypatch.setattr(up.store, "publish_image", counted)
        for _ in range(20):
            assert await up.fetcher.manifest(POS, "42") is not None
            await trio.sleep(0.01)
        assert written == []


async def test_images_that_never_become_whole_are_in_nobodys_way(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "KEPT", 3)
    async with full_site("up") as (up,):
        for number in range(5):
            hold(up.site.upstream, build_image([b"%d" % number]), f"never{number}")
            assert await up.fetcher.manifest(POS, f"never{number}") is not None
        hold(up.site.upstream, IMAGE, "42")
        await get_all(up)
        assert await shown(up) == {NAME}
