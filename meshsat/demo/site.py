"""The demo's site: nodes as `meshsat node` processes, made members with the commands that anybody would use.

The first node has the uplink and enrols the others; they find each other by mDNS or, where there is no
multicast, through the first node's address. Everything listens on loopback, on ports that the system chose.
"""

import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import trio

from meshsat.demo.place import Child, DemoError, Place

MESHSAT = (sys.executable, "-m", "meshsat")
FLEET = "demo"
SITE = "train-1"
START_LIMIT = 40.0
"""Seconds until a node answers, on a machine busy with starting the others."""
MEET_LIMIT = 20.0
"""Seconds until every node is connected with every other."""
SILENCE_LIMIT = 30.0
"""Seconds without a word from a node that is pulling."""
LOOK_EVERY = 0.1
"""Seconds."""

Told = Callable[["DemoNode", dict[str, Any]], None]
"""Takes the events of a node's pull."""
Step = Callable[[str], None]
"""Takes a line about something that has come to pass."""


@dataclass(slots=True)
class DemoNode:
    name: str
    data_dir: Path
    child: Child
    status: dict[str, Any]
    """Its latest `/api/v1/status`."""

    @property
    def registry(self) -> str:
        """HOST:PORT"""
        return str(self.status["registry_address"])

    def api(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.data_dir / "api.sock"))
        return httpx.AsyncClient(transport=transport, base_url="http://node", timeout=SILENCE_LIMIT)

    async def refresh(self) -> None:
        """Ask for the status. Raises `httpx.HTTPError`, `ValueError`."""
        async with self.api() as http:
            answer = await http.get("/api/v1/status")
            answer.raise_for_status()
            self.status = answer.json()


class Site:
    """The nodes, started one after the other by `start`."""

    def __init__(self, place: Place, nursery: trio.Nursery, upstream: str, uplink_rate: int) -> None:
        self.nodes: list[DemoNode] = []
        self._place = place
        self._nursery = nursery
        self._upstream = upstream
        self._uplink_rate = uplink_rate
        """Bytes per second."""

    async def start(self, count: int, step: Step) -> None:
        """`count` nodes, up and connected with each other; `step` is told how it goes. Raises `DemoError`."""
        first = self._data_dir(1)
        where = ["--data-dir", str(first)]
        await self._place.run("init", [*MESHSAT, "init", FLEET, "--site", SITE, "--name", "node-1", *where])
        self.nodes.append(self._start_node(1))
        await self._until_up(self.nodes[0])
        step(f"node-1 is up: it made fleet {self.nodes[0].status['fleet']}, and invites the others")
        invite = [*MESHSAT, "invite", "--uses", str(count), "--expires", "1h", *where]
        token = (await self._place.run("invite", invite)).strip()
        async with trio.open_nursery() as nursery:
            for number in range(2, count + 1):
                node = self._start_node(number)
                self.nodes.append(node)
                nursery.start_soon(self._join, node, token, step)
        await self._until_met()

    async def _join(self, node: DemoNode, token: str, step: Step) -> None:
        """The node's process waits for its pass by now."""
        enroller = self.nodes[0].status["control_addresses"][0]
        settings = str(self._place.directory / f"{node.name}.toml")
        command = [*MESHSAT, "join", "-", "--peer", enroller, "--config", settings]
        await self._place.run(f"join of {node.name}", command, token.encode(), limit=START_LIMIT)
        await self._until_up(node)
        step(f"{node.name} has joined, and is up")

    def _start_node(self, number: int) -> DemoNode:
        name, data_dir = f"node-{number}", self._data_dir(number)
        data_dir.mkdir(mode=0o700, exist_ok=True)
        settings = self._place.directory / f"{name}.toml"
        settings.write_text(self._settings(name, data_dir))
        child = self._place.start(name, [*MESHSAT, "node", "--config", str(settings)])
        self._nursery.start_soon(child.must_run)
        return DemoNode(name, data_dir, child, {})

    def _data_dir(self, number: int) -> Path:
        return self._place.directory / f"node-{number}"

    def _settings(self, name: str, data_dir: Path) -> str:
        """The node's TOML file. JSON strings and arrays of strings are valid TOML."""
        uplinked = not self.nodes
        peers = [] if uplinked else [as_multiaddr(self.nodes[0].status)]
        return f"""
data_dir = {json.dumps(str(data_dir))}
name = {json.dumps(name)}
[uplink]
enabled = {json.dumps(uplinked)}
rate = {self._uplink_rate}
[[uplink.registries]]
host = {json.dumps(self._upstream)}
plain_http = true
[mesh]
listen = "127.0.0.1"
control_port = 0
bulk_port = 0
peers = {json.dumps(peers)}
[registry]
port = 0
upstream = {json.dumps(self._upstream)}
[api]
port = 0
"""

    async def _until_up(self, node: DemoNode) -> None:
        with trio.move_on_after(START_LIMIT):
            while True:
                try:
                    await node.refresh()
                except (httpx.HTTPError, ValueError):
                    await trio.sleep(LOOK_EVERY)
                else:
                    return
        raise DemoError(f"{node.name} did not come up within {START_LIMIT:.0f} s", node.child.tail())

    async def _until_met(self) -> None:
        with trio.move_on_after(MEET_LIMIT):
            while not all(node.status["peers"] >= len(self.nodes) - 1 for node in self.nodes):
                await trio.sleep(LOOK_EVERY)
                await self.refresh()
            return
        lonely = min(self.nodes, key=lambda node: int(node.status["peers"]))
        raise DemoError(
            f"{lonely.name} knows {lonely.status['peers']} of {len(self.nodes) - 1} peers"
            f" after {MEET_LIMIT:.0f} s",
            lonely.child.tail(),
        )

    async def refresh(self) -> None:
        """Ask all nodes for their status; one that is too busy keeps the one that it has."""
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(_refresh, node)

    async def pull_everywhere(self, reference: str, told: Told) -> dict[str, float]:
        """All nodes pull `reference` at once. Seconds until each had it whole. Raises `DemoError`."""
        seconds: dict[str, float] = {}
        start = time.monotonic()

        async def pull(node: DemoNode) -> None:
            async for event in _pull(node, reference):
                told(node, event)
            seconds[node.name] = time.monotonic() - start

        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(pull, node)
        return seconds


async def _refresh(node: DemoNode) -> None:
    try:
        await node.refresh()
    except (httpx.HTTPError, ValueError):
        return


async def _pull(node: DemoNode, reference: str) -> AsyncIterator[dict[str, Any]]:
    """The events of one node's pull, the last one `done`. Raises `DemoError`."""
    try:
        async with (
            node.api() as http,
            http.stream("POST", "/api/v1/pull", json={"reference": reference, "pin": False}) as answer,
        ):
            if answer.is_error:
                await answer.aread()
                raise DemoError(f"{node.name} refused to pull: {answer.text[:300]}", node.child.tail())
            async for line in answer.aiter_lines():
                event = json.loads(line)
                yield event
                if event["event"] == "done":
                    return
                if event["event"] == "error":
                    raise DemoError(f"{node.name} could not pull: {event['message']}", node.child.tail())
    except (httpx.HTTPError, ValueError) as fault:
        raise DemoError(f"{node.name} broke off: {fault!r}", node.child.tail()) from None
    raise DemoError(f"{node.name} ended the pull without a result", node.child.tail())


def as_multiaddr(status: dict[str, Any]) -> str:
    """A node's control address as `mesh.peers` holds it. It must be an IPv4 one."""
    host, _, port = status["control_addresses"][0].rpartition(":")
    return f"/ip4/{host}/tcp/{port}/p2p/{status['peer']}"
