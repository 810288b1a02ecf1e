"""The vault: logins to upstream registries, `DATA/secrets/`, directory mode 0700, every file 0600.

  REGISTRY.sealed    one login: user name, secret, since when (sealing.py)
  machine.key        what opens them, where systemd gives no key (machine_keys.py)
  machine.key.next   while a rotation is under way
  lock               held by whoever changes something

Any process of the node's user may change it at any time; whoever reads sees the old or the new. Files are
replaced atomically, and a rotation has both keys on the disk until the last login is sealed with the new one:
killed at any instruction, all of them still open. Everything here blocks, for a few small files: call it in a
thread.
Law: a secret leaves by `get` alone.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from meshsat.errors import ConfigError, InvalidInputError
from meshsat.oci.fields import parse_object_untrusted
from meshsat.oci.reference import parse_registry_untrusted
from meshsat.private_files import sync_directory, write_file
from meshsat.vault.machine_keys import FILE, SYSTEMD, MachineKeys, VaultError
from meshsat.vault.sealing import (
    SEALED_LIMIT,
    MachineKey,
    UnsealError,
    key_id_untrusted,
    open_untrusted,
    seal,
)

DIRECTORY = "secrets"
PURPOSE = "upstream login"
USERNAME_LIMIT = 256
"""Characters."""
SECRET_LIMIT = 16 * 1024
"""Bytes in UTF-8: some tokens are long."""
LOGINS = 256
"""The most registries."""
LOCK_LIMIT = 10.0
"""Seconds for another process to finish its change."""
_SUFFIX = ".sealed"


@dataclass(frozen=True, slots=True)
class Login:
    username: str
    secret: str = field(repr=False)
    since: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A login, as it may be shown."""

    registry: str
    username: str | None
    """None: it cannot be opened."""
    since: float | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Rotated:
    resealed: int
    lost: tuple[str, ...]
    """Registries whose logins no key opens."""


class Vault:
    """`environ` is where systemd tells its credentials' directory; `unix` gives Unix seconds."""

    def __init__(
        self, data_dir: Path, environ: Mapping[str, str] | None = None, unix: Callable[[], float] = time.time
    ) -> None:
        self.directory = data_dir / DIRECTORY
        self._unix = unix
        self._keys = MachineKeys(self.directory, os.environ if environ is None else environ)
        self._changes = 0
        self._looked: tuple[int, int] | None = None
        self._problems: list[str] = []

    @property
    def key_source(self) -> str:
        return self._keys.source

    def stamp(self) -> tuple[int, int]:
        """Another one whenever anything in the vault may have changed. One call of the system."""
        try:
            return self.directory.stat().st_mtime_ns, self._changes
        except OSError:
            return 0, self._changes

    def put(self, registry: str, username: str, secret: str) -> None:
        """Keep a login, in place of the registry's earlier one.

        Raises `InvalidInputError` for what no login can be, `VaultError`, `ConfigError` (the disk).
        """
        registry = parse_registry_untrusted(registry)
        login = check_login_untrusted(username, secret, self._unix())
        with self._lock():
            if not self._path(registry).exists() and len(self._registries()) >= LOGINS:
                raise VaultError(f"{self.directory} holds {LOGINS} logins, the most that it may")
            self._write(registry, login, self._keys.sealing() or self._keys.make())

    def get(self, registry: str) -> Login | None:
        """Raises `VaultError` where there is one that cannot be opened, with what to do."""
        sealed = self._sealed(registry)
        if sealed is None:
            return None
        try:
            return self._open(registry, sealed, self._keys.opening())
        except (InvalidInputError, VaultError) as fault:
            raise VaultError(self._explain(registry, fault)) from None

    def forget(self, registry: str) -> bool:
        """Whether there was one. Raises `InvalidInputError`, `VaultError`."""
        path = self._path(parse_registry_untrusted(registry))
        with self._lock():
            try:
                path.unlink()
                sync_directory(self.directory)
            except FileNotFoundError:
                return False
            except OSError as fault:
                raise VaultError(f"{path} cannot be removed: {fault.strerror}") from None
            self._changes += 1
            return True

    def logins(self) -> list[Listed]:
        """All of them, without their secrets. What is wrong with one is told of that one."""
        listed = []
        for registry in self._registries():
            try:
                login = self.get(registry)
            except VaultError as fault:
                listed.append(Listed(registry, None, None, str(fault)))
            else:
                if login is not None:
                    listed.append(Listed(registry, login.username, login.since))
        return listed

    def problems(self) -> list[str]:
        """What an operator must see to. Looked up again only when something has changed."""
        stamp = self.stamp()
        if stamp != self._looked:
            self._looked = stamp
            self._problems = [entry.problem for entry in self.logins() if entry.problem is not None]
        return list(self._problems)

    def rotate(self) -> Rotated:
        """Seal all logins with a new machine key; where systemd gives it, with the one that it gives now.
        What was interrupted is finished. Raises `VaultError`, `ConfigError`."""
        with self._lock():
            opening = self._keys.opening()
            systemd = self._keys.source == SYSTEMD
            key = opening[0] if systemd else self._keys.next()
            if key not in opening:
                opening.append(key)
            resealed, lost = 0, []
            for registry in self._registries():
                sealed = self._sealed(registry) or b""
                try:
                    login = self._open(registry, sealed, opening)
                except InvalidInputError:
                    lost.append(registry)
                else:
                    self._write(registry, login, key)
                    resealed += 1
            try:
                self._keys.drop_files() if systemd else self._keys.promote()
            except OSError as fault:
                raise VaultError(f"{self._keys.place} cannot be replaced: {fault.strerror}") from None
            self._changes += 1
            return Rotated(resealed, tuple(lost))

    def _path(self, registry: str) -> Path:
        return self.directory / f"{registry}{_SUFFIX}"

    def _registries(self) -> list[str]:
        try:
            names = sorted(entry.name for entry in os.scandir(self.directory))
        except OSError:
            return []
        found = []
        for name in names:
            try:
                registry = parse_registry_untrusted(name.removesuffix(_SUFFIX))
            except InvalidInputError:
                continue
            if name == registry + _SUFFIX:
                found.append(registry)
        return found

    def _sealed(self, registry: str) -> bytes | None:
        """Raises `VaultError`."""
        path = self._path(registry)
        try:
            with path.open("rb") as file:
                return file.read(SEALED_LIMIT + 1)
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise VaultError(f"{path} cannot be read: {fault.strerror}") from None

    def _open(self, registry: str, sealed: bytes, keys: list[MachineKey]) -> Login:
        """Raises `InvalidInputError`."""
        wanted = key_id_untrusted(sealed)
        key = next((key for key in keys if key.id == wanted), None)
        if key is None:
            raise UnsealError("it was sealed with a machine key that is not here")
        return parse_login_untrusted(open_untrusted(key, PURPOSE, registry, sealed))

    def _write(self, registry: str, login: Login, key: MachineKey) -> None:
        kept = {"username": login.username, "secret": login.secret, "since": login.since}
        write_file(self._path(registry), seal(key, PURPOSE, registry, json.dumps(kept).encode()))
        self._changes += 1

    def _explain(self, registry: str, fault: Exception) -> str:
        unit = ""
        if self._keys.source == FILE:  # only the unit's own process has systemd's
            unit = "; where systemd gives the key, it opens while the node runs"
        return (
            f"the login for registry {registry} cannot be opened: {fault} (key: {self._keys.place}); "
            f"log in again with `meshsat login {registry}`, or restore the key{unit}"
        )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Raises `VaultError`, `ConfigError`."""
        parent = self.directory.parent
        try:
            if parent.exists() and os.geteuid() == 0 != parent.stat().st_uid:
                raise ConfigError(
                    f"{parent} is another user's, who could not read what root writes; "
                    "run this as that user, or while the node runs"
                )
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as fault:
            raise VaultError(f"{self.directory} cannot be used: {fault.strerror}; who owns it?") from None
        try:
            until = time.monotonic() + LOCK_LIMIT
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise VaultError(
                            f"{self.directory} is being changed by another process; try again"
                        ) from None
                    time.sleep(0.05)
            for left in self.directory.glob(".*"):  # by a process that was killed while it wrote
                left.unlink(missing_ok=True)
            yield
        finally:
            os.close(lock)


def check_login_untrusted(username: object, secret: object, since: float) -> Login:
    """A login that a registry can be shown. Raises `InvalidInputError`, with nothing of the secret in it."""
    if not isinstance(username, str) or not 0 < len(username) <= USERNAME_LIMIT or not username.isprintable():
        raise InvalidInputError(f"a user name is 1 to {USERNAME_LIMIT} printable characters")
    if ":" in username:
        raise InvalidInputError("a user name has no colon (RFC 7617)")
    try:
        length = len(secret.encode()) if isinstance(secret, str) else 0
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= SECRET_LIMIT or "\n" in str(secret) or "\r" in str(secret) or "\0" in str(secret):
        raise InvalidInputError(f"a password is one line of 1 to {SECRET_LIMIT} bytes")
    return Login(username, str(secret), since)


def parse_login_untrusted(raw: bytes) -> Login:
    """What `_write` sealed. Raises `InvalidInputError`."""
    try:
        kept = parse_object_untrusted(raw, "a login")
    except InvalidInputError:  # its text could quote what it could not read
        raise InvalidInputError("what was sealed is no login") from None
    since = kept.get("since")
    if not isinstance(since, int | float) or isinstance(since, bool) or not 0 <= since < 1e12:
        raise InvalidInputError("what was sealed has no time")
    return check_login_untrusted(kept.get("username"), kept.get("secret"), float(since))


def as_json(key_source: str, logins: Sequence[Listed]) -> dict[str, Any]:
    """What `meshsat secrets list` and the API tell."""
    return {"key_source": key_source, "logins": [asdict(login) for login in logins]}
