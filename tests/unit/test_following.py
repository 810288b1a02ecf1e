"""A whole node follows a signed state: it fetches, keeps within its means, and its housekeeping goes on."""

import json
from pathlib import Path

import trio

from meshsat.errors import DeniedError
from meshsat.fleet.state_file import encode_state_file
from meshsat.oci.digest import Digest
from tests.fleet import Fleet
from tests.mesh.stating import Authors
from tests.unit.test_node import config, running
from tests.upstream import Upstream

FLEET = Fleet()
LIMIT = 30.0


def state(**words: object) -> bytes:
    return json.dumps(words).encode()


async def test_what_a_state_wants_is_held_and_what_nothing_wants_can_go(tmp_path: Path) -> None:
    identity, authors = FLEET.member(directory=tmp_path), Authors(FLEET)
    with Upstream() as upstream, trio.fail_after(LIMIT):
        image = upstream.add_image("library/pos", "42", layers=[b"layer" * 1000])
        name = f"{upstream.address}/library/pos:stable"
        first = state(images=[{"reference": f"{name}@{image.root}"}], limits=[{"disk": 10_000_000}])
        async with running(config(tmp_path, upstream=upstream.address), identity) as (node, _):
            await node.desired_state.offer_untrusted(encode_state_file(authors.file(1, raw=first)))
            while not node.desired().images or node.desired().images[0].nodes[0].stage != "whole":
                await trio.sleep(0.02)
            assert node.desired().images[0].active == image.root
            assert node.status().disk.budget == 10_000_000
            swept = await node.gc(dry_run=False)
            assert swept.refused is None
            held = [Digest.of(first), *map(Digest.parse_untrusted, image.contents)]
            assert all(node.holds(digest) for digest in held), "the state's own body among them"
            denied = state(pull_through={"allow": False})
            await node.desired_state.offer_untrusted(encode_state_file(authors.file(2, raw=denied)))
            try:
                node._fetcher._policy.may_fetch("up.example", "pos", "1")
            except DeniedError:
                pass
            else:
                raise AssertionError("the state's rules are not in force")
            assert node.desired().images == ()
            assert node.status().disk.budget == 0
            log = (tmp_path / "audit" / "audit.jsonl").read_text()
            assert '"tag.change"' in log
            assert '"state.activate"' in log


async def test_a_signed_state_comes_before_harbor_satellites(tmp_path: Path) -> None:
    identity, authors = FLEET.member(directory=tmp_path), Authors(FLEET)
    section = {"harbor_satellite": {"state": "https://h.example/satellite/satellite-state/x/state:latest"}}
    with trio.fail_after(LIMIT):
        async with running(config(tmp_path, fleet=section), identity) as (node, _):
            followed = node._following._satellite
            assert followed is not None
            assert not followed.source.overruled()
            await node.desired_state.offer_untrusted(encode_state_file(authors.file(1)))
            assert followed.source.overruled()
