"""Pull-through policy on a site: what a client's miss may cost, at the node it asks and at the one with the uplink."""

from typing import Any

import pytest
import trio
import trio.testing

from meshsat.config import PullThroughSection
from meshsat.errors import DeniedError, MeshsatError, UnavailableError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.pull_through import PullThrough
from tests.images import build_image, random_bytes
from tests.mesh.full_node import POS, FullNode, full_site, hold

Clock = trio.testing.MockClock
IMAGE = build_image([random_bytes(600_000, 1), b"small"])
ROOT = Digest.parse_untrusted(IMAGE.root)
NAME = "up.example/library/pos:42"


def policy(*rules: dict[str, Any], **section: Any) -> PullThrough:
    return PullThrough(PullThroughSection.model_validate({"rules": rules, **section}), 60.0)


DENY = {"pattern": "up.example/**", "allow": False}


async def denied(node: FullNode) -> str:
    """What a client is told, by tag, by digest and for a blob: the same."""
    told = set()
    for reference in ("42", ROOT):
        with pytest.raises(DeniedError) as fault:
            await node.fetcher.manifest(POS, reference)
        told.add(str(fault.value).replace(":42", ""))
    with pytest.raises(DeniedError) as fault:
        await node.fetcher.open_blob(POS, Digest.parse_untrusted(next(iter(IMAGE.blobs))))
    told.add(str(fault.value))
    (message,) = told
    return message


async def gets_all(node: FullNode) -> bool:
    served = await node.fetcher.manifest(POS, "42")
    assert served is not None
    assert served.raw == IMAGE.raw
    for blob, data in IMAGE.blobs.items():
        reader = await node.fetcher.open_blob(POS, Digest.parse_untrusted(blob))
        assert reader is not None
        async with reader:
            assert b"".join([piece async for piece in reader.stream(0, reader.size)]) == data
    return served.fresh


async def test_what_the_asked_node_denies_costs_nothing_anywhere(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", policies={"dark": policy(DENY)}) as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        began = trio.current_time()
        told = await denied(dark)
        assert told.endswith("rule 1 of registry.pull_through.rules (up.example/**) denies it")
        assert trio.current_time() == began
        assert up.site.upstream.requests == []


async def test_what_the_site_holds_is_served_all_the_same(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", policies={"dark": policy(DENY)}) as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        assert await gets_all(up)
        asked = len(up.site.upstream.requests)
        await trio.sleep(1)  # the tag is told
        await gets_all(dark)
        await trio.sleep(3600)
        assert not await gets_all(dark)  # it is as old as it is
        assert len(up.site.upstream.requests) == asked


async def test_a_manifest_that_is_held_is_not_given_when_its_blobs_may_not_be_fetched(
    autojump_clock: Clock,
) -> None:
    async with full_site("up", policies={"up": policy(DENY)}) as (up,):
        hold(up.site.upstream, IMAGE, "42")
        await up.store.put(IMAGE.raw, ROOT)
        await up.store.learn(parse_manifest_untrusted(IMAGE.raw), "up.example", "library/pos")
        assert await up.fetcher.manifest(POS, ROOT) is None


async def test_the_node_with_the_uplink_denies_peers(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", policies={"up": policy(DENY)}) as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        with pytest.raises(DeniedError, match=r"up: .*rule 1 of registry.pull_through"):
            await dark.fetcher.manifest(POS, "42")
        with pytest.raises(DeniedError):
            await dark.pull(NAME)
        assert up.site.upstream.requests == []


async def test_the_operators_pull_is_past_the_rules_of_its_node(autojump_clock: Clock) -> None:
    async with full_site("up", policies={"up": policy(DENY)}) as (up,):
        hold(up.site.upstream, IMAGE, "42")
        await denied(up)
        await up.pull(NAME)
        await gets_all(up)
        await trio.sleep(3600)
        assert not await gets_all(up)
        with pytest.raises(DeniedError):  # its word does not outlast the pull
            await up.fetcher.manifest(POS, "43")


@pytest.mark.parametrize("stale", ["serve", "refuse"])
async def test_an_old_tag_that_cant_be_asked_for_is_served_or_refused(
    autojump_clock: Clock, stale: str
) -> None:
    async with full_site("up", "dark", policies={"dark": policy(stale=stale)}) as (up, dark):
        hold(up.site.upstream, IMAGE, "42")
        assert await gets_all(dark)
        up.uplink.down = True
        await trio.sleep(30)
        assert await gets_all(dark)
        await trio.sleep(300)
        if stale == "serve":
            assert not await gets_all(dark)
        else:
            with pytest.raises(UnavailableError, match="older than it may be"):
                await dark.fetcher.manifest(POS, "42")
            assert await dark.fetcher.manifest(POS, ROOT) is not None  # a digest is never old


async def test_how_long_a_tag_is_believed_goes_by_rule(autojump_clock: Clock) -> None:
    rule = {"pattern": "up.example/**:4*", "tag_ttl": 1000}
    async with full_site("up", policies={"up": policy(rule)}) as (up,):
        for tag in ("42", "50"):
            hold(up.site.upstream, IMAGE, tag)
            await up.fetcher.manifest(POS, tag)
        await trio.sleep(500)
        for tag in ("42", "50"):
            await up.fetcher.manifest(POS, tag)
        requests = up.site.upstream.requests
        assert (requests.count("manifest 42"), requests.count("manifest 50")) == (1, 2)


async def test_a_denied_miss_is_no_trouble_with_the_uplink(autojump_clock: Clock) -> None:
    async with full_site("up", policies={"up": policy(DENY)}) as (up,):
        with pytest.raises(MeshsatError):
            await up.fetcher.manifest(POS, "42")
        assert up.node.machine.site_has_uplink()
