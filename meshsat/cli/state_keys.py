"""`meshsat state key` and `meshsat state root`: who may sign desired states."""

from pathlib import Path
from typing import Annotated

import typer

from meshsat.cli.options import ConfigFile, DataDir, settings

key_app = typer.Typer(
    help="Keys that sign desired states, and roots.",
    short_help="Keys that sign desired states.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
root_app = typer.Typer(
    help="Roots: which keys may sign, and how many it takes.",
    short_help="Which keys may sign, and how many it takes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Where the passphrase is (default: asked for)."),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE.state", help="What to write.")]
Expires = Annotated[str, typer.Option("--expires", metavar="DURATION", help="How long it is to be good.")]
ROOT_LIFE = "365d"


@key_app.command("new")
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file for the private key.")],
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Encrypt it with a passphrase, which is asked for.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a key, and print its id: what goes into a root."""
    from meshsat.cli.state_place import ask_passphrase
    from meshsat.errors import ConfigError
    from meshsat.private_files import write_file
    from meshsat.trust.keys import NodeKey

    if file.exists():
        raise ConfigError(f"{file} is there already: name a new file")
    secret = None
    if passphrase or passphrase_file is not None:
        secret = ask_passphrase(f"Passphrase for {file}: ", passphrase_file)
        if passphrase_file is None and ask_passphrase("The same again: ", None) != secret:
            raise ConfigError("these were two different passphrases: nothing was written")
        if not secret:
            raise ConfigError("an empty passphrase protects nothing: nothing was written")
    key = NodeKey.generate()
    write_file(file.absolute(), key.to_pem(secret))
    print(key.peer_id)


@key_app.command("show")
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A private key's file.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Print the id of a key."""
    from meshsat.cli.state_place import read_key

    print(read_key(file, passphrase_file).peer_id)


Keys = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY", help="A key's id, or its file; may be repeated."),
]
Threshold = Annotated[int | None, typer.Option(min=1, max=16, metavar="N", help="How many of them it takes.")]


@root_app.command("new")
def first(
    output: Output,
    root_key: Keys = None,
    state_key: Keys = None,
    root_threshold: Threshold = None,
    state_threshold: Threshold = None,
    expires: Expires = ROOT_LIFE,
    passphrase_file: PassphraseFile = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Draft the fleet's first root.

    It is to be signed by the fleet's root key (where `meshsat init` ran), and by its own root keys.
    """
    import time

    from meshsat.cli.state_place import StatePlace, key_id, life, standing_lines
    from meshsat.errors import InvalidInputError
    from meshsat.fleet.drafts import first_root
    from meshsat.trust.state_documents import Role

    place = StatePlace(settings(config, data_dir=data_dir))
    fleet, anchor = place.require_fleet()
    roots = frozenset(key_id(text, passphrase_file) for text in root_key or ()) or frozenset({anchor})
    states = frozenset(key_id(text, passphrase_file) for text in state_key or ())
    if not states:
        raise InvalidInputError("name the keys that may sign desired states: --state-key KEY")
    file = first_root(
        fleet,
        Role(roots, root_threshold or 1),
        Role(states, state_threshold or 1),
        time.time(),
        life(expires),
    )
    place.write(output, file)
    for line in standing_lines(file, anchor):
        print(line)


@root_app.command("change")
def change(
    output: Output,
    add_root_key: Keys = None,
    remove_root_key: Keys = None,
    add_state_key: Keys = None,
    remove_state_key: Keys = None,
    root_threshold: Threshold = None,
    state_threshold: Threshold = None,
    expires: Expires = ROOT_LIFE,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE.state", help="Take the roots from it (default: the node's)."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Draft the next root: keys added or taken back, a threshold changed, a new expiry.

    It is to be signed by enough root keys of the root before it, and by enough of its own.
    """
    import time

    from meshsat.cli.state_place import StatePlace, key_id, life, standing_lines
    from meshsat.errors import InvalidInputError
    from meshsat.fleet.drafts import newest_root, next_root
    from meshsat.fleet.state_file import StateFile
    from meshsat.trust.state_documents import Role

    place = StatePlace(settings(config, data_dir=data_dir))
    known, _ = place.known(source)
    last = newest_root(known)

    def changed(role: Role, add: list[str], remove: list[str], threshold: int | None) -> Role:
        taken = {key_id(text, passphrase_file) for text in remove}
        strange = taken - role.keys
        if strange:
            raise InvalidInputError(f"{min(strange)} is no key of that role in root {last.version}")
        keys = (role.keys - taken) | {key_id(text, passphrase_file) for text in add}
        return Role(keys, threshold or role.threshold)

    file = next_root(
        StateFile(known.roots),
        changed(last.root, add_root_key or [], remove_root_key or [], root_threshold),
        changed(last.state, add_state_key or [], remove_state_key or [], state_threshold),
        time.time(),
        life(expires),
    )
    place.write(output, file)
    for line in list(standing_lines(file, place.anchor))[-2:]:
        print(line)
