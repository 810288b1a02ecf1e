"""`meshsat audit`: who did what on this node, from the files of the audit log."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from meshsat.cli.exits import FAILED, say
from meshsat.cli.options import ConfigFile, DataDir, Json, settings

app = typer.Typer(
    name="audit",
    help="Show who did what on this node, and check the log of it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("tail")
def tail(
    count: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="How many.")] = 20,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Show the last entries, the newest last."""
    from meshsat.audit.lines import readable
    from meshsat.audit.opening import journal_of

    for line in journal_of(settings(config, data_dir=data_dir)).lines(count):
        print(readable(line))


@app.command("verify")
def verify(config: ConfigFile = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Check that no line of the log was changed, taken out or put in between.

    Whoever can write the files can write all of them anew: this finds accidents, and clumsy hands.
    """
    from meshsat.audit.opening import journal_of

    found = journal_of(settings(config, data_dir=data_dir)).verify()
    if as_json:
        print(json.dumps(asdict(found)))
    elif found.lines:
        print(f"{found.lines} lines, from {found.first} to {found.head.seq}  {found.head.hash}")
    else:
        print("the audit log is empty")
    for fault in found.faults:
        say(fault)
    if found.faults:
        raise typer.Exit(FAILED)
