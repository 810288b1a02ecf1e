"""`meshsat pull`: have the node fetch an image, and watch it."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from meshsat.cli.exits import FAILED, say
from meshsat.cli.options import ConfigFile, DataDir, Json, settings
from meshsat.errors import MeshsatError

Event = dict[str, Any]


def run(
    reference: Annotated[
        str, typer.Argument(metavar="REF", help="The image: [REGISTRY/]NAME[:TAG][@DIGEST].")
    ],
    pin: Annotated[bool, typer.Option("--pin", help="Keep it whatever the disk budget says.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Have the node fetch an image, and wait for it.

    It comes from the node's peers where they hold it, over the uplink otherwise.
    """
    from meshsat.cli.client import NodeClient

    client = NodeClient(settings(config, data_dir=data_dir).data_dir)
    events = _until_end(client.stream("/api/v1/pull", {"reference": reference, "pin": pin}), reference)
    last = _print_lines(events) if as_json else _show_bar(events, reference)
    if last["event"] == "error":
        say(f"pull of {reference} failed: {last['message']}")
        raise typer.Exit(FAILED)


def _until_end(events: Iterator[Event], reference: str) -> Iterator[Event]:
    """The events of the node, always with a last one that is `done` or `error`."""
    message = "the node ended the pull without saying how it went"
    try:
        for event in events:
            yield event
            if event["event"] in ("done", "error"):
                return
    except MeshsatError as fault:
        message = str(fault)
    yield {
        "event": "error",
        "reference": reference,
        "have_bytes": 0,
        "total_bytes": 0,
        "digest": None,
        "message": message,
    }


def _print_lines(events: Iterator[Event]) -> Event:
    last: Event = {}
    for last in events:
        print(json.dumps(last), flush=True)
    return last


def _show_bar(events: Iterator[Event], reference: str) -> Event:
    """A bar on a terminal; where there is none, the last line alone."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from meshsat.cli.units import size

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True, highlight=False)
    last: Event = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(reference, total=None)
        for last in events:
            progress.update(bar, completed=last["have_bytes"], total=last["total_bytes"] or None)
    if last["event"] == "done":
        print(f"{reference}  {last['digest']}  {size(last['total_bytes'])}")
    return last
