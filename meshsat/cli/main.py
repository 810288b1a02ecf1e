"""The command `meshsat`: the list of verbs, and where a fault becomes a line and an exit code."""

import sys

import typer

from meshsat.cli import (
    audit,
    certificate,
    demo,
    desired,
    export,
    fleet,
    gc,
    images,
    import_,
    init,
    invite,
    join,
    login,
    logout,
    node,
    peers,
    plan,
    pull,
    reload,
    runtime,
    satellite,
    secrets,
    shadow,
    state,
    status,
    version,
    wan,
)
from meshsat.cli.exits import INTERRUPTED, exit_code, say
from meshsat.errors import MeshsatError

app = typer.Typer(
    name="meshsat",
    help="Container images to places with a bad line: once over the uplink, then from node to node.",
    epilog="First look: meshsat demo.  First node: meshsat init, then meshsat node.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("node")(node.run)
app.command("init")(init.run)
app.command("invite")(invite.run)
app.command("join")(join.run)
app.command("certificate")(certificate.run)
app.command("login")(login.run)
app.command("logout")(logout.run)
app.command("pull")(pull.run)
app.command("export")(export.run)
app.command("import")(import_.run)
app.command("status")(status.run)
app.command("peers")(peers.run)
app.command("images")(images.run)
app.command("desired")(desired.run)
app.command("wan")(wan.run)
app.command("plan")(plan.run)
app.command("reload")(reload.run)
app.command("gc")(gc.run)
app.command("version")(version.run)
app.command("demo")(demo.run)
app.command("shadow")(shadow.run)
app.add_typer(fleet.app, name="fleet")
app.add_typer(runtime.app, name="runtime")
app.add_typer(state.app, name="state")
app.add_typer(secrets.app, name="secrets")
app.add_typer(audit.app, name="audit")
app.add_typer(satellite.app, name="satellite")


def main() -> None:
    """Run the verb named on the command line. Ends the process: see `exits` for the codes."""
    try:
        app()
    except MeshsatError as fault:
        say(str(fault))
        sys.exit(exit_code(fault))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
