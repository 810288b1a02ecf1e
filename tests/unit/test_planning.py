"""What a plan reckons with, gathered at a node that stands beside a registry."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshsat.errors import InvalidInputError
from meshsat.fleet.document import DesiredImage, DesiredState, Limits, Quota, encode_state
from meshsat.fleet.planner import Plan
from meshsat.node import Node
from meshsat.planning import IMAGES_LIMIT, Planned, read_state_untrusted
from tests.unit.test_node import FLEET, LIMIT, config, running
from tests.upstream import Upstream


@asynccontextmanager
async def beside(upstream: Upstream, directory: Path) -> AsyncIterator[Node]:
    identity = FLEET.member(directory=directory)
    with trio.fail_after(LIMIT):
        async with running(config(directory, upstream=upstream.address), identity) as (node, _):
            while not node.status().uplink.up:
                if node._machine.uplink_up:
                    break
                await trio.sleep(0.02)
            yield node


def state(*references: str, **more: object) -> bytes:
    images = tuple(DesiredImage(reference=reference) for reference in references)
    return encode_state(DesiredState(images=images, **more))  # type: ignore[arg-type]


async def planned(node: Node, raw: bytes) -> tuple[Plan, Planned]:
    steps = [step async for step in node.plan(raw)]
    assert all(step.plan is None for step in steps[:-1])
    assert steps[-1].plan is not None
    return steps[-1].plan, steps[-1]


async def test_manifests_alone_come_over_the_wan_and_what_is_there_costs_nothing(tmp_path: Path) -> None:
    with Upstream() as upstream:
        image = upstream.add_image("library/pos", "42", layers=[b"layer" * 100_000])
        reference = f"{upstream.address}/library/pos:42"
        async with beside(upstream, tmp_path) as node:
            plan, last = await planned(node, state(reference))
            content = image.size - len(image.raw)  # its manifest is here by now
            assert (plan.wan_bytes, plan.lan_bytes, plan.refusals) == (content, 0, ())
            assert (plan.images[0].digest, plan.images[0].size) == (image.root, image.size)
            assert len(image.raw) < last.manifest_bytes < len(image.raw) + 5_000
            assert not upstream.asked("/blobs/")
            assert plan.nodes[0].room is not None

            node._following.planning.budget = lambda: 1000
            plan, _ = await planned(node, state(reference))
            assert plan.refusals[0].startswith("does not fit on node: needs 5")

            [_ async for _ in node.pull(reference, pin=False)]
            plan, last = await planned(node, state(reference))
            assert (plan.wan_bytes, plan.nodes[0].need, plan.refusals) == (0, 0, ())
            assert last.manifest_bytes < 5_000


async def test_what_nobody_can_tell_is_refused_and_the_rest_is_planned(tmp_path: Path) -> None:
    with Upstream() as upstream:
        upstream.add_image("library/pos", "42", layers=[b"layer" * 1000])
        there, missing = (f"{upstream.address}/library/pos:{tag}" for tag in ("42", "43"))
        async with beside(upstream, tmp_path) as node:
            plan, last = await planned(node, state(there, missing))
            assert (last.known, last.of) == (2, 2)
            assert plan.wan_bytes > 5000
            (refusal,) = plan.refusals
            assert refusal.startswith(f"{missing}: ")


async def test_limits_of_the_state_are_reckoned_with(tmp_path: Path) -> None:
    with Upstream() as upstream:
        upstream.add_image("library/pos", "42", layers=[b"layer" * 100_000])
        reference = f"{upstream.address}/library/pos:42"
        limits = (Limits(rate=1000, quota=Quota(month=100_000)),)
        async with beside(upstream, tmp_path) as node:
            plan, _ = await planned(node, state(reference, limits=limits))
            assert any("quota of this month" in refusal for refusal in plan.refusals)
            assert plan.finishes_at is not None


def test_a_state_that_is_none_or_too_much_is_refused_at_once() -> None:
    with pytest.raises(InvalidInputError, match="desired state"):
        read_state_untrusted(b'{"images": 5}')
    many = state(*(f"up.example/i{n}:1" for n in range(IMAGES_LIMIT + 1)))
    with pytest.raises(InvalidInputError, match="at most 500 images"):
        read_state_untrusted(many)
    with pytest.raises(InvalidInputError, match="five fields"):
        read_state_untrusted(b'{"limits": [{"windows": [{"cron": "at night", "duration": 60}]}]}')
