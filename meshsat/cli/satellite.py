"""`meshsat satellite`: following Harbor Satellite's states, and moving a satellite over to this node."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from meshsat.cli.options import ConfigFile, DataDir, Json, settings

app = typer.Typer(
    help="Harbor Satellite's states as what this node must hold.",
    short_help="Follow Harbor Satellite's states; move a satellite over.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command("status")
def status(config: ConfigFile = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show what the states say, and how this node follows them."""
    import json

    from meshsat.cli.client import NodeClient
    from meshsat.cli.tables import show_pairs

    told = NodeClient(settings(config, data_dir=data_dir).data_dir).get("/api/v1/satellite")
    if as_json:
        print(json.dumps(told))
    else:
        show_pairs(_pairs(told))


def _pairs(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    import time

    from meshsat.cli.units import duration

    def ago(moment: float | None) -> str:
        return "never" if moment is None else f"{duration(max(0.0, time.time() - moment))} ago"

    yield "satellite", told["name"] or "(not registered)"
    yield "state", told["state"] or "(not known)"
    standing = "in shadow: counted, not followed" if told["shadow"] else "not in force"
    yield "desired state", f"in force, {told['version']}" if told["in_force"] else standing
    yield "looked", f"{ago(told['checked_at'])}, each {duration(told['poll'])}"
    for group in told["groups"]:
        what = f"{group['artifacts']} artifacts, read {ago(group['fetched_at'])}"
        yield "group", f"{group['reference']}  {what if group['digest'] else 'not known'}"
    for image in told["images"]:
        yield "image", image
    for setting in told["passed_over"]:
        yield "not taken over", setting
    for problem in told["problems"]:
        yield "problem", problem


@app.command("adopt")
def adopt(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Configuration directory of the satellite (config.json).")
    ],
    apply: Annotated[
        bool, typer.Option("--apply", help="Change the file of --config and keep the login; else only show.")
    ] = False,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Follow it in shadow, beside the satellite that goes on.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Take over a satellite's state and login into this node's configuration."""
    from meshsat.cli.adopting import adopt_satellite

    adopt_satellite(directory, config, data_dir, apply=apply, shadow=shadow)
