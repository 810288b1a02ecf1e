"""`meshsat state`: write, sign, publish and look at what the fleet's sites must hold."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshsat.cli import plan
from meshsat.cli.options import ConfigFile, DataDir, Json, settings
from meshsat.cli.state_keys import PassphraseFile, key_app, root_app
from meshsat.cli.state_shown import (
    difference_lines,
    document_pairs,
    file_as_json,
    image_row,
    state_of_file,
    status_pairs,
)

if TYPE_CHECKING:
    from meshsat.cli.state_place import StatePlace
    from meshsat.fleet.document import DesiredState
    from meshsat.fleet.state_file import StateFile
    from meshsat.trust.keys import NodeKey

app = typer.Typer(
    help="What the fleet's sites must hold: write it, sign it, publish it, look at it.",
    short_help="What the fleet's sites must hold: write, sign, publish.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.command("plan")(plan.run)
app.add_typer(key_app, name="key")
app.add_typer(root_app, name="root")

LIFE = "90d"
KeyFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--key", metavar="FILE", help="A private key; may be repeated (default: those of this machine)."
    ),
]
Revision = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Which revision it is to be (default: the next).")
]
Expires = Annotated[
    str | None,
    typer.Option(
        "--expires", metavar="DURATION", help=f"How long it is to be good (default: the file's, or {LIFE})."
    ),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FILE.state", help="Take roots and revision from it (default: from the node)."
    ),
]
Pin = Annotated[bool, typer.Option("--pin", help="Write what each tag means now into it; the node is asked.")]
Authored = Annotated[Path, typer.Argument(metavar="FILE", help="A .toml or .yaml file.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE.state", help="What to write.")]


@app.command("draft")
def draft(
    file: Authored,
    output: Output,
    revision: Revision = None,
    expires: Expires = None,
    pin: Pin = False,
    source: From = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Make a state file, to be signed, of what is written in TOML or YAML."""
    from meshsat.cli.state_place import StatePlace, standing_lines

    place = StatePlace(settings(config, data_dir=data_dir))
    drafted = _drafted(place, file, revision, expires, source, pin=pin)
    place.write(output, drafted)
    for line in list(standing_lines(drafted, place.anchor))[-2:]:
        print(line)


@app.command("sign")
def sign(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.state...", help="State files.")],
    key: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Sign what is in a state file and the keys may sign: a desired state, a root, or both."""
    from meshsat.cli.audited import audited
    from meshsat.cli.exits import say
    from meshsat.cli.state_place import StatePlace, standing_lines

    loaded = settings(config, data_dir=data_dir)
    place = StatePlace(loaded)
    keys = place.require_keys(key or [], passphrase_file)
    for path in files:
        file, done = _signed(place, place.read(path), keys)
        if done:
            # Keys may be on a machine that is no member, and has no log.
            told = f"{', '.join(done)} in {path}"
            with audited(loaded, "state.sign", told) if loaded.data_dir.is_dir() else nullcontext():
                place.write(path, file)
        else:
            say(f"{path}: nothing in it is for these keys to sign that they have not signed already")
        for line in standing_lines(file, place.anchor):
            print(line)


@app.command("publish")
def publish(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A signed state file; or .toml or .yaml: draft and sign.")
    ],
    node: Annotated[
        bool, typer.Option("--node", help="To the node on this machine, and its site (the default).")
    ] = False,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="REGISTRY/NAME:TAG", help="To a registry, for `fleet.state`."),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option("--bundle", metavar="FILE.tar|DIR", help="Into an image layout, for `meshsat import`."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.state", help="Keep the signed file as well."),
    ] = None,
    revision: Revision = None,
    expires: Expires = None,
    pin: Pin = False,
    source: From = None,
    key: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Give a desired state to the fleet: to this node's site, to a registry, or onto a stick.

    A .toml or .yaml file is drafted and signed first, with the keys of this machine. Where the fleet has no
    root yet and this machine has the fleet's root key, root 1 is made, and a key that alone may sign states.
    """
    from meshsat.cli.audited import audited
    from meshsat.cli.state_place import StatePlace
    from meshsat.errors import InvalidInputError
    from meshsat.fleet.authoring import is_authored
    from meshsat.fleet.drafts import check_complete

    loaded = settings(config, data_dir=data_dir)
    place = StatePlace(loaded)
    if is_authored(file.name):
        _make_first_root(place, source)
        drafted = _drafted(place, file, revision, expires, source, pin=pin)
        signed, _ = _signed(place, drafted, place.require_keys(key or [], passphrase_file))
    elif revision or expires or pin or source or key:
        raise InvalidInputError(
            "a state file is published as it is: those flags are for .toml and .yaml files"
        )
    else:
        signed = place.read(file)
    fleet = place.fleet()
    if fleet is not None:
        check_complete(signed, *fleet)
    if output is not None:
        place.write(output, signed)
    if to is not None:
        from meshsat.cli.state_push import push

        told = f"{_title(signed)} to {to}"
        with audited(loaded, "state.publish", told) if loaded.data_dir.is_dir() else nullcontext():
            push(loaded, signed, to)
        print(f"{_title(signed)} is in {to}")
    if bundle is not None:
        from meshsat.cli.state_push import write_bundle

        write_bundle(signed, bundle)
        print(f"{_title(signed)} is in {bundle}: bring it in with `meshsat import {bundle}`")
    if node or (to is None and bundle is None):
        told = _post(place, signed)
        print(f"{_title(signed)} is published to the site of this node (which holds {told})")


@app.command("show")
def show(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A state file (default: what the node has in force)."),
    ] = None,
    as_json: Json = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Show a desired state: who has signed it, until when it is good, what it says."""
    import json

    from meshsat.cli.state_place import StatePlace, standing_lines
    from meshsat.cli.tables import show_pairs, show_table

    place = StatePlace(settings(config, data_dir=data_dir))
    status = None if file is not None else place.status()
    shown = place.read(file) if file is not None else place.held()
    if as_json:
        print(json.dumps(status if status is not None else file_as_json(place, shown)))
        return
    if status is not None:
        show_pairs(status_pairs(status))
    else:
        for line in standing_lines(shown, place.anchor):
            print(line)
        show_pairs(document_pairs(shown))
    state = state_of_file(shown)
    if state is not None and state.images:
        show_table(("REFERENCE", "SITES", "ROLES", "COPIES", "PRIORITY"), map(image_row, state.images))


@app.command("diff")
def diff(
    before: Annotated[
        str,
        typer.Argument(metavar="A", help="A file (.state, .toml, .yaml), or a revision that the node has."),
    ],
    after: Annotated[
        str | None,
        typer.Argument(metavar="[B]", help="The same; without it, A is compared with what is in force."),
    ] = None,
    as_json: Json = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Show what is different between two desired states: what B would change."""
    import json

    from meshsat.cli.state_place import StatePlace
    from meshsat.fleet.differences import differences
    from meshsat.fleet.document import DesiredState

    place = StatePlace(settings(config, data_dir=data_dir))
    if after is None:
        old, new = state_of_file(place.held()) or DesiredState(), _named(place, before)
    else:
        old, new = _named(place, before), _named(place, after)
    found = differences(old, new)
    if as_json:
        print(json.dumps([{"kind": one.kind, "what": one.what, "fields": one.fields} for one in found]))
        return
    if not found:
        print("no difference")
    for one in found:
        for line in difference_lines(one):
            print(line)


@app.command("rollback")
def rollback(
    revision: Annotated[int, typer.Argument(min=1, metavar="REVISION", help="One that the node still has.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.state", help="Write it, to be signed.")
    ] = None,
    publish_it: Annotated[
        bool, typer.Option("--publish", help="Sign it with the keys of this machine, and publish it.")
    ] = False,
    expires: Expires = None,
    key: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Draft a new revision that says what an earlier one said.

    What it names is still on the sites' disks, as far as `keep` says: going back costs the uplink nothing.
    """
    import time

    from meshsat.cli.state_place import StatePlace, life, standing_lines
    from meshsat.errors import InvalidInputError
    from meshsat.fleet.drafts import check_complete
    from meshsat.fleet.drafts import draft as make

    if output is None and not publish_it:
        raise InvalidInputError("say what to do with it: --output FILE.state, or --publish")
    place = StatePlace(settings(config, data_dir=data_dir))
    state = state_of_file(place.held(revision))
    assert state is not None  # noqa: S101 - the node gives a revision with its body
    known, following = place.known(None)
    drafted = make(known, state, following, time.time(), life(expires or LIFE))
    if publish_it:
        drafted, _ = _signed(place, drafted, place.require_keys(key or [], passphrase_file))
        check_complete(drafted, *place.require_fleet())
    if output is not None:
        place.write(output, drafted)
    if publish_it:
        _post(place, drafted)
        print(f"revision {following} says what revision {revision} said, and is published")
    else:
        for line in list(standing_lines(drafted, place.anchor))[-2:]:
            print(line)


# --- what they share ---


def _drafted(
    place: "StatePlace",
    path: Path,
    revision: int | None,
    expires: str | None,
    source: Path | None,
    *,
    pin: bool,
) -> "StateFile":
    import time

    from meshsat.cli.state_place import life
    from meshsat.errors import ConfigError, InvalidInputError
    from meshsat.fleet.authoring import is_authored, pinned
    from meshsat.fleet.drafts import draft as make

    if not is_authored(path.name):
        raise InvalidInputError(f"{path} is not called .toml or .yaml: what is it written in?")
    authored = _authored(path)
    known, following = place.known(source)
    if not known.roots:
        raise ConfigError(
            "the fleet has no root yet, which says who may sign: make one with `meshsat state root new`, or "
            f"run `meshsat state publish {path}` where `meshsat init` ran"
        )
    state = authored.state
    if pin:
        state = pinned(state, _resolver(place))
    return make(known, state, revision or following, time.time(), life(expires or authored.expires or LIFE))


def _authored(path: Path) -> Any:
    from meshsat.cli.state_place import read_bounded
    from meshsat.fleet.authoring import parse_authored_untrusted
    from meshsat.fleet.document import DOCUMENT_LIMIT

    return parse_authored_untrusted(str(path), read_bounded(path, DOCUMENT_LIMIT))


def _resolver(place: "StatePlace") -> Any:
    """Asks the node what a tag means."""
    from meshsat.bundle.place import Repository
    from meshsat.cli.node_place import NodePlace
    from meshsat.errors import NotFoundError
    from meshsat.oci.reference import Reference

    node = NodePlace(place.config.data_dir)

    def resolve(reference: Reference) -> str:
        found = node.manifest(Repository.of(reference), reference.tag or "latest")
        if found is None:
            raise NotFoundError(f"--pin: the node can't tell what {reference} means")
        return str(found.manifest.digest)

    return resolve


def _signed(place: "StatePlace", file: "StateFile", keys: "list[NodeKey]") -> "tuple[StateFile, list[str]]":
    from meshsat.fleet.drafts import signed

    done: list[str] = []
    for key in keys:
        file, names = signed(file, key, place.anchor)
        done += names
    return file, list(dict.fromkeys(done))


def _make_first_root(place: "StatePlace", source: Path | None) -> None:
    """Where the fleet has none, and this machine has the fleet's root key."""
    import time

    from meshsat.cli.exits import say
    from meshsat.cli.state_keys import ROOT_LIFE
    from meshsat.cli.state_place import STATE_KEY, life, read_key
    from meshsat.fleet.drafts import first_root
    from meshsat.private_files import write_file
    from meshsat.trust.keys import NodeKey
    from meshsat.trust.state_documents import Role

    if source is not None or place.status()["root"] is not None:
        return
    fleet = place.fleet()
    root_key = place.identity_dir / "root.key"
    if fleet is None or not root_key.exists():
        return
    path = place.identity_dir / STATE_KEY
    if not path.exists():
        write_file(path, NodeKey.generate().to_pem())
    keys = [read_key(one, None) for one in (path, root_key)]
    name, anchor = fleet
    states, roots = Role(frozenset({keys[0].peer_id}), 1), Role(frozenset({anchor}), 1)
    root, _ = _signed(place, first_root(name, roots, states, time.time(), life(ROOT_LIFE)), keys)
    _post(place, root)
    say(f"root 1 is made: {path} alone may sign desired states; keep a copy of it, and of {root_key}")


def _post(place: "StatePlace", file: "StateFile") -> str:
    from meshsat.fleet.state_file import encode_state_file

    revision = place.node.post_raw("/api/v1/state", encode_state_file(file))["revision"]
    return "no state yet" if revision is None else f"revision {revision}"


def _named(place: "StatePlace", text: str) -> "DesiredState":
    """Of a file, or of a revision that the node has."""
    from meshsat.errors import InvalidInputError
    from meshsat.fleet.authoring import is_authored
    from meshsat.fleet.document import DesiredState

    if text.isdecimal() and not Path(text).exists():
        return state_of_file(place.held(int(text))) or DesiredState()
    if is_authored(text):
        found: DesiredState = _authored(Path(text)).state
        return found
    state = state_of_file(place.read(Path(text)))
    if state is None:
        raise InvalidInputError(f"{text} holds no desired state, but roots alone")
    return state


def _title(file: "StateFile") -> str:
    from meshsat.fleet.drafts import standings

    return standings(file, None)[-1].name
