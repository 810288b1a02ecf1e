"""Sites in memory whose nodes follow a desired state."""

import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from meshsat.desired_tags import DesiredTags
from meshsat.fleet.document import DesiredState, encode_state, state_of
from meshsat.oci.digest import Digest
from meshsat.pull_through import PullThrough
from meshsat.reconcile import Own, Reconciler
from meshsat.registry.content import Name
from tests.images import Image
from tests.mesh.full_node import POS, FullNode, full_site, unix


def pinned(image: Image, tag: str = "stable", name: Name = POS, **words: Any) -> dict[str, Any]:
    return {"reference": f"{name}:{tag}@{image.root}", **words}


def state(*images: dict[str, Any]) -> DesiredState:
    return state_of({"images": list(images)})


class Desiring:
    """One node that follows."""

    def __init__(
        self, full: FullNode, directory: Path | None = None, roles: Iterable[str] = ("node",), **own: Any
    ) -> None:
        self.full = full
        self.tags = DesiredTags(directory, unix)
        policy: PullThrough = full.fetcher._policy
        key = full.node.identity.key
        self.reconciler = Reconciler(
            full.store,
            full.node.mesh,
            full.fetcher,
            policy,
            self.tags,
            Own(key, "site-1", tuple(roles), unix, random.Random(full.node.name), **own),
        )

    def follow(self, version: int, desired: DesiredState) -> None:
        self.reconciler.follow(version, Digest.of(encode_state(desired)), desired)

    def holds(self, image: Image) -> bool:
        return all(
            self.full.store.blob_size(Digest.parse_untrusted(digest)) is not None for digest in image.contents
        )

    def staying(self) -> set[Digest]:
        found = self.reconciler.desired()
        assert found is not None
        return found

    def uplink_down(self) -> None:
        self.full.uplink.down = True

    def means(self, tag: str = "stable", name: Name = POS) -> str | None:
        assert name.registry is not None
        found = self.tags.meaning(name.registry, name.repository, tag)
        return None if found is None else str(found)

    async def served(self, tag: str = "stable", name: Name = POS) -> str | None:
        found = await self.full.fetcher.manifest(name, tag)
        return None if found is None else str(found.digest)


@asynccontextmanager
async def desiring_site(
    *names: str, own: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[list[Desiring]]:
    async with full_site(*names, **options) as nodes, trio.open_nursery() as nursery:
        desiring = [Desiring(one, **(own or {})) for one in nodes]
        for one in desiring:
            nursery.start_soon(one.reconciler.run)
        yield desiring
        nursery.cancel_scope.cancel()


def follow_all(nodes: Sequence[Desiring], version: int, desired: DesiredState) -> None:
    for node in nodes:
        node.follow(version, desired)


async def until(what: str, look: Any, seconds: float = 60.0) -> float:
    """Seconds of the fake clock until it is so."""
    began = trio.current_time()
    while not look():
        assert trio.current_time() < began + seconds, f"not within {seconds} s: {what}"
        await trio.sleep(0.05)
    return trio.current_time() - began
