"""Where the machine's key comes from: systemd, else a file of our own.

  $CREDENTIALS_DIRECTORY/meshsat.key      a credential of the unit; with LoadCredentialEncrypted= it is bound
                                          to the TPM or to the host (systemd.exec(5), systemd-creds(1))
  $CREDENTIALS_DIRECTORY/meshsat.key.old  the one before it, while it is being replaced
  DATA/secrets/machine.key                mode 0600, made when first needed
  DATA/secrets/machine.key.next           the next one, while a rotation is under way

The first that is there seals; all of them open.
"""

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meshsat.errors import InvalidInputError, MeshsatError
from meshsat.private_files import sync_directory, write_file
from meshsat.vault.sealing import KEY_LENGTH, KEY_LIMIT, MachineKey

CREDENTIAL = "meshsat.key"
OLD_CREDENTIAL = "meshsat.key.old"
KEY_FILE = "machine.key"
NEXT_KEY_FILE = "machine.key.next"
SYSTEMD = "systemd credential"
FILE = "key file"

_FORM = re.compile(rb"[0-9a-f]{64}\n?")


class VaultError(MeshsatError):
    """A file of the vault, or the machine's key, cannot be used as it is."""


def parse_key_file_untrusted(raw: bytes) -> bytes:
    """The key in a key file: 64 hexadecimal digits. Raises `InvalidInputError`."""
    if not _FORM.fullmatch(raw):
        raise InvalidInputError("not 64 hexadecimal digits")
    return bytes.fromhex(raw.decode("ascii"))


@dataclass(frozen=True, slots=True)
class MachineKeys:
    """`directory` is the vault's. Blocking; each call reads the files anew."""

    directory: Path
    environ: Mapping[str, str]

    @property
    def source(self) -> str:
        """Where the key that seals is from, or will be."""
        return FILE if self._credential(CREDENTIAL) is None else SYSTEMD

    @property
    def place(self) -> Path:
        return self._credential(CREDENTIAL) or self.directory / KEY_FILE

    def sealing(self) -> MachineKey | None:
        """The key that seals; None where there is none yet. Raises `VaultError`."""
        credential = self._credential(CREDENTIAL)
        if credential is not None:
            return MachineKey(_read_credential(credential), SYSTEMD)
        return self._file(KEY_FILE)

    def opening(self) -> list[MachineKey]:
        """All keys that there are, the one that seals first. Raises `VaultError`."""
        found = [self.sealing()]
        old = self._credential(OLD_CREDENTIAL)
        if old is not None:
            found.append(MachineKey(_read_credential(old), SYSTEMD))
        if self.source == SYSTEMD:
            found.append(self._file(KEY_FILE))
        found.append(self._file(NEXT_KEY_FILE))
        return [key for key in found if key is not None]

    def make(self, name: str = KEY_FILE) -> MachineKey:
        """Make a key file. Raises `ConfigError`."""
        secret = secrets.token_bytes(KEY_LENGTH)
        write_file(self.directory / name, secret.hex().encode() + b"\n")
        return MachineKey(secret, FILE)

    def next(self) -> MachineKey:
        """The key that a rotation ends with: that of one which was interrupted, else a new one."""
        return self._file(NEXT_KEY_FILE) or self.make(NEXT_KEY_FILE)

    def promote(self) -> None:
        """Have the next key be the key, in one step. Raises `OSError`."""
        (self.directory / NEXT_KEY_FILE).replace(self.directory / KEY_FILE)
        sync_directory(self.directory)

    def drop_files(self) -> None:
        """Remove the key files, where systemd gives the key. Raises `OSError`."""
        for name in (KEY_FILE, NEXT_KEY_FILE):
            (self.directory / name).unlink(missing_ok=True)
        sync_directory(self.directory)

    def _credential(self, name: str) -> Path | None:
        directory = self.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            return None
        path = Path(directory, name)
        return path if path.exists() else None

    def _file(self, name: str) -> MachineKey | None:
        path = self.directory / name
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if mode & 0o077:
                    raise VaultError(
                        f"{path} can be read by others (mode {mode & 0o777:o}); run: chmod 600 {path}"
                    )
                return MachineKey(parse_key_file_untrusted(file.read(KEY_LIMIT + 1)), FILE)
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise VaultError(f"{path} cannot be read: {fault.strerror}") from None
        except InvalidInputError as fault:
            raise VaultError(
                f"{path}: {fault}; restore it, or remove it and log in to the registries again"
            ) from None


def _read_credential(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            secret = file.read(KEY_LIMIT + 1)
    except OSError as fault:
        raise VaultError(f"{path} cannot be read: {fault.strerror}") from None
    if not KEY_LENGTH <= len(secret) <= KEY_LIMIT:
        raise VaultError(f"{path} has {len(secret)} bytes; a machine key has {KEY_LENGTH} to {KEY_LIMIT}")
    return secret
