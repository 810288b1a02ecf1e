"""A node's ways to its desired state: a registry that is polled, and bodies from peers, on sites in memory."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshsat.config import PullThroughRule, PullThroughSection
from meshsat.errors import ConfigError, InvalidInputError, NotFoundError, UnavailableError
from meshsat.fleet.artifact import artifact_of
from meshsat.fleet.state_file import StateFile, encode_state_file
from meshsat.oci.digest import Digest
from meshsat.pull_through import PullThrough
from meshsat.state_sources import BODY_PATIENCE
from tests.mesh.full_node import full_site
from tests.mesh.stating import POLL, TAG, Authors, Follower, following, publish

POLLED = {"state": "up.example/fleet/state:latest", "poll": POLL}


def polling(directory: Path, *names: str, **options: Any) -> AbstractAsyncContextManager[list[Follower]]:
    return following(directory, *names, fleet=POLLED, **options)


async def test_one_asks_upstream_for_all_of_the_site(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with polling(tmp_path, "up-a", "b", "c") as nodes:
        upstream, authors = nodes[0].full.site.upstream, Authors(nodes[0].full.site.fleet)
        publish(upstream, authors.file(1))
        await trio.sleep(2 * POLL)
        assert [one.revisions for one in nodes] == [[1], [1], [1]]
        blobs = [one for one in upstream.requests if one.startswith("blob")]
        assert len(blobs) == len(set(blobs)) == 3
        before = len(upstream.requests)
        await trio.sleep(10 * POLL)
        polls = len(upstream.requests) - before
        assert polls <= 2 * 14
        publish(upstream, authors.file(2))
        await trio.sleep(2 * POLL)
        assert [one.revisions for one in nodes] == [[1, 2], [1, 2], [1, 2]]
        assert all(one.problem is None for one in nodes)


async def test_a_node_that_asks_no_registry_has_it_from_the_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with polling(tmp_path, "up-a", "deaf") as (node, deaf):
        publish(node.full.site.upstream, Authors(node.full.site.fleet).file(1))
        await trio.sleep(2 * POLL)
        assert node.revisions == deaf.revisions == [1]
        assert str(deaf.sources.status().source).startswith("gossip")


async def test_the_body_in_force_is_to_stay_and_the_one_before_no_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with polling(tmp_path, "up-a") as (node,):
        authors = Authors(node.full.site.fleet)
        for version in (1, 2):
            publish(node.full.site.upstream, authors.file(version))
            await trio.sleep(2 * POLL)
        assert node.sources.bodies() == {Digest.of(authors.file(2).body or b"")}
        assert not node.full.store.pins(), "it is no manifest"


async def test_without_an_uplink_nobody_is_asked(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with polling(tmp_path, "a", "b") as nodes:
        await trio.sleep(10 * POLL)
        assert nodes[0].full.site.upstream.requests == []
        assert nodes[0].problem is None


async def test_that_the_registry_has_none_is_told_and_it_is_asked_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with polling(tmp_path, "up-a") as (node,):
        await trio.sleep(2 * POLL)
        assert node.problem is not None
        publish(node.full.site.upstream, Authors(node.full.site.fleet).file(1))
        await trio.sleep(2 * POLL)
        assert node.revisions == [1]
        assert node.problem is None


async def test_freeze_or_rollback_by_the_registry_is_refused_and_told(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with polling(tmp_path, "up-a") as (node,):
        authors = Authors(node.full.site.fleet)
        for version in (5, 4):
            publish(node.full.site.upstream, authors.file(version))
            await trio.sleep(3 * POLL)
        assert node.revisions == [5]
        assert "older than revision 5" in str(node.problem)
        assert node.sources.status().refused == 1


async def test_mix_and_match_by_the_registry_is_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with polling(tmp_path, "up-a") as (node,):
        authors = Authors(node.full.site.fleet)
        mixed = StateFile(authors.file(1).roots, authors.file(2).head, authors.file(1).body)
        publish(node.full.site.upstream, mixed)
        await trio.sleep(2 * POLL)
        assert node.revisions == []
        assert "has not the digest" in str(node.problem)


async def test_an_image_in_its_place_is_not_fetched(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with polling(tmp_path, "up-a") as (node,):
        upstream = node.full.site.upstream
        raw = artifact_of(Authors(node.full.site.fleet).file(1)).manifest.raw
        upstream.tags[TAG] = raw.replace(b"vnd.meshsat.state.v1", b"vnd.example.other.v1")
        await trio.sleep(3 * POLL)
        assert "is no desired state" in str(node.problem)
        assert not any(one.startswith("blob") for one in upstream.requests)


async def test_the_nodes_own_rules_do_not_keep_it_from_its_state(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    denying = PullThrough(PullThroughSection(rules=(PullThroughRule(pattern="**", allow=False),)), 60.0)
    async with polling(tmp_path, "up-a", policies={"up-a": denying}) as (node,):
        publish(node.full.site.upstream, Authors(node.full.site.fleet).file(1))
        await trio.sleep(2 * POLL)
        assert node.revisions == [1]


async def test_a_body_that_nobody_has_is_waited_for_so_long(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with following(tmp_path, "a") as (node,):
        bodies = node.sources.states._bodies
        began = trio.current_time()
        with pytest.raises(UnavailableError):
            await bodies.fetch(Digest.of(b"x"), 1)
        assert trio.current_time() - began == pytest.approx(BODY_PATIENCE)
        await bodies.keep(Digest.of(b"x"), b"x")
        assert await bodies.fetch(Digest.of(b"x"), 1) == b"x"
        with pytest.raises(UnavailableError):
            await bodies.fetch(Digest.of(b"x"), 2)


async def test_the_operator_brings_one_and_asks_for_one(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with following(tmp_path, "a") as (node,):
        authors = Authors(node.full.site.fleet)
        for version in (1, 2):
            assert await node.sources.offer_untrusted(encode_state_file(authors.file(version))) == version
            await trio.sleep(1)
        assert node.revisions == [1, 2]
        assert await node.sources.file(None) == encode_state_file(authors.file(2))
        assert await node.sources.file(1) == encode_state_file(authors.file(1))
        with pytest.raises(NotFoundError):
            await node.sources.file(7)
        with pytest.raises(InvalidInputError):
            await node.sources.offer_untrusted(b"x")


async def test_a_file_is_a_source_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "x.state"
    async with following(tmp_path, "a", fleet={"state_file": path}) as (node,):
        path.write_bytes(encode_state_file(Authors(node.full.site.fleet).file(3)))
        await trio.sleep(20)
        assert node.revisions == [3]


@pytest.mark.parametrize(
    "text", ["", "site.internal/a:1", f"r.example/a:1@sha256:{'a' * 64}", "r.example/A:1"]
)
async def test_a_reference_that_is_none_keeps_the_node_from_starting(
    tmp_path: Path, text: str, autojump_clock: MockClock
) -> None:
    async with full_site("a") as (node,):
        with pytest.raises(ConfigError, match=r"fleet\.state"):
            Follower(node, tmp_path, state=text)
