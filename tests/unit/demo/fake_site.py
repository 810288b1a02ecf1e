"""A site whose nodes are the upstream in disguise: the first fetches the image, all say that they have it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from meshsat.demo.client import pull_everything
from meshsat.demo.image import REPOSITORY, TAG
from meshsat.demo.place import DemoError, Place
from meshsat.demo.site import DemoNode, Told

fault: DemoError | None = None
"""What goes wrong, where something does."""


class FakeSite:
    def __init__(self, place: Place, _nursery: trio.Nursery, upstream: str, _uplink_rate: int) -> None:
        self.nodes: list[DemoNode] = []
        self._place = place
        self._upstream = upstream

    async def start(self, count: int, step: Callable[[str], None]) -> None:
        for number in range(1, count + 1):
            name = f"node-{number}"
            child = self._place.start(name, ["/bin/true"])
            figures = {"wan_bytes_in": 0, "lan_bytes_in": 0, "lan_bytes_out": 0}
            status = {"registry_address": self._upstream, **figures}
            self.nodes.append(DemoNode(name, self._place.directory / name, child, status))
        step("up")

    async def refresh(self) -> None:
        await trio.lowlevel.checkpoint()

    async def pull_everywhere(self, reference: str, told: Told) -> dict[str, float]:
        assert reference == f"{self._upstream}/{REPOSITORY}:{TAG}"
        if fault is not None:
            raise fault
        target: Path = self._place.directory / "fetched"
        target.mkdir()
        await pull_everything(self._upstream, target)
        event: dict[str, Any] = {"event": "done", "have_bytes": 1, "total_bytes": 1}
        for node in self.nodes:
            told(node, event)
        return {node.name: 0.25 for node in self.nodes}
