"""The demo from beginning to end: what happens, in order, in one function."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from meshsat.demo.client import pull_and_compare
from meshsat.demo.image import REPOSITORY, TAG, Image, make_image
from meshsat.demo.meter import Meter, relay
from meshsat.demo.place import Place, open_place
from meshsat.demo.report import Result, as_table
from meshsat.demo.screen import Row, Screen
from meshsat.demo.site import DemoNode, Site
from meshsat.demo.upstream import Upstream, start_upstream

REFRESH = 0.5
"""Seconds between two looks at all nodes while they pull."""
DRAIN_LIMIT = 5.0
"""Seconds for the last figures of the nodes."""


@dataclass(frozen=True, slots=True)
class Options:
    nodes: int = 5
    size: int = 40_000_000
    """Bytes of the image."""
    uplink: int = 20_000_000
    """Bits per second."""
    keep: bool = False
    """Stay up afterwards, until interrupted."""


Finished = Callable[[Result], None]


async def run_demo(options: Options, screen: Screen, finished: Finished) -> None:
    """Run it; `finished` is told the result before anything is taken down. Raises `DemoError`.

    Whatever happens, all processes and files of the demo are gone when this returns.
    """
    async with open_place() as place:
        try:
            async with trio.open_nursery() as nursery:
                await _run(options, screen, finished, place, nursery)
                nursery.cancel_scope.cancel()
        finally:
            screen.close()


async def _run(
    options: Options, screen: Screen, finished: Finished, place: Place, nursery: trio.Nursery
) -> None:
    upstream = await start_upstream(place, nursery)
    meter = Meter()
    port: int = await nursery.start(relay, upstream.host, upstream.port, meter)
    wan = f"127.0.0.1:{port}"
    site = Site(place, nursery, wan, options.uplink // 8)
    async with trio.open_nursery() as preparation:
        preparation.start_soon(site.start, options.nodes, screen.step)
        image = await _fill(upstream, options.size, screen)
    screen.step(
        f"all {options.nodes} nodes are connected; node-1 has an uplink of {options.uplink / 1e6:g} Mbit/s,"
        " the others have none"
    )
    seconds = await _watch_pull(site, f"{wan}/{REPOSITORY}:{TAG}", image.size, screen)
    crossed = meter.down
    last = site.nodes[-1]
    client = await pull_and_compare(place, last.registry, f"{upstream.host}:{upstream.port}", image)
    screen.step(f"{client} has pulled the image from {last.name}")
    result = Result(image.size, options.uplink, crossed, seconds, client, last.name)
    screen.show("")
    screen.show(as_table(result))
    finished(result)
    if options.keep:
        _tell_addresses(site, upstream, place, screen)
        await trio.sleep_forever()


async def _fill(upstream: Upstream, size: int, screen: Screen) -> Image:
    image = await trio.to_thread.run_sync(make_image, size, abandon_on_cancel=True)
    await upstream.fill(image)
    screen.step(
        f"upstream: {upstream.what} has {REPOSITORY}:{TAG}, {image.size / 1e6:.1f} MB,"
        f" {len(image.blobs)} blobs, {len(image.manifests)} manifests (linux/amd64, linux/arm64)"
    )
    return image


async def _watch_pull(site: Site, reference: str, size: int, screen: Screen) -> dict[str, float]:
    """All nodes pull at once, and the screen shows how far they are."""
    screen.step(f"all {len(site.nodes)} nodes pull at the same moment")
    rows = {
        node.name: Row(node.name, uplinked=number == 0, total=size) for number, node in enumerate(site.nodes)
    }
    start = time.monotonic()

    def told(node: DemoNode, event: dict[str, Any]) -> None:
        row = rows[node.name]
        if event["event"] == "done":
            row.have, row.seconds = row.total, time.monotonic() - start
        else:
            row.have = min(row.total, event["have_bytes"])

    async def show() -> None:
        while True:
            screen.progress(list(rows.values()))
            await trio.sleep(REFRESH)
            await site.refresh()
            _take_figures(rows, site.nodes)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(show)
        seconds = await site.pull_everywhere(reference, told)
        nursery.cancel_scope.cancel()
    with trio.move_on_after(DRAIN_LIMIT):
        await site.refresh()
    _take_figures(rows, site.nodes)
    screen.progress_ends(list(rows.values()))
    return seconds


def _take_figures(rows: dict[str, Row], nodes: Sequence[DemoNode]) -> None:
    for node in nodes:
        row = rows[node.name]
        row.wan_in = node.status["wan_bytes_in"]
        row.lan_in = node.status["lan_bytes_in"]
        row.lan_out = node.status["lan_bytes_out"]


def _tell_addresses(site: Site, upstream: Upstream, place: Place, screen: Screen) -> None:
    last = site.nodes[-1]
    screen.show("\nStaying up until Ctrl-C.\n")
    for node in site.nodes:
        screen.show(f"  {node.name}  registry {node.registry}  data {node.data_dir}  log {node.child.log}")
    screen.show(f"  upstream  {upstream.host}:{upstream.port}  ({place.directory})\n\nTry:")
    image = f"{last.registry}/{REPOSITORY}:{TAG}"
    screen.show(f"  meshsat status --data-dir {last.data_dir}")
    screen.show(f"  meshsat peers --data-dir {last.data_dir}")
    screen.show(f"  curl http://{last.registry}/v2/{REPOSITORY}/tags/list")
    screen.show(f"  skopeo inspect --tls-verify=false docker://{image}")
    screen.show(f"  podman pull --tls-verify=false {image}")
