"""`meshsat import`: images from a file, a directory or a pipe into the node, which gives them to its site."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from meshsat.cli.audited import audited
from meshsat.cli.exits import FAILED, say
from meshsat.cli.options import ConfigFile, DataDir, Json, settings
from meshsat.errors import MeshsatError

PIPE = "-"


def run(
    source: Annotated[
        str,
        typer.Argument(metavar="FILE|DIR", help="What meshsat export, skopeo, podman or docker wrote; or -."),
    ],
    name: Annotated[
        str | None,
        typer.Option("--as", metavar="REF", help="What to call it here: REGISTRY/NAME[:TAG]."),
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Bring images from a file or directory into the node.

    Its peers get them from there. What the node has already is passed over, so that it can be run again.
    """
    from meshsat.bundle.importing import Brought, Event, Failed, Import, Moved
    from meshsat.bundle.naming import Renaming
    from meshsat.bundle.plan import Plan
    from meshsat.bundle.sources import open_pipe, open_source
    from meshsat.cli.bars import Bar
    from meshsat.cli.node_place import NodePlace
    from meshsat.cli.state_push import StateIntake

    plan = Plan(None if name is None else Renaming.parse_untrusted(name))
    loaded = settings(config, data_dir=data_dir)
    place = NodePlace(loaded.data_dir)
    archive = open_pipe(sys.stdin.buffer) if source == PIPE else open_source(Path(source))
    ended: list[Brought | Failed] = []
    fault: MeshsatError | None = None
    with Bar("import", as_json=as_json) as bar:

        def tell(event: Event) -> None:
            if isinstance(event, Moved):
                bar.move(event.have, event.total)
                return
            ended.append(event)
            if as_json:
                bar.line(_line(event))

        try:
            with audited(loaded, "image.import", source) as told:
                Import(place, archive, plan, tell, StateIntake(loaded.data_dir)).run()
                told.reason = f"{len(ended)} images"
        except MeshsatError as broken:
            fault = broken
    failed = [event for event in ended if isinstance(event, Failed)]
    if as_json:
        print(json.dumps(_last(len(ended) - len(failed), len(failed), fault)))
    else:
        _show(ended, source)
    if fault is not None:
        raise fault
    if failed:
        raise typer.Exit(FAILED)


def _line(event: Any) -> dict[str, Any]:
    from meshsat.bundle.importing import Failed

    entry = event.entry
    told = {
        "reference": None if entry.reference is None else str(entry.reference),
        "digest": str(entry.root.digest),
    }
    if isinstance(event, Failed):
        return {"event": "failed", **told, "total_bytes": 0, "message": event.reason}
    return {"event": "image", **told, "total_bytes": event.size, "message": event.note}


def _last(brought: int, failed: int, fault: MeshsatError | None) -> dict[str, Any]:
    if fault is not None:
        message: str | None = str(fault)
    else:
        message = f"{failed} of {failed + brought} could not be imported" if failed else None
    return {"event": "error" if message else "done", "images": brought, "failed": failed, "message": message}


def _show(ended: list[Any], source: str) -> None:
    from meshsat.bundle.importing import Failed
    from meshsat.cli.units import size

    for event in ended:
        entry = event.entry
        called = str(entry.reference or entry.root.digest)
        if isinstance(event, Failed):
            say(f"import of {called} from {source} failed: {event.reason}")
        else:
            note = f"  ({event.note})" if event.note else ""
            print(f"{called}  {entry.root.digest}  {size(event.size)}{note}")
