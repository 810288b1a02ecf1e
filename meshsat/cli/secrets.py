"""`meshsat secrets`: the logins to upstream registries, and the key that they are sealed with."""

import json

import typer

from meshsat.cli.exits import FAILED, say
from meshsat.cli.options import ConfigFile, DataDir, Json, settings

app = typer.Typer(
    name="secrets",
    help="Show what upstream logins there are; make a new key for them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_(config: ConfigFile = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show for which registries there is a login, whose, and since when. Never a password."""
    from meshsat.audit.lines import when
    from meshsat.cli.secret_place import secret_place
    from meshsat.cli.tables import show_table

    told = secret_place(settings(config, data_dir=data_dir)).secrets()
    if as_json:
        print(json.dumps(told))
        return
    print(f"key: {told['key_source']}")
    rows = [
        (login["registry"], login["username"] or "?", when(login["since"]) if login["since"] else "-")
        for login in told["logins"]
    ]
    show_table(("REGISTRY", "USER", "SINCE"), rows)
    for login in told["logins"]:
        if login["problem"]:
            say(login["problem"])


@app.command("rotate")
def rotate(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Seal all logins with a new machine key.

    Where systemd gives the key, with the one that it gives now. Killed half-way, it can be run again.
    """
    from meshsat.cli.secret_place import secret_place

    told = secret_place(settings(config, data_dir=data_dir)).rotate()
    print(f"{told['resealed']} logins sealed with a new key (key: {told['key_source']})")
    if told["lost"]:
        say(f"no key opens the logins for {', '.join(told['lost'])}: log in there again")
        raise typer.Exit(FAILED)
