"""What the verbs of `meshsat state` work on: state files, keys, the node of this machine, its fleet."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshsat.errors import ConfigError, InvalidInputError
from meshsat.fleet.state_file import FILE_LIMIT, StateFile, encode_state_file, parse_state_file_untrusted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshsat.cli.client import NodeClient
    from meshsat.config import Config
    from meshsat.trust.keys import NodeKey, PeerId

STATE_KEY = "state.key"
"""In the directory of the identity: what `publish` makes where there is no root yet."""
KEY_LIMIT = 4096


class StatePlace:
    def __init__(self, config: Config) -> None:
        self.config = config

    # --- files ---

    @staticmethod
    def read(path: Path) -> StateFile:
        """Raises `InvalidInputError`, `ConfigError`."""
        raw = read_bounded(path, FILE_LIMIT)
        try:
            return parse_state_file_untrusted(raw)
        except InvalidInputError as fault:
            raise InvalidInputError(f"{path}: {fault}") from None

    @staticmethod
    def write(path: Path, file: StateFile) -> None:
        """Raises `ConfigError`."""
        from meshsat.private_files import write_file

        write_file(path.absolute(), encode_state_file(file))

    # --- the fleet ---

    @property
    def identity_dir(self) -> Path:
        from meshsat.mesh.identity import identity_dir

        return identity_dir(self.config.data_dir)

    def fleet(self) -> tuple[str, PeerId] | None:
        """The id of this machine's fleet, and its root key; None where it belongs to none."""
        from meshsat.mesh.identity import is_member, load
        from meshsat.trust.passes import parse_root_untrusted, root_peer

        if not is_member(self.config.data_dir):
            return None
        root = load(self.config.data_dir).root
        return parse_root_untrusted(root).fleet, root_peer(root)

    def require_fleet(self) -> tuple[str, PeerId]:
        fleet = self.fleet()
        if fleet is None:
            raise ConfigError(
                f"{self.config.data_dir} belongs to no fleet: do this on a member's machine, "
                "e.g. where `meshsat init` ran"
            )
        return fleet

    @property
    def anchor(self) -> PeerId | None:
        fleet = self.fleet()
        return None if fleet is None else fleet[1]

    # --- the node ---

    @property
    def node(self) -> NodeClient:
        from meshsat.cli.client import NodeClient

        return NodeClient(self.config.data_dir)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.node.get("/api/v1/state")
        return found

    def held(self, revision: int | None = None) -> StateFile:
        """What the node has in force, or an earlier revision. Raises a `MeshsatError`."""
        query = "" if revision is None else f"?revision={revision}"
        fields = self.node.get(f"/api/v1/state/file{query}")
        return parse_state_file_untrusted(json.dumps(fields).encode())

    def known(self, file: Path | None) -> tuple[StateFile, int]:
        """The roots that hold, and the revision that comes next: of a state file, or of the node."""
        if file is None:
            status = self.status()
            return self.held(), int(status["next_revision"])
        from meshsat.fleet.drafts import standings
        from meshsat.trust.state_documents import Head

        found = self.read(file)
        heads = [one.document for one in standings(found, self.anchor) if isinstance(one.document, Head)]
        return found, heads[-1].version + 1 if heads else 1

    # --- keys ---

    def keys(self, paths: list[Path], passphrase_file: Path | None) -> list[NodeKey]:
        """The keys in these files; where none is named, those of this machine that sign states and roots."""
        if paths:
            return [read_key(path, passphrase_file) for path in paths]
        own = [self.identity_dir / name for name in (STATE_KEY, "root.key")]
        return [read_key(path, passphrase_file) for path in own if path.exists()]

    def require_keys(self, paths: list[Path], passphrase_file: Path | None) -> list[NodeKey]:
        found = self.keys(paths, passphrase_file)
        if not found:
            raise ConfigError(
                f"there is no key to sign with in {self.identity_dir}: name one with --key FILE, "
                "or make one with `meshsat state key new FILE`"
            )
        return found


def key_id(text: str, passphrase_file: Path | None = None) -> PeerId:
    """A key's id, as such or as the file of the key. Raises `InvalidInputError`, `ConfigError`."""
    from meshsat.trust.keys import parse_peer_id_untrusted

    with suppress(InvalidInputError):
        return parse_peer_id_untrusted(text)
    if not Path(text).exists():
        raise InvalidInputError(f"{text[:80]!r} is neither the id of a key (12D3KooW...) nor a key's file")
    return read_key(Path(text), passphrase_file).peer_id


def read_key(path: Path, passphrase_file: Path | None) -> NodeKey:
    """Asks for the passphrase on a terminal where there is one. Raises `ConfigError`."""
    from meshsat.trust.keys import NodeKey, is_encrypted

    try:
        mode = path.stat().st_mode
        pem = read_bounded(path, KEY_LIMIT)
    except OSError as fault:
        raise ConfigError(f"{path} cannot be read: {fault.strerror}") from None
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others (mode {mode & 0o777:o}); run: chmod 600 {path}")
    passphrase = None
    if is_encrypted(pem):
        passphrase = ask_passphrase(f"Passphrase of {path}: ", passphrase_file)
    try:
        return NodeKey.from_pem(pem, passphrase)
    except InvalidInputError as fault:
        raise ConfigError(f"{path}: {fault}") from None


def ask_passphrase(prompt: str, file: Path | None) -> bytes:
    """Raises `ConfigError`."""
    import getpass
    import sys

    if file is not None:
        return read_bounded(file, KEY_LIMIT).rstrip(b"\r\n")
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask for the passphrase on: give --passphrase-file")
    return getpass.getpass(prompt).encode()


def read_bounded(path: Path, limit: int) -> bytes:
    """Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as fault:
        raise ConfigError(f"{path} cannot be read: {fault.strerror}") from None
    if len(raw) > limit:
        raise ConfigError(f"{path} has more than {limit} bytes: it is none of these files")
    return raw


def standing_lines(file: StateFile, anchor: PeerId | None) -> Iterator[str]:
    """How far each document of a file is signed."""
    from meshsat.fleet.drafts import standings

    for standing in standings(file, anchor):
        parts = [f"{one.name}: {len(one.signers)} of {one.role.threshold}" for one in standing.asked]
        yield f"{standing.name}  signed by {'; '.join(parts)}" + ("" if standing.complete else "  INCOMPLETE")
        if not standing.complete:
            yield f"  missing {standing.missing()}"


def life(text: str) -> float:
    """Seconds of `--expires`. Raises `InvalidInputError`."""
    from meshsat.cli.units import parse_duration_untrusted

    return parse_duration_untrusted(text)
